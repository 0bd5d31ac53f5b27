"""When the model's server is begun before anybody knows whether `serve` will start."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from core.embedded import model
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


@pytest.mark.parametrize("package", ["MODEL_PACKAGE", "SERVER_PACKAGE"])
def test_a_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As after `pip install` of the router alone: it says what to install, and how to do without."""
    monkeypatch.setattr(model, package, "no_such_package")
    with pytest.raises(model.ModelServerError, match=r"is not installed: .*`pip install .*`; or .*--config"):
        model.find_model()


@pytest.mark.slow
async def test_what_was_begun_is_what_starts(tmp_path: Path) -> None:
    """At once and without a loop; `start` waits for that very process, `stop` ends it."""
    home = Home(tmp_path / "home")
    home.create()
    home.pepper.touch()
    server = model_begun(None, home)
    assert server is not None
    begun = server.pid
    await server.start()
    assert server.pid == begun
    await server.stop()
    assert not psutil.pid_exists(begun)
