"""The demo: measure both queues in turn, several times, and compare the medians.

A rate is measured in the consumer, from its first item to its last one, when both interpreters have long started. The
consumer is not slowed down by watching it: this process reads the counters in shared memory.
"""

from __future__ import annotations

import platform
import signal
import statistics
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import click

import shmqueue
from shmqueue import PortableEngineWarning, clock, engine
from shmqueue.cli.demo_pairs import BUFFER_SIZE, Child, Pair, multiprocessing_pair, queue_name, shmqueue_pair
from shmqueue.cli.demo_work import Outcome

__all__ = ["Measurement", "Report", "Setting", "View", "run"]

ROUNDS = 3
SAMPLE_EVERY = 0.1  # seconds between two looks at the progress
LAST_WORDS = 1.0  # seconds in which the message of a child that has ended must be there
TRIAL_ITEMS = {"native": 200_000, "portable": 2_000, "multiprocessing": 20_000}
STANDARD_QUEUE_ITEMS = 200_000


class Setting(NamedTuple):
    """What is true of the whole demo."""

    engine: str
    python: str
    name: str
    buffer_size: int
    rounds: int


class Measurement(NamedTuple):
    """One round of one queue: how many items, and seconds from the first one received to the last one."""

    items: int
    seconds: float

    @property
    def rate(self) -> float:
        """Items a second."""
        return (self.items - 1) / max(self.seconds, 1e-9)


@dataclass
class Report:
    """All rounds. Items that did not arrive, or not in order, leave no report: they are an error."""

    setting: Setting
    shmqueue: list[Measurement] = field(default_factory=list)
    multiprocessing: list[Measurement] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times faster the first is."""
        return median_rate(self.shmqueue) / median_rate(self.multiprocessing)

    def as_json(self) -> dict[str, Any]:
        """The figures; rates are in items a second."""
        return {
            "shmqueue_version": shmqueue.__version__,
            "engine": self.setting.engine,
            "python": self.setting.python,
            "buffer_size": self.setting.buffer_size,
            "rounds": self.setting.rounds,
            "shmqueue": _as_json(self.shmqueue),
            "multiprocessing": _as_json(self.multiprocessing),
            "ratio": float(f"{self.ratio:.3g}"),
        }


def median_rate(rounds: list[Measurement]) -> float:
    """The median of the rounds' rates."""
    return statistics.median(measurement.rate for measurement in rounds)


def _as_json(rounds: list[Measurement]) -> dict[str, Any]:
    return {
        "items": rounds[0].items,
        "in_order": True,
        "median_rate": round(median_rate(rounds)),
        "rates": [round(measurement.rate) for measurement in rounds],
    }


class View(Protocol):
    """Receives the progress of the demo."""

    def opening(self, setting: Setting) -> None:
        """It begins."""

    def begin(self, contestant: str, number: int, items: int) -> None:
        """A round begins; rounds are counted from 1."""

    def progress(self, taken: int) -> None:
        """``taken`` items have arrived in this round."""

    def done(self, measurement: Measurement) -> None:
        """The round is over."""


Contestant = Callable[[int], AbstractContextManager[Pair]]


def run(items: int | None, seconds: float, deadline: float, view: View) -> Report:
    """Run the whole demo.

    Args:
        items: how many items go through ``shmqueue`` in each round; None, as many as take about ``seconds``.
        seconds: see there; of no effect otherwise.
        deadline: seconds after which everything is ended.

    Raises:
        click.ClickException: an item did not arrive, or not in order; a process died; the deadline is over.
    """
    limit = clock.monotonic() + deadline
    report = Report(Setting(_engine(), _python(), queue_name(), BUFFER_SIZE, ROUNDS))
    view.opening(report.setting)
    if items is None:
        ours = _items_for(seconds, "shmqueue", shmqueue_pair, TRIAL_ITEMS[report.setting.engine], limit)
        theirs = _items_for(
            seconds, "multiprocessing.Queue", multiprocessing_pair, TRIAL_ITEMS["multiprocessing"], limit
        )
    else:
        ours, theirs = items, min(items, max(STANDARD_QUEUE_ITEMS, items // 10))
    for number in range(1, ROUNDS + 1):
        view.begin("shmqueue", number, ours)
        report.shmqueue.append(_measure("shmqueue", shmqueue_pair, ours, limit, view.progress))
        view.done(report.shmqueue[-1])
        view.begin("multiprocessing.Queue", number, theirs)
        report.multiprocessing.append(
            _measure("multiprocessing.Queue", multiprocessing_pair, theirs, limit, view.progress)
        )
        view.done(report.multiprocessing[-1])
    return report


def _engine() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PortableEngineWarning)  # the demo names the engine itself
        return engine.chosen()


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _items_for(seconds: float, title: str, contestant: Contestant, trial: int, limit: float) -> int:
    """How many items take about ``seconds``, in a round number."""
    items = int(_measure(title, contestant, trial, limit, lambda taken: None).rate * seconds)
    return max(2, int(float(f"{items:.1e}")))


def _measure(
    title: str, contestant: Contestant, items: int, limit: float, progress: Callable[[int], None]
) -> Measurement:
    with contestant(items) as pair:
        for child in (pair.consumer, pair.producer):
            _next_message(child, pair, title, limit, lambda taken: None)
        pair.producer.go()
        outcome: Outcome = _next_message(pair.consumer, pair, title, limit, progress)
        if outcome["mistake"] is not None:
            raise click.ClickException(f"{title}: {outcome['mistake']}")
        for child in (pair.consumer, pair.producer):
            while child.wait(SAMPLE_EVERY) is None:
                _require_time(limit, title)
            _require_success(child, title)
    return Measurement(outcome["items"], outcome["seconds"])


def _next_message(child: Child, pair: Pair, title: str, limit: float, progress: Callable[[int], None]) -> Any:
    """What a child says next, while the others live too."""
    while True:
        message = child.receive(SAMPLE_EVERY)
        if message is not None:
            return message
        progress(pair.taken())
        for each in (pair.consumer, pair.producer):
            _require_success(each, title)
        if child.wait(0) is not None:
            message = child.receive(LAST_WORDS)
            if message is None:
                raise click.ClickException(f"{title}: the {child.role} ended too early")
            return message
        _require_time(limit, title)


def _require_success(child: Child, title: str) -> None:
    status = child.wait(0)
    if status:
        raise click.ClickException(f"{title}: the {child.role} {_how_it_ended(status)}")


def _how_it_ended(status: int) -> str:
    if status > 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name} (exit status {status})"
    except ValueError:
        return f"was killed by signal {-status} (exit status {status})"


def _require_time(limit: float, title: str) -> None:
    if clock.monotonic() >= limit:
        raise click.ClickException(f"{title}: not done when the deadline was over")
