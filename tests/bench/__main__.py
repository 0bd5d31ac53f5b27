"""`python -m tests.bench`: compare the router with its upstream and with a bare proxy."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from tests.bench import processes
from tests.bench.cases import METERING_SYSTEMS, SHORT_SYSTEMS, SYSTEMS, Case, cases, metering_cases, short_cases
from tests.bench.disk import commit_ms
from tests.bench.measure import LoadFailed, Row, measure
from tests.bench.report import Memory, Report
from tests.bench.summary import summarise
from tests.bench.systems import Cores, DidNotStart, Machinery, System

ROUNDS, METERING_ROUNDS = 3, 6


def run(chosen: list[Case], names: tuple[str, ...], rounds: int, *, keep: bool) -> Report:
    """Start everything, measure in turns, stop everything. Raises DidNotStart, LoadFailed."""
    cores = Cores.split()
    rows: list[Row] = []
    with Machinery(cores, keep=keep) as machinery:
        disk_ms = commit_ms(machinery.folder)
        _say("starting the upstream, the bare proxy and the router")
        systems = machinery.start(names)
        idle = {system.name: processes.pss_bytes(system.pids) for system in systems}
        for round_ in range(1, rounds + 1):
            for case in chosen:
                # Forwards and backwards in turn: none is always the one after a heavy neighbour.
                for system in systems if round_ % 2 else systems[::-1]:
                    rows.append(measure(case, system, round_, cores))
                    _say(_progress(rows[-1], rounds))
        memory = [_memory(system, idle[system.name]) for system in systems]
    order = {name: place for place, name in enumerate(names)}
    summaries = sorted(summarise(rows), key=lambda found: order[found.system])
    return Report(chosen, rows, summaries, memory, rounds, cores, disk_ms)


def _memory(system: System, idle_bytes: int) -> Memory:
    return Memory(system.name, idle_bytes, processes.pss_bytes(system.pids))


def _progress(row: Row, rounds: int) -> str:
    cpu = f"{row.cpu_us_per_request:,.0f} µs CPU a request, " if row.cpu_us_per_request else ""
    stall = f"longest wait {row.probe_ms.most:.2f} ms, " if row.probe_ms else ""
    wrong = "".join(f"\n    {sample}" for sample in row.samples)
    return f"round {row.round}/{rounds} {row.case}, {row.system}: {cpu}{stall}{row.errors} errors{wrong}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--short", is_flag=True, help="A small part in 20 s, for CI: one process and the bare proxy alone.")
@click.option(
    "--metering", is_flag=True, help="What metering costs: one process with and without it, in seven minutes."
)
@click.option(
    "--reps", "rounds", type=click.IntRange(1), help=f"Rounds; default: {ROUNDS}, of metering {METERING_ROUNDS}."
)
@click.option("--only", multiple=True, metavar="CASE", help="Only this case; may be repeated.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here.")
@click.option("--keep", is_flag=True, help="Keep the routers' state and logs.")
def main(
    *, short: bool, metering: bool, rounds: int | None, only: tuple[str, ...], json_file: Path | None, keep: bool
) -> None:
    """Measure what the router costs and adds, with keys and durable metering on.

    The same load goes to a model's upstream directly, through a bare aiohttp proxy, through `worldrouter serve`,
    and through `worldrouter core` with `python -m edge`, in turns, all on this machine. The router has one core;
    the load generator and the upstream another, where there are two. Nothing else should be running: it takes ten
    minutes. Tables go to the standard output. The exit status is 1 when a single answer was wrong.
    """
    if short and metering:
        raise click.UsageError("--short and --metering exclude each other")
    found, systems = (cases(), SYSTEMS) if not short else (short_cases(), SHORT_SYSTEMS)
    if metering:
        found, systems = metering_cases(), METERING_SYSTEMS
    known = {case.name: case for case in found}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise click.BadParameter(f"no case {unknown[0]!r}; there are {', '.join(known)}", param_hint="--only")
    try:
        processes.require_accounting()
        chosen = [known[name] for name in only or known]
        report = run(chosen, systems, rounds or (METERING_ROUNDS if metering else ROUNDS), keep=keep)
    except (processes.NoAccounting, DidNotStart, LoadFailed) as error:
        raise click.ClickException(str(error)) from None
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report.as_json()), indent=2) + b"\n")
    click.echo(report.as_markdown(), nl=False)
    if report.errors:
        raise click.ClickException(f"{report.errors} answers were wrong")


if __name__ == "__main__":
    main(prog_name="scripts/bench")
