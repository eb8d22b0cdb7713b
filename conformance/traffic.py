"""The concurrent contract: workers that put and get as fast as they can, killed or not, and a log of what they did.

Each worker writes what it is going to do, and then what came of it, into a file of its own, unbuffered: so the log of a
killed one ends with the operation that it was killed in. What the logs say together is judged by
``shmqueue.conformance.history``.
"""

from __future__ import annotations

import os
import queue as standard_queue
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from .clauses import Broken
from .history import Operation, Order, Violation, find_violation
from .operations import Kind
from .profiles import Profile
from .target import Target
from .timeline import excerpt
from .workers import PATIENCE, Hung, Team

__all__ = ["Logbook", "Run", "consume", "drain", "judge_run", "produce", "read_log", "run_traffic"]

_QUIET = 0.5  # seconds without an item after which a queue counts as drained


_Run = TypeVar("_Run", bound="Run")


# ---- what the workers run ----


class Logbook:
    """A worker's own file: ``kind value time`` before an operation, ``outcome value time`` after it.

    A lease that took something adds its attempt.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, word: str, value: object, attempt: int = 0) -> None:
        os.write(self._fd, f"{word} {value} {time.monotonic_ns()} {attempt}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def produce(queue: Any, path: str, worker: int, count: int) -> None:
    """Put ``count`` values that nobody else puts."""
    log = Logbook(path)
    for number in range(count):
        value = f"{worker}.{number}"
        log.write("put", value)
        queue.put(value)
        log.write("ok", value)
    log.close()


def consume(queue: Any, path: str, stop: str, can_wait: bool) -> None:
    """Take values until one is ``stop``; now and then without waiting, where the queue can do that."""
    log = Logbook(path)
    chance = random.Random(path)
    while True:
        hasty = can_wait and chance.random() < 0.2
        log.write("get", "-")
        try:
            value = queue.get(False) if hasty else queue.get()
        except standard_queue.Empty:
            log.write("empty", "-")
            continue
        log.write("ok", value)
        if value == stop:
            break
    log.close()


def drain(queue: Any, path: str, can_wait: bool) -> None:
    """Take values until nothing has come for a while."""
    log = Logbook(path)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET:
        if not can_wait and queue.empty():
            time.sleep(0.01)
            continue
        log.write("get", "-")
        try:
            value = queue.get(timeout=_QUIET) if can_wait else queue.get()
        except standard_queue.Empty:
            log.write("empty", "-")
            continue
        log.write("ok", value)
        quiet_since = time.monotonic()
    log.close()


# ---- the run ----


def read_log(path: str, worker: int) -> list[Operation]:
    """The operations that a worker has logged; the last one is pending if the worker did not come back from it."""
    operations = []
    begun: tuple[Kind, str, int] | None = None
    with open(path, encoding="ascii") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            word, value, when, attempt = line.split()
            if word in _KINDS:
                begun = _KINDS[word], value, int(when)
            elif begun is not None:
                taken = None if word == "empty" else value
                outcome = _OUTCOMES[word]
                operations.append(Operation(worker, begun[0], taken, begun[2], int(when), outcome, int(attempt)))
                begun = None
    if begun is not None:
        known = None if begun[0] in ("get", "lease") else begun[1]
        operations.append(Operation(worker, begun[0], known, begun[2], None, "pending"))
    return operations


_KINDS: dict[str, Kind] = {"put": "put", "get": "get", "lease": "lease", "ack": "ack", "requeue": "requeue"}
_OUTCOMES: dict[str, Literal["ok", "empty", "refused"]] = {"ok": "ok", "empty": "empty", "refused": "refused"}


def run_traffic(target: Target, profile: Profile, *, operations: int, kills: int) -> Broken | None:
    """Let two producers and two consumers run, and judge the history.

    Args:
        operations: puts of each producer.
        kills: how many workers to kill in the middle of it, alternately consumers and producers; processes only.

    Returns:
        The clause that is broken, or None.
    """

    def judge(history: list[Operation], _: Run) -> Violation | None:
        order = Order.PER_PRODUCER if profile.reordering else Order.TOTAL
        return find_violation(history, order=order, empties=not profile.early_empty)

    return judge_run(Run, "killed-busy" if kills else "linear", target, profile, operations, kills, judge)


def judge_run(
    kind: type[_Run],
    key: str,
    target: Target,
    profile: Profile,
    operations: int,
    kills: int,
    judge: Callable[[list[Operation], _Run], Violation | None],
) -> Broken | None:
    """Have a run, and ``judge`` what its workers logged. Returns the broken clause, which is ``key``, or None."""
    maxsize = 100 if profile.has("full") else 0
    queue = target.make(profile, maxsize)
    team = Team([queue], target.context(), 0)
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        run = kind(team, profile, directory, operations)
        try:
            if kills:
                run.with_kills(kills)
            else:
                run.undisturbed()
        except Hung:
            return Broken(key, "workers that should go on do not: nothing moves any more", run.program)
        finally:
            team.close()
            target.dispose(profile, queue)
        history = run.history()
    violation = judge(history, run)
    if violation is None:
        return None
    return Broken(key, str(violation), run.program, excerpt(history, violation.operations))


class Run:
    """Workers that run freely.

    ``paths``: the workers' logs; ``deaths``: when workers were killed, at the earliest, on the log's clock in ns;
    ``program``: what was done, for the reader.
    """

    consume: Callable[..., None] = staticmethod(consume)

    def __init__(self, team: Team, profile: Profile, directory: str, operations: int) -> None:
        self._team, self._profile, self._directory, self._operations = team, profile, directory, operations
        self.paths: list[str] = []
        self.deaths: dict[int, int] = {}
        self.program: list[str] = []

    def history(self) -> list[Operation]:
        """What all workers have logged so far, but for the values that only tell a worker to stop."""
        history = [operation for index, path in enumerate(self.paths) for operation in read_log(path, index)]
        return [operation for operation in history if not str(operation.value).startswith("stop")]

    def _start(self, function: Callable[..., Any], *arguments: Any) -> tuple[int, int]:
        """A new worker that runs the function; its index, and the call's number."""
        index = len(self._team.workers)
        self._team.add()
        self.paths.append(os.path.join(self._directory, str(index)))
        number = self._team.workers[index].start("loader", 0, "run", (function, self.paths[index], *arguments), {})
        self.program.append(f"worker {index}: {function.__name__}{arguments}")
        return index, number

    def _start_producer(self) -> tuple[int, int]:
        return self._start(produce, len(self._team.workers), self._operations)

    def _await(self, call: tuple[int, int]) -> None:
        """Wait for a call as long as anybody's log grows."""
        index, number = call
        size, deadline = -1, time.monotonic() + PATIENCE
        while self._team.workers[index].reply(number, 0.1) is None:
            grown = sum(os.path.getsize(path) for path in self.paths if os.path.exists(path))
            if grown != size:
                size, deadline = grown, time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                raise Hung

    def _kill(self, index: int) -> None:
        self.deaths[index] = time.monotonic_ns()
        self._team.workers[index].kill()
        self.program.append(f"worker {index}: killed")

    def drain(self) -> None:
        """Take what is left."""
        self._await(self._start(drain, self._profile.has("timeout")))

    def undisturbed(self) -> None:
        """Let all of them come to their end."""
        can_wait = self._profile.has("timeout")
        consumers = [self._start(self.consume, "stop", can_wait) for _ in range(2)]
        for call in [self._start_producer() for _ in range(2)]:
            self._await(call)
        last = self._team.add()
        self.paths.append(os.path.join(self._directory, "stops"))
        with open(self.paths[-1], "w", encoding="ascii"):
            pass  # what it puts is not part of the history
        for _ in consumers:
            last.call(0, "put", "stop")
        for call in consumers:
            self._await(call)

    def with_kills(self, kills: int) -> None:
        """Kill so many of them, at random moments, and in the end the consumers."""
        chance = random.Random(kills)
        can_wait = self._profile.has("timeout")
        consumers = [self._start(self.consume, "stop", can_wait) for _ in range(2)]
        producers = [self._start_producer() for _ in range(2)]
        for number in range(kills):
            self._until_all_have_begun([*consumers, *producers])
            time.sleep(chance.uniform(0, 0.01))  # the moment of death is what varies
            calls = (consumers, producers)[number % 2]
            index, _ = calls.pop(0)
            self._kill(index)
            calls.append(self._start(self.consume, "stop", can_wait) if calls is consumers else self._start_producer())
        for call in producers:
            self._await(call)
        for index, _ in consumers:
            self._kill(index)
        self.drain()

    def _until_all_have_begun(self, calls: list[tuple[int, int]]) -> None:
        deadline = time.monotonic() + PATIENCE
        for index, _ in calls:
            while not (os.path.exists(self.paths[index]) and os.path.getsize(self.paths[index])):
                if time.monotonic() > deadline:
                    raise Hung
                time.sleep(0.001)
