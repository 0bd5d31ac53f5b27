"""What Linux tells of a TCP connection, and asyncio does not."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

_OUTQ = struct.Struct("i")
_CLOSE_WAIT = 8
"""State of a connection whose other side sends no more (Linux's tcp_states.h)."""


def unacknowledged_bytes(wire: asyncio.Transport) -> int:
    """Bytes that the kernel holds until the other side acknowledges them; 0 where it does not tell."""
    try:
        descriptor = wire.get_extra_info("socket").fileno()
        return int(_OUTQ.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_OUTQ.size)))[0])
    except (OSError, AttributeError):
        return 0


def is_in_close_wait(wire: asyncio.Transport) -> bool:
    """Whether a connection that the other side closed is not reset; False where the kernel does not tell."""
    try:
        found = wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (OSError, AttributeError):
        return False
    return bool(found[0] == _CLOSE_WAIT)
