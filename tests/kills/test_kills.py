"""kill -9 under live streams: nothing complete goes uncharged, nothing is charged twice, nothing stays stuck.

`scripts/prove-kills` does the same a hundred times; `checker.py` judges, and knows nothing of the router.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kills.run import Plan, kill_apart, kill_serve, scene

FEW = Plan(kills=5, streams=60, ttl_s=2.0, after_s=5.0)


def judged(found: dict[str, Any], plan: Plan) -> None:
    assert found["wrong"] == []
    assert found["kills"] == plan.kills
    assert found["fewest_live"] >= plan.streams // 2
    assert found["outcomes"]["complete"] > plan.kills * 5
    assert found["outcomes"]["cut"] > 0
    assert found["spent_of_budgets"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_core_on_sqlite_is_killed(tmp_path: Path) -> None:
    """With everything else in its process, and started again on the same file."""
    with scene(tmp_path, FEW) as on:
        judged(await kill_serve(on), FEW)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_cores_and_edges_on_postgresql_are_killed(tmp_path: Path, postgres_url: Callable[[], str]) -> None:
    """One of three cores and two edges at a time; the others go on."""
    with scene(tmp_path, FEW) as on:
        judged(await kill_apart(on, postgres_url()), FEW)


# The judge


PRICES = ("--input-usd", "1", "--output-usd", "2")
SCHEMA = """
    CREATE TABLE ledger (ref, client_request_id, kind, status, amount, shortfall, debit_account, credit_account);
    CREATE TABLE accounts (id, kind, available, credit_limit);
    CREATE TABLE leases (id, account_id, granted, spent, state);
    CREATE TABLE limits (id, owner_id, measure);
    CREATE TABLE purses (id, limit_id, amount, available, spent);
    INSERT INTO limits VALUES ('b', 'a', 'spend'), ('s', 'a', 'concurrency');
    INSERT INTO purses VALUES ('pb', 'b', 9000, 2000, 7000), ('ps', 's', 3, 3, 0);
    INSERT INTO accounts VALUES ('a', 'user', 93000, 0);
    INSERT INTO ledger VALUES ('p', '', 'topup', '', 100000, 0, 'house_payments', 'a');
    INSERT INTO ledger VALUES ('r1', 'c1', 'usage', 'complete', 7000, 0, 'a', 'house_usage');
"""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("", None),
        ("DELETE FROM ledger WHERE ref = 'r1'; UPDATE accounts SET available = 100000", "was not charged"),
        ("INSERT INTO ledger SELECT 'r2', client_request_id, kind, status, amount, 0, debit_account, credit_account "
         "FROM ledger WHERE ref = 'r1'; UPDATE accounts SET available = 86000", "charged 2 times"),
        ("UPDATE ledger SET amount = 6999 WHERE ref = 'r1'; UPDATE accounts SET available = 93001", "cost 7000"),
        ("UPDATE accounts SET available = 93001", "its ledger says 93000"),
        ("INSERT INTO leases VALUES ('l', 'a', 10, 3, 'active'); UPDATE accounts SET available = 92993", "7 is stuck"),
        ("UPDATE ledger SET client_request_id = 'c9'", "no upstream worked"),
        ("UPDATE purses SET available = 3000, spent = 6000 WHERE id = 'pb'", "its owner was charged 7000"),
        ("UPDATE purses SET available = 2 WHERE id = 'ps'", "ps has 2 of 3"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_wrong(tmp_path: Path, change: str, complaint: str | None) -> None:
    """And nothing where all is well."""
    with sqlite3.connect(tmp_path / "books.db") as books:
        books.executescript(SCHEMA + change)
    books.close()
    (tmp_path / "client").write_text(json.dumps({"id": "c1", "request_id": "r1", "outcome": "complete"}) + "\n")
    (tmp_path / "upstream").write_text(json.dumps({"id": "c1", "prompt": 1, "completion": 3}) + "\n")
    checker = Path(__file__).with_name("checker.py")
    files = ("--client", str(tmp_path / "client"), "--upstream", str(tmp_path / "upstream"))
    database = f"sqlite:///{tmp_path / 'books.db'}"
    command = [sys.executable, str(checker), *files, "--database", database, *PRICES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    wrong = json.loads(done.stdout)["wrong"]
    assert done.returncode == (complaint is not None)
    assert any(complaint in each for each in wrong) if complaint else wrong == []
