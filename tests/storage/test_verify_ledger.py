"""`scripts/verify-ledger` and the audit against the same tampering, on both databases, and with the file itself."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from worldrouter.v1 import metering_pb2

from core.cli.audit import export_lines
from core.services.auditing import Export
from storage.chain import CONTENT_FIELDS
from storage.records import Price

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify-ledger"
COLUMNS = ", ".join(name for name in CONTENT_FIELDS if name != "id")
FORGED = COLUMNS.replace("ref", "'forged'", 1)

Lines = list[dict[str, Any]]
Verdict = tuple[int, str]


@pytest.fixture
async def ids(store, funded, acquire, settlement, query) -> list[int]:
    """Ids of the ledger's entries: an adjustment for acc_1, three charges of it, and one that is not chained yet."""
    await funded(balance=1000)
    await store.put_prices([Price("price_1", "model", 1, 2, 3, 4), Price("price_2", "model", 1, 2, 3, 4)])
    await acquire("lease_1", 500)
    odd = {"client_request_id": 'a"\\\u2028é\x7f\t😀', "prompt_tokens": 2**53, "key_id": None, "ttft_ms": None}
    await store.settle([settlement(f"req_{number}", "lease_1", 10 + number, **odd) for number in range(3)])
    assert await store.chain() == 4
    await store.settle([settlement("req_3", "lease_1", 5)])
    return [row.id for row in await query("SELECT id FROM ledger ORDER BY id")]


@pytest.fixture
def export(store) -> Callable[[], Awaitable[Lines]]:
    """A function that makes the lines of `worldrouter ledger export`."""

    async def make() -> Lines:
        going = await Export.begin(store)
        parts = list(going.opening())
        while (entries := await going.next_entries()) is not None:
            parts.append(metering_pb2.ExportLedgerResponse(entries=entries))
        return [json.loads(json.dumps(line)) for line in export_lines(parts)]

    return make


@pytest.fixture
def verify(tmp_path: Path) -> Callable[..., Verdict]:
    """A function that runs the verifier over lines: exit status and what it printed."""

    def run(lines: Lines, *, earlier: Lines | None = None, room_bytes: int = resource.RLIM_INFINITY) -> Verdict:
        files = []
        for number, content in enumerate((lines, earlier or [])):
            files.append(tmp_path / f"{number}.jsonl")
            files[-1].write_text("".join(json.dumps(line) + "\n" for line in content))
        options = ["--earlier", files[1]] if earlier is not None else []
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room_bytes}, {room_bytes}))"
        start = f"import resource, runpy, sys; {limit}; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        command = [sys.executable, "-Ic", start, SCRIPT, files[0], *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_verifier_is_small_and_stands_alone() -> None:
    """At most 200 lines, and nothing imported but Python's own library."""
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 200
    imports = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= sys.stdlib_module_names


async def test_an_honest_export_is_verified(ids, export, verify) -> None:
    """Whatever stands in its texts; numbers beyond 2^53 are strings there; what is not chained yet counts too."""
    lines = await export()
    assert verify(lines) == (0, "5 accounts, 4 chained entries, 1 not chained yet\neverything adds up\n")
    assert [line["entry"]["prompt_tokens"] for line in lines if line["type"] == "entry"][1] == str(2**53)
    assert verify(lines, earlier=lines)[0] == 0


async def test_an_export_of_a_growing_ledger_shows_one_moment(ids, store, settlement, verify) -> None:
    """What is chained after it began is not in it twice."""
    going = await Export.begin(store)
    await store.settle([settlement("req_4", "lease_1", 6)])
    await store.chain()
    parts = list(going.opening())
    while (entries := await going.next_entries()) is not None:
        parts.append(metering_pb2.ExportLedgerResponse(entries=entries))
    status, said = verify(list(export_lines(parts)))
    assert (status, said.splitlines()[0]) == (0, "5 accounts, 4 chained entries, 1 not chained yet")


def swapped(one: int, other: int) -> list[str]:
    steps = ((-1, one), (one, other), (other, -1))
    return [f"UPDATE ledger SET id = {new} WHERE id = {old}" for new, old in steps]


TAMPERINGS: dict[str, Callable[[list[int]], list[str]]] = {
    "an edited amount": lambda ids: [f"UPDATE ledger SET amount = 1 WHERE id = {ids[2]}"],
    "a dropped row": lambda ids: [f"DELETE FROM ledger WHERE id = {ids[2]}"],
    "two swapped rows": lambda ids: swapped(ids[1], ids[2]),
    "an inserted row": lambda ids: [f"INSERT INTO ledger ({COLUMNS}) SELECT {FORGED} FROM ledger WHERE id = {ids[2]}"],
    "a changed price id": lambda ids: [f"UPDATE ledger SET price_id = 'price_2' WHERE id = {ids[2]}"],
    "a changed balance": lambda ids: ["UPDATE accounts SET available = available + 1 WHERE id = 'acc_1'"],
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_tampering_with_the_database_is_found_by_both(store, ids, tamper, export, verify, what) -> None:
    """By the audit in the product, and by the verifier in the export of what was tampered with."""
    assert (await store.audit()).deviation_count == 0
    await tamper(*TAMPERINGS[what](ids))
    report = await store.audit()
    assert {found.account_id for found in report.deviations} >= {"acc_1"}
    status, said = verify(await export())
    assert status == 1
    assert "acc_1: " in said


def entries(lines: Lines) -> Lines:
    return [line for line in lines if line["type"] == "entry"]


def edit(field: str, value: object) -> Callable[[Lines], None]:
    return lambda lines: entries(lines)[2]["entry"].update({field: value})


def drop(lines: Lines) -> None:
    lines.remove(entries(lines)[2])
    lines[-1]["entries"] -= 1


def swap(lines: Lines) -> None:
    one, other = lines.index(entries(lines)[1]), lines.index(entries(lines)[2])
    lines[one], lines[other] = lines[other], lines[one]


def insert(lines: Lines) -> None:
    lines.insert(lines.index(entries(lines)[2]), entries(lines)[2])
    lines[-1]["entries"] += 1


def repeat(lines: Lines) -> None:
    again = {**entries(lines)[2], "position": 0, "hash": ""}
    lines.insert(-1, again)
    lines[-1]["entries"] += 1
    account = next(line for line in lines if line.get("account_id") == "acc_1")
    account["available_nano_usd"] -= again["entry"]["amount"]


def enrich(lines: Lines) -> None:
    next(line for line in lines if line.get("account_id") == "acc_1")["available_nano_usd"] += 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("amount", 1), "at position 3 is not what was hashed"),
        (drop, "is at position 4, not 3"),
        (swap, "is at position 3, not 2"),
        (insert, "is at position 3, not 4"),
        (edit("price_id", "price_2"), "at position 3 is not what was hashed"),
        (edit("debit_account", "house_fees"), "belongs in the chain of house_usage"),
        (repeat, "has its usage twice"),
        (enrich, "its entries come to"),
        (lambda lines: lines.pop(), "it has no end"),
        (lambda lines: lines.pop(-2), "not as stated"),
    ],
    ids=["amount", "dropped", "swapped", "inserted", "price", "owner", "twice", "balance", "end", "last"],
)
@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
async def test_tampering_with_the_file_is_found(ids, export, verify, change, said) -> None:
    """Each line of an export matters, their order too."""
    lines = await export()
    change(lines)
    status, printed = verify(lines)
    assert (status, said in printed) == (1, True), printed


@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
async def test_a_ledger_made_anew_is_not_the_earlier_one(store, ids, export, verify, tamper) -> None:
    """Whoever owns the database can compute all chains again; an export from before tells."""
    earlier = await export()
    await tamper(
        "DELETE FROM ledger_chain",
        "DELETE FROM ledger_heads",
        "UPDATE revisions SET value = 0 WHERE name = 'ledger_chain'",
        "UPDATE ledger SET price_id = 'price_2'",
    )
    assert await store.chain() == 5
    assert (await store.audit()).deviation_count == 0
    lines = await export()
    assert verify(lines)[0] == 0
    status, said = verify(lines, earlier=earlier)
    assert status == 1
    assert "the chain up to position 4 is not the earlier one" in said


@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
async def test_what_was_not_chained_in_an_earlier_export_cannot_vanish(ids, export, verify, tamper, store) -> None:
    """No chain tells of it, and the balance was mended; where it is chained by now nothing is amiss."""
    earlier = await export()
    assert await store.chain() == 1
    assert verify(await export(), earlier=earlier)[0] == 0
    lines = [line for line in earlier if line.get("position") != 0]
    lines[-1] = lines[-1] | {"entries": 4}
    account = next(line for line in lines if line.get("account_id") == "acc_1")
    account["available_nano_usd"] += entries(earlier)[-1]["entry"]["amount"]
    assert verify(lines)[0] == 0
    status, said = verify(lines, earlier=earlier)
    assert (status, f"acc_1: entry {ids[-1]} of the earlier export is not there" in said) == (1, True), said


@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
async def test_no_room_for_temporary_files_is_no_verdict(ids, export, verify) -> None:
    """It is told from a file that is no export, and says where there is none."""
    status, said = verify(await export(), room_bytes=8)
    assert (status, said) == (2, "no room in $TMPDIR: [Errno 27] File too large\n")


@pytest.mark.parametrize("lines", [[], [{"type": "x"}], [{"type": "end"}]], ids=["empty", "other", "headless"])
def test_what_is_no_export_is_refused(verify, lines) -> None:
    """With an exit status of its own, or as an export without its end."""
    assert verify(lines)[0] == (2 if lines else 1)
