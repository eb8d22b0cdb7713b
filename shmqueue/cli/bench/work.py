"""What a worker does: open its side of the queue, wait until all are ready, work, and tell the times.

``time.perf_counter`` is the same clock in all processes of a machine.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .drivers import Driver
from .kinds import Kind, Made, Mistake, Numbered, Raw

__all__ = ["BATCH", "Job", "Told", "roles_of"]

BATCH = 100
_POOL = 1000  # a multiple of it


@dataclass(frozen=True)
class Job:
    """One measurement, as the workers see it."""

    shape: str
    """stream: items go through. leases: the same, and each is leased and acknowledged. logged: they go through between
    any number of processes. batches: many at once. pair: one process puts and takes in turn. convert: it does so
    without a queue. round-trip: there and back. async-round-trip: the same by coroutines. idle: one waits."""
    kind: Kind
    producers: int
    consumers: int
    items: int
    queued: int
    """Items that are in the queue during a pair."""
    seconds: float
    """How long to be idle."""


@dataclass
class Told:
    """What a worker tells when it is done; times in seconds."""

    begin: float
    end: float
    cpu: float
    """Processor time, of all threads, user and system."""
    log: Any = None
    """Numbers: of the items in the order of arrival, or nanoseconds of each round trip."""


class Barrier(Protocol):
    """As ``multiprocessing`` has it."""

    def wait(self) -> object: ...


Role = Callable[[Job, list[Driver], Barrier], Told]


def roles_of(job: Job) -> list[Role]:
    """What the workers do, one after the other."""
    if job.shape in ("pair", "convert"):
        return [_pair if job.shape == "pair" else _convert]
    if job.shape == "round-trip":
        return [_ask, _answer]
    if job.shape == "async-round-trip":
        return [_ask_in_a_loop, _answer_in_a_loop]
    if job.shape == "idle":
        return [_sleep, _wake]
    produce, consume = {
        "stream": (_produce, _consume),
        "leases": (_produce, _acknowledge),
        "logged": (_produce, _log),
        "batches": (_put_many, _get_many),
    }[job.shape]
    return [
        *(_numbered(consume, index) for index in range(job.consumers)),
        *(_numbered(produce, index) for index in range(job.producers)),
    ]


def _numbered(role: Callable[[Job, Driver, Barrier, int], Told], index: int) -> Role:
    return lambda job, lanes, ready: role(job, lanes[0], ready, index)


def _measured(ready: Barrier, work: Callable[[], Any], finish: Callable[[], object] | None = None) -> Told:
    """Do it when all are ready, and finish when all have done it: what one has sent may be lost when it leaves early.

    That counts as processor time only.
    """
    ready.wait()
    spent = time.process_time()
    begin = time.perf_counter()
    log = work()
    end = time.perf_counter()
    ready.wait()
    if finish is not None:
        finish()
    return Told(begin, end, time.process_time() - spent, log)


def _produce(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    sender = queue.sender(index)
    numbers = range(index, job.items, job.producers)
    kind, make = job.kind, sender.make
    if isinstance(kind, Made) and make is not None:
        return _measured(ready, lambda: kind.produce_in_place(make, numbers), sender.finish)
    return _measured(ready, lambda: kind.produce(sender.put, numbers), sender.finish)


def _consume(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    receiver = queue.receiver(index)
    kind, lend = job.kind, receiver.lend
    if isinstance(kind, (Raw, Made)) and lend is not None:
        return _measured(ready, lambda: kind.consume_lent(lend, job.items), receiver.finish)
    return _measured(ready, lambda: kind.consume(receiver.get, job.items), receiver.finish)


def _acknowledge(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    receiver = queue.receiver(index)
    kind, lease = _numbered_kind(job), receiver.lease
    assert lease is not None
    return _measured(ready, lambda: kind.acknowledge(lease, job.items), receiver.finish)


def _log(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    receiver = queue.receiver(index)
    kind = _numbered_kind(job)
    return _measured(ready, lambda: kind.log(receiver.get, job.items // job.consumers), receiver.finish)


def _put_many(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    sender, pool = queue.sender(index), _pool(job)
    put_many = sender.put_many
    assert put_many is not None

    def work() -> None:
        for start in range(0, job.items, BATCH):
            place = start % _POOL
            put_many(pool[place : place + BATCH])

    return _measured(ready, work, sender.finish)


def _get_many(job: Job, queue: Driver, ready: Barrier, index: int) -> Told:
    receiver, pool = queue.receiver(index), _pool(job)
    get_many = receiver.get_many
    assert get_many is not None

    def work() -> None:
        number = 0
        while number < job.items:
            items = get_many(BATCH)
            start = number % _POOL
            due = pool[start : start + len(items)]
            if items != due:
                place = next(place for place in range(len(due)) if items[place] != due[place])
                raise Mistake(number + place, items[place])
            number += len(items)

    return _measured(ready, work, receiver.finish)


def _pool(job: Job) -> list[Any]:
    """Items that are made before the clock starts, and go round and round; at the end, the first once more."""
    return _numbered_kind(job).make([number % _POOL for number in range(_POOL + BATCH)])


def _pair(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    receiver, sender, kind = lanes[0].receiver(0), lanes[0].sender(0), _numbered_kind(job)
    kind.produce(sender.put, range(job.queued))
    told = _measured(ready, lambda: kind.pair(sender.put, receiver.get, job.queued, job.items, job.queued))
    for number in range(job.items, job.items + job.queued):
        item = receiver.get()
        if [item] != kind.make([number]):
            raise Mistake(number, item)
    sender.finish()
    receiver.finish()
    return told


def _convert(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    msgpack = importlib.import_module("msgpack")
    pack, unpack, kind = msgpack.Packer().pack, msgpack.unpackb, _numbered_kind(job)
    return _measured(ready, lambda: kind.convert(pack, unpack, job.items))


def _ask(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    sender, receiver = lanes[0].sender(0), lanes[1].receiver(0)
    put, get, clock = sender.put, receiver.get, time.perf_counter_ns
    times: list[int] = []

    def work() -> list[int]:
        for number in range(job.items):
            begin = clock()
            put(number)
            item = get()
            times.append(clock() - begin)
            if item != number:
                raise Mistake(number, item)
        return times

    told = _measured(ready, work)
    sender.finish()
    receiver.finish()
    return told


def _answer(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    receiver, sender = lanes[0].receiver(0), lanes[1].sender(0)
    put, get = sender.put, receiver.get

    def work() -> None:
        for _ in range(job.items):
            put(get())

    told = _measured(ready, work)
    sender.finish()
    receiver.finish()
    return told


def _ask_in_a_loop(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    import asyncio  # here, as in drivers.py

    sender, receiver = lanes[0].sender(0), lanes[1].receiver(0)
    put, get, clock = sender.put, receiver.get, time.perf_counter_ns

    async def work() -> list[int]:
        times: list[int] = []
        for number in range(job.items):
            begin = clock()
            await put(number)
            item = await get()
            times.append(clock() - begin)
            if item != number:
                raise Mistake(number, item)
        return times

    told = _measured(ready, lambda: asyncio.run(work()))
    sender.finish()
    receiver.finish()
    return told


def _answer_in_a_loop(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    import asyncio

    receiver, sender = lanes[0].receiver(0), lanes[1].sender(0)
    put, get = sender.put, receiver.get

    async def work() -> None:
        for _ in range(job.items):
            await put(await get())

    told = _measured(ready, lambda: asyncio.run(work()))
    sender.finish()
    receiver.finish()
    return told


def _sleep(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    receiver = lanes[0].receiver(0)

    def work() -> None:
        item = receiver.get()
        if item != 0:
            raise Mistake(0, item)

    return _measured(ready, work, receiver.finish)


def _wake(job: Job, lanes: list[Driver], ready: Barrier) -> Told:
    sender = lanes[0].sender(0)

    def work() -> None:
        time.sleep(job.seconds)  # this is what is measured: how the other one waits so long
        sender.put(0)

    return _measured(ready, work, sender.finish)


def _numbered_kind(job: Job) -> Numbered:
    assert isinstance(job.kind, Numbered)
    return job.kind
