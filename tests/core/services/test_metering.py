"""MeteringService over a real server."""

from typing import Any

import grpc
import pytest
from worldrouter.v1 import account_pb2, auth_pb2, metering_pb2, payment_pb2, types_pb2

from storage.records import Settlement

C = grpc.StatusCode
USD = 1_000_000_000


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def top_up(core, *, account_id: str = "", amount: int = 10 * USD, key: str = "k") -> Any:
    request = metering_pb2.CreateTopUpRequest(account_id=account_id, amount_nano_usd=amount, idempotency_key=key)
    return core.metering.CreateTopUp(request, metadata=core.operator)


async def balance(core, metadata: Any, account_id: str = "") -> metering_pb2.Balance:
    return await core.metering.GetBalance(metering_pb2.GetBalanceRequest(account_id=account_id), metadata=metadata)


def settlement(number: int, account_id: str, **fields: Any) -> Settlement:
    values: dict[str, Any] = {
        "request_id": f"{number:026}",
        "account_id": account_id,
        "lease_id": None,
        "amount_nano_usd": 0,
        "shortfall_nano_usd": 0,
        "key_id": "key_a",
        "client_request_id": "mine",
        "model_id": "m",
        "endpoint": "e",
        "price_id": "price_x",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "cache_write_tokens": 1,
        "completion_tokens": 20,
        "reasoning_tokens": 5,
        "estimated": True,
        "status": "complete",
        "finish_reason": "stop",
        "error_reason": "",
        "attempts": 2,
        "streamed": True,
        "ttft_ms": 0,
        "duration_ms": 99,
        "core_id": "core_a",
    }
    return Settlement(**(values | fields))


async def test_a_payment_is_credited_with_its_fee_on_top(core) -> None:
    """Ten dollars of credit cost ten fifty; the account has ten, and the ledger both legs."""
    paid = await top_up(core)
    assert paid.id.startswith("pay_")
    assert (paid.account_id, paid.amount_nano_usd, paid.fee_nano_usd, paid.paid_nano_usd) == (
        "default",
        10 * USD,
        USD // 2,
        10 * USD + USD // 2,
    )
    now = await balance(core, core.operator)
    assert (now.account_id, now.balance_nano_usd, now.available_nano_usd, now.held_nano_usd) == (
        "default",
        10 * USD,
        10 * USD,
        0,
    )
    request = metering_pb2.ListLedgerEntriesRequest()
    [entry] = (await core.metering.ListLedgerEntries(request, metadata=core.operator)).entries
    assert (entry.ref, entry.kind, entry.credit_account_id, entry.amount_nano_usd) == (
        paid.id,
        metering_pb2.LEDGER_KIND_TOPUP,
        "default",
        10 * USD,
    )
    request = metering_pb2.ListLedgerEntriesRequest(account_id="house_fees")
    [fee] = (await core.metering.ListLedgerEntries(request, metadata=core.operator)).entries
    assert (fee.kind, fee.amount_nano_usd) == (metering_pb2.LEDGER_KIND_FEE, USD // 2)


async def test_the_fee_is_rounded_up(core) -> None:
    """A fee that is no whole nanodollar is rounded up."""
    assert (await top_up(core, amount=10 * USD + 1)).fee_nano_usd == USD // 2 + 1


async def test_a_repeated_payment_is_credited_once(core, failure) -> None:
    """The same idempotency key and body answer the same payment; with another amount or account it is a CONFLICT."""
    await core.make_account("team-a")
    first = await top_up(core)
    assert await top_up(core) == first
    assert await top_up(core, account_id="default") == first
    for changed in ({"amount": 11 * USD}, {"account_id": "team-a"}):
        failed = await failure(top_up(core, **changed))
        assert (failed.code, failed.reason, failed.param) == (C.ABORTED, "CONFLICT", "idempotency_key")
    assert (await top_up(core, key="other")).id != first.id
    assert (await balance(core, core.operator)).balance_nano_usd == 20 * USD


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"amount": 10 * USD - 1}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"amount": 0}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"amount": -10 * USD}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"amount": 10_000_000 * USD + 1}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"amount": 2**63 - 1}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"key": ""}, C.INVALID_ARGUMENT, "idempotency_key"),
        ({"key": "x" * 129}, C.INVALID_ARGUMENT, "idempotency_key"),
        ({"key": "ü"}, C.INVALID_ARGUMENT, "idempotency_key"),
        ({"key": "a\n"}, C.INVALID_ARGUMENT, "idempotency_key"),
        ({"account_id": "house_payments"}, C.INVALID_ARGUMENT, "account_id"),
        ({"account_id": "acct_none"}, C.NOT_FOUND, "account_id"),
    ],
)
async def test_a_payment_that_cannot_be_is_refused(core, failure, fields: dict, code: Any, param: str) -> None:
    """An amount out of bounds, a bad idempotency key and a bad account are refused by name, and nothing is credited."""
    failed = await failure(top_up(core, **fields))
    assert (failed.code, failed.param) == (code, param)
    assert (await balance(core, core.operator)).balance_nano_usd == 0


async def test_the_largest_payments_fit(core) -> None:
    """Payments of the largest amount add up exactly."""
    for number in range(3):
        await top_up(core, amount=10_000_000 * USD, key=f"k{number}")
    assert (await balance(core, core.operator)).balance_nano_usd == 30_000_000 * USD


@pytest.mark.parametrize("kind", ["USER", "SERVICE"])
async def test_a_key_sees_its_own_account_alone(core, failure, kind: str) -> None:
    """A key reads its account's money, named or not, a service's too; another account is NOT_FOUND, existing or not."""
    await core.make_account("team-a", f"ACCOUNT_KIND_{kind}")
    key = bearer((await core.make_key("team-a")).secret)
    assert (await balance(core, key)).account_id == "team-a"
    assert (await balance(core, key, "team-a")).account_id == "team-a"
    for account_id in ("default", "acct_none", "house_usage"):
        for call in (
            core.metering.GetBalance(metering_pb2.GetBalanceRequest(account_id=account_id), metadata=key),
            core.metering.ListLedgerEntries(metering_pb2.ListLedgerEntriesRequest(account_id=account_id), metadata=key),
            core.metering.ListUsageRecords(metering_pb2.ListUsageRecordsRequest(account_id=account_id), metadata=key),
        ):
            failed = await failure(call)
            assert (failed.code, failed.reason, failed.param) == (C.NOT_FOUND, "NOT_FOUND", "account_id")


async def test_an_account_that_does_not_exist_has_no_lists(core, failure) -> None:
    """For the operator too an unknown account is NOT_FOUND rather than empty."""
    for ask, request in (
        (core.metering.ListUsageRecords, metering_pb2.ListUsageRecordsRequest(account_id="acct_none")),
        (core.metering.ListLedgerEntries, metering_pb2.ListLedgerEntriesRequest(account_id="acct_none")),
        (core.auth.ListApiKeys, auth_pb2.ListApiKeysRequest(account_id="acct_none")),
        (core.accounts.ListAccounts, account_pb2.ListAccountsRequest(parent_id="acct_none")),
        (core.payments.ListPayments, payment_pb2.ListPaymentsRequest(account_id="acct_none")),
    ):
        assert (await failure(ask(request, metadata=core.operator))).code is C.NOT_FOUND


async def test_a_request_is_found_by_its_id(core, failure) -> None:
    """A settled request reads back field by field, for its own account and the operator; for others it does not
    exist."""
    await core.make_account("team-a")
    await core.store.settle(
        [settlement(1, "team-a", shortfall_nano_usd=7), settlement(2, "default", ttft_ms=None, key_id=None)]
    )
    await core.make_account("search", "ACCOUNT_KIND_SERVICE")
    own, other = bearer((await core.make_key("team-a")).secret), bearer((await core.make_key()).secret)
    service = bearer((await core.make_key("search")).secret)

    def get(request_id: str, metadata: Any) -> Any:
        request = metering_pb2.GetUsageRecordRequest(request_id=request_id)
        return core.metering.GetUsageRecord(request, metadata=metadata)

    record = await get(f"{1:026}", own)
    assert record.usage == types_pb2.Usage(
        prompt_token_count=10,
        completion_token_count=20,
        total_token_count=30,
        cached_token_count=4,
        reasoning_token_count=5,
        cache_write_token_count=1,
        estimated=True,
    )
    assert (record.request_id, record.client_request_id, record.account_id) == (f"{1:026}", "mine", "team-a")
    assert (record.api_key_id, record.model_id, record.endpoint) == ("key_a", "m", "e")
    assert (record.status, record.finish_reason) == (metering_pb2.COMPLETION_STATUS_COMPLETE, "stop")
    assert (record.price_id, record.attempt_count, record.duration_ms) == ("price_x", 2, 99)
    assert record.shortfall_nano_usd == 7
    assert record.streamed
    assert record.HasField("time_to_first_token_ms")
    assert await get(f"{1:026}", core.operator) == record
    silent = await get(f"{2:026}", other)
    assert not silent.HasField("time_to_first_token_ms")
    assert silent.api_key_id == ""
    for request_id, metadata in ((f"{1:026}", other), (f"{1:026}", service), (f"{3:026}", own), ("nonsense\x00", own)):
        failed = await failure(get(request_id, metadata))
        assert (failed.code, failed.param) == (C.NOT_FOUND, "request_id")
    assert (await failure(get("", own))).code is C.INVALID_ARGUMENT


async def test_every_status_has_its_name(core) -> None:
    """Each way a request can end is told by its own value."""
    names = [name for name in metering_pb2.CompletionStatus.keys() if not name.endswith("UNSPECIFIED")]  # noqa: SIM118
    await core.store.settle(
        [
            settlement(number, "default", status=name.removeprefix("COMPLETION_STATUS_").lower())
            for number, name in enumerate(names)
        ]
    )
    records = (
        await core.metering.ListUsageRecords(metering_pb2.ListUsageRecordsRequest(), metadata=core.operator)
    ).records
    assert [metering_pb2.CompletionStatus.Name(record.status) for record in records] == names[::-1]


async def test_pages_cover_every_request_and_entry_once(core, failure) -> None:
    """Following the tokens of usage and ledger to the end gives every row once, newest first, of one account only."""
    await core.make_account("team-a")
    await core.store.settle([settlement(number, "team-a" if number % 2 else "default") for number in range(20)])
    for number in range(3):
        await top_up(core, account_id="team-a", key=f"k{number}")
    own = bearer((await core.make_key("team-a")).secret)

    async def follow(rpc: Any, request: Any, field: str) -> list[Any]:
        rows, token = [], ""
        while True:
            page = await rpc(request(page_size=4, page_token=token), metadata=own)
            rows += getattr(page, field)
            token = page.next_page_token
            if not token:
                return rows

    usage = await follow(core.metering.ListUsageRecords, metering_pb2.ListUsageRecordsRequest, "records")
    assert [int(record.request_id) for record in usage] == list(range(19, 0, -2))
    entries = await follow(core.metering.ListLedgerEntries, metering_pb2.ListLedgerEntriesRequest, "entries")
    assert len(entries) == 13
    ids = [entry.id for entry in entries]
    assert ids == sorted(ids, reverse=True)
    page = await core.metering.ListUsageRecords(metering_pb2.ListUsageRecordsRequest(page_size=1), metadata=own)
    foreign = metering_pb2.ListLedgerEntriesRequest(page_token=page.next_page_token)
    assert (await failure(core.metering.ListLedgerEntries(foreign, metadata=own))).param == "page_token"


def refund(core, payment_id: str, amount: int, key: str = "r", **changes: Any) -> Any:
    request = metering_pb2.CreateRefundRequest(
        payment_id=payment_id, amount_nano_usd=amount, idempotency_key=key, **changes
    )
    return core.metering.CreateRefund(request, metadata=core.operator)


async def test_a_refund_takes_credit_back_once(core) -> None:
    """Half of a payment given back: half of its fee with it, once however often it is sent, as a row of its own."""
    paid = await top_up(core)
    made = await refund(core, paid.id, 5 * USD)
    assert made.id.startswith("refund_")
    assert (made.payment_id, made.account_id) == (paid.id, "default")
    assert (made.amount_nano_usd, made.fee_nano_usd, made.refunded_nano_usd) == (5 * USD, USD // 4, 5 * USD + USD // 4)
    assert await refund(core, paid.id, 5 * USD) == made
    assert (await balance(core, core.operator)).balance_nano_usd == 5 * USD
    request = metering_pb2.ListLedgerEntriesRequest()
    entry = (await core.metering.ListLedgerEntries(request, metadata=core.operator)).entries[0]
    assert (entry.ref, entry.kind, entry.note) == (made.id, metering_pb2.LEDGER_KIND_REFUND, f"refund of {paid.id}")
    assert (await refund(core, paid.id, 5 * USD, "s", keep_fee=True)).fee_nano_usd == 0


async def test_what_cannot_be_refunded_is_refused(core, failure) -> None:
    """Beyond the payment CONFLICT, beyond the balance INSUFFICIENT_BALANCE, no payment NOT_FOUND; nothing is taken."""
    paid = await top_up(core)
    await top_up(core, key="another")
    await refund(core, paid.id, 10 * USD - 1)
    failed = await failure(refund(core, paid.id, 2, "s"))
    assert (failed.code, failed.reason, failed.param) == (C.ABORTED, "CONFLICT", "amount_nano_usd")
    assert "1 nanodollars" in failed.message
    failed = await failure(refund(core, paid.id, 1))
    assert (failed.code, failed.param) == (C.ABORTED, "idempotency_key")
    await core.store.register_core("core_1")
    await core.store.acquire(
        lease_id="l", account_id="default", core_id="core_1", want_nano_usd=10 * USD + 1, chunk_nano_usd=0, ttl_s=30
    )
    failed = await failure(refund(core, paid.id, 1, "s"))
    assert (failed.code, failed.reason) == (C.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
    assert "0.000001 USD" in failed.message
    for payment_id in ("pay_none", "", "no such thing"):
        failed = await failure(refund(core, payment_id, 1, "s"))
        assert (failed.code, failed.param) == (C.NOT_FOUND if payment_id else C.INVALID_ARGUMENT, "payment_id")
    for amount, key, param in ((0, "s", "amount_nano_usd"), (-1, "s", "amount_nano_usd"), (1, "", "idempotency_key")):
        failed = await failure(refund(core, paid.id, amount, key))
        assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, param)
    assert (await balance(core, core.operator)).balance_nano_usd == 10 * USD + 1
