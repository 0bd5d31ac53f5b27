"""What a batch changes, worked out without a database."""

from __future__ import annotations

from storage.settlement import ROW_COLUMNS, HeldLease, foreseen, late_accounts, plan, storable, unknown
from storage.tables import ledger


def test_rows_are_the_ledger_without_its_id() -> None:
    """Planned rows have every column of the table, in the table's order."""
    assert ["id", *ROW_COLUMNS] == [column.name for column in ledger.columns]


def test_unknown_keeps_the_first_of_each_request(settlement) -> None:
    """Known requests and repeats within the batch drop out; the order stays."""
    batch = [settlement("b", amount=1), settlement("a"), settlement("b", amount=2), settlement("c")]
    assert [(row.request_id, row.amount_nano_usd) for row in unknown(batch, {"a"})] == [("b", 1), ("c", 0)]


def test_late_accounts_are_those_without_an_active_lease_of_their_own(settlement) -> None:
    """Closed, unknown and strangers' leases make an account pay itself; rows without a lease do not."""
    leases = {"open": HeldLease("acc_1", 5, True), "closed": HeldLease("acc_1", 5, False)}
    cases = [(None, "acc_1"), ("open", "acc_1"), ("open", "z"), ("closed", "c"), ("unknown", "a")]
    batch = [settlement(f"req_{n}", lease, account_id=account) for n, (lease, account) in enumerate(cases)]
    assert late_accounts(batch, leases) == ["a", "c", "z"]


def test_plan_never_takes_more_than_there_is(settlement) -> None:
    """Leases and accounts are drawn down to zero, an overdrawn account not at all."""
    leases = {"open": HeldLease("acc_1", 10, True)}
    batch = [
        settlement("req_1", "open", 7),
        settlement("req_2", "open", 7),
        settlement("req_3", "gone", 4),
        settlement("req_4", "gone", 4, account_id="acc_2"),
    ]
    planned = plan(batch, leases, {"acc_1": 3, "acc_2": -1}, {}, now_us=99)
    assert planned.spent == {("open", "acc_1"): 10}
    assert planned.taken == {"acc_1": 3}
    at = {name: index for index, name in enumerate(ROW_COLUMNS)}
    assert [(row[at["amount"]], row[at["shortfall"]]) for row in planned.rows] == [(7, 0), (3, 4), (3, 1), (0, 4)]
    assert {row[at["created_us"]] for row in planned.rows} == {99}


def test_foreseen_is_the_plan_of_a_batch_whose_leases_are_all_there(settlement) -> None:
    """Each lease is charged whole, in its account's name."""
    batch = [
        settlement("req_1", "one", 7),
        settlement("req_2", "two", 9),
        settlement("req_3"),
        settlement("r4", "one", 1),
    ]
    leases = {"one": HeldLease("acc_1", 100, True), "two": HeldLease("acc_1", 100, True)}
    assert foreseen(batch, now_us=99) == plan(batch, leases, {}, {}, now_us=99)


def test_nothing_is_foreseen_for_a_lease_of_two_accounts(settlement) -> None:
    """One of them must pay itself, and what it has is not known."""
    batch = [settlement("req_1", "one", 7), settlement("req_2", "one", 7, account_id="acc_2")]
    assert foreseen(batch, now_us=99) is None


def test_storable_changes_only_what_does_not_fit(settlement) -> None:
    """Good settlements stay equal; bad values are clamped or replaced."""
    good = settlement("req_1", "lease_1", 5, endpoint="großer")
    assert storable(good) == good
    bad = storable(settlement("req_1", amount=-5, prompt_tokens=2**63, endpoint="a\0b\udfff"))
    assert (bad.amount_nano_usd, bad.prompt_tokens, bad.endpoint) == (0, 2**63 - 1, "a?b?")
