"""When the model's server is begun before anybody knows whether `serve` will start."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from core.embedded.ahead import model_begun
from core.home import Home


@pytest.mark.parametrize("why", ["not wanted", "bad configuration", "another router", "first start"])
def test_it_is_not_begun_without_need(tmp_path: Path, why: str) -> None:
    """If no settings want it, or they are bad, a router runs or none did before: no process, and the log stays."""
    home, config = Home(tmp_path / "home"), tmp_path / "worldrouter.toml"
    home.create()
    log = home.logs / "model.log"
    log.write_text("of the router that runs")
    config.write_text({"not wanted": "[embedded]\nenabled = false\n", "bad configuration": "[cor"}.get(why, ""))
    if why != "first start":
        home.pepper.touch()
    if why == "another router":
        home.ready.write_text("{}")
    assert model_begun(config, home) is None
    assert log.read_text() == "of the router that runs"


@pytest.mark.slow
async def test_what_was_begun_is_what_starts(tmp_path: Path) -> None:
    """At once and without a loop; `start` waits for that very process, `stop` ends it."""
    home = Home(tmp_path / "home")
    home.create()
    home.pepper.touch()
    model = model_begun(None, home)
    assert model is not None
    begun = model.pid
    await model.start()
    assert model.pid == begun
    await model.stop()
    assert not psutil.pid_exists(begun)
