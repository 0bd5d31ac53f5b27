"""Lines out of the process, written by a thread: a reader that stalls must not stop the event loop."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from typing import TextIO

MAX_WAITING = 10_000
CLOSE_TIMEOUT_S = 1.0


class LineWriter:
    """A file-like object whose `write` never waits. What the reader does not take in time is dropped, and counted.

    `isatty` is the stream's own, so that whoever formats can ask.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._texts: queue.Queue[str | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        self.dropped = 0

    def write(self, text: str) -> int:
        """Hand over a text."""
        try:
            self._texts.put_nowait(text)
        except queue.Full:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread flushes."""

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self._out.isatty()

    def close(self) -> None:
        """Give what is waiting a moment to get out. Idempotent."""
        atexit.unregister(self.close)
        with contextlib.suppress(queue.Full):
            self._texts.put(None, timeout=CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (text := self._texts.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
                self._out.write(text)
                self._out.flush()
