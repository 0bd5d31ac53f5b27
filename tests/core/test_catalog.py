"""The catalog and the plan of attempts."""

from dataclasses import replace

import pytest
from msgspec import structs

from core import errors
from core.call import Caller, Policy, Role
from core.catalog import Catalog, Endpoint, Model, price_of
from core.providers.base import ConnectFailed
from core.routing import MAX_ATTEMPTS, may_fail_over, plan

KEY = Caller(Role.API_KEY, "acct_a", "key_a")
OPERATOR = Caller(Role.OPERATOR, "default", None)


def model(model_id: str = "m", *, public: bool = True, endpoints: int = 1) -> Model:
    return Model(
        id=model_id,
        display_name=model_id,
        owned_by="o",
        created_s=1,
        max_output_tokens=10,
        context_tokens=0,
        price=price_of(model_id, input_pico_usd=1, output_pico_usd=2, cache_read_pico_usd=1, cache_write_pico_usd=1),
        public=public,
        streaming=True,
        max_image_tokens=4_096,
        first_token_timeout_s=None,
        endpoints=tuple(Endpoint(f"e{at}", "p", "up") for at in range(endpoints)),
    )


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"public": False}, "limits"),
        ({"max_output_tokens": 11}, "limits"),
        ({"max_image_tokens": 1}, "limits"),
        ({"endpoints": (Endpoint("e0", "p", "another"),)}, "endpoints"),
        ({"endpoints": (Endpoint("e1", "p", "up"),)}, "endpoints"),
        ({"display_name": "Another"}, None),
    ],
)
def test_what_cores_must_agree_on(change: dict[str, object], differs: str | None) -> None:
    """Everything that decides what a request may do and costs; how a model is shown is not."""
    before, after = (Catalog.of([each]).configuration(1) for each in (model(), replace(model(), **change)))
    assert (before.content_hash == after.content_hash) == (differs is None)
    changed = [name for name, part in before.parts["m"].items() if after.parts["m"][name] != part]
    assert changed == ([] if differs is None else [differs])


def test_models_are_found_by_their_exact_id() -> None:
    """IDs are case-sensitive; an unknown one is the caller's mistake and names the field."""
    catalog = Catalog.of([model("gpt-4o")])
    assert catalog.require("gpt-4o", KEY).id == "gpt-4o"
    with pytest.raises(errors.ModelNotFound, match="GPT-4o") as caught:
        catalog.require("GPT-4o", OPERATOR)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_a_hidden_model_is_not_for_everybody() -> None:
    """An ordinary key may not use a model that is not public; who may see it uses it."""
    catalog = Catalog.of([model("secret", public=False)])
    with pytest.raises(errors.ModelNotAllowed) as caught:
        catalog.require("secret", KEY)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_allowed")
    assert catalog.require("secret", OPERATOR).id == "secret"


def test_a_list_of_models_binds_whoever_has_one() -> None:
    """A key uses what its policy names, public models alone, and what it does not name is not for it."""
    catalog = Catalog.of([model("named"), model("other"), model("secret", public=False)])
    caller = structs.replace(KEY, policy=Policy((), frozenset({"named", "secret"})))
    assert catalog.require("named", caller).id == "named"
    for model_id in ("other", "secret"):
        with pytest.raises(errors.ModelNotAllowed):
            catalog.require(model_id, caller)


def test_models_stand_in_the_order_of_their_ids() -> None:
    """Lists are stable: ascending by ID."""
    assert list(Catalog.of([model("b"), model("a"), model("c")]).models) == ["a", "b", "c"]


def test_an_id_comes_once() -> None:
    """Two models of one ID are refused, and the ID is named."""
    with pytest.raises(ValueError, match="'twice'"):
        Catalog.of([model("twice"), model("twice")])


def test_a_price_is_known_by_its_content() -> None:
    """Equal prices are one row of the ledger's prices; any difference makes another."""
    first = model("m").price
    assert model("m").price.id == first.id
    assert model("other").price.id != first.id
    ids = {
        price_of("m", **{**dict.fromkeys(names, 5), changed: 6}).id
        for names in [("input_pico_usd", "output_pico_usd", "cache_read_pico_usd", "cache_write_pico_usd")]
        for changed in names
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "n"},
        {"price": price_of("m", input_pico_usd=1, output_pico_usd=2, cache_read_pico_usd=1, cache_write_pico_usd=2)},
        {"max_output_tokens": 11},
        {"max_image_tokens": 4_097},
        {"public": False},
        {"endpoints": (Endpoint("e0", "p", "down"),)},
        {"endpoints": (Endpoint("e0", "q", "up"),)},
        {"endpoints": (Endpoint("e0", "p", "up"), Endpoint("e1", "p", "up"))},
    ],
)
def test_cores_must_agree_on_what_costs_money(changes: dict[str, object]) -> None:
    """Whatever a charge or an answer depends on makes another configuration; a name to be shown does not."""
    first = Catalog.of([model()]).configuration(0)
    changed = Catalog.of([replace(model(), **changes)]).configuration(0)
    assert changed.content_hash != first.content_hash
    assert changed.parts != first.parts
    shown = replace(model(), display_name="Another", owned_by="x", created_s=2)
    assert Catalog.of([shown]).configuration(0) == first


def test_endpoints_are_tried_in_the_configured_order() -> None:
    """At most three, the first three."""
    assert [endpoint.name for endpoint in plan(model(endpoints=5))] == ["e0", "e1", "e2"]
    assert len(plan(model(endpoints=5))) == MAX_ATTEMPTS
    assert plan(replace(model(), endpoints=())) == ()


@pytest.mark.parametrize(
    ("error", "allowed"),
    [
        (ConnectFailed("x"), True),
        (errors.UpstreamFailed("x"), True),
        (errors.UpstreamTimeout("x"), True),
        (errors.RateLimited("x"), True),
        (errors.ServiceUnavailable("x"), True),
        (errors.UpstreamRefused("x"), False),
        (errors.UpstreamRejected("x"), False),
        (errors.RequestTooLarge("x"), False),
        (errors.InvalidApiKey("x"), False),
        (errors.InternalError("x"), False),
    ],
)
def test_only_passing_trouble_of_an_upstream_goes_to_another(error: errors.WorldRouterError, allowed: bool) -> None:
    """A mistake of the caller, or in our own setup, is the same everywhere: no second attempt."""
    assert may_fail_over(error) is allowed
