"""Pages of a list: how many items, and the opaque tokens between them.

A token is the position behind the last item of its page and a checksum over it and over what was listed, so that
a damaged token, and one of another list, is refused rather than misread. It holds no secret and grants nothing:
every page is authorised anew.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import msgspec

from core.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A part of a position that fits the database's integers."""
Word = Annotated[str, msgspec.Meta(max_length=512)]
"""A part of a position that is an id."""

Position = TypeVar("Position")
Item = TypeVar("Item")

_CHECKSUM_BYTES = 4
_TOKEN_MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Items of one page, and the token of the next one; empty on the last."""

    items: Sequence[Item]
    next_page_token: str


class Pager(Generic[Position]):
    """Reads the paging fields of one request.

    `scope` says what is listed, the RPC and whatever narrows it: a token is good for its scope alone. `position`
    is the type of what stands behind an item, one that msgspec can check.
    """

    def __init__(self, scope: Sequence[str], position: type[Position], page_size: int, page_token: str) -> None:
        """Raises InvalidRequest naming `page_size` or `page_token`."""
        if page_size < 0:
            raise InvalidRequest("page_size must be 0 or more.", param="page_size")
        self._scope = "\n".join(scope).encode("utf-8", "replace")
        self._size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        self.after: Position | None = self._read(page_token, position) if page_token else None

    @property
    def limit(self) -> int:
        """How many items to fetch: one more than the page holds, to know whether there is a next one."""
        return self._size + 1

    def page(self, fetched: Sequence[Item], position_of: Callable[[Item], Position]) -> Page[Item]:
        """The page that `limit` fetched items make; `position_of` an item is where the next page begins behind."""
        if len(fetched) <= self._size:
            return Page(fetched, "")
        items = fetched[: self._size]
        return Page(items, self._write(position_of(items[-1])))

    def _write(self, position: Position) -> str:
        content = msgspec.json.encode(position)
        return base64.urlsafe_b64encode(self._checksum(content) + content).decode("ascii").rstrip("=")

    def _read(self, token: str, position: type[Position]) -> Position:
        try:
            if len(token) > _TOKEN_MAX_LENGTH:
                raise ValueError("too long")
            padded = token.encode("ascii") + b"=" * (-len(token) % 4)
            raw = base64.b64decode(padded, altchars=b"-_", validate=True)
            content = raw[_CHECKSUM_BYTES:]
            if raw[:_CHECKSUM_BYTES] != self._checksum(content):
                raise ValueError("wrong checksum")
            return msgspec.json.decode(content, type=position)
        except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
            raise InvalidRequest("page_token is not one of this list.", param="page_token") from error

    def _checksum(self, content: bytes) -> bytes:
        return zlib.crc32(self._scope + b"\0" + content).to_bytes(_CHECKSUM_BYTES, "big")
