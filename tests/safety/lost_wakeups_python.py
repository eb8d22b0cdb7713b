"""Sleepers and wakers that die or stand still, from Python: a queue of either engine, processes of either start method.

Where exactly a process is hit is up to chance here; ``native/lost_wakeups.c`` chooses.

Fails if: the survivor of a death does not go on, its deadline is late, it computes instead of sleeping, or items are
left, lost, doubled or out of order.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import random
import signal
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shmqueue import ShmQueue

from . import denied
from .busy import at_least
from .outcome import Options, Outcome

__all__ = ["run"]

WEDGED = at_least(10.0)  # seconds: far above what a busy machine takes to run a process that is ready
DEADLINE = 0.2  # seconds, of calls while somebody else stands still
LARGE = b"x" * 60_000  # takes a moment to copy under the lock
IDLE = 0.3  # of the time that a call waits: the most that it may compute meanwhile
PROMPT = 0.07  # seconds in which a call that polls sees what has come, at the latest; less than a slice
MEMBERS = 2  # producers, and as many consumers, in a group
_ENTRY = struct.Struct("<II")

# ---- what the processes do; each reports "ready" right before its first call ----


def _get_one(q: Any, report: Connection) -> None:
    report.send("ready")
    report.send(q.get())


def _put_one(q: Any, report: Connection) -> None:
    report.send("ready")
    q.put("late")
    report.send("put")


def _wait_without_futex(q: Any, report: Connection, error: int) -> None:
    """Report the time and the computing time of a get that finds nothing; then when an item has come, for each."""
    denied.deny_shared_futexes(error)
    report.send("ready")
    began, computed = time.monotonic(), time.process_time()
    try:
        q.get(timeout=DEADLINE)
    except queue.Empty:
        report.send((time.monotonic() - began, time.process_time() - computed))
    for _ in iter(q.get, None):
        report.send(time.monotonic())


def _go_round(q: Any, report: Connection) -> None:
    report.send("ready")
    while not report.poll():
        q.put(LARGE)
        q.get()


def _read_in_place(q: Any, report: Connection) -> None:
    with q.get_view():
        report.send("ready")
        report.recv()


def _produce(q: Any, report: Connection, journal: Path, which: int) -> None:
    """Put numbered items until told to end; write down each number before its put."""
    with open(journal, "ab", buffering=0) as file:
        report.send("ready")
        number = 0
        while not report.poll():
            number += 1
            file.write(_ENTRY.pack(which, number))
            q.put((which, number))


def _consume(q: Any, report: Connection, journal: Path, which: int) -> None:
    """Take items until None comes; write down each."""
    with open(journal, "ab", buffering=0) as file:
        report.send("ready")
        for item in iter(q.get, None):
            file.write(_ENTRY.pack(*item))


# ---- running them ----


class Worker:
    """A process that has reported that it is about to begin."""

    def __init__(self, options: Options, target: Callable[..., None], q: Any, *arguments: Any) -> None:
        context: Any = multiprocessing.get_context(options.start_method)
        self.connection, its_end = context.Pipe()
        self.process = context.Process(target=_begin, args=(target, q, its_end, *arguments), daemon=True)
        self.process.start()
        its_end.close()
        if self.receive(6 * WEDGED) != "ready":
            raise RuntimeError("a worker did not begin")

    def receive(self, patience: float = WEDGED) -> Any:
        """Its next report; None if there is none in time."""
        try:
            return self.connection.recv() if self.connection.poll(patience) else None
        except EOFError:
            return None

    def await_sleep(self) -> None:
        """Until the system says that it sleeps: in its call, as far as can be seen from here."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "R":
            time.sleep(0.001)

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        """Kill it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _begin(target: Callable[..., None], q: Any, report: Connection, *arguments: Any) -> None:
    os.setpgid(0, 0)
    try:
        target(q, report, *arguments)
    except (BrokenPipeError, EOFError):  # the test has ended
        pass


@contextmanager
def _workers() -> Iterator[list[Worker]]:
    """A list of workers that do not outlive the block."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


class Scenes:
    """Plays scenes and counts."""

    def __init__(self, options: Options, outcome: Outcome) -> None:
        self._options = options
        self._outcome = outcome
        self._random = random.Random(options.seed)

    def play_all(self) -> None:
        self.kill_blocked(_get_one, "consumer")
        self.kill_blocked(_put_one, "producer")
        self.stop_busy()
        self.deny_futex()
        if self._options.engine == "native":
            self.stop_and_kill_reader()
        self.kill_group()

    @contextmanager
    def _queue(self, **arguments: Any) -> Iterator[ShmQueue]:
        with ShmQueue(f"sleepers-{uuid.uuid4().hex}", **arguments) as q:
            yield q

    def _start(self, target: Callable[..., None], q: ShmQueue, *arguments: Any) -> Worker:
        return Worker(self._options, target, q, *arguments)

    def _await(self, worker: Worker, expected: str, what: str) -> None:
        """Its report must come; how long that takes is the stall."""
        begin = time.monotonic()
        report = worker.receive()
        if report != expected:
            self._outcome.fault(f"{what}: the one that stayed reports {report!r} after {WEDGED:.0f} s")
        self._outcome.note_worst(f"Python, {what}: worst stall, ms", round((time.monotonic() - begin) * 1e3, 1))

    def kill_blocked(self, call: Callable[..., None], who: str) -> None:
        """Two are blocked, one is killed; what comes is the other's."""
        what = f"a blocked {who} killed"
        with self._queue(maxsize=1) as q, _workers() as workers:
            if call is _put_one:
                q.put("early")
            workers += [self._start(call, q), self._start(call, q)]
            for worker in workers:
                worker.await_sleep()
            workers[0].send_signal(signal.SIGKILL)
            workers[0].process.join()
            if call is _put_one:
                q.get()
            else:
                q.put("item")
            self._await(workers[1], "put" if call is _put_one else "item", what)
            left = q.qsize()
        if left != (1 if call is _put_one else 0):
            self._outcome.fault(f"{what}: {left} items are left")
        self._outcome.count(f"Python, {what}")

    def _call_in_time(self, call: Callable[[], Any], what: str) -> bool:
        """A call with a deadline; whether it came to something before that."""
        begin = time.monotonic()
        try:
            call()
            done = True
        except (queue.Empty, queue.Full):
            done = False
        over = time.monotonic() - begin - DEADLINE
        if (not done and over < 0) or over > WEDGED:
            self._outcome.fault(f"{what}: a deadline of {DEADLINE} s was over {over:.3f} s late")
        self._outcome.note_worst(f"Python, {what}: a deadline was late by, ms", round(max(over, 0) * 1e3, 1))
        return done

    def stop_busy(self) -> None:
        """One that puts and gets all the time is stopped somewhere; others' deadlines hold, and later all goes on."""
        what = "a busy process stopped"
        with self._queue(buffer_size=1 << 20) as q, _workers() as workers:
            for _ in range(4):
                q.put("item")  # so that there always are some, and there is always room
            workers.append(self._start(_go_round, q))
            for _ in range(5):
                time.sleep(self._random.uniform(0.0, 0.01))
                workers[0].send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, workers[0].process.pid, os.WSTOPPED)
                put = self._call_in_time(lambda: q.put("item", timeout=DEADLINE), what)
                got = self._call_in_time(lambda: q.get(timeout=DEADLINE), what)
                workers[0].send_signal(signal.SIGCONT)
                self._outcome.count(f"Python, {what}")
                self._outcome.count(f"Python, {what}: it held a lock", int(not (put and got)))
                if not put:
                    q.put("item", timeout=WEDGED)
                if not got:
                    q.get(timeout=WEDGED)
            workers[0].connection.send("end")
            workers[0].process.join(WEDGED)
            left = q.qsize()
            if workers[0].process.exitcode != 0:
                self._outcome.fault(f"{what}: it did not go on")
            elif left != 4:
                self._outcome.fault(f"{what}: {left} of 4 items are left")

    def deny_futex(self) -> None:
        """One may not use shared futexes: its waits take the time they should, no more of the processor, and end."""
        what = "a process without futexes"
        if (reason := denied.why_not()) is not None:
            self._outcome.figures[f"Python, {what}"] = f"not run: {reason}"
            return
        for error in (errno.EPERM, errno.ENOSYS):
            with self._queue() as q, _workers() as workers:
                workers.append(self._start(_wait_without_futex, q, error))
                took, computed = workers[0].receive() or (0.0, 0.0)
                if not DEADLINE <= took <= DEADLINE + WEDGED:
                    self._outcome.fault(f"{what}, {os.strerror(error)}: {DEADLINE} s without an item took {took:.3f} s")
                if computed > IDLE * took:
                    self._outcome.fault(f"{what}, {os.strerror(error)}: computes for {computed:.3f} s of {took:.3f} s")
                    return  # it never sleeps
                late = []
                for _ in range(5):
                    workers[0].await_sleep()
                    time.sleep(self._random.uniform(0.0, 0.02))
                    began = time.monotonic()
                    q.put("item")
                    late.append((workers[0].receive() or began + WEDGED) - began)
                if min(late) > PROMPT:  # not the worst, for the machine may be busy
                    self._outcome.fault(f"{what}, {os.strerror(error)}: an item comes after {min(late):.3f} s")
                self._outcome.note_worst(f"Python, {what}: an item comes after, ms", round(max(late) * 1e3, 1))
                q.put(None)
        self._outcome.count(f"Python, {what}")

    def stop_and_kill_reader(self) -> None:
        """One that holds the consumers' lock is stopped, then killed."""
        what = "a reader in place stopped"
        with self._queue() as q, _workers() as workers:
            q.put(b"item")
            workers.append(self._start(_read_in_place, q))
            workers[0].send_signal(signal.SIGSTOP)
            if self._call_in_time(lambda: q.get(timeout=DEADLINE), what):
                self._outcome.fault(f"{what}: its item was taken away")
            workers.append(self._start(_get_one, q))
            workers[1].await_sleep()
            workers[0].send_signal(signal.SIGKILL)
            if (item := workers[1].receive()) != b"item":
                self._outcome.fault(f"{what} and killed: the next one got {item!r}")
        self._outcome.count(f"Python, {what}")

    # ---- groups ----

    def kill_group(self) -> None:
        """Busy producers and consumers die at once; the others go on, and each item is accounted for."""
        with tempfile.TemporaryDirectory(prefix="shmqueue-lost-wakeups-") as scratch:
            journals = Path(scratch)
            with self._queue(buffer_size=1 << 16) as q, _workers() as workers:
                for which in range(MEMBERS + 1):  # the last ones survive
                    workers.append(self._start(_produce, q, journals / f"put{which}", which))
                    workers.append(self._start(_consume, q, journals / f"got{which}", which))
                time.sleep(self._random.uniform(0.01, 0.1))
                for worker in workers[:-2]:
                    worker.send_signal(signal.SIGKILL)
                for worker in workers[:-2]:
                    worker.process.join()
                producer, consumer = workers[-2:]
                self._await_growth(journals / f"put{MEMBERS}", "a survivor puts no more")
                self._await_growth(journals / f"got{MEMBERS}", "a survivor gets no more")
                producer.connection.send("end")
                producer.process.join(WEDGED)
                q.put(None, timeout=WEDGED)
                consumer.process.join(WEDGED)
                if producer.process.exitcode != 0 or consumer.process.exitcode != 0:
                    self._outcome.fault("a group killed: the survivors did not come to their end")
                    return
                left = q.qsize()
            if left != 0:
                self._outcome.fault(f"a group killed: {left} items are left")
            self._account(journals)
        self._outcome.count("Python, a group of 4 busy processes killed")

    def _await_growth(self, journal: Path, else_what: str) -> None:
        size, deadline = journal.stat().st_size, time.monotonic() + WEDGED
        while journal.stat().st_size == size:
            if time.monotonic() > deadline:
                self._outcome.fault(f"a group killed: {else_what}")
                return
            time.sleep(0.001)

    def _account(self, journals: Path) -> None:
        put = {entry for which in range(MEMBERS + 1) for entry in _entries(journals / f"put{which}")}
        taken: set[tuple[int, int]] = set()
        for which in range(MEMBERS + 1):
            last = dict.fromkeys(range(MEMBERS + 1), 0)
            for producer, number in _entries(journals / f"got{which}"):
                if (producer, number) in taken or (producer, number) not in put:
                    self._outcome.fault(f"a group killed: item {number} of {producer} came twice, or from nowhere")
                if number <= last[producer]:
                    self._outcome.fault(f"a group killed: item {number} of {producer} came after {last[producer]}")
                last[producer] = number
                taken.add((producer, number))
        newest = {max(_entries(journals / f"put{which}"), default=(which, 0)) for which in range(MEMBERS)}
        missing = put - taken
        lost = missing - newest  # of the newest ones nobody knows whether their producer came to put them
        if len(missing) > 2 * MEMBERS or len(lost) > MEMBERS:
            self._outcome.fault(f"a group killed: {len(missing)} items are missing: {sorted(missing)[:10]}")
        self._outcome.count("Python, items of groups", len(taken))
        self._outcome.count("Python, items lost with a consumer that was killed", len(lost))


def _entries(journal: Path) -> list[tuple[int, int]]:
    content = journal.read_bytes()
    whole = len(content) // _ENTRY.size * _ENTRY.size
    return [(which, number) for which, number in _ENTRY.iter_unpack(content[:whole])]


def run(options: Options, outcome: Outcome) -> None:
    """All scenes once, and again until the options' time is over; of a long run a tenth if the C program had most."""
    scenes = Scenes(options, outcome)
    end = time.monotonic() + options.seconds * (0.1 if options.is_long and options.engine == "native" else 0.5)
    while True:
        scenes.play_all()
        if outcome.faults or time.monotonic() > end:
            return
