"""A client that sends bytes as they are, and reads answers as strictly as RFC 9112 wants them written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [\x20-\x7e]+((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e]*)*)\r\n\r\n")


@dataclass(frozen=True)
class Answer:
    """A whole answer; `interim` counts the 1xx before it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes
    interim: int = 0


@dataclass
class RawClient:
    """One connection; `limit_s` bounds each wait."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    limit_s: float = 10.0
    seen: bytearray = field(default_factory=bytearray)

    @classmethod
    async def to(cls, port: int, *, limit_s: float = 10.0) -> RawClient:
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 26), limit_s)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(self.limit_s):
            await self.writer.drain()

    async def answer(self) -> Answer:
        """The next answer; AssertionError if it is not HTTP, IncompleteReadError if the connection ends before."""
        interim = 0
        async with asyncio.timeout(self.limit_s):
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                found = HEAD.fullmatch(head)
                assert found is not None, f"not the head of an answer: {head!r}"
                if int(found[1]) >= 200:
                    break
                assert found[2] == b"", "an interim answer with headers"
                interim += 1
            pairs = [line.split(": ", 1) for line in found[2].decode().split("\r\n")[1:]]
            headers = {name.lower(): value for name, value in pairs}
            assert len(headers) == len(pairs), f"a header twice: {pairs}"
            body = await self._body(headers)
        return Answer(int(found[1]), headers, body, head + body, interim)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        assert not ("content-length" in headers and "transfer-encoding" in headers)
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if "transfer-encoding" not in headers:
            return await self.reader.read(-1)
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def rest(self) -> bytes:
        """What else comes until the other side closes."""
        async with asyncio.timeout(self.limit_s):
            return await self.reader.read(-1)

    def close(self) -> None:
        self.writer.transport.abort()
