"""The queues and the calls that are interrupted, and what each call may change."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import shmqueue
from shmqueue.compat import multiprocessing as shared_multiprocessing
from shmqueue.compat import queue as shared_queue

Counts = tuple[int, int, int]
"""How many items were ever put and taken, and how often task_done() was counted."""


@dataclass(frozen=True)
class Target:
    """A class of queues."""

    name: str
    make: Callable[[str], Any]
    has_many: bool = True
    has_tasks: bool = True

    def close(self, queue: Any) -> None:
        """Give the queue up in this process."""
        (queue.shutdown if isinstance(queue, shmqueue.ShmQueue) else queue.close)()


TARGETS = (
    Target("ShmQueue", lambda name: shmqueue.ShmQueue(name, buffer_size=1 << 20)),
    Target("queue.Queue", lambda name: shared_queue.Queue(name=name)),
    Target("multiprocessing.Queue", lambda name: shared_multiprocessing.Queue(name=name), has_tasks=False),
    Target("multiprocessing.JoinableQueue", lambda name: shared_multiprocessing.JoinableQueue(name=name)),
    Target("multiprocessing.SimpleQueue", lambda name: shared_multiprocessing.SimpleQueue(name=name), False, False),
)


def new_name() -> str:
    """A name that no queue has."""
    return f"interruption-{os.getpid()}-{os.urandom(4).hex()}"


def engine_of(queue: Any) -> Any:
    """The engine that moves the queue's bytes."""
    return queue._engine if isinstance(queue, shmqueue.ShmQueue) else queue._channel.engine


def counts_of(queue: Any) -> Counts:
    """See ``Counts``."""
    figures = engine_of(queue).counters()
    return figures[1], figures[3], figures[5]


def has_lock(queue: Any) -> bool:
    """Whether this thread is inside of the portable engine's lock, where whatever it did is taken back."""
    engine = engine_of(queue)
    return hasattr(engine, "_lock") and engine._lock.owner().hold is not None


@dataclass(frozen=True)
class Call:
    """A call, and what it does if it goes through.

    ``is_whole``: what it takes needs no loading, so an error means that it took nothing. ``has_cells``: on its way is a
    function with variables that an inner one uses.
    """

    name: str
    run: Callable[[Any], Any]
    before: tuple[Any, ...] = ()
    puts: tuple[Any, ...] = ()
    takes: int = 0
    is_whole: bool = True
    has_cells: bool = False
    prepare: Callable[[Any], object] = lambda queue: None

    def after(self, done: bool) -> list[Any]:
        """What is queued after it, whether it was ``done`` or not."""
        return [*self.before[self.takes :], *self.puts] if done else list(self.before)

    @property
    def result(self) -> Any:
        """What it returns, of a call that takes."""
        return list(self.before[: self.takes]) if self.name.startswith("get_many") else self.before[0]


class Beside:
    """An item whose buffer travels beside its pickle."""

    def __init__(self, data: Any) -> None:
        self.data = bytes(data)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Beside, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Beside) and other.data == self.data

    def __hash__(self) -> int:
        return hash(self.data)


ITEMS: dict[str, Any] = {
    "int": 1234567,
    "float": 2.5,
    "str": "a short one",
    "long str": "é" * 300,
    "bytes": b"some bytes",
    "large bytes": b"x" * 40000,
    "list": [1, "two", [3.0, None], {"four": 4}],
    "tuple": (1, (2, "three")),
    "set": {1, 2, 3},
    "large list": [b"x" * 50000],
    "buffer": Beside(b"y" * 6000),
}
_WHOLE = ("int", "float", "str", "bytes", "large bytes")
_BEHIND = "behind"


def calls_of(target: Target) -> Iterator[Call]:
    """All calls of a class that put, take or count."""
    for kind, item in ITEMS.items():
        yield Call(f"put {kind}", _putting(item), (_BEHIND,), (item,), has_cells=isinstance(item, (list, tuple)))
        yield Call(f"get {kind}", _get, (item, _BEHIND), takes=1, is_whole=kind in _WHOLE)
    if target.has_many:
        some, scalars = tuple(ITEMS.values()), (1000, "some", 2.5, b"more", 1000) * 100
        yield Call("put_many", lambda queue: queue.put_many(some), (_BEHIND,), some, has_cells=True)
        yield Call("put_many of scalars", lambda queue: queue.put_many(scalars), (_BEHIND,), scalars)
        yield Call("get_many", lambda queue: queue.get_many(4), some[:4], takes=4, is_whole=False)
        yield Call("get_many of scalars", lambda queue: queue.get_many(600), scalars, takes=500)
    if target.has_tasks:
        yield Call("task_done", lambda queue: queue.task_done(), (1, 2))
        yield Call("join", lambda queue: queue.join(), (1, 2), prepare=_finish_all)
    if target.name != "multiprocessing.SimpleQueue":
        yield Call("qsize", lambda queue: queue.qsize(), (1, 2))
    yield Call("empty", lambda queue: queue.empty(), (1, 2))


def _get(queue: Any) -> Any:
    return queue.get()


def _putting(item: Any) -> Callable[[Any], None]:
    return lambda queue: queue.put(item)


def _finish_all(queue: Any) -> None:
    while engine_of(queue).task_done():
        pass
