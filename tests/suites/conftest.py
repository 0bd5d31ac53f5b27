"""Published suites and clients in the field against the router, on an upstream that is not ours (aimock).

`scripts/suites` installs them beside `.venv`, in `.suites`, and runs this folder. Where they are not installed every
test here is skipped; where they are, they are slow tests: starting that many libraries takes a minute. What runs in
`.suites` lies in `cases/` and `node/`; `cases/` is a pytest root of its own, which the other tests never collect.
`expected.json` is what the upstream (`node/upstream.mjs`) answers and the clients must get.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Launcher, Router

collect_ignore = ["cases"]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
UPSTREAM_KEY = "the-key-of-the-upstream"
STOP_TIMEOUT_S = 10.0

MODEL = """
[[models]]
id = "{id}"
max_output_tokens = 4000
price = {{ input = 1_000_000, output = 2_000_000, cache_read = 500_000 }}
endpoints = [{{ provider = "{provider}", model = "upstream-name" }}]
"""
PROVIDER = """
[providers.{name}]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
"""


@pytest.fixture(scope="session")
def upstream() -> Iterator[Mapping[str, str]]:
    """The base URLs of the upstream, by the name of the provider that it becomes."""
    if not (HERE / "node" / "node_modules").is_dir() or shutil.which("node") is None:
        pytest.skip("Node, or what scripts/suites installs, is not there")
    command = ["node", str(HERE / "node" / "upstream.mjs"), UPSTREAM_KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield {"full": f"{told['full']}/v1", "openrouter": f"{told['full']}/api/v1", "bare": f"{told['bare']}/v1"}
        process.stdin.close()
        process.wait(timeout=STOP_TIMEOUT_S)


@pytest.fixture(scope="session")
def router(upstream: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router in front of it. Suites treat a model whose name begins with "gpt-5" as one that reasons."""
    config = "".join(PROVIDER.format(name=name, url=url) for name, url in upstream.items())
    names = [(id_, provider) for provider in upstream for id_ in (provider, f"gpt-5-{provider}")]
    config += "".join(MODEL.format(id=id_, provider=provider) for id_, provider in names)
    launcher = Launcher(tmp_path_factory.mktemp("routers"))
    router = launcher.serve(config, environment={"UPSTREAM_KEY": UPSTREAM_KEY})
    router.key = router.account(usd=1000).key
    yield router
    launcher.close()


@pytest.fixture(scope="session")
def environment(router: Router, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For a client's process: the router's address and key, a home of its own, and nothing that reaches the network."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "pythonpath"))}
    kept = {name: value for name, value in kept.items() if not name.startswith(("OPENAI_", "PYTEST_", "COV_"))}
    told = {"SUITES_BASE_URL": router.base_url, "SUITES_KEY": router.key, "HOME": str(home), "NO_COLOR": "1"}
    return kept | told | {"OPENAI_AGENTS_DISABLE_TRACING": "1", "HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each suite, of what it recorded."""
    reports = [each for group in ("passed", "failed") for each in terminalreporter.stats.get(group, [])]
    for line in sorted(str(value) for each in reports for name, value in each.user_properties if name == "suite"):
        terminalreporter.write_line(line)
