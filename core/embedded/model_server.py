"""The embedded model's server, seen from the process that starts it.

server = ModelServer(log_path=home / "model.log")
await server.start()
…  # an OpenAI-compatible upstream at server.base_url
await server.stop()
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

from core.embedded.model import DISPLAY_NAME, ModelServerError, find_model

__all__ = ["ModelServer", "ModelServerError"]

_CHILD_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
_LOG_TAIL_LINES = 3
MAX_LOG_BYTES = 1 << 20
"""From here on the log begins anew, at the next start."""


def _quiet(_message: str) -> None:
    """Tell nobody."""


class ModelServer:
    """A child process with llama.cpp's HTTP server and the embedded model, on loopback.

    `log_path` receives all it prints, behind what is there unless that is more than MAX_LOG_BYTES. `port`
    0 takes a free one, kept for later starts.
    `progress` is told, in words for people, what is being waited for. The child ends with the *thread* that called
    `begin` or `start` at the latest, also after kill -9.
    """

    def __init__(
        self,
        *,
        log_path: Path,
        port: int = 0,
        threads: int = 1,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 5.0,
        progress: Callable[[str], None] = _quiet,
    ) -> None:
        self._log_path = log_path
        self._port = port
        self._threads = threads
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._progress = progress
        self._process: Popen[bytes] | None = None
        self._log_from = 0

    @property
    def base_url(self) -> str:
        """Where it speaks OpenAI's API, such as `http://127.0.0.1:40123/v1`; after `start`."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int:
        """The child's process id; after `begin` or `start`. Raises ModelServerError before."""
        if self._process is None:
            raise ModelServerError("the embedded model has not been started")
        return self._process.pid

    def begin(self) -> None:
        """Start the child and return at once, without a loop; `start` then waits for this one.

        Raises ModelServerError when the model is not installed, OSError when the log cannot be written.
        """
        find_model()
        self._process = self._spawn()

    async def start(self) -> None:
        """Start the child, unless it was begun, and return when it answers, which takes about half a second.

        Raises ModelServerError, with nothing left running, when the model is not installed, the port is taken, or
        it does not answer in time.
        """
        self._progress(f"Starting {DISPLAY_NAME} …")
        if self._process is None or self._process.returncode is not None:
            self.begin()
        assert self._process is not None
        try:
            async with asyncio.timeout(self._start_timeout_s):
                self._port = await self._listening_port(self._process)
                await self._check_health()
        except TimeoutError as error:
            await self.stop()
            raise ModelServerError(self._with_log(f"not ready after {self._start_timeout_s:g} s")) from error
        except BaseException:
            await self.stop()
            raise
        self._progress(f"{DISPLAY_NAME} is ready at {self.base_url}")

    async def wait(self) -> int:
        """Return the exit code when the child ends, by `stop` or by itself (negative: the signal's number)."""
        process = self._process
        if process is None:
            raise ModelServerError("the embedded model has not been started")
        status = await asyncio.to_thread(process.wait)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        return status

    async def stop(self) -> None:
        """End the child, by force after `stop_timeout_s`; without a child nothing happens."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                await self.wait()
        except TimeoutError:
            process.kill()
            await self.wait()

    def _spawn(self) -> Popen[bytes]:
        """The child gets none of our environment's secrets, and no Ctrl-C of our terminal."""
        command = [sys.executable, "-P", "-m", "core.embedded.llama_server"]
        options = ["--port", str(self._port), "--threads", str(self._threads), "--parent", str(os.getpid())]
        environment = {name: os.environ[name] for name in _CHILD_ENVIRONMENT if name in os.environ}
        with self._log_path.open("ab") as log:  # another router may be writing there, one that ends for example
            if os.fstat(log.fileno()).st_size > MAX_LOG_BYTES:
                log.truncate(0)
            self._log_from = os.fstat(log.fileno()).st_size
            return Popen(
                [*command, *options],
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def _listening_port(self, process: Popen[bytes]) -> int:
        """What the child reports on its standard output, once."""
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise ModelServerError(self._with_log("it ended while starting"))
        report = json.loads(line)
        if "error" in report:
            raise ModelServerError(report["error"])
        return int(report["url"].rsplit(":", 1)[1])

    async def _check_health(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
        finally:
            writer.close()
        if b" 200 " not in status:
            raise ModelServerError(self._with_log(f"its /health answered {status!r}"))

    def _with_log(self, what: str) -> str:
        said = self._log_path.read_bytes()[self._log_from :].decode(errors="replace")
        lines = said.splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join([f"the embedded model: {what}; its log is {self._log_path}", *lines])
