"""How the demo is seen: a live bar on a terminal, lines elsewhere, nothing where only the figures are wanted."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

import shmqueue
from shmqueue import clock
from shmqueue.cli.demo import Measurement, Report, Setting, View, median_rate
from shmqueue.cli.sizes import readable_bytes

__all__ = ["ClosableView", "print_report", "view_for"]


class ClosableView(View, Protocol):
    """A view that may have to put the terminal in order."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_for(as_json: bool) -> ClosableView:
    """The view that suits where the output goes."""
    if as_json:
        return _Silent()
    return _Live() if sys.stdout.isatty() else _Lines()


def print_report(report: Report) -> None:
    """The medians, and the ratio last."""
    for title, rounds in (("shmqueue", report.shmqueue), ("multiprocessing.Queue", report.multiprocessing)):
        rate = f"{median_rate(rounds):,.0f}"
        print(
            f"{title:<21} {rate:>12} items/s, median of {len(rounds)} rounds of {rounds[0].items:,} items; "
            "all arrived in order"
        )
    print(f"shmqueue is {report.ratio:.3g} times as fast as multiprocessing.Queue here")


def _opening(setting: Setting) -> str:
    return (
        f"shmqueue {shmqueue.__version__}, {setting.engine} engine, {setting.python}\n"
        "a producer and a consumer, separate programs, share nothing but the name "
        f"{setting.name!r}: a queue of {readable_bytes(setting.buffer_size)}"
    )


class _Silent:
    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def opening(self, setting: Setting) -> None: ...

    def begin(self, contestant: str, number: int, items: int) -> None: ...

    def progress(self, taken: int) -> None: ...

    def done(self, measurement: Measurement) -> None: ...


class _Lines(_Silent):
    """A line when a round is over."""

    def __init__(self) -> None:
        self._round = ""
        self._rounds = 0

    def opening(self, setting: Setting) -> None:
        self._rounds = setting.rounds
        print(_opening(setting), flush=True)

    def begin(self, contestant: str, number: int, items: int) -> None:
        self._round = f"{contestant}, round {number} of {self._rounds}"

    def done(self, measurement: Measurement) -> None:
        print(f"{self._round}: {measurement.items:,} items, {measurement.rate:,.0f} items/s", flush=True)


class _Live(_Silent):
    """A bar for each round, with the items a second so far.

    It is drawn when it has something new to show, and by no thread of its own, which would take time from what is
    measured.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.fields[contestant]:<21} {task.fields[number]}/{task.fields[rounds]}"),
            BarColumn(),
            TextColumn("{task.completed:>12,.0f} items"),
            TextColumn("{task.fields[rate]:>12,.0f} items/s"),
            console=Console(highlight=False),
            auto_refresh=False,
        )
        self._bar = TaskID(0)
        self._rounds = 0
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def opening(self, setting: Setting) -> None:
        self._rounds = setting.rounds
        self._bars.console.print(_opening(setting), markup=False)

    def begin(self, contestant: str, number: int, items: int) -> None:
        self._first = None
        self._bar = self._bars.add_task(
            "", total=items, contestant=contestant, number=number, rounds=self._rounds, rate=0.0
        )
        self._bars.refresh()

    def progress(self, taken: int) -> None:
        now = clock.monotonic()
        if self._first is None:
            if taken:
                self._first = now, taken
        elif now > self._first[0]:
            self._bars.update(self._bar, rate=(taken - self._first[1]) / (now - self._first[0]))
        self._bars.update(self._bar, completed=taken, refresh=True)

    def done(self, measurement: Measurement) -> None:
        self._bars.update(self._bar, completed=measurement.items, rate=measurement.rate, refresh=True)
