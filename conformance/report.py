"""What a run came to, as a table for people and as JSON for programs; ``report_html`` has the page to look at."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .profiles import Profile
from .suite import Amount, Result, Verdict
from .target import Target

__all__ = ["SHOWN", "Column", "as_json", "as_markdown", "print_report", "reasons_of"]

SHOWN = {
    Verdict.KEPT: ("kept", "green"),
    Verdict.BROKEN: ("broken", "bold red"),
    Verdict.UNDECIDED: ("not decided", "yellow"),
    Verdict.ABSENT: ("-", "dim"),
}
"""The word for each verdict, and its style on a terminal."""


class Column(NamedTuple):
    """One target's results."""

    target: Target
    profile: Profile
    results: list[Result]

    @property
    def broken(self) -> list[Result]:
        """The clauses that do not hold."""
        return [result for result in self.results if result.verdict is Verdict.BROKEN]


def as_json(columns: Sequence[Column], amount: Amount) -> dict[str, Any]:
    """Everything that was found."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "examples": amount.examples,
        "seed": amount.seed,
        "targets": [
            {
                "target": column.target.spec,
                "start_method": column.target.start_method,
                "profile": column.profile.name,
                "clauses": [
                    result.as_json() for result in column.results if result.verdict is not Verdict.ABSENT or result.why
                ],
            }
            for column in columns
        ],
    }


def print_report(console: Console, columns: Sequence[Column], amount: Amount) -> None:
    """The table of clauses, then why those that are not kept are not."""
    table = Table(title=f"Python {platform.python_version()}, {amount.examples} examples, seed {amount.seed}")
    table.add_column("", justify="right")
    table.add_column("clause")
    for column in columns:
        table.add_column(f"{column.target.spec}\n{column.target.start_method}\nas {column.profile.name}")
    for row in zip(*(column.results for column in columns), strict=True):
        if any(result.verdict is not Verdict.ABSENT for result in row):
            table.add_row(str(row[0].clause.number), row[0].clause.sentence, *map(_cell, row))
    console.print(table)
    for column in columns:
        name = f"{column.target.spec} ({column.target.start_method})"
        for result in column.broken:
            style = SHOWN[Verdict.BROKEN][1]
            console.print(Text(f"{name}, clause {result.clause.number}, broken: {result.why}", style=style))
            for step in result.program:
                console.print(Text(f"    {step}"))
        for verdict, line in reasons_of(column):
            console.print(Text(f"{name}, {line}", style=SHOWN[verdict][1]))


def reasons_of(column: Column) -> Iterator[tuple[Verdict, str]]:
    """Which clauses are not decided or not promised, a line for each reason."""
    for verdict in (Verdict.UNDECIDED, Verdict.ABSENT):
        results = [result for result in column.results if result.verdict is verdict and result.why]
        for why in dict.fromkeys(result.why for result in results):
            numbers = ", ".join(str(result.clause.number) for result in results if result.why == why)
            yield verdict, f"{verdict.value}: {numbers}: {why}"


def as_markdown(columns: Sequence[Column], amount: Amount) -> str:
    """The table of clauses for a document."""
    heads = [f"`{column.target.spec}`<br>{column.target.start_method}" for column in columns]
    lines = [
        f"Python {platform.python_version()}, {amount.examples} examples, seed {amount.seed}",
        "",
        "| | clause | " + " | ".join(heads) + " |",
        "|--:|---" + "|---" * len(columns) + "|",
    ]
    for row in zip(*(column.results for column in columns), strict=True):
        if any(result.verdict is not Verdict.ABSENT for result in row):
            words = [
                f"**{SHOWN[result.verdict][0]}**" if _is_bad(result) else SHOWN[result.verdict][0] for result in row
            ]
            lines.append(f"| {row[0].clause.number} | {row[0].clause.sentence} | " + " | ".join(words) + " |")
    reasons = [f"- `{column.target.spec}`, {line}" for column in columns for _, line in reasons_of(column)]
    return "\n".join([*lines, "", *reasons]) + "\n"


def _is_bad(result: Result) -> bool:
    return result.verdict is Verdict.BROKEN


def _cell(result: Result) -> Text:
    word, style = SHOWN[result.verdict]
    return Text(word, style=style)
