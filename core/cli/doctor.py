"""`worldrouter doctor`: what works, what does not, and how to mend it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import click

from core.cli import checks
from core.cli.client import CallFailed, Core
from core.cli.options import client_command, json_option
from core.cli.output import one_line, print_json
from core.cli.session import Session

CORE_CHECKS = ("gRPC", "database", "balance", "catalog", "chat")
EDGE_CHECKS = ("HTTP", "HTTP ready", "HTTP keys")
SEE_LOG = "see the router's log"
MENDS: Mapping[str, str] = MappingProxyType(
    {
        "UNAVAILABLE": checks.START,
        "DEADLINE_EXCEEDED": "it hangs: " + SEE_LOG,
        "INVALID_API_KEY": "is --home the state folder of this very core?",
        "FORBIDDEN": "doctor wants the operator's token",
        "INSUFFICIENT_BALANCE": "`worldrouter topup --usd 10`",
        "MODEL_NOT_FOUND": "`worldrouter models` lists them",
        "SERVICE_UNAVAILABLE": "is the database up? " + SEE_LOG,
        "UPSTREAM_ERROR": "the provider fails: `worldrouter models --endpoints`, and " + SEE_LOG,
        "UPSTREAM_TIMEOUT": "the provider is too slow: " + SEE_LOG,
    }
)
"""What to do about the reasons why a call fails; anything else is in the log."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to; `mend` is empty unless it failed."""

    check: str
    outcome: Literal["ok", "failed", "skipped"]
    detail: str
    mend: str = ""


@click.command()
@click.option("--http", "http_url", metavar="URL", help="Address of the edge.  [default: as ready.json says]")
@click.option("--model", metavar="ID", help="Model to ask.  [default: the cheapest that streams]")
@json_option
@client_command
def doctor(session: Session, http_url: str | None, model: str | None, as_json: bool) -> None:
    """Check that everything is reachable and a real request works.

    One line a check, with what to do about those that failed; exit status 1 when any did. It asks a model a
    short question, which the default account pays.

    \b
    Examples:
      worldrouter doctor
      worldrouter doctor --http https://llm.example.com --json
    """
    findings: list[Finding] = []
    for finding in _examine(session, http_url, model):
        findings.append(finding)
        if not as_json:
            click.echo(_line(finding))
    healthy = all(finding.outcome != "failed" for finding in findings)
    if as_json:
        details = [{"check": f.check, "outcome": f.outcome, "detail": f.detail, "mend": f.mend} for f in findings]
        print_json({"ok": healthy, "checks": details})
    if not healthy:
        raise click.exceptions.Exit(1)


def _examine(session: Session, http_url: str | None, model: str | None) -> Iterator[Finding]:
    if session.grpc_target is None:
        yield _run("state folder", lambda: checks.state_folder(session))
        process = _run("process", lambda: checks.process(session))
        yield process
        if process.outcome == "failed":
            yield from _skipped([*CORE_CHECKS, *EDGE_CHECKS], "the router is not running")
            return
    yield from _examine_core(session, model)
    yield from _examine_edge(session, http_url)


def _examine_core(session: Session, model: str | None) -> Iterator[Finding]:
    """The core's checks; when it does not answer at all, one failure and the rest skipped."""
    first, *others = CORE_CHECKS
    try:
        core = session.connect()
    except click.ClickException as error:
        yield Finding(first, "failed", one_line(error.message), checks.START)
        yield from _skipped(others, "no way to the core")
        return
    with core:
        health = _run(first, lambda: checks.grpc_health(core))
        yield health
        if health.outcome == "failed":
            yield from _skipped(others, "the core does not serve")
            return
        for name, check in zip(others, _core_checks(core, model, session), strict=True):
            yield _run(name, check)


def _core_checks(core: Core, model: str | None, session: Session) -> list[Callable[[], str]]:
    return [
        lambda: checks.database(core, session),
        lambda: checks.balance(core),
        lambda: checks.catalog(core),
        lambda: checks.real_request(core, model, session),
    ]


def _examine_edge(session: Session, http_url: str | None) -> Iterator[Finding]:
    """The edge's checks, at `http_url` or where the router of the state folder says; else skipped."""
    if http_url is None and session.grpc_target is not None:
        yield from _skipped(EDGE_CHECKS, "no address: give --http")
        return
    base_url = (http_url or session.ready().http).rstrip("/")
    first, *others = EDGE_CHECKS
    alive = _run(first, lambda: checks.liveness(base_url))
    yield alive
    if alive.outcome == "failed":
        yield from _skipped(others, "the edge does not answer")
        return
    for name, check in zip(others, (checks.readiness, checks.authentication), strict=True):
        yield _run(name, functools.partial(check, base_url))


def _run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", one_line(check()))
    except checks.Problem as problem:
        return Finding(name, "failed", one_line(problem.message), problem.mend)
    except CallFailed as error:
        return Finding(name, "failed", error.message, MENDS.get(error.reason, SEE_LOG))
    except click.ClickException as error:
        return Finding(name, "failed", one_line(error.message))  # these say themselves what to do


def _skipped(names: Sequence[str], why: str) -> Iterator[Finding]:
    for name in names:
        yield Finding(name, "skipped", why)


def _line(finding: Finding) -> str:
    mend = f"; to mend: {finding.mend}" if finding.mend else ""
    return f"{finding.outcome:<7}  {finding.check:<12}  {finding.detail}{mend}"
