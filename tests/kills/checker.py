"""Do what clients saw, what the upstream did and what the ledger says fit together? Shares no code with the product.

    python checker.py --client LOG --upstream LOG --database URL --input-usd 1 --output-usd 2

The logs are JSON lines. A client's: `id` (its own), `request_id` (the router's), `outcome`; "complete" is a stream seen
to its [DONE]. The upstream's: `id` (the client's), `prompt` and `completion` tokens that it reported. The database is
sqlite:///PATH or postgresql://…, read by SQL alone. Prices are USD per million tokens. Prints what it found as JSON;
the exit status is 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sqlite3
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

USAGE = "SELECT ref, client_request_id, status, amount, shortfall FROM ledger WHERE kind = 'usage'"
ENTRIES = "SELECT debit_account, credit_account, amount FROM ledger"
ACCOUNTS = "SELECT id, available, credit_limit FROM accounts WHERE kind <> 'house'"
LEASES = "SELECT id, account_id, granted, spent FROM leases WHERE state = 'active'"
PURSES = "SELECT p.id, p.amount, available, spent, owner_id, measure FROM purses p JOIN limits l ON l.id = p.limit_id"
QUESTIONS = (USAGE, ENTRIES, ACCOUNTS, LEASES, PURSES)

Rows = list[tuple[Any, ...]]


def read(url: str) -> list[Rows]:
    """The answers to the questions, of one moment."""
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True)
        connection.execute("BEGIN")
        try:
            return [connection.execute(sql).fetchall() for sql in QUESTIONS]
        finally:
            connection.close()
    return asyncio.run(read_postgres(url))


async def read_postgres(url: str) -> list[Rows]:
    import asyncpg  # only where there is a server

    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            return [[tuple(row) for row in await connection.fetch(sql)] for sql in QUESTIONS]
    finally:
        await connection.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """A log; a last line that a kill cut short does not count."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def check(client: list[dict[str, Any]], upstream: list[dict[str, Any]], tables: list[Rows], price: Any) -> list[str]:
    """Everything that is wrong."""
    usage, entries, accounts, leases, purses = tables
    wrong: list[str] = []
    by_client: defaultdict[str, Rows] = defaultdict(list)
    for row in usage:
        by_client[row[1]].append(row)
    worked = {each["id"]: each for each in upstream}
    twice = [ref for ref, count in Counter(row[0] for row in usage).items() if count > 1]
    wrong += [f"request {ref} has more than one row" for ref in twice]
    for id_, rows in by_client.items():
        charges = [row for row in rows if row[3] > 0]
        if len(charges) > 1:
            wrong.append(f"{id_} was charged {len(charges)} times")
        if charges and id_ not in worked:
            wrong.append(f"{id_} was charged, and no upstream worked for it")
    for seen in client:
        if seen["outcome"] != "complete":
            continue
        rows = [row for row in by_client[seen["id"]] if row[0] == seen["request_id"]]
        if not rows:
            wrong.append(f"{seen['id']} is complete, and was not charged")
            continue
        told = worked[seen["id"]]
        usd = told["prompt"] * price[0] + told["completion"] * price[1]
        cost = math.ceil(usd / 10**6 * 10**9)
        status, amount, shortfall = rows[0][2:]
        if status != "complete" or amount + shortfall != cost or amount == 0:
            wrong.append(f"{seen['id']} cost {cost}, and its row says {status}, {amount}, short of {shortfall}")
    balance: Counter[str] = Counter()
    for debit, credit, amount in entries:
        balance[debit] -= amount
        balance[credit] += amount
    wrong += [f"{granted - spent} is stuck in {id_} of {account}" for id_, account, granted, spent in leases]
    held: Counter[str] = Counter()
    for _, account, granted, spent in leases:
        held[account] += granted - spent
    for id_, available, credit_limit in accounts:
        if available + held[id_] != balance[id_]:
            wrong.append(f"{id_} has {available} and {held[id_]} in leases; its ledger says {balance[id_]}")
        if available + credit_limit < 0:
            wrong.append(f"{id_} is below its bound")
    return wrong + check_purses(entries, purses)


def check_purses(entries: Rows, purses: Rows) -> list[str]:
    """What is wrong with limits when nothing runs: budgets of an account's lifetime have given what it was charged,
    all else is there again."""
    charged: Counter[str] = Counter()
    for debit, credit, amount in entries:
        if credit == "house_usage":
            charged[debit] += amount
        if debit == "house_adjustments":  # the charge of an answer that could not be delivered
            charged[credit] -= amount
    wrong = []
    for id_, amount, available, spent, owner, measure in purses:
        cost = charged[owner] if measure == "spend" else 0
        if (available, spent) != (amount - cost, cost):
            wrong.append(f"{id_} has {available} of {amount} and {spent} spent; its owner was charged {cost}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", type=Path, required=True)
    parser.add_argument("--upstream", type=Path, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--input-usd", type=Fraction, required=True)
    parser.add_argument("--output-usd", type=Fraction, required=True)
    given = parser.parse_args()
    client, upstream, tables = lines(given.client), lines(given.upstream), read(given.database)
    wrong = check(client, upstream, tables, (given.input_usd, given.output_usd))
    found = {
        "outcomes": Counter(each["outcome"] for each in client),
        "upstream_calls": len(upstream),
        "rows": Counter(row[2] for row in tables[0]),
        "charged": sum(row[3] > 0 for row in tables[0]),
        "shortfalls": sum(row[4] > 0 for row in tables[0]),
        "spent_of_budgets": sum(row[3] for row in tables[4]),
        "wrong": wrong,
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
