"""Routers that are to be mistreated: real processes, with scripted models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTED, Launcher, Router


@pytest.fixture(scope="session")
def session_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("hostile"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def scripted_router(session_launcher: Launcher) -> Router:
    """A router whose models answer from scripts that the requests carry."""
    router = session_launcher.serve(SCRIPTED)
    router.key = router.account(usd=1000).key
    return router


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """For routers of one test."""
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()
