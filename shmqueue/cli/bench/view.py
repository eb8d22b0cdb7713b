"""How a run of the benchmark is seen: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from shmqueue.cli.bench.stage import Result

__all__ = ["Bar", "Lines", "view_for"]


def view_for() -> Bar | Lines:
    """The view that suits where the output goes."""
    return Bar() if sys.stdout.isatty() else Lines()


class Lines:
    """A line for each measurement."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self, number: int, total: int, what: str) -> None:
        """A measurement begins."""
        print(f"{number}/{total} {what}: ", end="", flush=True)

    def done(self, result: Result) -> None:
        """It is over."""
        print(f"{result.items:,} items in {result.seconds:.2f} s" if result.status == "ok" else result.why, flush=True)


class Bar(Lines):
    """One bar for all. It is drawn when a measurement begins, and never during one."""

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(highlight=False),
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Lines:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, number: int, total: int, what: str) -> None:
        if self._task is None:
            self._task = self._progress.add_task(what, total=total)
        self._progress.update(self._task, completed=number - 1, description=what, refresh=True)

    def done(self, result: Result) -> None: ...
