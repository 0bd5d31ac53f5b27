"""What one admitted request costs: from its hold to its settlement.

No I/O and no clock of its own. There is one transition into the end, and the first reason wins: a client that
goes away while its answer is being charged changes nothing.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from core.call import Call
from core.catalog import Model
from core.money.escrow import Escrow, Hold
from core.money.funds import Chain
from core.money.pricing import cost_nano_usd
from core.money.usage import NO_TOKENS, TokenCounts
from storage.records import Charge, Settlement

Status = Literal["complete", "client_gone", "upstream_failed", "timeout", "revoked", "shutdown", "internal_error"]
FREE_STATUSES: frozenset[Status] = frozenset({"internal_error"})


class Receipt(Protocol):
    """Who wants to know what became of a settlement."""

    def on_commit(self, charged: Charge | None) -> None:
        """It is durable; `charged` if that is not what the settlement says."""
        ...

    def on_void(self, instead: Settlement) -> None:
        """It was given up, and is sure not to be committed; this row of amount 0 takes its place."""
        ...


class SettlementQueue(Protocol):
    """Where settlements go."""

    def put(self, settlement: Settlement, receipt: Receipt) -> Future[None]:
        """Queue one; the future is done when it is committed."""
        ...


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """What a request was admitted with: tokens of input, and of output over all choices at most.

    The hold is sized by these. What is beyond `most_input_tokens` (a token is a byte at least) or far beyond what
    the model can write no upstream has counted.
    """

    input_tokens: int
    output_tokens: int
    most_input_tokens: int
    most_output_tokens: int

    def is_absurd(self, tokens: TokenCounts) -> bool:
        """Whether reported usage is beyond anything that this request can have used."""
        return tokens.prompt > self.most_input_tokens or tokens.completion > self.most_output_tokens


class Outcome(msgspec.Struct, gc=False):
    """How a request ended, for its settlement. Times in milliseconds since it was received."""

    status: Status
    tokens: TokenCounts
    endpoint: str
    attempts: int
    ttft_ms: int | None
    duration_ms: int
    finish_reason: str = ""
    error_reason: str = ""


class Meter:
    """One admitted request. `settlement` and `committed` are None until it ends.

    The store has the last word on the charge, if the lease was closed meanwhile: then `settlement` says so after the
    commit, and `on_changed` is told of it as it was before and as it is.
    """

    __slots__ = (
        "_call",
        "_chain",
        "_core_id",
        "_escrow",
        "_estimate",
        "_hold",
        "_model",
        "_queue",
        "_streamed",
        "committed",
        "on_changed",
        "settlement",
    )

    def __init__(
        self,
        *,
        call: Call,
        model: Model,
        streamed: bool,
        hold: Hold | None,
        estimate: Estimate,
        escrow: Escrow,
        queue: SettlementQueue,
        core_id: str,
        chain: Chain | None = None,
    ) -> None:
        """`chain` is the hold with those of the limits that bind the caller; None when there are none."""
        self._call = call
        self._chain = chain
        self._model = model
        self._streamed = streamed
        self._hold = hold
        self._estimate = estimate
        self._escrow = escrow
        self._queue = queue
        self._core_id = core_id
        self.settlement: Settlement | None = None
        self.committed: Future[None] | None = None
        self.on_changed: Callable[[Settlement, Settlement], None] | None = None

    def finish(self, outcome: Outcome) -> Future[None]:
        """End the request and queue its settlement. The same future again for every further reason."""
        if self.committed is None:
            tokens = NO_TOKENS if outcome.status in FREE_STATUSES else outcome.tokens
            charge, shortfall = self._charge(tokens)
            self.settlement = self._settlement(outcome, tokens, charge, shortfall)
            self.committed = self._queue.put(self.settlement, self)
        return self.committed

    def is_telling(self, tokens: TokenCounts) -> bool:
        """Whether these counts are an upstream's own, and possible."""
        return not tokens.estimated and not self._estimate.is_absurd(tokens)

    def plausible(self, token_count: int) -> int:
        """So many tokens, or the most that this request can have used."""
        return min(token_count, self._estimate.most_input_tokens + self._estimate.most_output_tokens)

    def on_commit(self, charged: Charge | None) -> None:
        """The settlement is durable; `charged` if that is not what it says."""
        if self._chain is not None:
            asked_nano_usd = self.settlement.amount_nano_usd if self.settlement is not None else 0
            self._chain.settled(0 if charged is None else asked_nano_usd - charged.amount_nano_usd)
        elif self._hold is not None:
            self._escrow.settled(self._hold)
        if charged is not None and (asked := self.settlement) is not None:
            self.settlement = msgspec.structs.replace(
                asked, amount_nano_usd=charged.amount_nano_usd, shortfall_nano_usd=charged.shortfall_nano_usd
            )
            if self.on_changed is not None:
                self.on_changed(asked, self.settlement)

    def on_void(self, instead: Settlement) -> None:
        """The settlement was given up: its money is free again."""
        if self.settlement is not None:
            if self._chain is not None:
                self._chain.refund(self.settlement.amount_nano_usd)
            elif self._hold is not None:
                self._escrow.refund(self._hold, self.settlement.amount_nano_usd)
        before, self.settlement = self.settlement, instead
        if before is not None and self.on_changed is not None:
            self.on_changed(before, instead)

    def _charge(self, tokens: TokenCounts) -> tuple[int, int]:
        cost = cost_nano_usd(self._model.price, tokens)
        if self._chain is not None:
            self._chain.release_slots()
        if self._hold is None:
            return 0, cost
        beyond = 0
        if self._estimate.is_absurd(tokens):
            beyond = max(cost - self._hold.amount_nano_usd, 0)
        if self._chain is not None:
            charge, shortfall = self._chain.charge(cost - beyond)
        else:
            charge, shortfall = self._escrow.charge(self._hold, cost - beyond)
        return charge, shortfall + beyond

    def _settlement(self, outcome: Outcome, tokens: TokenCounts, charge: int, shortfall: int) -> Settlement:
        call, caller, model = self._call, self._call.caller, self._model
        # In the order of the fields: given by their names, so many take msgspec sixteen times as long.
        return Settlement(
            call.request_id,
            caller.payer_id,
            charge,
            shortfall,
            self._hold.lease.id if self._hold is not None else None,
            caller.key_id,
            call.client_request_id,
            model.id,
            outcome.endpoint,
            model.price.id,
            tokens.prompt,
            tokens.cached,
            tokens.cache_write,
            tokens.completion,
            tokens.reasoning,
            tokens.estimated,
            outcome.status,
            outcome.finish_reason,
            outcome.error_reason,
            outcome.attempts,
            self._streamed,
            outcome.ttft_ms,
            outcome.duration_ms,
            self._core_id,
            self._chain.named if self._chain is not None else (),
        )
