"""Authentication from memory."""

import asyncio
import gc
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from core.access import auth as auth_module
from core.access.apikeys import Peppers, make_key
from core.access.auth import OperatorCredential
from core.call import Caller, Role
from core.errors import InvalidApiKey, ServiceUnavailable, WorldRouterError
from storage.errors import StoreUnavailable
from storage.limit_records import Limit


async def test_a_good_key_is_its_account(auth) -> None:
    """A key that is in the store authenticates as a caller of its account, by the kind of that account."""
    user, user_record = auth.add()
    service, service_record = auth.add(kind="service")
    await auth.authenticator.refresh()
    assert await auth.authenticator.authenticate(f"Bearer {user}") == Caller(Role.API_KEY, "acct_a", user_record.id)
    assert await auth.authenticator.authenticate(f"bEARER  {service}") == Caller(
        Role.SERVICE_KEY, "acct_a", service_record.id
    )


async def test_the_operator_acts_on_the_default_account(auth, operator_token: str) -> None:
    """The operator's token is the operator, on the default account, and without a key."""
    caller = await auth.authenticator.authenticate(f"Bearer {operator_token}")
    assert caller == Caller(Role.OPERATOR, "acct_default", None)


def test_a_short_operator_token_is_refused() -> None:
    """An operator's token that could be guessed, an empty file for one, is refused at start."""
    with pytest.raises(ValueError, match="32 characters"):
        OperatorCredential("", "acct_default")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer wlrouter_",
        "Bearer wlrouter_" + "0" * 68,
        "Bearer " + "x" * 100_000,
        "Bearer operator-token-0123456789-012345678X",
        "Bearer \ud800ü\x00",
    ],
)
async def test_a_bad_credential_is_refused_without_a_look_at_the_store(auth, authorization: str | None) -> None:
    """Whatever is no key by its shape, nor the operator's token, is InvalidApiKey, and the store is not asked."""
    before = auth.keys.load_count
    with pytest.raises(InvalidApiKey) as caught:
        await auth.authenticator.authenticate(authorization)
    assert auth.keys.load_count == before
    assert authorization is None or len(authorization) < 9 or authorization not in caught.value.message


async def test_the_secret_must_match(auth) -> None:
    """A well-formed key of a record's id with another secret is refused, revoked and expired keys with it."""
    _, record = auth.add()
    await auth.authenticator.refresh()
    with pytest.raises(InvalidApiKey, match="Incorrect"):
        await auth.authenticator.authenticate("Bearer " + make_key(record.id))


async def test_revoked_and_expired_keys_say_so(auth) -> None:
    """A right key that is revoked or expired is refused, and its holder told why."""
    revoked, record = auth.add()
    auth.keys.put(replace(record, revoked_us=auth.clock.us()))
    expiring, _ = auth.add(expires_us=auth.clock.us() + 1_000_000)
    await auth.authenticator.refresh()
    await auth.authenticator.authenticate(f"Bearer {expiring}")
    auth.clock.s += 1
    with pytest.raises(InvalidApiKey, match="expired"):
        await auth.authenticator.authenticate(f"Bearer {expiring}")
    with pytest.raises(InvalidApiKey, match="revoked"):
        await auth.authenticator.authenticate(f"Bearer {revoked}")
    assert await auth.authenticator.verify(expiring) is None
    assert await auth.authenticator.verify(revoked) is None


async def test_an_old_secret_lives_through_its_grace(auth) -> None:
    """After a rotation both secrets are good until the grace time ends, then the new one alone."""
    old, record = auth.add()
    await auth.authenticator.refresh()
    new, _ = auth.rotate(record, grace_s=2)
    await auth.authenticator.refresh()
    for key in (old, new):
        assert (await auth.authenticator.authenticate(f"Bearer {key}")).key_id == record.id
    auth.clock.s += 2
    assert (await auth.authenticator.authenticate(f"Bearer {new}")).key_id == record.id
    with pytest.raises(InvalidApiKey):
        await auth.authenticator.authenticate(f"Bearer {old}")


async def test_a_key_made_elsewhere_works_at_once(auth) -> None:
    """A well-formed key that the table lacks makes it load once before the key is refused."""
    key, record = auth.add()
    assert (await auth.authenticator.authenticate(f"Bearer {key}")).key_id == record.id


async def test_unknown_keys_share_loads(auth) -> None:
    """However many unknown keys arrive, the store is asked once for all of them, and not more often than the limit."""
    before = auth.keys.load_count
    keys = [make_key(f"key_{number:026}") for number in range(1_000, 1_200)]
    began = time.perf_counter()
    for _ in range(3):
        answers = await asyncio.gather(
            *(auth.authenticator.authenticate(f"Bearer {key}") for key in keys), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {InvalidApiKey}
    load_count = auth.keys.load_count - before
    assert 2 <= load_count <= 4
    assert time.perf_counter() - began >= (load_count - 1) * auth_module.REFRESH_INTERVAL_S * 0.9


async def test_who_asks_during_a_load_gets_the_next_one(auth) -> None:
    """A refresh is served by a load that began after it: a change just committed is never missed."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await go_on.wait()

    auth.keys.before_load = wait
    first = asyncio.create_task(auth.authenticator.refresh())
    await entered.wait()
    before = auth.keys.load_count
    others = [asyncio.create_task(auth.authenticator.refresh()) for _ in range(10)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *others)
    assert auth.keys.load_count == before + 1


async def test_a_cancelled_load_is_begun_again(auth) -> None:
    """When the caller whose load others wait for goes away, the next of them loads."""
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.sleep(10)

    auth.keys.before_load = hang
    first = asyncio.create_task(auth.authenticator.refresh())
    await entered.wait()
    second = asyncio.create_task(auth.authenticator.refresh())
    await asyncio.sleep(0)
    auth.keys.before_load = None
    first.cancel()
    await second
    assert first.cancelled()


async def test_a_store_that_is_down_is_never_the_callers_fault(auth, operator_token: str) -> None:
    """With the store down an unknown key is ServiceUnavailable at once, a known one after five seconds; the
    operator stays, and garbage stays garbage."""
    known, _ = auth.add()
    await auth.authenticator.refresh()
    unknown, _ = auth.add()
    auth.keys.failing = True
    with pytest.raises(ServiceUnavailable):
        await auth.authenticator.authenticate(f"Bearer {unknown}")
    auth.clock.s += 4.9
    assert await auth.authenticator.authenticate(f"Bearer {known}")
    auth.clock.s += 0.2
    await auth.poll()
    for key in (known, unknown):
        with pytest.raises(ServiceUnavailable) as caught:
            await auth.authenticator.authenticate(f"Bearer {key}")
        assert caught.value.retry_after_s == 1
    with pytest.raises(ServiceUnavailable):
        await auth.authenticator.verify(known)
    with pytest.raises(InvalidApiKey):
        await auth.authenticator.authenticate("Bearer nonsense")
    assert await auth.authenticator.authenticate(f"Bearer {operator_token}")
    auth.keys.failing = False
    await auth.poll()
    assert await auth.authenticator.authenticate(f"Bearer {unknown}")


async def test_a_store_that_hangs_is_down(auth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that takes too long counts as failed."""
    monkeypatch.setattr(auth_module, "LOAD_TIMEOUT_S", 0.01)

    async def hang() -> None:
        await asyncio.sleep(10)

    auth.keys.before_load = hang
    with pytest.raises(TimeoutError):
        await auth.authenticator.refresh()


async def test_an_entry_is_replaced_only_by_a_newer_one(auth) -> None:
    """A late answer with an older sequence does not bring a revoked key back."""
    key, record = auth.add()
    auth.keys.put(replace(record, revoked_us=1))
    await auth.authenticator.refresh()
    auth.keys.records[record.id] = record
    auth.authenticator._key_seq = 0
    await auth.authenticator.refresh()
    with pytest.raises(InvalidApiKey):
        await auth.authenticator.authenticate(f"Bearer {key}")


async def test_more_keys_than_a_page_are_all_loaded(auth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load goes on page by page until it has everything, the limits too."""
    monkeypatch.setattr(auth_module, "_PAGE_SIZE", 10)
    added = [auth.add() for _ in range(30)]
    for _, record in added:
        auth.keys.limits_[record.id] = [Limit(f"limit_{record.id}", record.id, "requests", "minute", 1)]
    await auth.authenticator.refresh()
    before = auth.keys.load_count
    for key, record in added:
        caller = await auth.authenticator.authenticate(f"Bearer {key}")
        assert caller.policy.limits[0].owner_id == record.id
    assert auth.keys.load_count == before


async def test_the_end_of_a_key_is_reported(auth) -> None:
    """A key that is revoked, expires, or loses a secret at once is reported, once each; others are not."""
    _, revoked = auth.add()
    _, expiring = auth.add(expires_us=auth.clock.us() + 1_000_000)
    _, rotated = auth.add()
    _, renamed = auth.add()
    await auth.authenticator.refresh()
    auth.keys.put(replace(revoked, revoked_us=auth.clock.us()))
    auth.keys.put(replace(renamed, display_name="other"))
    auth.rotate(rotated, grace_s=0)
    await auth.poll()
    assert sorted(auth.revoked) == sorted([revoked.id, rotated.id])
    auth.clock.s += 1
    await auth.poll()
    assert auth.revoked[2:] == [expiring.id]


async def test_an_expiry_that_was_put_off_is_not_reported(auth) -> None:
    """A key whose expiry was moved is reported at the new time, not at the old one."""
    _, record = auth.add(expires_us=auth.clock.us() + 1_000_000)
    await auth.authenticator.refresh()
    auth.keys.put(replace(record, expires_us=auth.clock.us() + 3_000_000))
    await auth.authenticator.refresh()
    assert await auth.revoked_after(2) == []
    assert await auth.revoked_after(1) == [record.id]


async def test_the_end_of_a_grace_time_is_reported_when_the_old_secret_was_in_use(auth) -> None:
    """When a grace time ends the key is reported if streams may run on the old secret, otherwise not."""
    old, used = auth.add()
    _, changed_over = auth.add()
    await auth.authenticator.refresh()
    auth.rotate(used, grace_s=3600)
    auth.rotate(changed_over, grace_s=3600)
    await auth.authenticator.refresh()
    auth.clock.s += 3599
    await auth.authenticator.refresh()
    await auth.authenticator.authenticate(f"Bearer {old}")
    auth.clock.s += 1
    await auth.poll()
    assert auth.revoked == [used.id]


async def test_the_end_of_a_short_grace_time_is_reported(auth) -> None:
    """Streams opened before a rotation are cut at the end of its grace time."""
    _, record = auth.add()
    await auth.authenticator.refresh()
    auth.rotate(record, grace_s=2)
    await auth.authenticator.refresh()
    assert auth.revoked == []
    auth.clock.s += 2
    await auth.poll()
    assert auth.revoked == [record.id]


async def test_a_missing_pepper_is_our_fault(auth) -> None:
    """A key hashed under a pepper that is gone is ServiceUnavailable: its holder did nothing wrong."""
    key, record = auth.add()
    auth.keys.put(replace(record, secret=Peppers(9, {9: b"9" * 32}).hash(key)))
    await auth.authenticator.refresh()
    with pytest.raises(ServiceUnavailable):
        await auth.authenticator.authenticate(f"Bearer {key}")


async def test_polling_survives_anything(auth) -> None:
    """An error of any kind in one poll does not end the polling."""

    async def explode() -> None:
        auth.keys.before_load = None
        raise RuntimeError("a bug")

    auth.keys.before_load = explode
    key, record = auth.add()
    await auth.poll()
    assert record.id in auth.authenticator._keys
    assert await auth.authenticator.authenticate(f"Bearer {key}")


async def test_refresh_tells_of_a_failure(auth) -> None:
    """Who asked for a refresh learns that it failed, those who joined too."""
    auth.keys.failing = True
    answers = await asyncio.gather(*(auth.authenticator.refresh() for _ in range(3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}


async def test_malformed_keys_cost_microseconds_and_nothing_else(auth) -> None:
    """Ten thousand malformed keys never reach the store and cost 20 µs each at most; a good key costs 8."""
    key, _ = auth.add()
    await auth.authenticator.refresh()
    before = auth.keys.load_count
    garbage = [f"Bearer wlrouter_{number:068}" for number in range(10_000)]
    assert await cost_us(auth, garbage) < 20
    assert await cost_us(auth, [f"Bearer {key}"] * 10_000) < 8
    assert auth.keys.load_count == before


async def cost_us(auth, authorizations: list[str]) -> float:
    """CPU microseconds that one authentication takes, the best of five batches."""
    gc.collect()
    size = len(authorizations) // 5
    costs = []
    for start in range(0, len(authorizations), size):
        began = time.process_time()
        for authorization in authorizations[start : start + size]:
            with suppress(WorldRouterError):
                await auth.authenticator.authenticate(authorization)
        costs.append((time.process_time() - began) / size * 1e6)
    return min(costs)
