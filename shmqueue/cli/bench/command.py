"""``shmqueue bench``: from its options to the figures, and to where they go."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import click

from shmqueue.cli.bench import chart, tables
from shmqueue.cli.bench.field import look_for
from shmqueue.cli.bench.report import Report, look_around
from shmqueue.cli.bench.runner import Setting, run
from shmqueue.cli.bench.view import view_for
from shmqueue.cli.bench.workloads import WORKLOADS, Contestant, Workload, contestants

__all__ = ["Wish", "new_report", "run_bench"]

_ROUNDS, _SECONDS, _DEADLINE = 5, 0.5, 30.0
_QUICK = Setting(rounds=3, seconds=0.15, deadline=5.0, budget=22.0)


@dataclass(frozen=True)
class Wish:
    """What the command line asks for; None and empty leave the choice to this."""

    workloads: tuple[str, ...]
    peers: str | None
    pythons: dict[str, str]
    quick: bool
    rounds: int | None
    seconds: float | None
    deadline: float | None
    json_file: str | None
    markdown_file: str | None
    svg_file: str | None

    @property
    def setting(self) -> Setting:
        """How long and how often."""
        base = _QUICK if self.quick else Setting(_ROUNDS, _SECONDS, _DEADLINE, None)
        return Setting(
            self.rounds or base.rounds, self.seconds or base.seconds, self.deadline or base.deadline, base.budget
        )


def new_report(entrants: list[Contestant], rounds: int) -> Report:
    """A report without results yet, on those contestants."""
    versions, absent = look_for(entrants)
    return Report(look_around(), "native", rounds, entrants, versions, absent)


def run_bench(wish: Wish) -> None:
    """Measure, print the tables, write the files.

    Raises:
        click.ClickException: an item did not arrive as it was put, or this cannot run here.
    """
    if not hasattr(os, "fork"):
        raise click.ClickException("shmqueue bench starts its processes by fork, which this system does not have")
    files = (wish.json_file, _json), (wish.markdown_file, tables.as_markdown), (wish.svg_file, chart.as_svg)
    for path, _ in files:
        _require_writable(path)
    try:
        entrants = contestants(wish.peers, wish.pythons)
    except LookupError as error:
        raise click.ClickException(str(error.args[0])) from None
    if wish.quick and not wish.workloads:
        entrants = [each for each in entrants if each.role not in ("family", "async")]
    report = new_report(entrants, wish.setting.rounds)
    try:
        with view_for() as view:
            run(report, _chosen(wish), wish.setting, view)
    except KeyboardInterrupt:
        report.interrupted = "Ctrl-C"
        tables.print_tables(report)
        raise
    tables.print_tables(report)
    for path, write in files:
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(write(report))
    mistakes = report.mistakes()
    if mistakes:
        raise click.ClickException("; ".join(mistakes))


def _json(report: Report) -> str:
    return json.dumps(report.as_json(), indent=2) + "\n"


def _require_writable(path: str | None) -> None:
    """Before it is measured for minutes."""
    if path is not None and not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise click.ClickException(f"cannot write {path!r}: its directory does not exist, or may not be written")


def _chosen(wish: Wish) -> list[Workload]:
    if wish.workloads:
        return [WORKLOADS[name] for name in dict.fromkeys(wish.workloads)]
    return [workload for workload in WORKLOADS.values() if workload.quick or not wish.quick]
