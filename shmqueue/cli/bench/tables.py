"""The tables, on a terminal and as Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

import shmqueue
from shmqueue.cli.bench.figures import range_of, ratio_of, value_of
from shmqueue.cli.bench.report import Report
from shmqueue.cli.bench.workloads import YARDSTICK, Column, Contestant, Table

__all__ = ["as_markdown", "print_tables"]

_WIDE = 200  # characters, where the output goes to a file


def print_tables(report: Report) -> None:
    """All tables: a median, how many times better than ``multiprocessing.Queue`` it is, and below it the range."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    for table, columns in report.tables():
        console.print()
        console.print(table.title, style="italic")
        console.print(_terminal_table(report, table, columns))
        for note in _notes(table, columns):
            console.print(note, style="dim")
    for reason in report.reasons():
        console.print(reason, style="dim")
    console.print()
    for line in _facts(report):
        console.print(line)


def _notes(table: Table, columns: list[Column]) -> list[str]:
    measured = {column.workload for column in columns}
    return [note for workload, note in table.notes.items() if workload in measured]


def _terminal_table(report: Report, table: Table, columns: list[Column]) -> RichTable:
    shown = RichTable(box=None, pad_edge=False)
    shown.add_column("")
    for column in columns:
        shown.add_column(column.title, justify="right")
    for contestant in report.rows(table):
        style = "bold" if contestant.label == "shmqueue" else ""
        cells = []
        for column in columns:
            cell = report.cell(contestant, column, table)
            text = Text(f"{value_of(cell, column)} {ratio_of(cell)}".rstrip(), style=style)
            if report.rounds > 1 and cell.why is None:
                text.append(f"\n{range_of(cell, column)}", style="dim not bold")
            cells.append(text)
        shown.add_row(Text(contestant.label, style=style), *cells)
    return shown


def _facts(report: Report) -> list[str]:
    rounds = report.rounds_told
    facts = [
        f"{rounds[0].upper()}{rounds[1:]}; x says how many times better than {YARDSTICK}; every item was checked",
        f"With {', '.join(_versions(report))}",
        str(report.surroundings),
        report.surroundings.command,
    ]
    if report.interrupted is not None:
        facts.insert(0, f"Incomplete: {report.interrupted}")
    return facts


def _versions(report: Report) -> list[str]:
    others = [each for each in report.contestants if each.package is not None and each.label in report.versions]
    return [
        f"shmqueue {shmqueue.__version__} ({report.engine} engine)",
        *(f"{each.package} {report.versions[each.label]}" for each in others),
    ]


def as_markdown(report: Report) -> str:
    """The same, to be pasted into a README."""
    parts = []
    for table, columns in report.tables():
        lines = [f"**{table.title}**", ""]
        lines.append(f"| | {' | '.join(column.title for column in columns)} |")
        lines.append(f"|---|{'---:|' * len(columns)}")
        lines += [_markdown_row(report, table, columns, contestant) for contestant in report.rows(table)]
        lines += [f"\n{note}." for note in _notes(table, columns)]
        parts.append("\n".join(lines))
    reasons = report.reasons()
    if reasons:
        parts.append("No figure:\n\n" + "\n".join(f"- {reason}" for reason in reasons))
    *facts, command = _facts(report)
    parts.append("\n".join(f"{fact}." for fact in facts) + f"\n`{command}`")
    return "\n\n".join(parts) + "\n"


def _markdown_row(report: Report, table: Table, columns: list[Column], contestant: Contestant) -> str:
    mark = "**" if contestant.label == "shmqueue" else ""
    cells = []
    for column in columns:
        cell = report.cell(contestant, column, table)
        ratio = ratio_of(cell) if contestant.label != YARDSTICK else ""
        cells.append(f"{mark}{value_of(cell, column)}{mark}" + (f" ({ratio})" if ratio else ""))
    return f"| {mark}{contestant.label}{mark} | {' | '.join(cells)} |"
