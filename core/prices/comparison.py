"""The prices of a configuration file beside published ones, and the file with the published ones in it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Integer, Trivia

from core.prices.published import PublishedPrice
from core.settings import BadSettings, EndpointSettings, PriceSettings, ProviderSettings, converted

FIELDS = ("input", "output", "cache_read", "cache_write")

FindPrice = Callable[[str, str, str], PublishedPrice | str]
"""The published price of (provider, base URL, model), or why there is none."""


class _Model(msgspec.Struct, frozen=True):
    """Of a model, which may have no price yet, what its price depends on."""

    id: str
    endpoints: list[EndpointSettings] = []
    price: PriceSettings | None = None
    context_tokens: int = 0


class _File(msgspec.Struct, frozen=True):
    """Of a configuration file, what its prices depend on."""

    version: int = 0
    providers: dict[str, ProviderSettings] = {}
    models: list[_Model] = []


class Change(msgspec.Struct, frozen=True):
    """A price in picodollars per token that is not the published one; None: it is not configured."""

    configured: int | None
    published: int


class Compared(msgspec.Struct, frozen=True):
    """A model beside what is published: `changes` by the price's name, when it differs.

    `note` says why nothing is published, or what the published price does not cover.
    """

    model_id: str
    status: Literal["same", "differs", "free", "unpublished"]
    priced: bool
    changes: Mapping[str, Change] = {}
    note: str = ""


def compare(text: str, find: FindPrice) -> list[Compared]:
    """Every model of a configuration file, in its order. BadSettings for what is no such file."""
    file = converted(_tables(text), _File)
    return [_compared(model, file.providers, find) for model in file.models]


def rewritten(text: str, models: Sequence[Compared]) -> str:
    """The file with the changes of these models, which are all of its models, and its version counted up by one.

    Nothing else of it changes. A file without a version stays without. BadSettings when it is too unusual to change.
    """
    wanted = _tables(text)
    try:
        document: Any = tomlkit.parse(text)
        for index, compared in enumerate(models):
            for name, change in compared.changes.items():
                wanted["models"][index].setdefault("price", {})[name] = change.published
                _set(document["models"][index], name, change.published)
        if "version" in document:
            wanted["version"] += 1
            document["version"] = wanted["version"]
        changed = tomlkit.dumps(document)
    except TOMLKitError as error:
        raise BadSettings(f"the file cannot be changed: {error}") from None
    if tomllib.loads(changed) != wanted:
        raise BadSettings("the file is written in a way that cannot be changed without changing more of it")
    return changed


def _tables(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(str(error)) from None


def _set(model: Any, name: str, amount: int) -> None:
    if "price" not in model:
        model["price"] = tomlkit.inline_table()
    model["price"][name] = Integer(amount, Trivia(), f"{amount:_}")


def _compared(model: _Model, providers: Mapping[str, ProviderSettings], find: FindPrice) -> Compared:
    configured = model.price
    if configured is not None and not any(_configured(configured)):
        return Compared(model.id, "free", True)
    published = _first_published(model.endpoints, providers, find)
    priced = configured is not None
    if isinstance(published, str):
        return Compared(model.id, "unpublished", priced, note=published)
    changes = dict(_changes(configured, published))
    note = ""
    if published.prompt_tokens and not 0 < model.context_tokens <= published.prompt_tokens:
        note = f"prompts of more than {published.prompt_tokens} tokens cost more: set context_tokens to that"
    return Compared(model.id, "differs" if changes else "same", priced, changes, note)


def _configured(price: PriceSettings) -> Iterable[int | None]:
    return (getattr(price, name) for name in FIELDS)


def _first_published(
    endpoints: Iterable[EndpointSettings], providers: Mapping[str, ProviderSettings], find: FindPrice
) -> PublishedPrice | str:
    """The price at the first endpoint that has one, since that is tried first; else what is said of the first."""
    reasons = []
    for endpoint in endpoints:
        provider = providers.get(endpoint.provider)
        if provider is None:
            found: PublishedPrice | str = f"there is no provider {endpoint.provider!r} in the file"
        else:
            found = find(endpoint.provider, provider.base_url, endpoint.model)
        if not isinstance(found, str):
            return found
        reasons.append(found)
    return reasons[0] if reasons else "it has no endpoint"


def _changes(configured: PriceSettings | None, published: PublishedPrice) -> Iterable[tuple[str, Change]]:
    """What is published and not configured so. What is not configured is the input price, as published."""
    for name in FIELDS:
        mine: int | None = None if configured is None else getattr(configured, name)
        theirs: int | None = getattr(published, name)
        effective = mine
        if mine is None and name not in ("input", "output") and configured is not None:
            effective = published.input
        if theirs is not None and theirs != effective:
            yield name, Change(mine, theirs)
