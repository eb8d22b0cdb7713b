"""Runs the stages: finds out how many items take long enough, then round by round, every queue in turn.

Within a round each queue does a workload once, and another one begins each time: what disturbs the machine for a while
disturbs all of them alike.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

from shmqueue import segment
from shmqueue.cli.bench import __file__ as _package_file
from shmqueue.cli.bench.report import Report
from shmqueue.cli.bench.stage import Result, Spec
from shmqueue.cli.bench.workloads import Contestant, Workload

__all__ = ["Setting", "View", "run", "run_stage"]

_SHM = "/dev/shm"
_GRACE = 10.0  # seconds that a stage gets to end by itself, after its deadline and after a request to end
_GROWTH = 25  # times more items in a trial than in the one before
_IDLENESS = 4  # times longer than a measurement is what does nothing
_LONG_ENOUGH = 0.2  # of the time that is wanted: what a trial must take to be believed

_START = """\
import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from shmqueue.cli.bench.stage import main
main()
"""
"""In this interpreter, with this process's module path."""

_START_ELSEWHERE = """\
import sys
sys.path.append(sys.argv.pop(1))
from bench.stage import main
main()
"""
"""In another one, whose packages have precedence."""


@dataclass(frozen=True)
class Setting:
    """How long and how often."""

    rounds: int
    seconds: float
    """About how long a measurement takes."""
    deadline: float
    """Seconds after which one is ended."""
    budget: float | None
    """Seconds after which nothing new is begun; None, all is measured."""


class View(Protocol):
    """Receives the progress."""

    def step(self, number: int, total: int, what: str) -> None:
        """Such a measurement begins; they are counted from 1."""

    def done(self, result: Result) -> None:
        """It is over."""


def run(report: Report, workloads: list[Workload], setting: Setting, view: View) -> None:
    """Measure, and put it into the report, which is complete when this returns and usable if it raises."""
    races = [(workload, [each for each in report.contestants if workload.is_for(each)]) for workload in workloads]
    runs = [
        (number, workload, contestant)
        for number in range(setting.rounds)
        for index, (workload, entrants) in enumerate(races)
        for contestant in _rotated(entrants, number + index)
    ]
    begin = time.monotonic()
    sizes: dict[tuple[str, str], int] = {}
    for at, (number, workload, contestant) in enumerate(runs):
        over = time.monotonic() - begin
        if setting.budget is not None and over > setting.budget:
            report.interrupted = f"the time was over after {at} of {len(runs)} measurements"
            return
        earlier = report.results.get((workload.name, contestant.label), [])
        if contestant.label in report.absent or (earlier and earlier[-1].status != "ok"):
            continue  # it would not be better the next time
        view.step(at + 1, len(runs), f"round {number + 1}, {workload.name}, {contestant.label}")
        deadline = setting.deadline if setting.budget is None else min(setting.deadline, setting.budget - over + 2)
        result = _measure(workload, contestant, setting, deadline, sizes)
        report.add(workload, contestant, result)
        view.done(result)


def _rotated(entrants: list[Contestant], by: int) -> list[Contestant]:
    by %= max(1, len(entrants))
    return entrants[by:] + entrants[:by]


def _measure(
    workload: Workload, contestant: Contestant, setting: Setting, deadline: float, sizes: dict[tuple[str, str], int]
) -> Result:
    key = workload.sized_like or workload.name, contestant.label
    deadline += workload.patience
    if workload.is_timed:
        return run_stage(workload, contestant, 1, setting.seconds * _IDLENESS, deadline)
    if key not in sizes:
        trial = _try(workload, contestant, setting.seconds, deadline)
        if trial.status != "ok":
            return trial
        sizes[key] = max(1, min(workload.most, int(trial.items * setting.seconds / trial.seconds)))
        if setting.budget is not None:
            return trial  # it was long enough, where time is short
    return run_stage(workload, contestant, sizes[key], setting.seconds, deadline)


def _try(workload: Workload, contestant: Contestant, seconds: float, deadline: float) -> Result:
    """A measurement with enough items to estimate how many take about ``seconds``."""
    items = workload.trial
    while True:
        trial = run_stage(workload, contestant, items, seconds, deadline)
        if trial.status != "ok" or trial.seconds >= seconds * _LONG_ENOUGH or trial.items >= workload.most:
            return trial
        growth = min(_GROWTH, seconds * _LONG_ENOUGH * 2 / trial.seconds)
        items = min(workload.most, int(trial.items * max(2.0, growth)))


def run_stage(workload: Workload, contestant: Contestant, items: int, seconds: float, deadline: float) -> Result:
    """One measurement in a process group of its own, of which nothing is left afterwards."""
    with _scratch() as directory:
        spec = Spec(
            driver=contestant.driver,
            shape=workload.shape,
            kind=workload.kind,
            producers=workload.producers,
            consumers=workload.consumers,
            items=items,
            queued=workload.queued,
            room=workload.room,
            seconds=seconds,
            deadline=deadline,
            directory=directory,
            token=os.path.basename(directory),
            result=os.path.join(directory, "result"),
        )
        errors = os.path.join(directory, "errors")
        with _group(contestant.python, json.dumps(asdict(spec)), errors) as stage:
            try:
                status = stage.wait(deadline + _GRACE)
            except subprocess.TimeoutExpired:
                return Result("hangs", f"not even ended {_GRACE:g} s after its deadline")
        try:
            with open(spec.result) as file:
                return Result(**json.load(file))
        except FileNotFoundError:
            with open(errors, errors="replace") as file:
                lines = file.read().split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
            return Result("failed", f"exit status {status}: {last}")


@contextmanager
def _scratch() -> Iterator[str]:
    """A directory for all that a stage makes, queues included; what bears its name in /dev/shm is removed with it."""
    directory = tempfile.mkdtemp(prefix="shmqueue-bench-", dir=segment.directory())
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        token = os.path.basename(directory)
        for name in os.listdir(_SHM) if os.path.isdir(_SHM) else []:
            if token in name:
                _remove(os.path.join(_SHM, name))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # its owner was faster


@contextmanager
def _group(python: str | None, spec: str, errors: str) -> Iterator[subprocess.Popen[bytes]]:
    """A stage that runs; all of its group has ended afterwards. A Ctrl-C is for this process, which ends it."""
    if python is None:
        command = [sys.executable, "-c", _START, "\n".join(sys.path), spec]
    else:
        command = [python, "-I", "-c", _START_ELSEWHERE, os.path.dirname(os.path.dirname(_package_file)), spec]
    with open(errors, "wb") as file, _held_back(signal.SIGINT) as let_through:
        stage = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )
        try:
            let_through()
            yield stage
        finally:
            _end(stage)


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[Callable[[], None]]:
    """A signal comes only after the function that this gives was called, or at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield let_through
    finally:
        let_through()


def _end(stage: subprocess.Popen[bytes]) -> None:
    """Ask it to end, which ends its workers; if it does not react, kill it with all of its group."""
    assert stage.stdin is not None
    stage.stdin.close()
    if stage.poll() is None:
        stage.terminate()
        try:
            stage.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(stage.pid, signal.SIGKILL)
            stage.wait()
