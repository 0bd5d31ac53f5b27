"""What `worldrouter doctor` looks at, one function a check: each says what it found, or raises Problem."""

from __future__ import annotations

import http.client
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path

import click
from grpc_health.v1 import health_pb2
from worldrouter.v1 import chat_pb2, metering_pb2

from core.cli.catalog import cheapest_model, list_models
from core.cli.client import Core
from core.cli.completion import Completion
from core.cli.money import shown_usd
from core.cli.session import Session
from core.home import BadReadyFile

HTTP_TIMEOUT_S = 5.0
PROBE_MAX_TOKENS = 16
START = "start it with `worldrouter serve`, or say with --home or --grpc where it is"


class Problem(click.ClickException):
    """A check failed; `mend` says what to do about it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


def state_folder(session: Session) -> str:
    """The state folder exists, and nobody else can enter it or read the operator's token."""
    home = session.home
    _private(home.path, "chmod 700", START)
    _private(home.operator_token, "chmod 600", "the router makes it at its first start: `worldrouter serve`")
    return str(home.path)


def process(session: Session) -> str:
    """The router wrote where it is, and its process lives."""
    try:
        ready = session.home.read_ready()
    except (BadReadyFile, OSError) as error:
        raise Problem(str(error), "start the router anew") from error
    if ready is None:
        raise Problem(f"the router is not running: there is no {session.home.ready}", START)
    if not _lives(ready.pid):
        raise Problem(f"{session.home.ready} names process {ready.pid}, which is gone", START)
    return f"process {ready.pid}"


def grpc_health(core: Core) -> str:
    """The core answers and says that it serves."""
    answer = core.call(core.check_health, health_pb2.HealthCheckRequest())
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Problem(f"the core answers {status}", "it is starting or stopping: wait, then see its log")
    return f"{core.target} answers {status}"


def database(core: Core, session: Session) -> str:
    """The database answers, and the credential may ask."""
    began_s = session.monotonic_s()
    found = _balance(core)
    return f"read account {found.account_id} in {round((session.monotonic_s() - began_s) * 1000)} ms"


def balance(core: Core) -> str:
    """The default account can pay for something."""
    found = _balance(core)
    if found.available_nano_usd + found.credit_limit_nano_usd <= 0:
        raise Problem(
            f"account {found.account_id} has {shown_usd(found.available_nano_usd)} USD available",
            "`worldrouter topup --usd 10`",
        )
    return f"{shown_usd(found.available_nano_usd)} USD available"


def catalog(core: Core) -> str:
    """There is a model to ask."""
    count = len(list_models(core, limit=1000))
    if count == 0:
        raise Problem("the catalog has no model", "set a provider's key, or configure models (--config)")
    return f"{count} model{'s' if count > 1 else ''}"


def real_request(core: Core, model: str | None, session: Session) -> str:
    """A model answers; its answer is charged."""
    params = chat_pb2.ChatCompletionParams(
        model=model or cheapest_model(core).id, max_completion_tokens=PROBE_MAX_TOKENS
    )
    params.messages.add(role="user", content="Say hello.")
    completion = Completion(core, params, session.monotonic_s)
    for _ in completion:
        pass
    if not completion.finished.finish_reasons:
        raise Problem(f"{params.model} gave no finish reason (request {completion.request_id})", "see the router's log")
    return completion.summary()


def liveness(base_url: str) -> str:
    """The edge answers."""
    return _expect(f"{base_url}/healthz", 200, "see the log of the edge")


def readiness(base_url: str) -> str:
    """The edge reaches the core."""
    return _expect(f"{base_url}/readyz", 200, "the edge does not reach the core, or it is stopping: see its log")


def authentication(base_url: str) -> str:
    """The edge asks for a key."""
    return _expect(f"{base_url}/v1/models", 401, "without a key 401 is due: is this WorldRouter?")


def _balance(core: Core) -> metering_pb2.Balance:
    return core.call(core.metering.GetBalance, metering_pb2.GetBalanceRequest())


def _private(path: Path, command: str, missing: str) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}", missing) from error
    if mode & 0o077:
        raise Problem(f"others may enter or read {path} (mode {mode:o})", f"`{command} {path}`")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, as somebody else's
    return True


def _expect(url: str, wanted: int, mend: str) -> str:
    # No proxy from the environment: the edge is named by its own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=HTTP_TIMEOUT_S) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        with error:
            status = error.code
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Problem(f"{url}: {reason}", "is the edge running, and is this its address? See --http") from error
    if status != wanted:
        raise Problem(f"{url} answers {status} rather than {wanted}", mend)
    return f"{url} answers {status}"
