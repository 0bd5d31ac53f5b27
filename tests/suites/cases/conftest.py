"""Each client asks twice: for a model whose upstream says all, and for one whose upstream leaves out what it may."""

import pytest
from expected import BARE, MODEL


@pytest.fixture(params=[MODEL, BARE])
def model_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def has_usage(model_id: str) -> bool:
    """Whether the upstream tells usage; the router estimates it otherwise."""
    return model_id != BARE
