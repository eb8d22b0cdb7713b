"""How each queue is used: made in the stage before the workers start, then opened in each of them.

A driver imports its package when it is made, not before.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["DEPTH", "Driver", "Plan", "Receiver", "Sender", "find_driver", "peers_in"]

DEPTH = 1024  # items in a queue that counts them and must be told how many


@dataclass(frozen=True)
class Plan:
    """What a queue is wanted for."""

    producers: int
    consumers: int
    item_size: int
    """Bytes in a serialized item, at most."""
    room: int
    """Bytes that a queue of fixed size gets: a power of two."""
    limit: int
    """Items that a queue which counts them may hold; 0 for as many as it likes, ``DEPTH`` if it must be told."""
    queued: int
    """Items that lie in the queue at once, at least."""
    raw: bool
    """Whether the items are bytes, to be sent without serialization where there is a choice."""
    directory: str
    """Where files may be made; it is removed afterwards, with all that is in it."""
    token: str
    """A name that is used nowhere else. What is named like that in /dev/shm is removed afterwards."""
    context: Any
    """The context of ``multiprocessing`` that starts the workers: they inherit what ``prepare`` has made."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Sender:
    """The producer's side. ``finish`` gives it up, when all items have been received.

    ``put``, and ``get`` of the other side, return awaitables where coroutines use the queue. ``make`` puts an item of
    that many bytes, where the queue has a place for it: it calls a function that writes them, with their address,
    once or, where the first place was in vain, more often.
    """

    put: Callable[[Any], Any]
    put_many: Callable[[list[Any]], object] | None = None
    finish: Callable[[], object] = _nothing
    make: Callable[[int, Callable[[int], object]], object] | None = None


@dataclass(frozen=True)
class Receiver:
    """The consumer's side. ``lend`` gives an item's bytes in place, and ``lease`` an item that is acknowledged, where
    the queue can."""

    get: Callable[[], Any]
    get_many: Callable[[int], list[Any]] | None = None
    lend: Callable[[], AbstractContextManager[Any]] | None = None
    lease: Callable[[], Any] | None = None
    finish: Callable[[], object] = _nothing


class Driver:
    """A queue. Made in the stage; ``sender`` and ``receiver`` are called in the worker that uses them.

    A sender may wait for its receivers: a process that needs both asks for the receiver first.
    """

    module: ClassVar[str | None] = None
    """What must be importable."""
    bytes_only: ClassVar[bool] = False
    most_producers: ClassVar[int | None] = None
    most_consumers: ClassVar[int | None] = None
    most_queued: ClassVar[int | None] = None
    """Items at once, where that is said when the queue is made and takes memory for each."""
    batches: ClassVar[bool] = False
    label: ClassVar[str | None] = None
    """How another package's queue is called in the tables, if not by its name among the peers."""
    package: ClassVar[str | None] = None
    """What is installed, if it is not called like that."""
    role: ClassVar[str] = "field"
    is_elsewhere: ClassVar[bool] = False
    """Whether only another interpreter can have it."""

    @classmethod
    def why_not(cls, producers: int, consumers: int, *, objects: bool, batches: bool, queued: int) -> str | None:
        """Why it cannot do such a workload, None if it can."""
        if objects and cls.bytes_only:
            return "carries bytes only"
        if cls.most_producers is not None and producers > cls.most_producers:
            return "one producer and one consumer only" if cls.most_consumers == 1 else "one producer only"
        if cls.most_consumers is not None and consumers > cls.most_consumers:
            return "one producer and one consumer only" if cls.most_producers == 1 else "one consumer only"
        if batches and not cls.batches:
            return "no batches"
        if cls.most_queued is not None and queued >= cls.most_queued:
            return f"not made for that many items at once (more than {cls.most_queued:,})"
        return None

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def sender(self, index: int) -> Sender:
        """For the producer with this number."""
        raise NotImplementedError

    def receiver(self, index: int) -> Receiver:
        """For the consumer with this number."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was made in the stage."""


class _Own(Driver):
    """ShmQueue, opened by its name in each process."""

    module = "shmqueue"
    batches = True
    engine: ClassVar[str]
    lends: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        os.environ["SHMQUEUE_DIR"], os.environ["SHMQUEUE_ENGINE"] = plan.directory, self.engine
        self._class = importlib.import_module("shmqueue").ShmQueue
        self._queue = self._class(plan.token, create=True, buffer_size=plan.room)

    def sender(self, index: int) -> Sender:
        queue = self._class(self.plan.token, create=False)

        def make(length: int, write: Callable[[int], object]) -> None:
            with queue.put_view(length) as view:
                write(ctypes.addressof(ctypes.c_char.from_buffer(view)))

        return Sender(queue.put, queue.put_many, queue.shutdown, make if self.lends else None)

    def receiver(self, index: int) -> Receiver:
        queue = self._class(self.plan.token, create=False)
        return Receiver(queue.get, queue.get_many, queue.get_view if self.lends else None, queue.lease, queue.shutdown)

    def close(self) -> None:
        self._queue.shutdown()


class Native(_Own):
    """With the C engine."""

    engine = "native"
    lends = True


class Portable(_Own):
    """With the engine in Python."""

    engine = "portable"


class _Inherited(Driver):
    """A queue of a module like ``multiprocessing`` or ``queue``; workers inherit it."""

    module: ClassVar[str | None]
    batches = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        os.environ["SHMQUEUE_DIR"], os.environ["SHMQUEUE_ENGINE"] = plan.directory, "native"
        self._queue = self.make()

    def make(self) -> Any:
        """The queue."""
        return importlib.import_module(str(self.module)).Queue(self.plan.limit)

    def sender(self, index: int) -> Sender:
        return Sender(self._queue.put, self._queue.put_many)

    def receiver(self, index: int) -> Receiver:
        return Receiver(self._queue.get, self._queue.get_many)


class AdapterMultiprocessing(_Inherited):
    """Our stand-in for ``multiprocessing.Queue``."""

    module = "shmqueue.compat.multiprocessing"

    def close(self) -> None:
        self._queue.close()


class AdapterQueue(_Inherited):
    """Our stand-in for ``queue.Queue``."""

    module = "shmqueue.compat.queue"

    def close(self) -> None:
        self._queue.shutdown(immediate=True)


class Multiprocessing(_Inherited):
    """The yardstick. It has no batches: their items go one by one."""

    module = "multiprocessing"

    def make(self) -> Any:
        return self.plan.context.Queue(self.plan.limit)

    def sender(self, index: int) -> Sender:
        queue = self._queue

        def put_many(items: Iterable[Any]) -> None:
            for item in items:
                queue.put(item)

        def finish() -> None:
            queue.close()
            queue.join_thread()

        return Sender(queue.put, put_many, finish)

    def receiver(self, index: int) -> Receiver:
        queue = self._queue

        def get_many(most: int) -> list[Any]:
            return [queue.get() for _ in range(most)]

        return Receiver(queue.get, get_many)

    def close(self) -> None:
        self._queue.close()


class AdapterAsyncio(_Inherited):
    """Our stand-in for ``asyncio.Queue``."""

    module = "shmqueue.compat.asyncio"

    def close(self) -> None:
        self._queue.close()


class ToThread(Multiprocessing):
    """The yardstick, for coroutines: a thread makes each call."""

    def sender(self, index: int) -> Sender:
        import asyncio  # here: few measurements need it, and it takes a third of the start of each of their processes

        sender = super().sender(index)
        return Sender(lambda item: asyncio.to_thread(sender.put, item), finish=sender.finish)

    def receiver(self, index: int) -> Receiver:
        import asyncio

        get = self._queue.get
        return Receiver(lambda: asyncio.to_thread(get))


class SimpleQueue(_Inherited):
    """The one that only the threads of a process share: what a queue costs that has nothing to pack."""

    module = "queue"
    batches = False

    def make(self) -> Any:
        return importlib.import_module("queue").SimpleQueue()

    def sender(self, index: int) -> Sender:
        return Sender(self._queue.put)

    def receiver(self, index: int) -> Receiver:
        return Receiver(self._queue.get)


class NoQueue(Driver):
    """msgpack alone: what packing and unpacking cost."""

    module = "msgpack"


_OWN: dict[str, type[Driver]] = {
    "shmqueue": Native,
    "shmqueue-portable": Portable,
    "compat.multiprocessing": AdapterMultiprocessing,
    "compat.queue": AdapterQueue,
    "compat.asyncio": AdapterAsyncio,
    "multiprocessing": Multiprocessing,
    "to-thread": ToThread,
    "simple-queue": SimpleQueue,
    "floor": NoQueue,
}


def find_driver(name: str) -> type[Driver]:
    """The driver of this name; ``module:class`` names one that is elsewhere, ``directory:name`` one of ``peers_in``."""
    if name in _OWN:
        return _OWN[name]
    module, colon, attribute = name.partition(":")
    if os.sep in module:
        return peers_in(module)[attribute]
    if colon:
        found: type[Driver] = getattr(importlib.import_module(module), attribute)
        return found
    raise LookupError(f"there is no driver {name!r}")


def peers_in(directory: str) -> dict[str, type[Driver]]:
    """The drivers of other packages' queues that the package in ``directory`` has as its ``PEERS``.

    Raises:
        LookupError: it has none.
    """
    parent, name = os.path.split(os.path.abspath(directory))
    if parent not in sys.path:
        sys.path.append(parent)
    try:
        found: dict[str, type[Driver]] = importlib.import_module(name).PEERS
    except (ImportError, AttributeError) as error:
        raise LookupError(f"no adapters of other queues in {directory!r}: {error}") from None
    return found
