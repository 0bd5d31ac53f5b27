"""What runs in the thread of SQLite's writing connection, made of few statements.

Python gives its lock away around every statement and every row of `executemany`, and the thread of a busy event loop
takes milliseconds to give it back: a transaction takes as long as it has statements, more or less.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from storage.settle_statements import CommitFailed

_MOST_PARAMETERS: Final = 999
"""Of one statement, in any build of SQLite (https://www.sqlite.org/limits.html)."""


@contextmanager
def written_lazily(connection: sqlite3.Connection) -> Iterator[None]:
    """Transactions that a crash of the machine may undo, until a later commit makes them durable, for the disk is not
    waited for: of what can be made again. Never others: afterwards every commit is on the disk, as before."""
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction on a connection in autocommit mode, committed at the end.

    CommitFailed when its outcome is unknown; anything else means that nothing was changed.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    except BaseException:
        connection.rollback()
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.rollback()
        raise CommitFailed(str(error)) from error


class Rows:
    """Inserts rows into a table, many with one statement. Of few lengths, so that each is compiled but once."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        row = f"({', '.join('?' * len(columns))})"
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        most = (_MOST_PARAMETERS // len(columns)).bit_length() - 1
        self._texts = [(2**power, head + ", ".join([row] * 2**power)) for power in range(most, -1, -1)]

    def insert(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Insert rows, each in the order of the columns; they get ids that follow each other. The last one; 0 of none.

        That is so of ids that SQLite gives, as long as nobody else writes (https://www.sqlite.org/autoinc.html).
        """
        place, last_id = 0, 0
        for count, text in self._texts:
            while len(rows) - place >= count:
                last_id = (
                    connection.execute(text, tuple(chain.from_iterable(rows[place : place + count]))).lastrowid or 0
                )
                place += count
        return last_id
