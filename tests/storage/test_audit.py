"""What an audit finds, in short and in full, on both databases."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from storage.audit_records import AuditReport, Deviation
from storage.chain import CONTENT_FIELDS, content_of
from storage.chaining import CHAIN_LIMIT
from storage.records import Once, Price

COLUMNS = ", ".join(name for name in CONTENT_FIELDS if name != "id")
LATE = """
    INSERT INTO ledger (ref, kind, created_us, debit_account, credit_account, amount, shortfall, note)
    VALUES ('late', 'adjust', 1, 'house_adjustments', 'acc_1', 0, 0, '') RETURNING id
"""
SOMEBODY_ELSE = COLUMNS.replace("ref", "'forged'", 1)


def named(deviations: list[Deviation]) -> list[tuple[str, str, str]]:
    return [(found.kind, found.account_id, found.subject) for found in deviations]


@pytest.fixture
async def ids(store, funded, acquire, settlement, query) -> list[str]:
    """Ids of the ledger's entries, all chained: an adjustment for acc_1, five charges of it, a top-up with its fee."""
    await funded(balance=1000)
    await store.put_prices([Price("price_1", "model", 1, 2, 3, 4), Price("price_2", "model", 1, 2, 3, 4)])
    await acquire("lease_1", 500)
    await store.settle([settlement(f"req_{number}", "lease_1", 10 + number) for number in range(5)])
    await store.create_account("acc_2", "Somebody", "user")
    await store.top_up(
        payment_id="pay_1",
        account_id="acc_2",
        amount_nano_usd=700,
        fee_nano_usd=35,
        once=Once("top-ups", "once", b""),
    )
    assert await store.chain() == 8
    assert await store.chain() == 0
    return [str(row.id) for row in await query("SELECT id FROM ledger ORDER BY id")]


async def test_what_adds_up_is_clean(store, ids, settlement) -> None:
    """Nothing is found, in short nor in full, with entries that are not chained yet as well."""
    report = await store.audit()
    last = int(ids[-1])
    assert report == AuditReport([], 0, True, 6, 8, 8, last)
    await store.settle([settlement("req_5", "lease_1", 7), settlement("req_6", "gone", 9), settlement("req_7")])
    assert await store.unbalanced() == []
    assert await store.audit() == AuditReport([], 0, True, 6, 11, 8, last)
    assert await store.chain() == 3
    assert await store.unbalanced() == []
    assert await store.audit() == AuditReport([], 0, True, 6, 11, 11, last + 3)


async def test_any_text_is_chained_as_it_is(store, settlement) -> None:
    """What is chained is what the audit reads, whatever an entry's texts are made of, in batches of any length."""
    odd = ["\0", '"\\/', "\b\f\n\r\t\x1f\x7f", "\u2028\ufffe\uffff", "é€😀", "", "\\u0041", *map(str, range(66))]
    await store.settle([settlement(f"{number}{text}", client_request_id=text) for number, text in enumerate(odd)])
    assert await store.chain() == len(odd)
    report = await store.audit()
    assert report.chain_holds
    assert report.chained_count == len(odd)


async def test_an_empty_ledger_is_clean(store) -> None:
    """There is nothing to chain and nothing to find."""
    assert await store.chain() == 0
    assert await store.unbalanced() == []
    assert await store.audit() == AuditReport([], 0, True, 4, 0, 0, 0)


async def test_an_edited_amount_is_named(store, ids, tamper) -> None:
    """The entry, the account that no longer adds up, and the sums of both accounts."""
    await tamper(f"UPDATE ledger SET amount = 1 WHERE id = {ids[3]}")
    report = await store.audit()
    assert not report.chain_holds
    assert named(report.deviations) == [
        ("chain_hash", "acc_1", ids[3]),
        ("chain_head", "acc_1", ""),
        ("chain_head", "house_usage", ""),
        ("balance", "acc_1", ""),
        ("lease_spent", "acc_1", "lease_1"),
    ]
    assert (report.deviations[3].expected, report.deviations[3].found) == ("951", "940")


@pytest.mark.parametrize(
    "edit", ["price_id = 'price_2'", "note = 'x'", "estimated = NOT estimated", "created_us = 1", "ttft_ms = NULL"]
)
async def test_any_other_edited_field_is_named(store, ids, tamper, database_url, edit) -> None:
    """Whatever it is: the entry and nothing else."""
    await tamper(f"UPDATE ledger SET {edit} WHERE id = {ids[3]}")
    assert named((await store.audit()).deviations) == [("chain_hash", "acc_1", ids[3])]


@pytest.mark.parametrize("place", [0, 3, 5])
async def test_a_dropped_row_is_named(store, ids, tamper, place) -> None:
    """First, in the middle or last of its chain; what comes after it is followed all the same."""
    await tamper(f"DELETE FROM ledger WHERE id = {ids[place]}")
    found = named((await store.audit()).deviations)
    assert ("chain_missing", "acc_1", ids[place]) in found
    assert ("balance", "acc_1", "") in found
    assert not [deviation for deviation in found if deviation[0] == "chain_hash"]


async def test_what_follows_a_dropped_row_is_still_checked(store, ids, tamper) -> None:
    """Its link tells the hash that the next entry stands behind."""
    await tamper(f"DELETE FROM ledger WHERE id = {ids[2]}", f"UPDATE ledger SET note = 'x' WHERE id = {ids[3]}")
    found = named((await store.audit()).deviations)
    assert found[:2] == [("chain_missing", "acc_1", ids[2]), ("chain_hash", "acc_1", ids[3])]


async def test_a_row_dropped_with_its_link_is_missed(store, ids, tamper) -> None:
    """By its position, in the middle and at the end."""
    for place in (3, 5):
        await tamper(
            f"DELETE FROM ledger WHERE id = {ids[place]}", f"DELETE FROM ledger_chain WHERE ledger_id = {ids[place]}"
        )
    report = await store.audit()
    missing = [found.expected for found in report.deviations if found.kind == "chain_missing"]
    assert missing == ["position 4", "position 6"]


async def test_two_swapped_rows_are_named(store, ids, tamper) -> None:
    """Each with the other's id, or each in the other's place: both."""
    one, other = ids[2], ids[4]
    await tamper(
        f"UPDATE ledger SET id = -1 WHERE id = {one}",
        f"UPDATE ledger SET id = {one} WHERE id = {other}",
        f"UPDATE ledger SET id = {other} WHERE id = -1",
    )
    wanted = [("chain_hash", "acc_1", one), ("chain_hash", "acc_1", other)]
    assert sorted(named((await store.audit()).deviations)) == wanted


async def test_two_swapped_links_are_named(store, ids, tamper) -> None:
    """A link that stands in another's place is found like the entry behind it."""
    one, other = ids[2], ids[3]
    await tamper(
        f"UPDATE ledger_chain SET position = 99 WHERE ledger_id = {one}",
        f"UPDATE ledger_chain SET position = 3 WHERE ledger_id = {other}",
        f"UPDATE ledger_chain SET position = 4 WHERE ledger_id = {one}",
    )
    found = named((await store.audit()).deviations)
    assert {("chain_hash", "acc_1", one), ("chain_hash", "acc_1", other)} <= set(found)


async def test_an_inserted_row_is_found(store, ids, tamper, settlement) -> None:
    """By the account, before and after it was chained; one below what is chained for good by its absence too."""
    await tamper(f"INSERT INTO ledger ({COLUMNS}) SELECT {SOMEBODY_ELSE} FROM ledger WHERE id = {ids[3]}")
    for _ in range(2):
        assert named(await store.unbalanced()) == [("balance", "acc_1", "")]
        assert named((await store.audit()).deviations) == [("balance", "acc_1", "")]
        await store.chain()
    await tamper(
        f"UPDATE revisions SET value = {ids[-1]} WHERE name = 'ledger_chain'",
        f"DELETE FROM ledger_chain WHERE ledger_id = {ids[0]}",
    )
    assert ("chain_unlisted", "acc_1", ids[0]) in named((await store.audit()).deviations)


async def test_a_changed_balance_is_found(store, ids, query) -> None:
    """In short and in full, with what the account should have and what it has."""
    await query("UPDATE accounts SET available = available + 5 WHERE id = 'acc_2'")
    wanted = [Deviation("balance", "acc_2", "", "700", "705")]
    assert await store.unbalanced() == wanted
    assert (await store.audit()).deviations == wanted
    await query("UPDATE accounts SET available = available - 5 WHERE id = 'acc_2'")
    assert await store.unbalanced() == []


@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
async def test_an_account_below_its_credit_limit_is_found(store, ids, tamper) -> None:
    """Though it adds up, and the database would not let it be."""
    await tamper(
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE accounts SET available = available - 1000 WHERE id = 'acc_1'",
        "UPDATE leases SET granted = granted + 1000 WHERE id = 'lease_1'",
    )
    for found in (await store.unbalanced(), (await store.audit()).deviations):
        assert named(found) == [("overdrawn", "acc_1", "")]


async def test_house_accounts_have_nothing(store, ids, query) -> None:
    """Their balance is a sum over the ledger: money in their row would be nobody's."""
    await query("UPDATE accounts SET available = -3 WHERE id = 'house_fees'")
    wanted = [Deviation("house_balance", "house_fees", "", "0", "-3")]
    assert await store.unbalanced() == wanted
    assert (await store.audit()).deviations == wanted


async def test_a_lease_that_spent_what_the_ledger_does_not_know(store, ids, query) -> None:
    """Is found in full; in short its account is."""
    await query("UPDATE leases SET spent = spent + 100")
    assert named(await store.unbalanced()) == [("balance", "acc_1", "")]
    found = (await store.audit()).deviations
    assert named(found) == [("balance", "acc_1", ""), ("lease_spent", "acc_1", "lease_1")]
    assert (found[1].expected, found[1].found) == ("60 at most", "160")


async def test_rows_without_account_or_price_are_found(store, ids, settlement) -> None:
    """A charge that names an account or a price that does not exist, though the money adds up."""
    await store.settle([settlement("req_5", account_id="acc_9"), settlement("req_6", price_id="price_9")])
    await store.chain()
    report = await store.audit()
    assert report.chain_holds
    after = int(ids[-1])
    assert named(report.deviations) == [
        ("unknown_account", "acc_9", str(after + 1)),
        ("unknown_price", "acc_1", str(after + 2)),
    ]


async def test_a_head_that_was_moved_is_found(store, ids, query) -> None:
    """The sums that the short audit counts from are checked by the full one."""
    await query("UPDATE ledger_heads SET credits = credits + 1 WHERE account_id = 'acc_2'")
    assert named(await store.unbalanced()) == [("balance", "acc_2", "")]
    assert named((await store.audit()).deviations) == [("chain_head", "acc_2", "")]


async def test_deviations_are_counted_beyond_those_that_are_listed(store, ids, tamper, settlement) -> None:
    """A ledger that is wrong from end to end makes no endless report."""
    for first in range(0, 1200, 200):
        await store.settle([settlement(f"more_{number}") for number in range(first, first + 200)])
    await store.chain()
    await tamper("UPDATE ledger SET note = 'x'")
    report = await store.audit()
    assert (report.deviation_count, len(report.deviations)) == (1208, 1000)


@pytest.mark.parametrize("change", ["UPDATE ledger_chain SET position = 9", "DELETE FROM ledger_chain"])
async def test_the_database_refuses_to_change_the_chain(store, ids, query, change) -> None:
    """As it does for the ledger."""
    with pytest.raises(Exception, match="append-only"):
        await query(change)


async def test_cores_chain_side_by_side(store, funded, acquire, settlement, another_store) -> None:
    """While all of them settle: no entry twice, none left out, every chain whole."""
    await funded(balance=1_000_000)
    await store.put_prices([Price("price_1", "model", 1, 2, 3, 4)])
    await acquire("lease_1", 100_000)
    stores = [store, await another_store(), await another_store()]
    going = True

    async def settle(number: int, own) -> None:
        for batch in range(20):
            rows = [settlement(f"req_{number}_{batch}_{row}", "lease_1", 1) for row in range(25)]
            await own.settle(rows)

    async def chain(own) -> None:
        while going:
            await own.chain()
            assert await own.unbalanced() == []

    chaining = [asyncio.create_task(chain(own)) for own in stores]
    await asyncio.gather(*(settle(number, own) for number, own in enumerate(stores)))
    going = False
    await asyncio.gather(*chaining)
    await store.chain()
    report = await store.audit()
    assert (report.deviations, report.chained_count) == ([], 500 * len(stores) + 1)


@pytest.mark.parametrize("database_url", ["fresh_postgres_url"], indirect=True)
async def test_an_entry_that_shows_up_late_is_chained_later(store, funded, database_url) -> None:
    """One whose transaction took its id before another entry that was chained meanwhile."""
    await funded(balance=0)
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        late = await connection.scalar(text(LATE))
        await store.adjust(ref="prompt", account_id="acc_1", amount_nano_usd=5, note="")
        assert await store.chain() == 1
    assert await store.chain() == 1
    assert await store.unbalanced() == []
    report = await store.audit()
    assert (report.deviations, report.chained_count) == ([], 2)
    chained = await store.chained_entries(after=("", 0), limit=9)
    assert [(entry.position, json.loads(entry.content)[0]) for entry in chained] == [(1, late + 1), (2, late)]


async def test_what_is_settled_is_not_looked_at_again(store, funded, query, tamper, database_url) -> None:
    """Up to the newest entry that is older than any transaction that may still add one."""
    await funded(balance=100)
    for ref in ("one", "two"):
        await store.adjust(ref=ref, account_id="acc_1", amount_nano_usd=5, note="")
    await tamper("UPDATE ledger SET created_us = 1 WHERE ref <> 'two'")
    ids = [row.id for row in await query("SELECT id FROM ledger ORDER BY id")]
    assert await store.chain() == 3
    [[below]] = await query("SELECT value FROM revisions WHERE name = 'ledger_chain'")
    assert below == (ids[2] if database_url.startswith("sqlite") else ids[1])
    assert (await store.audit()).deviations == []


async def test_more_than_one_transaction_takes(store, funded, settlement, query) -> None:
    """All of it is chained in one call, each entry behind the one before."""
    await funded(balance=0)
    count = 2 * CHAIN_LIMIT + 20
    for first in range(0, count, 200):
        await store.settle([settlement(f"req_{number}") for number in range(first, min(first + 200, count))])
    await store.chain()
    positions = await query("SELECT position FROM ledger_chain ORDER BY ledger_id")
    assert [row.position for row in positions] == list(range(1, count + 1))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.text()))
def test_content_is_plain_json(values) -> None:
    """What a verifier with any JSON library makes of the same values."""
    assert content_of(tuple(values)) == json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


async def test_an_audit_that_nobody_waits_for_ends(store, ids) -> None:
    """A caller that goes away leaves nothing running, and the next audit does not wait."""
    task = asyncio.create_task(store.audit())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        assert (await store.audit()).deviation_count == 0
