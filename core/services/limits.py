"""LimitService: what accounts and keys may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from worldrouter.v1 import limit_pb2, limit_pb2_grpc

from core.access.auth import Authenticator
from core.errors import InvalidRequest
from core.ids import IdSource
from core.services import Context, fields
from core.services.paging import Number, Pager
from core.services.repeats import once
from storage.errors import Missing
from storage.interfaces import AccountStore, KeyStore, LimitStore, PurseStore, RateStore
from storage.limit_records import Limit, LimitMeasure, LimitPeriod

_MEASURES: Mapping[int, LimitMeasure] = {
    limit_pb2.LIMIT_MEASURE_SPEND: "spend",
    limit_pb2.LIMIT_MEASURE_REQUESTS: "requests",
    limit_pb2.LIMIT_MEASURE_TOKENS: "tokens",
    limit_pb2.LIMIT_MEASURE_CONCURRENCY: "concurrency",
}
_MEASURE_VALUES: Mapping[LimitMeasure, limit_pb2.LimitMeasure] = {
    "spend": limit_pb2.LIMIT_MEASURE_SPEND,
    "requests": limit_pb2.LIMIT_MEASURE_REQUESTS,
    "tokens": limit_pb2.LIMIT_MEASURE_TOKENS,
    "concurrency": limit_pb2.LIMIT_MEASURE_CONCURRENCY,
}
_PERIODS: Mapping[int, LimitPeriod] = {
    limit_pb2.LIMIT_PERIOD_LIFETIME: "lifetime",
    limit_pb2.LIMIT_PERIOD_MONTH: "month",
    limit_pb2.LIMIT_PERIOD_DAY: "day",
    limit_pb2.LIMIT_PERIOD_MINUTE: "minute",
    limit_pb2.LIMIT_PERIOD_NOW: "now",
}
_PERIOD_VALUES: Mapping[LimitPeriod, limit_pb2.LimitPeriod] = {
    "lifetime": limit_pb2.LIMIT_PERIOD_LIFETIME,
    "month": limit_pb2.LIMIT_PERIOD_MONTH,
    "day": limit_pb2.LIMIT_PERIOD_DAY,
    "minute": limit_pb2.LIMIT_PERIOD_MINUTE,
    "now": limit_pb2.LIMIT_PERIOD_NOW,
}
_TOGETHER: Mapping[LimitMeasure, frozenset[LimitPeriod]] = {
    "spend": frozenset({"lifetime", "month", "day"}),
    "requests": frozenset({"minute"}),
    "tokens": frozenset({"minute"}),
    "concurrency": frozenset({"now"}),
}


class OwnerStore(AccountStore, KeyStore, LimitStore, PurseStore, RateStore, Protocol):
    """Limits, those who have them, and what is used of them."""


class LimitServicer(limit_pb2_grpc.LimitServiceServicer):
    """Limits, for the operator.

    After each change the authenticator of this core is brought up to date before the answer leaves; other cores
    follow by their poll.
    """

    def __init__(self, store: OwnerStore, authenticator: Authenticator, ids: IdSource) -> None:
        self._store = store
        self._authenticator = authenticator
        self._ids = ids

    async def SetLimit(self, request: limit_pb2.SetLimitRequest, context: Context) -> limit_pb2.Limit:
        """Make a limit, or change its maximum."""
        owner_id = fields.resource_id(request.owner_id, param="owner_id")
        measure, period = _MEASURES.get(request.measure), _PERIODS.get(request.period)
        if measure is None:
            raise InvalidRequest("measure must be spend, requests, tokens or concurrency.", param="measure")
        if period is None or period not in _TOGETHER[measure]:
            wanted = " or ".join(sorted(_TOGETHER[measure]))
            raise InvalidRequest(f"A limit of {measure} has the period {wanted}.", param="period")
        if request.maximum < 0:
            raise InvalidRequest("maximum must be 0 or more.", param="maximum")
        limit = Limit("limit_" + self._ids.new(), owner_id, measure, period, request.maximum)
        try:
            made = await self._store.set_limit(limit, once=once(request, request.idempotency_key))
        except Missing as error:
            raise fields.not_found("owner_id", owner_id) from error
        await self._authenticator.refresh_soon()
        [message] = await self._messages([made])
        return message

    async def DeleteLimit(
        self, request: limit_pb2.DeleteLimitRequest, context: Context
    ) -> limit_pb2.DeleteLimitResponse:
        """Delete a limit."""
        limit_id = fields.resource_id(request.limit_id, param="limit_id")
        try:
            await self._store.delete_limit(limit_id, once=once(request, request.idempotency_key))
        except Missing as error:
            raise fields.not_found("limit_id", limit_id) from error
        await self._authenticator.refresh_soon()
        return limit_pb2.DeleteLimitResponse()

    async def ListLimits(self, request: limit_pb2.ListLimitsRequest, context: Context) -> limit_pb2.ListLimitsResponse:
        """List the limits of an account or a key, and those that it has from above."""
        line = await self._line(fields.resource_id(request.owner_id, param="owner_id"))
        owner_ids = line if request.inherited else line[-1:]
        scope = ["ListLimits", line[-1], str(request.inherited)]
        pager = Pager(scope, tuple[Number], request.page_size, request.page_token)
        limits = sorted(await self._store.limits(owner_ids), key=lambda limit: owner_ids.index(limit.owner_id))
        start = pager.after[0] if pager.after else 0
        numbered = list(enumerate(limits, 1))[start : start + pager.limit]
        page = pager.page(numbered, lambda row: (row[0],))
        messages = await self._messages([limit for _, limit in page.items])
        return limit_pb2.ListLimitsResponse(limits=messages, next_page_token=page.next_page_token)

    async def _messages(self, limits: Sequence[Limit]) -> list[limit_pb2.Limit]:
        """Limits with what is used of them now."""
        limit_ids = [limit.id for limit in limits]
        used = await self._store.used(limit_ids) | await self._store.rates_in_use(limit_ids)
        return [_message(limit, used.get(limit.id, 0)) for limit in limits]

    async def _line(self, owner_id: str) -> list[str]:
        """The accounts above an account or a key, outermost first, and itself at the end. NotFound."""
        key = await self._store.key(owner_id)
        line = [account.id for account in await self._store.lineage(key.account_id if key else owner_id)]
        if not line:
            raise fields.not_found("owner_id", owner_id)
        return [*line, owner_id] if key else line


def _message(limit: Limit, used: int) -> limit_pb2.Limit:
    return limit_pb2.Limit(
        id=limit.id,
        owner_id=limit.owner_id,
        measure=_MEASURE_VALUES[limit.measure],
        period=_PERIOD_VALUES[limit.period],
        maximum=limit.amount,
        used=used,
    )
