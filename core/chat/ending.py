"""What is said of a chat request at its end: what became of it, what it is charged for, its line in the access log.

All of it only reads the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.access_log import AccessRecord, rfc3339
from core.chat.counting import Counting
from core.errors import InternalError, UpstreamTimeout, WorldRouterError
from core.money.meter import FREE_STATUSES, Outcome, Status
from core.money.usage import NO_TOKENS, TokenCounts

if TYPE_CHECKING:
    from core.chat.exchange import Exchange


def status_of(error: BaseException | None, *, client_gone: bool) -> Status:
    """What became of a request whose handler ended with this before its answer was complete."""
    if client_gone:
        return "client_gone"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "upstream_failed" if isinstance(error, WorldRouterError) else "internal_error"


def reason_of(error: BaseException) -> str:
    """The error's reason, as its caller is told it."""
    return error.reason if isinstance(error, WorldRouterError) else InternalError.reason


def counting_of(exchange: Exchange) -> Counting:
    """Estimates for a request that was admitted."""
    model, envelope = exchange.model, exchange.envelope
    assert model is not None
    assert envelope is not None
    ratio = exchange.pipeline.ratios.of(model.id)
    return Counting(ratio, envelope.text_bytes, envelope.media_tokens(model.max_image_tokens), exchange.most_output)


def produced_bytes(exchange: Exchange) -> int:
    """How much text its answer has come to."""
    if exchange.answer is not None:
        return exchange.answer.text_bytes
    return exchange.rewriter.text_bytes if exchange.rewriter is not None else 0


def produced_tokens(exchange: Exchange, status: Status) -> TokenCounts:
    """What an answer that was not completed is charged: nothing before the upstream took the request.

    A failure of the upstream, or the end of this process, before the first token is free; a caller that goes
    away pays for the input. What the upstream reported before the end is counted, what came later estimated.
    """
    if exchange.dispatch is None or not exchange.dispatch.taken or status in FREE_STATUSES:
        return NO_TOKENS
    if exchange.first_token_s is None and status not in ("client_gone", "revoked"):
        return NO_TOKENS
    counting = counting_of(exchange)
    if exchange.rewriter is not None:
        return counting.of_stream(exchange.rewriter)
    if exchange.answer is not None and exchange.answer.usage is not None:
        return exchange.answer.usage
    return counting.estimated(produced_bytes(exchange))


def outcome_of(exchange: Exchange, status: Status, reason: str) -> Outcome:
    """What the meter is told of a request that was admitted, at its end."""
    dispatch = exchange.dispatch
    assert dispatch is not None
    return Outcome(
        status=status,
        tokens=exchange.tokens,
        endpoint=dispatch.endpoint.name if dispatch.endpoint is not None else "",
        attempts=dispatch.attempts,
        ttft_ms=_ttft_ms(exchange),
        duration_ms=_elapsed_ms(exchange),
        finish_reason=exchange.finish_reasons[0] if exchange.finish_reasons else "",
        error_reason=reason,
    )


def access_record(exchange: Exchange, unsettled: str, reason: str) -> AccessRecord:
    """The line of the access log; `unsettled` is the status of a request that never had a meter."""
    dispatch, settlement = exchange.dispatch, exchange.meter.settlement if exchange.meter is not None else None
    endpoint = dispatch.endpoint if dispatch is not None else None
    call, tokens = exchange.call, exchange.tokens
    # In the order of the fields: given by their names, so many take msgspec ten times as long.
    return AccessRecord(
        rfc3339(exchange.pipeline.wall_clock()),
        call.request_id,
        "chat",
        settlement.status if settlement is not None else unsettled,
        exchange.model.id if exchange.model is not None else "",
        endpoint.name if endpoint is not None else "",
        endpoint.provider if endpoint is not None else "",
        call.caller.payer_id,
        call.caller.key_id or "",
        call.client_request_id,
        reason,
        exchange.finish_reasons[0] if exchange.finish_reasons else "",
        exchange.streams,
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.estimated,
        settlement.amount_nano_usd if settlement is not None else 0,
        settlement.shortfall_nano_usd if settlement is not None else 0,
        dispatch.attempts if dispatch is not None else 0,
        _ttft_ms(exchange),
        _elapsed_ms(exchange),
        exchange.overhead_us() / 1_000,
    )


def _ttft_ms(exchange: Exchange) -> int | None:
    first_s = exchange.first_token_s
    return None if first_s is None else int((first_s - exchange.received_s) * 1_000)


def _elapsed_ms(exchange: Exchange) -> int:
    return int((exchange.pipeline.clock() - exchange.received_s) * 1_000)
