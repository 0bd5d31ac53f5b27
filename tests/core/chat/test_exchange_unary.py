"""Whole answers, from a body to a charge, over scripted upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import weakref
from typing import Any

import msgspec
import pytest

from core import errors
from core.call import Role
from core.catalog import Catalog, price_of
from core.money.ledger import SettlementFailed

IN, OUT = 1_000, 2_000  # nUSD per token of model "m"


def usage_of(prompt: Any, completion: Any, **rest: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **rest}


async def test_a_whole_answer_is_charged_and_given(router: Any) -> None:
    """Our id and model, the upstream's text and usage, one committed row at the model's price."""
    answer = await router.unary({})
    assert (answer["id"], answer["model"], answer["created"]) == ("chatcmpl-req1", "m", 1_800_000_000)
    assert answer["choices"][0]["message"]["content"] == "one two three"
    assert answer["usage"]["completion_tokens"] == 3
    row = await router.row()
    assert row["amount_nano_usd"] == 3 * IN + 3 * OUT
    assert (row["status"], row["finish_reason"], row["endpoint"], row["attempts"]) == ("complete", "stop", "e1", 1)
    assert (row["key_id"], row["account_id"], row["model_id"], row["streamed"]) == ("key_1", "a", "m", False)
    assert (row["estimated"], row["error_reason"]) == (False, "")


async def test_the_upstream_gets_its_own_name_and_nothing_else_changed(router: Any) -> None:
    """All other fields are the caller's bytes."""
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"seed":18446744073709551621,"x": 1.0}'
    await router.unary(body)
    assert list(router.providers["p1"].received) == [body.replace(b'"m"', b'"up1"').replace(b'"x": 1.0', b'"x":1.0')]


async def test_the_answer_waits_for_its_commit(router: Any) -> None:
    """Nothing is given before the charge is durable."""
    router.store.faults["settle"] = ["hang"]
    waiting = asyncio.ensure_future(router.unary({}))
    await router.settling()
    assert not waiting.done()
    router.store.resume.set()
    await waiting
    assert router.rows("SELECT count(*) FROM ledger WHERE ref = 'req1'") == [(1,)]


async def test_an_answer_that_cannot_be_charged_is_not_given(router: Any) -> None:
    """After the settle timeout the caller gets an error, and the row says that nothing was charged."""
    router.store.faults["settle"] = ["refused"] * 6
    waiting = asyncio.ensure_future(router.unary({}))
    await router.settling()
    await router.until(lambda: router.store.calls["settle"] > 1)
    router.clock.now_s += 5.0
    router.pipeline.sweep()
    with pytest.raises(SettlementFailed):
        await waiting
    router.store.faults.clear()
    row = await router.row()
    assert (row["amount_nano_usd"], row["status"], row["error_reason"]) == (0, "internal_error", "SERVICE_UNAVAILABLE")
    (record,) = router.records
    assert (record.status, record.cost_nano_usd, record.error_reason) == ("internal_error", 0, "SERVICE_UNAVAILABLE")


# Usage


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        (usage_of(7, 11), 7 * IN + 11 * OUT),
        (usage_of(0, 0), 0),
        (usage_of(10, 0, prompt_tokens_details={"cached_tokens": 4}), 6 * IN + 4 * IN // 2),
        (usage_of(10, 0, prompt_tokens_details={"cached_tokens": 99}), 10 * IN // 2),
        (usage_of(10, 5, completion_tokens_details={"reasoning_tokens": 5}), 10 * IN + 5 * OUT),
    ],
)
async def test_reported_usage_is_charged_exactly(router: Any, usage: dict[str, Any], charged: int) -> None:
    """Zero is zero, cached tokens have their price and are clamped to the prompt; the caller sees what was reported."""
    answer = await router.unary({"script": {"usage": usage}})
    assert answer["usage"] == usage
    row = await router.row()
    assert (row["amount_nano_usd"], row["shortfall_nano_usd"], row["estimated"]) == (charged, 0, False)
    (record,) = router.records
    assert (record.prompt_tokens, record.cached_tokens) == (row["prompt_tokens"], row["cached_tokens"])


@pytest.mark.parametrize(
    "script", [{"usage_mode": "missing"}, {"usage": usage_of(-5, 3)}, {"usage": usage_of(1, None)}, {"usage": {}}]
)
async def test_usage_that_nobody_counted_is_estimated_and_marked(router: Any, script: dict[str, Any]) -> None:
    """Never free, never more than the hold, and the caller sees the numbers that it pays."""
    answer = await router.unary({"script": script})
    row = await router.row()
    assert row["estimated"] is True
    assert router.records[0].estimated is True
    assert answer["usage"]["estimated"] is True
    counts = (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])
    assert counts == (row["prompt_tokens"], row["completion_tokens"])
    assert row["amount_nano_usd"] == counts[0] * IN + counts[1] * OUT > 0
    assert row["shortfall_nano_usd"] == 0


async def test_an_estimate_stays_within_the_callers_limit(router: Any) -> None:
    """However many bytes a few tokens may be."""
    await router.unary({"max_tokens": 2, "script": {"text": ["x" * 500, "y" * 500], "usage_mode": "missing"}})
    assert (await router.row())["completion_tokens"] == 2


async def test_an_estimate_counts_media(router: Any) -> None:
    """An image whose tokens nobody counted is charged as it was held."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "a"}]}]
    await router.unary({"messages": messages, "script": {"usage_mode": "missing", "text": "b"}})
    assert 4_096 < (await router.row())["prompt_tokens"] < 4_200


@pytest.mark.parametrize("usage", [usage_of(10**7, 3), usage_of(3, 10**7)])
async def test_absurd_usage_is_charged_within_the_hold(router: Any, usage: dict[str, Any]) -> None:
    """A wrong count of an upstream never empties an account."""
    await router.unary({"script": {"usage": usage}})
    row = await router.row()
    held = (row["prompt_tokens"] if row["prompt_tokens"] < 10**6 else 0) * IN
    assert held <= row["amount_nano_usd"] <= 100 * IN + 100 * OUT
    assert (
        row["shortfall_nano_usd"]
        == (10**7) * (IN if usage["prompt_tokens"] == 10**7 else OUT)
        + 3 * (OUT if usage["prompt_tokens"] == 10**7 else IN)
        - row["amount_nano_usd"]
    )


async def test_usage_beyond_the_hold_that_is_possible_is_charged(router: Any) -> None:
    """A field that we do not know may make a model write more than it was asked for: that is no free answer."""
    await router.unary({"max_tokens": 1, "script": {"usage": usage_of(3, 5_000)}})
    row = await router.row()
    assert (row["amount_nano_usd"], row["shortfall_nano_usd"]) == (3 * IN + 5_000 * OUT, 0)


async def test_hidden_reasoning_that_ate_the_limit_is_charged(router: Any) -> None:
    """Empty content, `length`, and still a bill."""
    script = {"reasoning": ["a", "b", "c"], "text": "never", "usage": usage_of(3, 2)}
    answer = await router.unary({"max_tokens": 2, "script": script})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == ""
    assert (await router.row())["amount_nano_usd"] == 3 * IN + 2 * OUT


# Failures


@pytest.mark.parametrize(
    ("script", "kind", "status"),
    [
        ({"fault": "connect_failed"}, errors.UpstreamFailed, "upstream_failed"),
        ({"fault": "head_cut"}, errors.UpstreamFailed, "upstream_failed"),
        ({"fault": "cut"}, errors.UpstreamFailed, "upstream_failed"),
        ({"fault": "error"}, errors.UpstreamFailed, "upstream_failed"),
        ({"fault": "bad_json"}, errors.UpstreamFailed, "upstream_failed"),
        ({"raw_body": '{"choices":[]}'}, errors.UpstreamFailed, "upstream_failed"),
        ({"status": 400}, errors.UpstreamRejected, "upstream_failed"),
        ({"status": 422}, errors.UpstreamRejected, "upstream_failed"),
        ({"status": 401}, errors.UpstreamRefused, "upstream_failed"),
        ({"status": 402}, errors.UpstreamRefused, "upstream_failed"),
        ({"status": 403}, errors.UpstreamRefused, "upstream_failed"),
        ({"status": 404}, errors.UpstreamRefused, "upstream_failed"),
        ({"status": 408}, errors.UpstreamTimeout, "timeout"),
        ({"status": 413}, errors.RequestTooLarge, "upstream_failed"),
        ({"status": 429, "retry_after_s": 20.0}, errors.RateLimited, "upstream_failed"),
        ({"status": 500}, errors.UpstreamFailed, "upstream_failed"),
        ({"status": 503, "retry_after_s": 20.0}, errors.ServiceUnavailable, "upstream_failed"),
        ({"status": 302}, errors.UpstreamFailed, "upstream_failed"),
        ({"status": 500, "fault": "cut"}, errors.UpstreamFailed, "upstream_failed"),
    ],
)
async def test_a_failed_answer_is_free_and_has_a_row(
    router: Any, script: dict[str, Any], kind: type[errors.WorldRouterError], status: str
) -> None:
    """The caller learns what went wrong; support finds the request id; nothing is charged."""
    with pytest.raises(errors.WorldRouterError) as caught:
        await router.unary({"script": script})
    assert type(caught.value) is kind or kind is errors.UpstreamFailed
    assert isinstance(caught.value, kind)
    if "retry_after_s" in script:
        assert caught.value.retry_after_s == 20.0
    row = await router.row()
    assert (row["amount_nano_usd"], row["status"], row["error_reason"]) == (0, status, caught.value.reason)
    assert row["prompt_tokens"] == row["completion_tokens"] == 0
    (record,) = router.records
    assert (record.status, record.error_reason, record.cost_nano_usd) == (status, caught.value.reason, 0)


async def test_a_rejection_keeps_the_upstreams_words(router: Any) -> None:
    """Message, param and code of its 400."""
    error = {"message": "temperature must be at most 2", "param": "temperature", "code": "too_hot"}
    with pytest.raises(errors.UpstreamRejected) as caught:
        await router.unary({"script": {"status": 400, "error": error}})
    assert (caught.value.message, caught.value.param, caught.value.code) == tuple(error.values())


@pytest.mark.parametrize(
    "script",
    [
        {"fault": "connect_failed"},
        {"fault": "head_cut"},
        {"fault": "cut"},
        {"fault": "error"},
        {"fault": "bad_json"},
        {"status": 408},
        {"status": 429, "retry_after_s": 99.0},
        {"status": 500},
        {"status": 503, "retry_after_s": 99.0},
        {"status": 307},
    ],
)
async def test_passing_trouble_goes_to_the_next_endpoint(router: Any, script: dict[str, Any]) -> None:
    """The caller sees the answer of the second; the row says that there were two attempts."""
    router.scripted("p1", **script)
    answer = await router.unary({"model": "two"})
    assert answer["choices"][0]["message"]["content"] == "one two three"
    row = await router.row()
    assert (row["endpoint"], row["attempts"], row["status"]) == ("e2", 2, "complete")
    assert [json.loads(body)["model"] for body in router.providers["p2"].received] == ["up2"]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_what_another_endpoint_cannot_mend_is_not_tried_there(router: Any, status: int) -> None:
    """The caller's mistakes and our own set-up are the same everywhere."""
    router.scripted("p1", status=status)
    with pytest.raises(errors.WorldRouterError):
        await router.unary({"model": "two"})
    assert not router.providers["p2"].received
    assert (await router.row())["attempts"] == 1


async def test_at_most_three_endpoints_are_tried(router: Any) -> None:
    """The last failure is the answer."""
    for name in ("p1", "p2"):
        router.scripted(name, status=500)
    router.scripted("p3", status=429, retry_after_s=7.0)
    with pytest.raises(errors.RateLimited) as caught:
        await router.unary({"model": "four"})
    assert caught.value.retry_after_s == 7.0
    assert not router.providers["p4"].received
    assert (await router.row())["attempts"] == 3


async def test_what_only_a_failed_endpoint_took_is_free(router: Any) -> None:
    """To a caller that goes away before the next one has taken the request."""
    router.scripted("p1", status=500)
    router.scripted("p2", fault="connect_failed", head_delay_ms=10_000)
    waiting = asyncio.ensure_future(router.unary({"model": "two"}))
    await router.running()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    row = await router.row()
    assert (row["status"], row["endpoint"], row["prompt_tokens"]) == ("client_gone", "e2", 0)


async def test_a_refusal_of_our_access_is_told_to_the_operator(router: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Which endpoint, which model, which status: the caller only sees a 502."""
    with pytest.raises(errors.UpstreamRefused):
        await router.unary({"script": {"status": 401}})
    assert [record.getMessage() for record in caplog.records if record.name == "core.chat.dispatch"] == [
        "Endpoint e1 of model m: The upstream refused WorldRouter's own access (status 401)."
    ]


async def test_an_answer_that_never_ends_is_too_large(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up at a bound, not at the end of memory."""
    monkeypatch.setattr("core.chat.exchange.MAX_ANSWER_BYTES", 10_000)
    with pytest.raises(errors.UpstreamFailed, match="too large"):
        await router.unary({"script": {"raw": ["x" * 4_000] * 10}})


async def test_a_bug_of_ours_is_free(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says so, and its log line names the reason; though the upstream's answer was whole."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("core.chat.answers.Answer.body", broken)
    with pytest.raises(RuntimeError):
        await router.unary({})
    row = await router.row()
    assert (row["amount_nano_usd"], row["status"], row["error_reason"]) == (0, "internal_error", "INTERNAL_ERROR")
    assert (router.records[0].error_reason, router.records[0].prompt_tokens) == ("INTERNAL_ERROR", 0)


# Time limits


async def test_a_silent_upstream_times_out(router: Any) -> None:
    """A whole answer may take five times as long as a first token, and no longer."""
    waiting = asyncio.ensure_future(router.unary({"script": {"fault": "no_head"}}))
    await router.running()
    router.clock.now_s += 300
    router.pipeline.sweep()
    await router.running()
    assert not waiting.done()
    router.clock.now_s += 0.1
    router.pipeline.sweep()
    with pytest.raises(errors.UpstreamTimeout):
        await waiting
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"]) == ("timeout", 0)


async def test_a_body_that_stalls_times_out(router: Any) -> None:
    """Between two reads the limit is that of chunks; an error's body has it too."""
    for script in ({"fault": "silence"}, {"status": 500, "raw": ["{"], "fault": "silence"}):
        waiting = asyncio.ensure_future(router.unary({"script": script}))
        await router.running()
        router.clock.now_s += 60.1
        router.pipeline.sweep()
        with pytest.raises(errors.UpstreamFailed):
            await waiting
        await router.escrow.renew()


async def test_a_timeout_leaves_time_for_another_endpoint(router: Any) -> None:
    """One silent endpoint is not the end of the request."""
    router.scripted("p1", fault="no_head")
    waiting = asyncio.ensure_future(router.unary({"model": "two"}))
    await router.running()
    router.clock.now_s += 300.1
    router.pipeline.sweep()
    await waiting
    assert (await router.row())["endpoint"] == "e2"


async def test_the_total_limit_is_final(router: Any) -> None:
    """No further endpoint is tried then."""
    router.scripted("p1", fault="no_head")
    waiting = asyncio.ensure_future(router.unary({"model": "two"}))
    await router.running()
    router.clock.now_s += 900.1
    router.pipeline.sweep()
    with pytest.raises(errors.UpstreamTimeout):
        await waiting
    assert not router.providers["p2"].received


# Refusals


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (b"not JSON", errors.InvalidRequest, None),
        ({"model": "nobody"}, errors.ModelNotFound, "model"),
        ({"model": "M"}, errors.ModelNotFound, "model"),
        ({"model": "hidden"}, errors.ModelNotAllowed, "model"),
        ({"stream": True}, errors.InvalidRequest, "stream"),
        ({"messages": []}, errors.InvalidRequest, "messages"),
    ],
)
async def test_what_is_refused_leaves_no_row(
    router: Any, body: Any, kind: type[errors.WorldRouterError], param: str | None
) -> None:
    """It was never admitted: no hold, no call, a line in the access log."""
    with pytest.raises(kind) as caught:
        await router.unary(body)
    assert caught.value.param == param
    assert router.store.calls["acquire"] == 0
    assert not router.providers["p1"].received
    (record,) = router.records
    assert (record.status, record.error_reason) == ("refused", caught.value.reason)
    assert await router.store.usage_record("req1") is None


async def test_the_operator_may_use_hidden_models(router: Any) -> None:
    """What is not public is there for tests."""
    assert (await router.unary({"model": "hidden"}, role=Role.OPERATOR))["model"] == "hidden"


async def test_a_free_model_has_rows_too(router: Any) -> None:
    """Of amount 0, without a lease."""
    await router.unary({"model": "free"})
    row = await router.row()
    assert (row["amount_nano_usd"], row["lease_id"], row["completion_tokens"]) == (0, None, 3)
    assert router.store.calls["acquire"] == 0


@pytest.mark.parametrize(
    ("model", "endpoint", "name"), [("m", "e1", "max_tokens"), ("two", "e2", "max_completion_tokens")]
)
async def test_a_lowered_limit_is_announced_and_sent(router: Any, model: str, endpoint: str, name: str) -> None:
    """In the metadata, and to the upstream in the field that its provider reads."""
    await router.store.create_account("poor", "poor", "user")
    await router.store.adjust(ref="poor", account_id="poor", amount_nano_usd=3_000_000, note="x")
    if endpoint == "e2":
        router.scripted("p1", status=500)
    exchange = router.open({"model": model, "max_tokens": None}, stream=False)
    msgspec.structs.force_setattr(exchange.call.caller, "payer_id", "poor")
    with exchange:
        await exchange.admit()
        announced = dict(exchange.metadata())
        await exchange.complete()
    lowered = int(announced["x-worldrouter-max-tokens"])
    assert 1_024 <= lowered < 1_500
    provider = router.providers["p1" if endpoint == "e1" else "p2"]
    assert json.loads(provider.received[-1])[name] == lowered


async def test_removed_fields_are_announced(router: Any) -> None:
    """With the request id, before the upstream is called."""
    with router.open({"api_base": "x", "extra_body": {"api_key": "y"}}, stream=False) as exchange:
        await exchange.admit()
        assert dict(exchange.metadata()) == {
            "x-request-id": "req1",
            "x-worldrouter-ignored": "api_base,extra_body.api_key",
        }
        await exchange.complete()
    assert b"api_" not in router.providers["p1"].received[0]


async def test_what_was_learned_of_a_model_sizes_its_next_hold(router: Any) -> None:
    """Settled usage teaches bytes per token; estimates, what cannot be, images and a few words teach nothing."""
    before = router.pipeline.ratios.of("m").mean_input
    long = [{"role": "user", "content": "words " * 500}]
    for script in ({"usage_mode": "missing"}, {"usage": usage_of(90_000, 3)}):  # more than there are bytes
        await router.unary({"messages": long, "script": script})
        assert router.pipeline.ratios.of("m").mean_input == before
    await router.unary({})
    assert router.pipeline.ratios.of("m").mean_input == before  # too short to tell
    await router.unary({"messages": long, "script": {"usage": usage_of(600, 3)}})
    assert router.pipeline.ratios.of("m").mean_input != before


async def test_an_answer_that_failed_is_let_go_of_at_once(router: Any) -> None:
    """What came of it, megabytes perhaps, does not wait for the garbage collector, which counts objects, not bytes."""
    router.scripted("p1", raw_body='{"choices":[]}')
    failed = []

    async def fail() -> None:
        with router.open({}, stream=False) as exchange:
            failed.append(weakref.ref(exchange))
            await exchange.admit()
            await exchange.complete()

    gc.disable()
    try:
        with contextlib.suppress(errors.UpstreamFailed):
            await fail()
        await router.settled()
        assert failed[0]() is None
    finally:
        gc.enable()


# A charge that the store decides


@pytest.mark.parametrize("left_nano_usd", [4_000, 0])
@pytest.mark.parametrize("how", ["whole", "left", "read on"])
async def test_the_charge_of_a_lease_that_is_closed_is_told_as_it_is(router: Any, how: str, left_nano_usd: int) -> None:
    """The account pays what it has left, the house the rest; cost, log line and counters say so, and the row."""
    if how == "read on":
        body = {"model": "drained", "script": {"head_delay_ms": 100}}
        task = asyncio.ensure_future(router.chunks(body))
    elif how == "left":
        task = asyncio.ensure_future(router.chunks({"script": {"fault": "silence", "fault_after": 3}}))
    else:
        task = asyncio.ensure_future(router.unary({"script": {"head_delay_ms": 400}}))
    await router.running()
    ((lease,),) = router.rows("SELECT id FROM leases WHERE state = 'active'")
    await router.store.close_lease(lease)
    taken = await router.store.available() - left_nano_usd
    await router.store.acquire(
        lease_id="other", account_id="a", core_id="core_1", want_nano_usd=taken, chunk_nano_usd=taken, ttl_s=30.0
    )
    if how != "whole":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await router.until(lambda: not router.pipeline.in_flight)
    row = await router.row()
    cost = row["prompt_tokens"] * IN + row["completion_tokens"] * OUT
    assert (row["amount_nano_usd"], row["shortfall_nano_usd"]) == (left_nano_usd, cost - left_nano_usd)
    (record,) = router.records
    if how != "whole":  # its line was written before the commit
        ((asked, charged),) = router.changes
        assert (asked.amount_nano_usd, asked.shortfall_nano_usd) == (record.cost_nano_usd, 0) == (cost, 0)
        assert (charged.amount_nano_usd, charged.shortfall_nano_usd) == (left_nano_usd, cost - left_nano_usd)
    else:
        assert not router.changes
        assert (record.cost_nano_usd, record.shortfall_nano_usd) == (left_nano_usd, cost - left_nano_usd)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_price_change_in_mid_request_charges_the_admitted_price(router: Any, stream: bool) -> None:
    """The catalog may be exchanged at any moment; what runs keeps what it was admitted with."""
    body = {"script": {"head_delay_ms": 30}}
    task = asyncio.ensure_future(router.chunks(body) if stream else router.unary(body))
    await router.running()
    old = router.pipeline.offer.catalog.models["m"]
    dear = price_of(
        "m", input_pico_usd=10**9, output_pico_usd=10**9, cache_read_pico_usd=10**9, cache_write_pico_usd=10**9
    )
    catalog = Catalog.of([dataclasses.replace(old, price=dear)])
    router.pipeline.offer = dataclasses.replace(router.pipeline.offer, catalog=catalog)
    await task
    await router.unary({})
    rows = [await router.row("req1"), await router.row("req2")]
    assert [row["price_id"] for row in rows] == [old.price.id, dear.id]
    assert [row["amount_nano_usd"] for row in rows] == [3 * IN + 3 * OUT, 6 * 10**6]
