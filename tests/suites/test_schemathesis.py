"""Schemathesis over the router's own description: all of its checks, no failure.

A short run; `FUZZ_CASES=5000 scripts/suites -k schemathesis` is a long one.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTED, Launcher

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = int(os.environ.get("FUZZ_CASES", "300"))
TIMEOUT_S = 60 + CASES / 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 60)]


def test_schemathesis(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """No server error, no status, header or body that is not described, all valid requests accepted, no other one."""
    command = ROOT / ".suites" / "suites-fuzz" / "bin" / "schemathesis"
    if not command.exists():
        pytest.skip("scripts/suites has not installed it")
    launcher = Launcher(tmp_path)
    router = launcher.serve(SCRIPTED)
    try:
        done = subprocess.run(
            [
                *(command, "--no-color", "run", f"{router.http}/openapi.json", "--checks", "all"),
                *("-n", str(CASES // 4), "--seed", "1", "--continue-on-failure"),
                *("-H", f"Authorization: Bearer {router.account(usd=10).key}"),
            ],
            env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(HERE / "cases")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        router.settle()
        assert done.returncode == 0, done.stdout + done.stderr
        assert router.complaints() == []
    finally:
        launcher.close()
    (count,) = re.findall(r"^ *(\d+) generated", done.stdout, re.MULTILINE)
    record_property("suite", f"{done.stdout.splitlines()[0]}: {count} cases")
    assert int(count) >= CASES
