"""One round: a queue, processes that use it, and one that kills them."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shmqueue import ShmQueueEmpty, ShmQueueFull
from shmqueue.segment import path_of, read_header, sweep_orphans

from .busy import at_least
from .kill_stress_accounts import Accounts, Puts
from .kill_stress_items import make_item, name_of
from .kill_stress_journal import Line, What, last_line, read_journal
from .kill_stress_victims import Victim
from .kill_stress_workers import SENTINEL, STALL, Job, Shape, work
from .outcome import Options, Outcome

WORKERS = ("producer", "producer", "producer", "consumer", "consumer", "consumer")
LEASING_WORKERS = ("producer", "producer", "producer", "consumer", "leaser", "leaser", "leaser", "leaser")
LONGEST_STOP = 0.15  # seconds
LONGEST_HOLDER_STOP = 0.6  # several looks whether holders live
REDELIVERIES = 3  # that are measured after a round
WEDGED = at_least(5.0)  # seconds that none of them takes
NOISE = at_least(1.0)  # seconds that a loaded machine may keep everybody from running
STARTING = at_least(20.0)  # seconds in which a process has started, and has the queue
LEAVING = at_least(15.0)  # seconds in which all have left, one after the other; they wait for STALL at most


@dataclass
class Round:
    """``run`` it once."""

    number: int
    shape: Shape
    options: Options
    outcome: Outcome
    directory: Path
    redeliveries: list[int] = field(default_factory=list)
    accounts: Accounts = field(default_factory=Accounts)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.options.seed} round {self.number}")
        self.context: Any = multiprocessing.get_context(self.options.start_method)
        self.queue_name = f"kill-stress-{self.number}"
        self.control = self.directory / f"{self.number}.control"
        self.control.write_bytes(b"\0")
        self.roles = LEASING_WORKERS if self.shape.leases else WORKERS
        self.accounts.has_leases = self.shape.leases
        self.workers: list[Victim] = []
        self.anchor: Victim | None = None
        self.next_anchor: Victim | None = None
        self.started = SENTINEL
        self.memory = 0  # bytes that the segment has
        self.leaving_until = 0.0

    def run(self, seconds: float) -> None:
        try:
            self._begin()
            self._kill_at_random(time.monotonic() + seconds)
            self._end()
        finally:
            for worker in [*self.workers, self.anchor, self.next_anchor]:
                if worker is not None:
                    worker.kill()
            if self.outcome.faults:
                sweep_orphans()  # what the fault left is no other one
            self._remove_files()

    # ---- processes ----

    def _start(self, role: str, is_spared: bool = False) -> Victim:
        self.started += 1
        job = Job(
            number=self.started,
            role=role,
            queue=self.queue_name,
            shape=self.shape,
            journal=self.directory / f"{self.number}-{self.started}.journal",
            control=self.control,
            parent=os.getpid(),
            seed=f"{self.options.seed} round {self.number} worker {self.started}",
        )
        process = self.context.Process(target=work, args=(job,), daemon=True)
        process.start()
        return Victim(job, process, is_spared)

    def _close_books(self, worker: Victim) -> None:
        """Of a worker that has ended."""
        self.accounts.add(worker.job.number, read_journal(worker.job.journal), time.monotonic_ns(), worker.killed)
        fault = worker.job.journal.with_suffix(".fault")
        if fault.exists():
            what = fault.read_text() or "was killed before it had said what was wrong"
            self.outcome.fault(f"{worker.job.role} {worker.job.number}: {what}")
            fault.unlink()
        worker.job.journal.unlink(missing_ok=True)

    def _wait_until_open(self, worker: Victim, lines: int = 2) -> None:
        """Or, for a holder, until it has written more ``lines``."""
        deadline = time.monotonic() + STARTING
        while last_line(worker.job.journal)[0] < lines and worker.process.exitcode is None:
            if time.monotonic() > deadline:
                self.outcome.fault(f"a {worker.job.role} has not opened the queue in {STARTING} s")
                return
            time.sleep(0.001)

    # ---- what is done to them ----

    def _begin(self) -> None:
        opener = self._start("opener")
        self._wait_until_open(opener)
        self.segment = path_of(self.queue_name)
        self.uuid = read_header(self.segment).uuid.hex() if os.path.exists(self.segment) else ""
        self.anchor = opener
        for index, role in enumerate(self.roles):
            self.workers.append(self._start(role, is_spared=role not in self.roles[:index]))
            if index == 0:  # so that consumers never wait for the first producer to start
                self._wait_until_open(self.workers[0])

    def _kill_at_random(self, deadline: float) -> None:
        """Until the deadline, or the first fault."""
        spawning = 4.0 if self.options.start_method == "spawn" else 1.0
        while time.monotonic() < deadline and not self.outcome.faults:
            time.sleep(self.random.expovariate(1 / (0.006 * spawning)))
            self._look_after_anchors()
            self._look_after_workers()
            self._look_at_memory()
            dice = self.random.random()
            if dice < (0.6 if self.shape.leases else 0.75):
                self._kill_one()
            elif dice < 0.9:
                self._stop(self.random.choice(self._to_be_stopped()))
            elif dice < 0.95:
                role = self.random.choice(self.roles)
                for worker in self.workers:
                    if worker.job.role == role:
                        self._stop(worker)
        for worker in self.workers:
            worker.go_on()

    def _look_after_anchors(self) -> None:
        """The process that has the queue open, at first its maker, is killed as soon as another one has it open."""
        if self.next_anchor is None:
            if self.random.random() < 0.1:
                self.next_anchor = self._start("anchor")
        elif self.next_anchor.has_opened or self.next_anchor.process.exitcode is not None:
            self._kill_anchor(self.anchor)
            self.anchor, self.next_anchor = self.next_anchor, None

    def _kill_anchor(self, anchor: Victim | None) -> None:
        if anchor is not None:
            anchor.kill()
            self._close_books(anchor)
            self.outcome.count(f"{anchor.job.role}s killed")

    def _look_after_workers(self) -> None:
        now = time.monotonic()
        for index, worker in enumerate(self.workers):
            worker.go_on(now)
            if worker.process.exitcode is not None:
                self._close_books(worker)
                if not self.outcome.faults:
                    self.outcome.fault(f"a {worker.job.role} ended by itself: {worker.process.exitcode}")
                self.workers[index] = self._start(worker.job.role, worker.is_spared)

    def _look_at_memory(self) -> None:
        """Count how often an elastic queue has given memory back."""
        if self.shape.max_bytes is None:
            return
        try:
            memory = os.stat(self.segment).st_blocks * 512
        except FileNotFoundError:
            if not self.outcome.faults:
                self.outcome.fault("the queue has lost its name")
            return
        self.outcome.note_worst("most memory of an elastic queue (bytes)", memory)
        if memory < self.memory:
            self.outcome.count("elastic queues gave memory back")
        self.memory = memory

    def _kill_one(self) -> None:
        index = self.random.choice([i for i, worker in enumerate(self.workers) if not worker.is_spared])
        worker = self.workers[index]
        if not worker.has_opened and self.random.random() < 0.8:
            return  # a process that only starts is killed now and then
        if self.random.random() < 0.5:
            worker.wait_until_busy()
        worker.kill()
        self._close_books(worker)
        self.outcome.count(f"{worker.job.role}s killed")
        self.workers[index] = self._start(worker.job.role)

    def _to_be_stopped(self) -> list[Victim]:
        return [worker for worker in self.workers if worker.job.role == "leaser" or not self.shape.leases]

    def _stop(self, worker: Victim) -> None:
        if worker.job.role == "leaser":
            worker.wait_until_busy()
        longest = LONGEST_HOLDER_STOP if worker.job.role == "leaser" else LONGEST_STOP
        if worker.stop(self.random.random() * longest):
            self.outcome.count("stopped and continued")

    # ---- the end ----

    def _end(self) -> None:
        """Everybody leaves in good order; then the queue is empty, and the accounts are in order."""
        if self.outcome.faults:
            return
        for worker in self.workers:
            self._wait_until_open(worker)
        with self.control.open("r+b") as control:  # in place: some may be mapping it just now
            control.write(b"\1")
        self.leaving_until = time.monotonic() + LEAVING
        if not self._have_ended([worker for worker in self.workers if worker.job.role == "producer"]):
            return
        with self.shape.open(self.queue_name, create=False) as self.queue:
            self._kill_anchor(self.anchor)
            self._kill_anchor(self.next_anchor)
            self.anchor = self.next_anchor = None
            if self._consumers_have_left():
                self._drain()
                self._check()
                self._measure_redelivery()

    def _have_ended(self, workers: list[Victim]) -> bool:
        """Wait until they have, and close their books; False if there was a fault, or one does not end."""
        for worker in workers:
            worker.process.join(max(0.0, self.leaving_until - time.monotonic()))
            if worker.process.exitcode is None:
                _, last = last_line(worker.job.journal)
                what = "nothing" if last is None else What(last.what).name
                self.outcome.fault(f"a {worker.job.role} has not left in {LEAVING} s; the last it wrote is {what}")
                return False
            self._close_books(worker)
        self.workers = [worker for worker in self.workers if worker not in workers]
        return not self.outcome.faults

    def _consumers_have_left(self) -> bool:
        """Each takes one or more sentinels and leaves."""
        puts = self.accounts.puts.setdefault(SENTINEL, Puts())
        while any(worker.process.exitcode is None for worker in self.workers) and time.monotonic() < self.leaving_until:
            try:
                if self.queue.qsize() < len(self.roles):
                    self.queue.put_nowait(make_item(SENTINEL, puts.sure, self.shape.largest))
                    puts.sure += 1
            except ShmQueueFull:
                pass
            time.sleep(0.002)
        return self._have_ended(self.workers)

    def _drain(self) -> None:
        """What is left are sentinels, and what processes had that were killed in the end."""
        got = []
        while self.queue.qsize() or (leased := self.queue.statistics().leased):
            try:
                got.append(name_of(self.queue.get(timeout=STALL), self.shape.largest))
            except ShmQueueEmpty:
                self.outcome.fault(f"{leased} items are leased by processes that have ended {STALL} s ago")
                return
        now = time.monotonic_ns()
        lines = [Line(What.GOT, 1, number, producer) for producer, number in got]
        self.accounts.add(SENTINEL, [Line(What.BEGIN_GET, len(got), 0, now), *lines, Line(What.GET_ENDS, 0, 0, now)], 0)
        if any(producer != SENTINEL for producer, _ in got) and not self.shape.leases:
            self.outcome.fault("consumers have left items that were put before they were told to leave")

    def _check(self) -> None:
        queue, accounts = self.queue, self.accounts
        statistics, unfinished = queue.statistics(), queue.unfinished_tasks
        for fault in accounts.faults(statistics.puts, statistics.gets, unfinished):
            self.outcome.fault(fault)
        if queue.buffer_occupancy() != 0:
            self.outcome.fault(f"{queue.buffer_occupancy()} bytes are in use in an empty queue")
        for left in range(unfinished, 0, -1):
            if queue.join(timeout=0):
                self.outcome.fault(f"join() does not wait for {left} unfinished items")
                break
            queue.task_done()
        if not queue.join(timeout=STALL):
            self.outcome.fault("join() waits, and nothing is unfinished")
        queue.put("afterwards", timeout=STALL)
        if queue.get(timeout=STALL) != "afterwards":
            self.outcome.fault("what was put afterwards did not come out")
        count, worst = self.outcome.count, self.outcome.note_worst
        count("items put", accounts.put)
        count("items put by producers killed in the put", accounts.put_by_the_dead)
        count("items got", accounts.got)
        count("items lost with a killed consumer", accounts.missing)
        count("items that killed consumers may have had", accounts.lost_at_most)
        count("items not put by producers killed in the put", accounts.unsure)
        if self.shape.leases:
            count("items leased", sum(map(len, accounts.holdings.values())))
            count("leased items lost", accounts.lost)
            count("items redelivered after a death", len(accounts.redeliveries))
            for wait in accounts.redeliveries:
                worst("worst redelivery in a busy queue (ms)", wait // 1_000_000)
        count("items doubled", accounts.doubled)
        count("items reordered", accounts.reordered)
        count("locks taken over from the dead", statistics.recoveries)
        for operation, nanoseconds in accounts.worst_wait.items():
            worst(f"worst {operation} (ms)", nanoseconds // 1_000_000)
            if nanoseconds > (STALL + NOISE) * 1e9:
                self.outcome.fault(f"a call of {operation} took {nanoseconds / 1e9:.1f} s")

    def _measure_redelivery(self) -> None:
        """How long an item of a killed process takes to one that waits for it."""
        for _ in range(REDELIVERIES if self.shape.leases and not self.outcome.faults else 0):
            self.queue.put("redelivered", timeout=STALL)
            holder = self._start("holder")
            self._wait_until_open(holder, lines=3)
            killer = threading.Timer(self.random.random() * 0.1, holder.kill)  # at any moment of the wait
            killer.start()
            try:
                with self.queue.lease(timeout=WEDGED) as lease:
                    now = time.monotonic_ns()
                    killer.join()
                    if (lease.item, lease.attempt) != ("redelivered", 2) or holder.killed is None:
                        self.outcome.fault(f"{lease.item} came instead of what a killed process had")
                        return
            except ShmQueueEmpty:
                killer.join()
                self.outcome.fault(f"what a killed process had has not come in {WEDGED} s")
                return
            self.redeliveries.append(now - holder.killed)

    def _remove_files(self) -> None:
        for path in self.directory.glob(f"{self.number}[-.]*"):
            path.unlink(missing_ok=True)

    def check_leftovers(self) -> None:
        """When all have ended: of a queue that was closed in good order nothing is left."""
        block = Path("/dev/shm") / f"shmqueue-block-{self.uuid}"
        if block.exists():
            self.outcome.fault(f"left behind: {block}")
            block.unlink()
