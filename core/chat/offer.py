"""What a core serves, as one value: a reload of the configuration exchanges it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.catalog import Catalog
from core.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Offer:
    """The models, and who answers for them. A request keeps the offer that it came with, and so its price.

    `limit_fields` names, by provider, the field of an output limit; answers of `drained_providers` are read to their
    end when their callers went away.
    """

    catalog: Catalog
    providers: Mapping[str, Provider]
    limit_fields: Mapping[str, str]
    drained_providers: frozenset[str]
