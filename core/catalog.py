"""The models that requests may name, what they cost and who serves them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from core.call import Caller, Role
from core.errors import ModelNotAllowed, ModelNotFound
from storage.records import Configuration, Price


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to reach a model: a provider, and its name for the model. `name` is unique in the model."""

    name: str
    provider: str
    upstream_model: str


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of the catalog. Its endpoints are tried in order."""

    id: str
    display_name: str
    owned_by: str
    created_s: int
    max_output_tokens: int
    context_tokens: int
    price: Price
    public: bool
    streaming: bool
    max_image_tokens: int
    first_token_timeout_s: float | None
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models by ID, ascending."""

    models: Mapping[str, Model]

    @classmethod
    def of(cls, models: Iterable[Model]) -> Catalog:
        """A catalog of these; ValueError names an ID that comes twice."""
        by_id: dict[str, Model] = {}
        for model in sorted(models, key=lambda model: model.id):
            if model.id in by_id:
                raise ValueError(f"model {model.id!r} is configured twice")
            by_id[model.id] = model
        return cls(MappingProxyType(by_id))

    def configuration(self, version: int) -> Configuration:
        """Of this version (0: none), what cores on one database must agree on: models, their prices, limits and
        endpoints."""
        content: list[list[object]] = []
        parts = {}
        for model in self.models.values():
            limits = [model.max_output_tokens, model.max_image_tokens, model.public]
            endpoints = [[each.name, each.provider, each.upstream_model] for each in model.endpoints]
            content.append([model.id, model.price.id, *limits, *endpoints])
            aspects = {"price": model.price.id, "limits": limits, "endpoints": endpoints}
            parts[model.id] = {name: _hash(aspect)[:8] for name, aspect in aspects.items()}
        return Configuration(version, _hash(content)[:16], parts)

    def require(self, model_id: str, caller: Caller) -> Model:
        """The model of this ID. ModelNotFound when there is none, ModelNotAllowed when the caller may not use it."""
        model = self.models.get(model_id)
        if model is None:
            raise ModelNotFound(f"The model {model_id[:200]!r} does not exist.", param="model")
        if not may_use(caller, model):
            raise ModelNotAllowed(f"This key may not use the model {model_id!r}.", param="model")
        return model


def _hash(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def may_use(caller: Caller, model: Model) -> bool:
    """Whether a caller may use a model, and see it: a public one that its policy allows; the operator any."""
    policy = caller.policy
    if policy is not None and policy.models is not None and model.id not in policy.models:
        return False
    return model.public or caller.role is Role.OPERATOR


def price_of(
    model_id: str,
    *,
    input_pico_usd: int,
    output_pico_usd: int,
    cache_read_pico_usd: int,
    cache_write_pico_usd: int,
) -> Price:
    """A price whose id is a hash of its content, so that equal prices are one row."""
    content = f"{model_id}\n{input_pico_usd}\n{output_pico_usd}\n{cache_read_pico_usd}\n{cache_write_pico_usd}"
    return Price(
        id="price_" + hashlib.sha256(content.encode()).hexdigest()[:26],
        model_id=model_id,
        input_pico_usd=input_pico_usd,
        output_pico_usd=output_pico_usd,
        cache_read_pico_usd=cache_read_pico_usd,
        cache_write_pico_usd=cache_write_pico_usd,
    )
