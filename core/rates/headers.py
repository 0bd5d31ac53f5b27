"""`x-ratelimit-…`: what is left of limits per minute, as OpenAI tells it."""

from __future__ import annotations

from collections.abc import Iterable

from core.rates.share import Room


def rate_headers(unit: str, rooms: Iterable[Room]) -> tuple[tuple[str, str], ...]:
    """Of limits in the same unit ("requests", "tokens") the one that is closest to its end."""
    tightest = min(rooms, key=_remaining)
    return (
        (f"x-ratelimit-limit-{unit}", str(tightest.amount)),
        (f"x-ratelimit-remaining-{unit}", str(tightest.remaining)),
        (f"x-ratelimit-reset-{unit}", duration(tightest.reset_s)),
    )


def _remaining(room: Room) -> int:
    return room.remaining


def duration(seconds: float) -> str:
    """As Go writes durations, to the millisecond above: "0s", "12ms", "1.5s", "6m0s"."""
    ms = -int(-seconds * 1_000 // 1)
    if ms <= 0:
        return "0s"
    if ms < 1_000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    whole, ms = divmod(ms, 1_000)
    text = f"{whole}.{ms:03d}".rstrip("0") if ms else str(whole)
    return f"{minutes}m{text}s" if minutes else f"{text}s"
