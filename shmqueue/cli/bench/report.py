"""What was measured, where and with what; and the figures that are reported."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

import shmqueue
from shmqueue.cli.bench.stage import Result
from shmqueue.cli.bench.workloads import TABLES, WORKLOADS, YARDSTICK, Column, Contestant, Table, Workload

__all__ = ["Cell", "Report", "Surroundings", "look_around"]


@dataclass(frozen=True)
class Surroundings:
    """Where and when."""

    command: str
    date: str
    python: str
    kernel: str
    processor: str
    cores: int

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.kernel}, {self.python}, {self.date}"


def look_around() -> Surroundings:
    """This machine, now."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Surroundings(
        command=shlex.join(["shmqueue", *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        kernel=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=cores,
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Cell:
    """A figure of a queue, in its column's unit: over all rounds; or why there is none."""

    median: float = 0.0
    least: float = 0.0
    most: float = 0.0
    ratio: float | None = None
    """How many times better than the yardstick."""
    why: str | None = None


@dataclass
class Report:
    """All results, by workload and queue, a list of rounds each."""

    surroundings: Surroundings
    engine: str
    rounds: int
    contestants: list[Contestant]
    versions: dict[str, str]
    """By label, of those that are there."""
    absent: dict[str, str]
    """Why the others are not."""
    results: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    interrupted: str | None = None
    """Why it ended before all was measured."""

    @property
    def rounds_told(self) -> str:
        """What a figure is made of."""
        return "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"

    def add(self, workload: Workload, contestant: Contestant, result: Result) -> None:
        """Keep what a round has brought."""
        self.results.setdefault((workload.name, contestant.label), []).append(result)

    def rows(self, table: Table) -> list[Contestant]:
        """Whose figures stand in the table."""
        wanted = [
            each
            for each in self.contestants
            if each.role in table.roles or (each.label == "shmqueue" and not {"ours", "alone"}.isdisjoint(table.roles))
        ]
        if "ours" in table.roles:
            wanted += [each for each in self.contestants if each.label == YARDSTICK]
        return [each for each in wanted if any(self._has(each, column, table) for column in table.columns)]

    def _has(self, contestant: Contestant, column: Column, table: Table) -> bool:
        return (_stand_in(contestant, column, table), contestant.label) in self.results

    def tables(self) -> list[tuple[Table, list[Column]]]:
        """The tables of which something was measured, with the columns of which something was."""
        measured = {workload for workload, _ in self.results}
        kept = [(table, [column for column in table.columns if column.workload in measured]) for table in TABLES]
        return [(table, columns) for table, columns in kept if columns and self._is_shown(table)]

    def _is_shown(self, table: Table) -> bool:
        roles = {contestant.role for contestant in self.rows(table)}
        return bool(roles) and ("ours" not in table.roles or "family" in roles)

    def cell(self, contestant: Contestant, column: Column, table: Table) -> Cell:
        """The content of a cell."""
        results = self.results.get((_stand_in(contestant, column, table), contestant.label))
        if results is None:
            return Cell(why=self.absent.get(contestant.label, "not measured"))
        bad = next((result for result in results if result.status != "ok"), None)
        if bad is not None:
            return Cell(why=_why(bad))
        values = self._values(results, column)
        median = statistics.median(values)
        return Cell(median, min(values), max(values), self._ratio(median, column))

    @staticmethod
    def _values(results: list[Result], column: Column) -> list[float]:
        return [(result.figures or {})[column.figure] * column.scale for result in results]

    def _ratio(self, median: float, column: Column) -> float | None:
        standard = self.results.get((column.workload, YARDSTICK))
        if standard is None or any(result.status != "ok" for result in standard):
            return None
        theirs = statistics.median(self._values(standard, column))
        if not median or not theirs:
            return None
        return median / theirs if column.higher_is_better else theirs / median

    def reasons(self) -> list[str]:
        """Why there is no figure, a line for each queue and reason."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for (workload, label), results in self.results.items():
            for why in {_why(result) for result in results if result.status != "ok"}:
                reasons.setdefault((label, why), []).append(workload)
        order = [contestant.label for contestant in self.contestants]
        lines = [
            f"{label}: {why} ({', '.join(names)})"
            for (label, why), names in sorted(reasons.items(), key=lambda reason: order.index(reason[0][0]))
        ]
        return [*(f"{label}: {why}" for label, why in self.absent.items()), *lines]

    def mistakes(self) -> list[str]:
        """Items that were lost, altered or out of order, a line for each queue and workload."""
        return [
            f"{label}, {workload}: {result.why}"
            for (workload, label), results in self.results.items()
            for result in results
            if result.status == "wrong"
        ]

    def as_json(self) -> dict[str, Any]:
        """All of it; figures in the units that the columns name, medians with all rounds beside them."""
        workloads: dict[str, Any] = {}
        for table, columns in self.tables():
            for column in columns:
                shown = workloads.setdefault(f"{column.workload} {column.figure}", self._column_json(column, table))
                for contestant in self.rows(table):
                    if self._has(contestant, column, table):
                        shown["queues"][contestant.label] = self._cell_json(contestant, column, table)
        return {
            "shmqueue": shmqueue.__version__,
            "engine": self.engine,
            "command": self.surroundings.command,
            "date": self.surroundings.date,
            "python": self.surroundings.python,
            "machine": {
                "processor": self.surroundings.processor,
                "cores": self.surroundings.cores,
                "kernel": self.surroundings.kernel,
            },
            "rounds": self.rounds,
            "interrupted": self.interrupted,
            "versions": self.versions,
            "absent": self.absent,
            "figures": workloads,
        }

    @staticmethod
    def _column_json(column: Column, table: Table) -> dict[str, Any]:
        workload = WORKLOADS[column.workload]
        return {
            "table": table.title,
            "title": column.title,
            "unit": column.unit,
            "better": "higher" if column.higher_is_better else "lower",
            "producers": workload.producers,
            "consumers": workload.consumers,
            "queues": {},
        }

    def _cell_json(self, contestant: Contestant, column: Column, table: Table) -> dict[str, Any]:
        cell = self.cell(contestant, column, table)
        if cell.why is not None:
            return {"why_not": cell.why}
        results = self.results[_stand_in(contestant, column, table), contestant.label]
        return {
            "median": _rounded(cell.median),
            "min": _rounded(cell.least),
            "max": _rounded(cell.most),
            "ratio": None if cell.ratio is None else _rounded(cell.ratio),
            "rounds": [_rounded(value) for value in self._values(results, column)],
            "items": results[-1].items,
        }


def _stand_in(contestant: Contestant, column: Column, table: Table) -> str:
    return table.floors.get(column.workload, column.workload) if contestant.role == "floor" else column.workload


def _why(result: Result) -> str:
    return "hangs" if result.status == "hangs" else result.why


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
