"""Processes that create, attach, put, get, close and die on one name: there is one queue under it, whole, or none.

Fails if: there are two queues under one name at a time, an item is lost that no killed process explains, an orphan with
items is removed or cannot be adopted, a file or a process is left, or an open takes too long.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shmqueue import ShmQueue
from shmqueue.inspection import look_at, remove_orphans
from shmqueue.segment import directory, path_of, sweep_orphans

from .busy import at_least
from .life_cycle_history import History
from .life_cycle_workers import NAME, Job, work
from .outcome import Mutant, Options, Outcome

TITLE = "A storm of processes that come, go and die on one name"
WORKERS = 5
ROUND = 1.5  # seconds; the diaries of a round are kept that long
LONGEST_STOP = 0.03  # seconds
STARTING = at_least(10.0)  # seconds that processes may take to start
STALL = at_least(5.0)
"""Seconds: an open never waits so long, with the stops and what a loaded machine adds."""

MUTANTS = (
    Mutant(
        "attach does not look whether the name is gone",
        "shmqueue/segment/lifecycle.py",
        "                if fcntl is not None and not same_file(fd, path):",
        "                if False:",
    ),
    Mutant(
        "unlink without the lock",
        "shmqueue/segment/locks.py",
        "        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
    ),
    Mutant(
        "a segment has its name before its header",
        "shmqueue/segment/files.py",
        """            fill(fd)
            if as_holder:
                lock_shared(fd, path)
            elif temporary is not None and fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_UN)
            if _give_name(fd, temporary, path):
""",
        """            if as_holder:
                lock_shared(fd, path)
            elif temporary is not None and fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_UN)
            if _give_name(fd, temporary, path):
                fill(fd)
""",
    ),
)


FIGURES = (
    "opens",
    "queues created",
    "queues attached to",
    "to be found, and not there",
    "to be created, and in use",
    "killed while they opened",
    "incarnations seen",
    "workers killed",
    "all killed at once",
    "stopped and continued",
    "orphans adopted",
    "orphans swept or removed",
    "items put",
    "items got",
    "worst open (ms)",
)


def run(options: Options) -> Outcome:
    outcome = Outcome({"engine": options.engine, "start method": options.start_method, **dict.fromkeys(FIGURES, 0)})
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="shmqueue-life-cycle-", dir=tempfile.gettempdir()))
    try:
        number = 0
        while not outcome.faults and (number == 0 or time.monotonic() < began + options.seconds):
            Storm(number, options, outcome, scratch).run(min(ROUND, options.seconds))
            number += 1
    finally:
        shutil.rmtree(scratch)
    outcome.figures["rounds"] = number
    outcome.figures["seconds"] = round(time.monotonic() - began)
    left = len(multiprocessing.active_children())
    outcome.figures["processes left"] = left
    if left:
        outcome.fault(f"{left} processes are left")
    return outcome


@dataclass
class Worker:
    """A process, as the storm sees it."""

    job: Job
    process: BaseProcess
    stopped_until: float | None = None

    @property
    def has_begun(self) -> bool:
        return self.job.diary.exists()

    def signal(self, number: int) -> None:
        if self.process.exitcode is None:  # else its number may be another one's by now
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def wait_until_last_words(self, *words: str) -> None:
        """Until one of them is the last that it wrote. Not long."""
        for _ in range(50):
            try:
                with self.job.diary.open("rb") as diary:
                    diary.seek(-min(64, os.fstat(diary.fileno()).st_size), os.SEEK_END)
                    line = diary.read().decode().splitlines()[-1:]
            except FileNotFoundError:  # it has not come so far
                return
            if line and line[0].split()[1:2] and line[0].split()[1] in words:
                return


class Storm:
    """One round, of which nothing is left afterwards."""

    def __init__(self, number: int, options: Options, outcome: Outcome, scratch: Path) -> None:
        self.number, self.options, self.outcome, self.scratch = number, options, outcome, scratch
        self.random = random.Random(f"{options.seed} storm {number}")
        self.context: Any = multiprocessing.get_context(options.start_method)
        self.history = History()
        self.workers: list[Worker] = []
        self.started = 0

    def run(self, seconds: float) -> None:
        try:
            self._start_all()
            spawning = 4.0 if self.options.start_method == "spawn" else 1.0
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self.outcome.faults:
                time.sleep(self.random.expovariate(1 / (0.003 * spawning)))
                self._do_one_thing()
        finally:
            self._kill_all()
        if not self.outcome.faults:
            self._adopt_or_sweep()
            self._check()
        remove_orphans()  # of a round with a fault: what that left is no other one

    def _start(self) -> None:
        self.started += 1
        name = f"{self.number}-{self.started}"
        job = Job(self.started, self.scratch / f"{name}.diary", os.getpid(), f"{self.options.seed} worker {name}")
        process = self.context.Process(target=work, args=(job,), daemon=True)
        process.start()
        self.workers.append(Worker(job, process))

    def _start_all(self) -> None:
        for _ in range(WORKERS):
            self._start()
        deadline = time.monotonic() + STARTING
        while not all(worker.has_begun for worker in self.workers) and time.monotonic() < deadline:
            time.sleep(0.001)

    def _kill(self, victims: list[Worker]) -> None:
        """All at once, then close their books."""
        about_to_die = time.monotonic_ns()
        for worker in victims:
            worker.process.kill()
        for worker in victims:
            worker.process.join()
            self.workers.remove(worker)
            self.history.add(worker.job.number, worker.job.diary, about_to_die, time.monotonic_ns())
            fault = worker.job.diary.with_suffix(".fault")
            if fault.exists():
                what = fault.read_text() or "was killed before it had said what was wrong"
                self.outcome.fault(f"worker {worker.job.number}: {what}")
                fault.unlink()
            worker.job.diary.unlink(missing_ok=True)

    def _kill_all(self) -> None:
        self._kill(list(self.workers))

    def _do_one_thing(self) -> None:
        for worker in list(self.workers):
            if worker.stopped_until is not None and time.monotonic() >= worker.stopped_until:
                worker.signal(signal.SIGCONT)
                worker.stopped_until = None
            if worker.process.exitcode is not None:
                if not worker.job.diary.with_suffix(".fault").exists():
                    self.outcome.fault(f"a worker ended by itself: {worker.process.exitcode}")
                self._kill([worker])
                self._start()
        dice, victim = self.random.random(), self.random.choice(self.workers)
        if not victim.has_begun and self.random.random() < 0.9:
            return
        if dice < 0.85 and victim.stopped_until is None and self.random.random() < 0.7:
            victim.wait_until_last_words("open", "close")
        if dice < 0.4:
            self._kill([victim])
            self.outcome.count("workers killed")
            self._start()
        elif dice < 0.43:
            self.outcome.count("workers killed", len(self.workers))
            self.outcome.count("all killed at once")
            self._kill_all()
            self._start_all()
        elif dice < 0.85 and victim.stopped_until is None:
            victim.signal(signal.SIGSTOP)
            victim.stopped_until = time.monotonic() + self.random.random() * LONGEST_STOP
            self.outcome.count("stopped and continued")

    def _adopt_or_sweep(self) -> None:
        """All are dead. The next open of the name adopts what they left; one of another name keeps items."""
        orphan = os.path.exists(path_of(NAME))
        if self.number % 2:
            items = look_at(NAME).items if orphan else 0
            with ShmQueue("another"):  # which may sweep what is empty
                if items and not os.path.exists(path_of(NAME)):
                    self.outcome.fault(f"an orphan with {items} items was removed by the open of another queue")
            sweep_orphans()
            if os.path.exists(path_of(NAME)) != (items != 0):
                self.outcome.fault(f"a sweep did the wrong thing to an orphan with {items} items")
            remove_orphans()
            self.outcome.count("orphans swept or removed", int(orphan))
        else:
            with ShmQueue(NAME) as queue:
                if orphan == queue._segment.created:
                    self.outcome.fault("a queue whose holders are all dead was not adopted")
                while queue.qsize():
                    queue.get(timeout=STALL)
                queue.put("adopted", timeout=STALL)
                if queue.get(timeout=STALL) != "adopted":
                    self.outcome.fault("an adopted queue does not work")
            self.outcome.count("orphans adopted", int(orphan))
        left = os.listdir(directory())
        if left:
            self.outcome.fault(f"left by killed processes: {left}")
        for uuid in self.history.incarnations:
            block = Path("/dev/shm") / f"shmqueue-block-{uuid}"
            if block.exists():
                self.outcome.fault(f"left by killed processes: {block}")
                block.unlink()

    def _check(self) -> None:
        history, count = self.history, self.outcome.count
        for fault in history.faults():
            self.outcome.fault(fault)
        if history.worst_open > STALL * 1e9:
            self.outcome.fault(f"an open took {history.worst_open / 1e9:.1f} s")
        count("opens", len(history.sessions))
        count("queues created", history.created)
        count("queues attached to", history.count("held") - history.created)
        count("to be found, and not there", history.count("missing"))
        count("to be created, and in use", history.count("exists"))
        count("killed while they opened", history.count("killed"))
        count("incarnations seen", len(history.incarnations))
        count("items put", history.put)
        count("items got", history.got)
        self.outcome.note_worst("worst open (ms)", history.worst_open // 1_000_000)
