"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None) -> None:
    """Die with the parent, however it dies: the kernel kills us, and a closed standard input ends us.

    The kernel's signal comes when the *thread* that started us ends, and not at all when that was before we asked
    for it: hence the check of the parent's id, and the second way. From here on standard input is read by nobody else.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
