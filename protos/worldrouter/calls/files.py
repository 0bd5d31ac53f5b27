"""How many files, which connections are too, a process may have open."""

from __future__ import annotations

import contextlib
import resource


def open_more_files() -> None:
    """Raise the soft limit to the hard one, beyond which it takes an administrator.

    The soft one is 1,024 on many systems, for the sake of programs that use `select`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system that says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
