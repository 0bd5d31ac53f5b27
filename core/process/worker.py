"""`python -m core.process.worker`: one worker of `worldrouter serve --workers N`.

`core.process.workers` starts it and says how.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

import msgspec
import uvloop
from worldrouter.calls.files import open_more_files
from worldrouter.calls.memory import reuse_memory

from core.process.lifeline import end_with_parent
from core.process.listen import CannotListen
from core.process.workers import Order, Refused, Started
from core.reload import Reloaded
from core.serve import REFUSALS, work


def main() -> int:
    """Do what the order on standard input says until a signal; the exit status."""
    line = sys.stdin.buffer.readline()
    if not line:
        return 1  # whoever started us has ended
    order = msgspec.json.decode(line, type=Order)
    end_with_parent(order.parent)
    reuse_memory()
    open_more_files()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # reports are the only thing that anybody reads there
    started = False

    def report(what: Started | Reloaded) -> None:
        nonlocal started
        started = True
        _report(out, what)

    try:
        uvloop.run(work(order, report))
    except REFUSALS as error:
        if started:
            sys.stderr.write(f"worldrouter serve: {error}\n")
        else:
            _report(out, Refused(str(error), port_taken=isinstance(error, CannotListen)))
        return 1
    return 0


def _report(out: BinaryIO, report: Started | Reloaded | Refused) -> None:
    out.write(msgspec.json.encode(report) + b"\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
