"""`python -m edge`: one edge process in front of a core elsewhere."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import logging
import os
import signal
import sys
import tomllib
from pathlib import Path

import click
import uvloop
from prometheus_client import CollectorRegistry
from worldrouter.calls.files import open_more_files
from worldrouter.calls.memory import reuse_memory

from edge.admin import start_admin
from edge.app import make_app
from edge.channel import open_channel
from edge.log import log_to
from edge.reach import Reach
from edge.server import CannotListen, EdgeServer
from edge.settings import FILE_SECTIONS, BadSetting, EdgeSettings, load_settings

_LOGGER = logging.getLogger("edge")
INTERRUPT_DRAIN_S = 5.0
EXIT_LIMIT_S = 5.0
GC_THRESHOLD = 50_000


async def run(settings: EdgeSettings) -> None:
    """Serve until SIGTERM (drain for `drain_s`) or SIGINT (5 s; a second one at once)."""
    reuse_memory()
    open_more_files()
    registry = CollectorRegistry()
    channel = open_channel(settings)
    try:
        server = await EdgeServer.start(make_app(channel, settings, registry), settings)
        admin, admin_port = await start_admin(registry, settings.admin_host, settings.admin_port)
        loop = asyncio.get_running_loop()
        limits_s = itertools.chain([INTERRUPT_DRAIN_S], itertools.repeat(0.0))
        loop.add_signal_handler(signal.SIGTERM, lambda: server.hasten(settings.drain_s))
        loop.add_signal_handler(signal.SIGINT, lambda: server.hasten(next(limits_s)))
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        where = {"url": server.url, "admin": f"http://{settings.admin_host}:{admin_port}"}
        _LOGGER.info("listening on %s", server.url, extra={**where, "core": settings.core})
        telling = loop.create_task(Reach(channel).tell(settings.core, server.stopping))
        await server.stopping.wait()
        telling.cancel()
        _LOGGER.info("stopping")
        await server.stop(settings.drain_s)
        faulthandler.dump_traceback_later(EXIT_LIMIT_S, exit=True)
        await admin.cleanup()
    finally:
        await channel.close()


def read_table(file: Path | None) -> dict[str, object]:
    """The `[edge]` table of a worldrouter.toml; empty without a file.

    Raises BadSetting, also for a section that neither edge nor core knows.
    """
    if file is None:
        return {}
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSetting(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise BadSetting(f"cannot read {file}: {error}") from None
    for name in tables:
        if name not in FILE_SECTIONS:
            raise BadSetting(f"{file}: there is no section {name!r}; there are {', '.join(FILE_SECTIONS)}")
    table = tables.get("edge", {})
    if not isinstance(table, dict):
        raise BadSetting(f"{file}: edge = {table!r}: wanted a table")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="worldrouter.toml with an [edge] table.")
@click.option("--host", help="Address to listen on.")
@click.option("--http-port", "port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--core", help="gRPC target of the core: dns:///host:port or unix:/path.")
@click.option("--admin-port", type=int, help="Port of /metrics on loopback; 0 picks a free one.")
@click.option("--cors-origins", help='Origins whose pages may call the API, comma-separated; "*" for all.')
@click.option("--core-ca", help="File with the authority that signed the core's certificate.")
@click.option("--core-cert", help="File with the certificate to show the core.")
@click.option("--core-key", help="File with that certificate's key.")
def main(config: Path | None, **overrides: object) -> None:
    """Serve the OpenAI-compatible HTTP API in front of a WorldRouter core.

    Every setting can also be given as WORLDROUTER_EDGE_<NAME> in the environment.
    """
    log_to(sys.stderr)
    try:
        uvloop.run(run(load_settings(read_table(config), os.environ, overrides)))
    except (BadSetting, CannotListen) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main(prog_name="worldrouter edge")
