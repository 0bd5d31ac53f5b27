"""The command line `worldrouter`: launchers, and a synchronous gRPC client of the core."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from core.cli import (
    accounts,
    audit,
    backup,
    billing,
    catalog,
    chat,
    doctor,
    keys,
    launch,
    limits,
    payments,
    prices,
    refunds,
    reload,
    summaries,
    usage,
)
from core.cli.options import connection_options
from core.cli.session import Session
from core.home import Home


class _InOrder(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@connection_options(on_group=True)
@click.version_option(package_name="worldrouter")
def cli() -> None:
    """One API key, one balance and one OpenAI-compatible endpoint in front of many model providers.

    `worldrouter serve` runs the router. The other commands ask the one that runs: they find it by the state
    folder (--home), or are told where it is (--grpc). The options below may stand behind a command as well.
    Money is in USD, exact to the nanodollar.

    \b
    Examples:
      worldrouter serve
      worldrouter keys create laptop
      worldrouter chat "Why is the sky blue?"
      worldrouter balance
      worldrouter --grpc core.example.com:50051 --ca ca.pem --token-file token usage
    """


for _command in (
    launch.serve,
    launch.core,
    launch.edge,
    launch.migrate,
    reload.reload,
    prices.prices,
    doctor.doctor,
    chat.chat,
    catalog.models,
    keys.keys,
    accounts.accounts,
    limits.limits,
    billing.topup,
    payments.payments,
    refunds.refund,
    billing.balance,
    usage.usage,
    billing.ledger,
    audit.audit,
    backup.backup,
    backup.restore,
):
    cli.add_command(_command)

for _command in (summaries.summary, summaries.export, summaries.rebuild):
    usage.usage.add_command(_command)


def main(*arguments: str) -> None:
    """Entry point of `worldrouter`; `arguments` stand before those of the process. Exit status 0, 1 or 2 (usage)."""
    session = Session(home=Home.find(os.environ, Path.cwd()))
    cli.main([*arguments, *sys.argv[1:]], prog_name="worldrouter", obj=session)
