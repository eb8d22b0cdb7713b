"""The processes that are killed: producers, consumers, leasers, openers and anchors, which only have the queue open.

They open the queue by its name, close it and open it again now and then, and write down in their journals what they do.
Whatever is not allowed to happen ends a worker with a ``.fault`` beside its journal that says what it was.
"""

from __future__ import annotations

import mmap
import os
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmqueue import Lease, ShmQueue, ShmQueueEmpty, ShmQueueError, ShmQueueFull, ShmQueueTypeError

from .busy import at_least
from .kill_stress_items import make_item, name_of
from .kill_stress_journal import Journal, What

STALL = at_least(5.0)
"""Seconds: what is not impossible never waits so long while there are others that put and get."""
BRIEF = 0.002  # seconds: a timeout that may well be over before there is anything
SENTINEL = 0
"""The producer whose items tell consumers to leave."""


@dataclass(frozen=True)
class Shape:
    """The queue of a round: ``largest`` bytes of padding in an item, ``batch`` items at once.

    ``leases``: items are taken by lease, by all consumers but one that is not killed.
    """

    title: str
    buffer_size: int
    max_bytes: int | None
    largest: int
    batch: int
    maxsize: int = 0
    leases: bool = False

    def open(self, name: str, create: bool | None) -> ShmQueue:
        return ShmQueue(
            name, buffer_size=self.buffer_size, max_bytes=self.max_bytes, maxsize=self.maxsize, create=create
        )


@dataclass(frozen=True)
class Job:
    """The task of a worker. ``journal`` is its journal's path; ``control`` a byte that is 1 when producers leave."""

    number: int
    role: str
    queue: str
    shape: Shape
    journal: Path
    control: Path
    parent: int
    seed: str


def work(job: Job) -> None:
    """The worker's whole life."""
    try:
        worker = Worker(job)
        roles = {
            "producer": produce,
            "consumer": consume,
            "leaser": lease,
            "holder": hold,
            "opener": keep,
            "anchor": keep,
        }
        roles[job.role](worker)
        worker.close()
        worker.journal.write(What.LEFT)
    except BaseException:
        job.journal.with_suffix(".fault").write_text(traceback.format_exc())
        os._exit(1)


class Worker:
    """Its queue, its journal, and its dice."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.random = random.Random(job.seed)
        self.journal = Journal(job.journal)
        with job.control.open("rb") as control:
            self._control = mmap.mmap(control.fileno(), 1, prot=mmap.PROT_READ)
        self.open(create=job.role == "opener")

    def open(self, create: bool = False) -> None:
        """There is always an anchor that has the queue open: so it must be there."""
        self.journal.write(What.BEGIN_OPEN)
        self.queue = self.job.shape.open(self.job.queue, create)
        self.journal.write(What.OPENED)

    def close(self) -> None:
        self.journal.write(What.BEGIN_CLOSE)
        self.queue.shutdown()
        self.journal.write(What.CLOSED)

    def maybe_reopen(self) -> None:
        if self.random.random() < 0.003:
            self.close()
            self.open()

    @property
    def should_go_on(self) -> bool:
        return self._control[0] == 0 and os.getppid() == self.job.parent


def keep(worker: Worker) -> None:
    while os.getppid() == worker.job.parent:
        time.sleep(0.1)


def hold(worker: Worker) -> None:
    """Lease one item and keep it."""
    lease = worker.queue.lease(timeout=STALL)
    worker.journal.write(What.HANDED)
    keep(worker)
    lease.requeue()


def produce(worker: Worker) -> None:
    """Put items 0, 1, ... until it is time to leave. What was refused is put again."""
    number = 0
    while worker.should_go_on:
        worker.maybe_reopen()
        if worker.random.random() < 0.003:
            time.sleep(worker.random.random() * 0.01)
        put, count, may_be_full = _choose_put(worker)
        items = [make_item(worker.job.number, number + more, worker.job.shape.largest) for more in range(count)]
        worker.journal.write(What.BEGIN_PUT, count, number)
        try:
            put(items)
        except ShmQueueFull as full:
            if not may_be_full or full.items_put:
                raise
            worker.journal.write(What.FULL, count, number)
        else:
            worker.journal.write(What.PUT, count, number)
            number += count


def _choose_put(worker: Worker) -> tuple[Callable[[list[Any]], None], int, bool]:
    """An operation that puts a list, how many items are to be in it, and whether it may find the queue full."""
    queue, dice = worker.queue, worker.random.random()
    if dice < 0.5:
        return lambda items: queue.put(items[0], timeout=STALL), 1, False
    if dice < 0.6:
        return lambda items: queue.put(items[0], timeout=BRIEF), 1, True
    if dice < 0.7:
        return lambda items: queue.put_nowait(items[0]), 1, True
    count = worker.random.randint(2, worker.job.shape.batch)
    if dice < 0.95:
        return lambda items: queue.put_many(items, timeout=STALL), count, False
    return lambda items: queue.put_many(items, block=False), count, True


def consume(worker: Worker) -> None:
    """Take items until one says that it is time to leave, and look at every byte of them."""
    largest = worker.job.shape.largest
    is_over = False
    while not is_over and os.getppid() == worker.job.parent:
        worker.maybe_reopen()
        get, most, may_be_empty = _choose_get(worker)
        worker.journal.write(What.BEGIN_GET, most)
        try:
            items = get()
        except ShmQueueEmpty:
            if not may_be_empty:
                raise
            items = []
        names = [name_of(item, largest) for item in items]
        worker.journal.write_got(names)
        is_over = any(producer == SENTINEL for producer, _ in names)
        if names:
            worker.journal.write(What.BEGIN_DONE, len(names))
            for _ in names:
                worker.queue.task_done()
            worker.journal.write(What.DONE, len(names))


def _choose_get(worker: Worker) -> tuple[Callable[[], list[Any]], int, bool]:
    """An operation that returns a list, how many items it takes at most, and whether it may find the queue empty."""
    queue, dice = worker.queue, worker.random.random()
    if dice < 0.5:
        return lambda: [queue.get(timeout=STALL)], 1, False
    if dice < 0.6:
        return lambda: [queue.get(timeout=BRIEF)], 1, True
    if dice < 0.7:
        return lambda: [queue.get_nowait()], 1, True
    most = worker.random.randint(2, 16)
    if dice < 0.95:
        return lambda: queue.get_many(most, timeout=STALL), most, False
    return lambda: queue.get_many(most, timeout=BRIEF), most, True


def lease(worker: Worker) -> None:
    """Take items by lease or view, hold some, acknowledge or requeue them, until one says that it is time to leave.

    It never waits long for an item while it holds others: they may be all that there is room for.
    """
    leases = _Leases(worker)
    while not leases.is_over and os.getppid() == worker.job.parent:
        if worker.random.random() < 0.003:
            leases.requeue_all_by_closing()
            worker.open()
        if leases.held and (len(leases.held) == _HELD or worker.random.random() < 0.6):
            leases.end_one()
        elif not leases.held and worker.random.random() < 0.3:
            leases.view_one()
        else:
            leases.take_one()
        if worker.random.random() < (0.2 if leases.held else 0.01):
            time.sleep(worker.random.random() * 0.01)  # most are killed with an item in their hands
    while leases.held:  # nobody may be there any more that takes them
        leases.end_one(requeue=False)


_HELD = 3


class _Leases:
    """Those of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.held: list[tuple[tuple[int, int], Lease[Any]]] = []
        self.is_over = False

    def take_one(self) -> None:
        worker = self._worker
        may_be_empty = bool(self.held) or worker.random.random() < 0.2
        worker.journal.write(What.BEGIN_LEASE, 1)
        try:
            taken = worker.queue.lease(timeout=BRIEF if may_be_empty else STALL)
        except ShmQueueEmpty:
            if not may_be_empty:
                raise
            worker.journal.write_leased(None, 0)
            return
        except ShmQueueError as error:
            self._expect_too_many(error)
            return
        name = name_of(taken.item, worker.job.shape.largest)
        worker.journal.write_leased(name, taken.attempt)
        self.held.append((name, taken))
        self.is_over = self.is_over or name[0] == SENTINEL

    def view_one(self) -> None:
        worker = self._worker
        worker.journal.write(What.BEGIN_LEASE, 1)
        try:
            view = worker.queue.get_view(timeout=BRIEF)
        except (ShmQueueEmpty, ShmQueueTypeError):
            worker.journal.write_leased(None, 0)
            return
        except ShmQueueError as error:
            self._expect_too_many(error)
            return
        with view as contents:
            name = name_of(bytes(contents), worker.job.shape.largest)
            worker.journal.write_leased(name, 0)
            if name_of(bytes(contents), worker.job.shape.largest) != name:
                raise ValueError(f"item {name} changed while it was viewed")
            worker.journal.write(What.BEGIN_ACK, *name)
        worker.journal.write(What.ACKED, *name)
        self.is_over = self.is_over or name[0] == SENTINEL

    def _expect_too_many(self, error: ShmQueueError) -> None:
        """Where the dead and the living have more than there is room for beside the queue: only a portable one."""
        if "items are leased, and there is no room" not in str(error):
            raise error
        self._worker.journal.write_leased(None, 0)

    def end_one(self, requeue: bool | None = None) -> None:
        worker = self._worker
        name, taken = self.held.pop(worker.random.randrange(len(self.held)))
        if requeue is None:
            requeue = name[0] != SENTINEL and worker.random.random() < 0.2
        worker.journal.write(What.BEGIN_REQUEUE if requeue else What.BEGIN_ACK, *name)
        if not (taken.requeue if requeue else taken.ack)():
            raise ValueError(f"the lease of item {name} was over, and nobody had ended it")
        worker.journal.write(What.REQUEUED if requeue else What.ACKED, *name)

    def requeue_all_by_closing(self) -> None:
        for name, _ in self.held:
            self._worker.journal.write(What.BEGIN_REQUEUE, *name)
        self._worker.close()
        self.held.clear()
