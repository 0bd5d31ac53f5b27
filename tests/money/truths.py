"""What must be true of the world of the state machine, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.money.funds import Chain
from tests.money.actors import Request
from tests.money.books import Books, Violation
from tests.money.memory import Row

if TYPE_CHECKING:
    from tests.money.world import World


def check_books(world: World, books: Books) -> None:
    """After every step: the books add up by themselves, and with what cores and customers know."""
    books.check()
    usage = books.usage()
    _check_requests(world, usage)
    _check_leases(world, books, usage)
    _check_purses(world, books, usage)
    for payment, amount in world.payments.items():
        entered = [row.amount for row in books.rows if (row.ref, row.kind) == (payment, "topup")]
        if entered != [amount]:
            raise Violation(f"{payment} of {amount} was credited as {entered}")


def _check_requests(world: World, usage: Mapping[str, Row]) -> None:
    """Every request has the row that it was told of, or its core knows that it must still be written."""
    waiting: Counter[str] = Counter()
    for request in world.requests:
        row = usage.get(request.id)
        if row is not None:
            _check_row(request, row.amount, row.shortfall, row.status)
        elif request.answer == "done":
            raise Violation(f"{request.id} is complete without its row")
        elif request.core.alive and request.finished_s is not None:
            waiting[request.core.id] += 1
    for core in world.cores:
        if core.alive and waiting[core.id] > core.ledger.depth:
            raise Violation(f"{core.id} has forgotten settlements")


def _check_row(request: Request, amount: int, shortfall: int, status: str) -> None:
    """Charge and shortfall are the cost, unless the charge was given up: then nothing."""
    if request.finished_s is None:
        raise Violation(f"{request.id} was charged before its end")
    given_up = request.answer == "failed" and (amount, shortfall, status) == (0, 0, "internal_error")
    if amount + shortfall != request.cost and not given_up:
        raise Violation(f"{request.id} cost {request.cost} and was charged {amount}, short of {shortfall}")
    if request.answer == "done" and status != "complete":
        raise Violation(f"{request.id} is complete, and its row says {status}")
    told = (request.settlement.amount_nano_usd, request.settlement.shortfall_nano_usd)
    if request.answer == "done" and told != (amount, shortfall):
        raise Violation(f"{request.id} was told {told}, and was charged {amount}, short of {shortfall}")


def _check_leases(world: World, books: Books, usage: Mapping[str, Row]) -> None:
    """What requests hold, and what they cost that is in no row yet, is left of their leases."""
    unsettled: Counter[str] = Counter()
    for request in world.requests:
        if not request.core.alive or request.id in usage:
            continue
        for hold in request.holds:
            if request.finished_s is None:
                unsettled[hold.lease.id] += hold.amount_nano_usd
            elif request.chain is None or hold not in request.chain.slots:
                unsettled[hold.lease.id] += request.settlement.amount_nano_usd
    for lease_id, amount in unsettled.items():
        lease = books.leases.get(lease_id)
        if lease is None:
            raise Violation(f"{amount} held of {lease_id}, which does not exist")
        purse = books.purses.get(lease.account_id)
        if purse is not None and purse.limit_id.endswith("_now") and purse.limit_id in world.lowered:
            continue  # slots beyond what there are now are given back before their requests end
        if lease.active and amount > lease.granted - lease.spent:
            raise Violation(f"{amount} held of {lease_id}, which has {lease.granted - lease.spent} left")


def _check_purses(world: World, books: Books, usage: Mapping[str, Row]) -> None:
    """Every charge, and nothing else, is in the purses of its request, and none allows more than its amount."""
    charged = dict.fromkeys(books.purses, 0)
    refunds = {row.ref: row.amount for row in books.rows if row.kind == "adjust"}
    for request in world.requests:
        row = usage.get(request.id)
        for hold in request.chain.budgets if row is not None and request.chain is not None else ():
            assert row is not None
            charged[hold.account_id] += row.amount - refunds.get(f"refund-{request.id}", 0)
    for purse_id, spent in books.spent_of_purses().items():
        purse = books.purses[purse_id]
        if spent != charged[purse_id]:
            raise Violation(f"{purse_id} has {spent} spent, and {charged[purse_id]} was charged to it")
        if purse.available < 0 and purse.limit_id not in world.lowered:
            raise Violation(f"{purse_id} allowed more than there is: {purse.available}")


def check_budget(world: World, request_id: str, chain: Chain, amount: int) -> None:
    """Nobody is admitted beyond a budget as it is now, though it was lowered under running requests. What is not
    sure to count is left out: of cores that may have lost their leases, and of charges that nobody was told."""
    if world.backend.skew_s:
        return
    for budget in chain.budgets:
        total = 0
        for request in world.requests:
            holds = request.chain.budgets if request.chain is not None else ()
            for hold in holds:
                if hold.account_id != budget.account_id:
                    continue
                if request.answer == "done":
                    total += request.settlement.amount_nano_usd
                elif request.finished_s is None and request.core.runs and not hold.lease.lost:
                    is_fresh = world.loop.now_s - request.core.renewed_s < world.settings.lease_ttl_s / 2
                    total += hold.amount_nano_usd if is_fresh else 0
        if total > amount:
            world.violations.append(Violation(f"{request_id} was admitted: {total} of a budget of {amount}"))


def check_settled(world: World, books: Books) -> None:
    """When all trouble is over: every request of a core that lives is settled, and what failed cost nothing."""
    usage = books.usage()
    refunds = {row.ref: row.amount for row in books.rows if row.kind == "adjust"}
    for request in world.requests:
        if not request.core.alive:
            continue
        row = usage.get(request.id)
        if row is None or request.answer == "":
            raise Violation(f"{request.id} was never settled")
        if request.answer == "failed" and row.amount != refunds.get(f"refund-{request.id}", 0):
            raise Violation(f"{request.id} failed, and was charged")
        if request.answer != "failed" and f"refund-{request.id}" in refunds:
            raise Violation(f"{request.id} was given back without a reason")
