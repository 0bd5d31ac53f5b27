"""The loads that are compared. Each is short; their turns are repeated and interleaved."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tests.bench.plan import Plan
from tests.bench.systems import APART, BARELY_METERED, DIRECT, FLOOR, TOGETHER, UNMETERED, System

KB = 1000
UNARY, PACED = "unary_1k", "stream_paced"


@dataclass(frozen=True)
class Case:
    """A load, and the systems that it is for. With `probed`, stalls are looked for, and CPU time is not reported."""

    name: str
    title: str
    plan: Plan
    probed: bool = False

    def plan_for(self, system: System) -> Plan:
        """The load for one system."""
        return msgspec.structs.replace(self.plan, port=system.port, key=system.key)


def _plan(**fields: object) -> Plan:
    return msgspec.convert({"port": 0, "key": "", **fields}, Plan)


def cases() -> list[Case]:
    """Of the long form."""
    paced = {"chunks": 100, "pause_ms": 10}
    short = {"chunks": 20, "pause_ms": 10}
    return [
        Case(UNARY, "unary, 1 kB bodies, 64 connections", _plan()),
        Case("unary_64k", "unary, 64 kB bodies, 16 connections", _plan(body_bytes=64 * KB, connections=16)),
        Case("unary_900k", "unary, 900 kB bodies, 8 connections", _plan(body_bytes=900 * KB, connections=8)),
        Case("unary_open", "unary, 1 kB bodies, 100 due each second", _plan(loop="open", rate=100, window_s=5)),
        Case("stream_burst", "64 streams of 100 chunks, as fast as it goes", _plan(chunks=100)),
        Case(PACED, "64 streams of 100 chunks, 10 ms apart", _plan(**paced, warm_s=1.5, window_s=4)),
        Case(
            "stream_open",
            "40 streams due each second, 20 chunks 10 ms apart",
            _plan(loop="open", rate=40, **short, window_s=5),
        ),
        Case("connect", "256 clients connect at once, a stream each", _plan(loop="waves", connections=256, **short)),
        Case(
            "stall_900k",
            "unary, 900 kB bodies, 20 due each second",
            _plan(loop="open", rate=20, body_bytes=900 * KB, window_s=4),
            probed=True,
        ),
        Case(
            "stall_paced", "64 streams of 100 chunks, 10 ms apart", _plan(**paced, warm_s=1.5, window_s=4), probed=True
        ),
    ]


def short_cases() -> list[Case]:
    """Of the short form, which CI runs."""
    return [
        Case(UNARY, "unary, 1 kB bodies, 64 connections", _plan(warm_s=0.3, window_s=1)),
        Case(
            PACED,
            "64 streams of 100 chunks, 10 ms apart",
            _plan(chunks=100, pause_ms=10, warm_s=0.5, window_s=1.2),
        ),
    ]


def metering_cases() -> list[Case]:
    """For what metering costs; each as long as the tasks behind it take to come round, which is 5 s."""
    return [
        Case(UNARY, "unary, 1 kB bodies, 64 connections", _plan(warm_s=2, window_s=5)),
        Case("unary_one", "unary, 1 kB bodies, 1 connection", _plan(connections=1, warm_s=2, window_s=5)),
    ]


SYSTEMS = (DIRECT, FLOOR, TOGETHER, APART)
SHORT_SYSTEMS = (FLOOR, TOGETHER)
METERING_SYSTEMS = (FLOOR, UNMETERED, BARELY_METERED, TOGETHER)
