"""The processes that are tortured: producers, consumers, and keepers, who only hold the queue.

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

from shmqueue import ShmQueue, ShmQueueEmpty, ShmQueueFull

from .busy import at_least
from .torture_items import make_item, name_of
from .torture_journal import Journal, What

STALL = at_least(5.0)
"""Seconds: what is not impossible never waits so long while there are others who put and get."""
BRIEF = 0.002  # seconds: a timeout that may well be over before there is anything
SENTINEL = 0
"""The producer whose items tell consumers to leave."""


@dataclass(frozen=True)
class Shape:
    """The queue of a round: ``largest`` bytes of padding in an item, ``batch`` items at once."""

    title: str
    buffer_size: int
    max_bytes: int | None
    largest: int
    batch: int
    maxsize: int = 0

    def open(self, name: str, create: bool | None) -> ShmQueue:
        return ShmQueue(
            name, buffer_size=self.buffer_size, max_bytes=self.max_bytes, maxsize=self.maxsize, create=create
        )


@dataclass(frozen=True)
class Job:
    """What a worker is told. ``journal`` is its journal's path; ``control`` a byte that is 1 when producers leave."""

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
        {"producer": produce, "consumer": consume, "opener": keep, "keeper": keep}[job.role](worker)
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
        """There is always a keeper who holds the queue: so it must be there."""
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
