"""Processes for the checks of interruption: one to run a check in, and one to look at the queue from outside."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from shmqueue import ShmQueue, ShmQueueEmpty, ShmQueueFull

from .busy import at_least
from .outcome import Outcome

STUCK = at_least(3.0)
"""Seconds after which a call that need not wait counts as never coming back."""

_MARK = "the neighbour's mark"
_FORK = multiprocessing.get_context("fork")


def run_apart(what: str, check: Callable[[Outcome], None], outcome: Outcome, patience: float) -> None:
    """Run ``check`` in a forked child and add its figures and faults; that it crashes or hangs is a fault as well."""
    ours, theirs = _FORK.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+") as trace:
        child = _FORK.Process(target=_run_check, args=(check, theirs, trace, patience))
        child.start()
        theirs.close()
        try:
            found = ours.recv() if ours.poll(patience + 5) else None
        except EOFError:
            found = None
        if found is None and ours.poll(0):
            child.join(5)
        if child.is_alive() and found is None:
            child.kill()
        child.join(10)
        if child.is_alive():
            child.kill()
            child.join()
        if found is None:
            trace.seek(0)
            lines = [line.strip() for line in trace.read().splitlines() if line.strip()]
            outcome.fault(f"{what}: the process hung or crashed (exit code {child.exitcode}): {'; '.join(lines[:12])}")
            return
    for name, value in found.figures.items():
        if name.startswith("worst"):
            outcome.note_worst(name, value)
        elif isinstance(value, int):
            outcome.count(name, value)
        else:
            outcome.figures[name] = value
    outcome.faults.extend(f"{what}: {fault}" for fault in found.faults)


def _run_check(check: Callable[[Outcome], None], report: Connection, trace: Any, patience: float) -> None:
    faulthandler.enable(trace)
    faulthandler.dump_traceback_later(patience, exit=True, file=trace)
    gc.freeze()  # what there is already need not be looked at by the many collections to come
    outcome = Outcome()
    try:
        check(outcome)
    except Stuck as stuck:
        outcome.fault(str(stuck))
    except BaseException as error:
        outcome.fault(f"it failed: {error!r}, {traceback.format_exc(limit=-3)!r}")
    faulthandler.cancel_dump_traceback_later()
    report.send(outcome)
    report.close()


class Stuck(Exception):
    """The other process could not put or get: somebody has kept a lock."""


class Neighbour:
    """Another process with a handle on the queue, which shows from outside what it holds and whether it moves."""

    def __init__(self, name: str) -> None:
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(name, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()

    def exchange(self, filling: list[Any]) -> list[Any]:
        """Take all that is queued, and put ``filling`` instead.

        Raises:
            Stuck: it could not be done in ``STUCK`` seconds.
        """
        self._pipe.send_bytes(pickle.dumps(filling, pickle.HIGHEST_PROTOCOL))
        if not self._pipe.poll(4 * STUCK):
            raise Stuck("another process got no answer from the queue")
        try:
            answer = self._pipe.recv_bytes()
        except EOFError:
            raise Stuck("another process has failed with the queue") from None
        problem, items = pickle.loads(answer)
        if problem:
            raise Stuck(problem)
        return list(items)

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join(STUCK)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _serve(name: str, pipe: Connection, inherited: Connection) -> None:
    inherited.close()  # else this process would not see that the other one has ended
    queue = ShmQueue(name, create=False)
    while True:
        try:
            filling = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            break
        pipe.send_bytes(pickle.dumps(_exchange(queue, filling), pickle.HIGHEST_PROTOCOL))
    queue.shutdown()


def _exchange(queue: ShmQueue, filling: list[Any]) -> tuple[str, list[Any]]:
    items: list[Any] = []
    try:
        queue.put(_MARK, timeout=STUCK)
    except ShmQueueFull:
        return f"another process could not put in {STUCK} s", items
    while True:
        try:
            items.append(queue.get(timeout=STUCK))
        except ShmQueueEmpty:
            return f"another process could not get in {STUCK} s", items
        except Exception as error:
            items.append(error)
        if isinstance(items[-1], str) and items[-1] == _MARK:
            break
    for item in filling:
        queue.put(item)
    return "", items[:-1]


def wait_for(condition: Callable[[], object], seconds: float = 10 * STUCK) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
