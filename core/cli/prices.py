"""`worldrouter prices`: the prices of a configuration file beside the published ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.cli.launch import Trouble, compared_prices, config_option
from core.cli.options import json_option
from core.cli.output import Json, one_line, print_json, print_table
from core.cli.session import Session

if TYPE_CHECKING:
    from core.prices.comparison import Compared


@click.command()
@config_option
@click.option("--write", is_flag=True, help="Change the file: published prices, and its version counted up.")
@json_option
@click.pass_obj
def prices(session: Session, config: Path | None, write: bool, as_json: bool) -> None:
    """Compare a configuration file with published prices.

    Published prices are those that the installed genai-prices knows (pip install 'worldrouter[prices]'; a newer
    one knows newer prices), of a model's first endpoint that is known there. They are shown in picodollars per
    token, which are microdollars per million tokens. A model whose prices are all 0 is free and stays so.

    --write keeps everything else of the file, comments too; `worldrouter reload` then makes a router use it.
    Exit status, as of `diff`: 0 when all models have their published price or none is published, 1 when something
    differs or a model has no price at all, 2 for trouble. With --write 1 only when a model is left without a price.

    \b
    Examples:
      worldrouter prices --config worldrouter.toml
      worldrouter prices --config worldrouter.toml --write
    """
    if config is None:
        raise click.UsageError("say which file with --config FILE")
    found, changed = compared_prices(config, session.now(), write=write)
    differing = [each for each in found if each.changes]
    written = write and bool(differing)
    if written:
        _replace(config, changed)
    if as_json:
        print_json({"models": [_json(each) for each in found], "source": _source(), "written": written})
    else:
        _print(found, written=written)
    if (differing and not written) or not all(each.priced or each.changes for each in found):
        raise click.exceptions.Exit(1)


def _replace(config: Path, text: str) -> None:
    """Whole or not at all: a router may read it at any moment."""
    file = config.resolve()
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(text.encode("utf-8"))
        shutil.copymode(file, unfinished)
        os.replace(unfinished, file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise Trouble(f"cannot write {file}: {error.strerror}") from error


def _print(found: Sequence[Compared], *, written: bool) -> None:
    rows = [
        (each.model_id, name, _shown(change.configured), _shown(change.published))
        for each in found
        for name, change in each.changes.items()
    ]
    if rows:
        print_table(("MODEL", "PRICE", "CONFIGURED", "PUBLISHED"), rows, right=("CONFIGURED", "PUBLISHED"))
    for each in found:
        unpriced = "" if each.priced or each.changes else "has no price, "
        if each.status == "unpublished":
            click.echo(one_line(f"{each.model_id}: {unpriced}nothing is published: {each.note}"))
        elif each.status == "free":
            click.echo(one_line(f"{each.model_id}: free"))
        elif each.note:
            click.echo(one_line(f"{each.model_id}: {each.note}"))
    same = sum(each.status == "same" for each in found)
    differing = len({row[0] for row in rows})
    click.echo(f"{same} as published, {differing} {'changed' if written else 'not'} ({_source()}).")


def _shown(price_pico_usd: int | None) -> str:
    return "none" if price_pico_usd is None else f"{price_pico_usd:_}"


def _source() -> str:
    return f"genai-prices {version('genai-prices')}"


def _json(each: Compared) -> Json:
    changes = {
        name: {"configured": change.configured, "published": change.published} for name, change in each.changes.items()
    }
    return {
        "id": each.model_id,
        "status": each.status,
        "priced": each.priced,
        "changes_pico_usd_per_token": changes,
        "note": each.note,
    }
