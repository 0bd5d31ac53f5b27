"""The bugs that `scripts/prove-money` plants."""

from __future__ import annotations

import pytest

from tests.money.prove import HUNT_RUNS, ROOT, Bug, bugs

WANTED = {"done-before-commit", "pop-before-commit", "no-dedupe", "no-fence", "usage-or-estimate"}


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug: Bug) -> None:
    """Its patch applies to the tree as it is; who changes those lines brings the patch along."""
    bug.plant(ROOT, only_check=True)
    assert bug.caught_by in HUNT_RUNS or (ROOT / bug.caught_by.partition("::")[0]).is_file()


def test_no_kind_of_bug_is_forgotten() -> None:
    """Those that a ledger of this kind is known to suffer from are there."""
    assert {bug.name for bug in bugs()} >= WANTED | {"unconditional-debit-of-account", "refund-on-missing-usage"}
