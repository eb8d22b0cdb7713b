"""One measurement, in a process of its own: make the queue, fork the workers, wait for them, write the figures.

This process receives one argument of JSON, a ``Spec``. It ends its workers, by their process ids, when the
deadline is over, at a mistake, on SIGTERM, and when its standard input closes, which it does when the bench is gone;
they are also killed with it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from .drivers import Driver, Plan, find_driver
from .kinds import KINDS, LARGE, Mistake, check_logs
from .work import BATCH, Job, Role, Told, roles_of

__all__ = ["Result", "Spec", "main"]

_PR_SET_PDEATHSIG = 1
_GOODBYE = 3.0  # seconds in which a worker that has told its figures must end
_SMALL_ROOM = 4 << 20  # bytes of a queue for small items: more than the caches that a processor has to itself
_LARGE_ROOM = 8 << 20  # for large ones
_LARGE_LIMIT = 7  # items: as many as fit the latter


@dataclass(frozen=True)
class Spec:
    """What to measure; the fields that are not explained here are those of ``Job`` and ``Plan``."""

    driver: str
    shape: str
    kind: str
    producers: int
    consumers: int
    items: int
    queued: int
    room: int | None
    """Bytes of the queue; None, as many as are usual."""
    seconds: float
    deadline: float
    """Seconds after which the workers are ended."""
    directory: str
    token: str
    result: str
    """Path of the file that gets a ``Result``."""


@dataclass(frozen=True)
class Result:
    """What came of it."""

    status: str
    """ok; hangs: not done when the deadline was over; wrong: an item was; failed; absent: not installed; cannot."""
    why: str = ""
    items: int = 0
    seconds: float = 0.0
    """From the start until the last item was received."""
    figures: dict[str, float] | None = None


class _Stop(Exception):
    """The workers cannot or need not go on."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def main() -> None:
    """Run with the argument of this process."""
    warnings.simplefilter("ignore")  # the portable engine warns that it is in use, and was asked for
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = Spec(**json.loads(sys.argv[1]))
    try:
        result = _run(spec)
    except _Stop as stop:
        result = Result(stop.status, stop.why)
    except Exception as error:
        result = Result("failed", _one_line(error))
    with open(spec.result + ".part", "w") as file:
        json.dump(asdict(result), file)
    os.rename(spec.result + ".part", spec.result)


def _one_line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(type(error), error)[-1].split())


def _run(spec: Spec) -> Result:
    driver = find_driver(spec.driver)
    for module in (driver.module, KINDS[spec.kind].needs):
        if module is not None and importlib.util.find_spec(module.partition(".")[0]) is None:
            raise _Stop("absent", f"{module} is not installed")
    job = _job(spec)
    why = driver.why_not(
        job.producers,
        job.consumers,
        objects=spec.kind == "numpy",
        batches=job.shape == "batches",
        queued=job.queued,
    )
    if why is not None:
        raise _Stop("cannot", why)
    context = multiprocessing.get_context("fork")
    lanes = [driver(_plan(spec, job, lane, context)) for lane in range(2 if job.shape.endswith("round-trip") else 1)]
    try:
        return _result(job, _perform(job, lanes, context, spec.deadline))
    finally:
        for lane in lanes:
            lane.close()


def _job(spec: Spec) -> Job:
    each = {"batches": BATCH, "logged": spec.producers * spec.consumers}.get(spec.shape, 1)
    items = max(1, spec.items // each) * each  # as many for each process, and whole batches
    return Job(spec.shape, KINDS[spec.kind](), spec.producers, spec.consumers, items, spec.queued, spec.seconds)


def _plan(spec: Spec, job: Job, lane: int, context: Any) -> Plan:
    large = job.kind.size >= LARGE
    room = spec.room or (_LARGE_ROOM if large else _SMALL_ROOM)
    while room < (job.queued + 1) * (job.kind.size + 24):  # 24: what the most wasteful one adds to an item
        room *= 2
    return Plan(
        producers=job.producers,
        consumers=job.consumers,
        item_size=job.kind.size,
        room=room,
        limit=_LARGE_LIMIT if large else 0,
        queued=job.queued,
        raw=job.kind.raw,
        directory=spec.directory,
        token=f"{spec.token}-{lane}",
        context=context,
    )


# ---- the workers ----


@contextmanager
def _workers(job: Job, lanes: list[Driver], context: Any) -> Iterator[dict[Connection, Any]]:
    """Workers that run, by the connection on which each will tell; none of them runs afterwards."""
    roles = roles_of(job)
    ready = context.Barrier(len(roles))
    workers: dict[Connection, Any] = {}
    try:
        for role in roles:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(role, job, lanes, ready, theirs), daemon=True)
            workers[mine] = process
            process.start()
            theirs.close()
        yield workers
    finally:
        for process in workers.values():
            if process.pid is not None and process.is_alive():
                process.kill()
        for process in workers.values():
            if process.pid is not None:
                process.join()


def _work(role: Role, job: Job, lanes: list[Driver], ready: Any, tell: Connection) -> None:
    """In the worker: run, and tell."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        parent = multiprocessing.parent_process()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is None or os.getppid() != parent.pid:
            os._exit(1)  # it was gone before that
    try:
        job.kind.prepare()
        told: Told | tuple[str, str] = role(job, lanes, ready)
    except Mistake as mistake:
        told = ("wrong", str(mistake))
    except BaseException as error:
        told = ("failed", _one_line(error))
    tell.send(told)


def _perform(job: Job, lanes: list[Driver], context: Any, deadline: float) -> list[Told]:
    """What all workers tell, in the order of their roles."""
    limit = time.monotonic() + deadline
    with _workers(job, lanes, context) as workers:
        told: dict[Connection, Told] = {}
        while len(told) < len(workers):
            waiting = [tell for tell in workers if tell not in told]
            ready = wait([*waiting, sys.stdin.fileno()], limit - time.monotonic())
            if not ready:
                raise _Stop("hangs", f"not done after {deadline:g} s")
            for tell in ready:
                if not isinstance(tell, Connection):
                    sys.exit(1)  # the bench is gone
                told[tell] = _receive(tell, workers[tell])
        end = time.monotonic() + _GOODBYE
        for process in workers.values():
            process.join(max(0.0, end - time.monotonic()))
        return [told[tell] for tell in workers]


def _receive(tell: Connection, process: Any) -> Told:
    try:
        message = tell.recv()
    except EOFError:
        process.join()
        raise _Stop("failed", f"a worker ended with exit status {process.exitcode}") from None
    if not isinstance(message, Told):
        raise _Stop(*message)
    return message


# ---- what came of it ----


def _result(job: Job, told: list[Told]) -> Result:
    if job.shape == "logged":
        mistake = check_logs([each.log for each in told[: job.consumers]], job.producers, job.items)
        if mistake is not None:
            raise _Stop("wrong", mistake)
    received = told[: job.consumers]  # the roles that receive come first
    seconds = max(each.end for each in received) - min(each.begin for each in told)
    cpu = sum(each.cpu for each in told)
    figures = {"rate": job.items / seconds, "cost": seconds / job.items * 1e9, "cpu": cpu / job.items * 1e6}
    if job.shape.endswith("round-trip"):
        times = sorted(told[0].log)
        figures = {"p50": times[len(times) // 2] / 1e3, "p99": times[len(times) * 99 // 100] / 1e3}
    elif job.shape == "idle":
        figures = {"idle": told[0].cpu / (told[0].end - told[0].begin) * 100}
    return Result("ok", items=job.items, seconds=seconds, figures=figures)


if __name__ == "__main__":
    main()
