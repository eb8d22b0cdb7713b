"""Items between a shell and a queue."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from shmqueue import (
    ShmQueue,
    ShmQueueDeserializationError,
    ShmQueueError,
    ShmQueueFull,
    ShmQueueShutDown,
    engine,
    segment,
)
from shmqueue.cli.conversion import to_json
from shmqueue.cli.exits import Exit, Failure, exit_status_of, one_line
from shmqueue.cli.group import complain
from shmqueue.cli.inspection import can_see_holders, observed
from shmqueue.cli.lines import Lines
from shmqueue.cli.signals import held, raising
from shmqueue.engine import Engine, deadline_after, seconds_until
from shmqueue.handle import open_handle
from shmqueue.serialization import Serializer

__all__ = [
    "Room",
    "clear_queue",
    "get_items",
    "peek_item",
    "put_items",
]

_EMPTY_POLL = 0.02  # seconds: nothing wakes a process that waits until a queue is empty
_SLICE = 0.5  # seconds between two looks whether anybody still reads the output


class Room(NamedTuple):
    """The size of a queue that a command makes, in bytes; None, the default of ``ShmQueue``."""

    buffer_size: int | None
    max_bytes: int | None

    def options(self) -> dict[str, Any]:
        """The arguments of ``ShmQueue`` and ``open_handle``."""
        return {name: size for name, size in self._asdict().items() if size is not None}


# ---- put ----


def put_items(
    name: str,
    items: Sequence[Any] | Iterator[Any],
    *,
    wait: bool,
    keep: bool,
    timeout: float | None,
    room: Room,
) -> None:
    """Put items: a sequence in one piece if they fit the queue together, those of an iterator as they come.

    Args:
        wait: whether to make the queue if there is none, and keep it open until it is empty.
        keep: whether to make the queue if there is none, so that it outlives the processes that have it open.
        timeout: seconds to wait for room, for each item of an iterator; None for ever.
        room: of the queue if this makes it.

    Raises:
        Failure: there is no queue and this may not make one, or an item cannot be put.
    """
    if not wait and not keep and not os.path.lexists(segment.path_of(name)):
        raise Failure(
            f"there is no queue called {name!r}: use --keep to make one that stays, "
            "or --wait to keep it open until its items are taken",
            Exit.NOT_FOUND,
        )
    _use_engine_of(name)
    with raising(), ShmQueue(name, create=None if wait or keep else False, keep=keep, **room.options()) as queue:
        queue._segment.drops_items = False
        if keep and not queue.keep:
            raise Failure(f"queue {name!r} is there already, and was made without --keep: nothing was put")
        if isinstance(items, Sequence):
            _put(queue, len(items), lambda: queue.put_many(items, timeout=timeout))
        else:
            _put_each(queue, items, timeout)
        if wait:
            while not queue.empty():
                time.sleep(_EMPTY_POLL)
        elif not queue.keep:
            _tell_of_items_left(name, queue.qsize)


def _put(queue: ShmQueue, count: int, put: Callable[[], None]) -> None:
    try:
        put()
    except ShmQueueFull as error:
        done = f"; {error.items_put} of the {count} items were put" if error.items_put else ""
        raise Failure(one_line(error) + done, Exit.FULL) from error
    except ValueError as error:  # it can never fit
        raise Failure(one_line(error), Exit.ITEM) from error


def _put_each(queue: ShmQueue, items: Iterator[Any], timeout: float | None) -> None:
    done = 0
    try:
        for item in items:
            _put(queue, 1, lambda item=item: queue.put(item, timeout=timeout))  # type: ignore[misc]
            done += 1
    except (Failure, ShmQueueError) as error:
        status = Exit(error.exit_code) if isinstance(error, Failure) else exit_status_of(error)
        raise Failure(f"{one_line(error)}; {done} items were put before", status) from error


# ---- get ----


def get_items(
    name: str,
    *,
    count: int | None,
    timeout: float | None,
    allow_pickle: bool,
    skip: bool,
    room: Room,
) -> None:
    """Print items, each as one line of JSON, and take each off the queue only when it can be printed.

    Args:
        count: how many items, None to go on for ever.
        timeout: seconds to wait for each item, None for ever.
        skip: whether to take items that cannot be loaded, and say so, instead of raising.
        room: of the queue if this makes it.

    Raises:
        Failure: an item did not come in time, or cannot be loaded and stays in the queue.
        BrokenPipeError: the reader of the output is gone.
    """
    lines = Lines()
    is_there = os.path.lexists(segment.path_of(name))
    _use_engine_of(name)
    with raising():
        handle = open_handle(name, **room.options())
        if not is_there and timeout is None and sys.stderr.isatty():
            complain(f"there was no queue called {name!r}: made it, and wait for an item (Ctrl-C ends this)")
        handle.segment.drops_items = False
        try:
            consumer = _Consumer(name, handle.engine, Serializer(allow_pickle), lines, skip)
            taken = 0
            while count is None or taken < count:
                taken += consumer.print_one(timeout)
            if not handle.keep:
                _tell_of_items_left(name, handle.engine.qsize)
        finally:
            handle.close()


class _Record(NamedTuple):
    number: int
    method: int
    payload: bytes


class _Consumer:
    def __init__(self, name: str, engine_: Engine, serializer: Serializer, lines: Lines, skip: bool) -> None:
        self._name, self._engine, self._serializer = name, engine_, serializer
        self._lines, self._skip = lines, skip
        self._last: tuple[_Record, str] | None = None  # what was printed last, which may not be read yet

    def print_one(self, timeout: float | None) -> bool:
        """Print the oldest item and take it. False: there was none to print, another consumer had it first."""
        try:
            self._lines.wait_until_wanted()
            record = self._next(timeout)
            try:
                text = to_json(self._serializer.load(record.method, record.payload))
            except ShmQueueDeserializationError as error:
                return self._cannot_load(record, error)
            self._lines.require_reader()
            return self._take_and_print(record, text)
        except BaseException:
            if self._lines.unread and self._last is not None:
                self._give_back(*self._last)
            raise

    def _next(self, timeout: float | None) -> _Record:
        """The oldest record, once there is one and while somebody reads the output."""
        deadline = deadline_after(timeout)
        while True:
            left = seconds_until(deadline)
            found = self._engine.peek(left != 0, _SLICE if left is None else min(left, _SLICE))
            if found is not None:
                return _Record(*found)
            self._lines.require_reader()
            if left is not None and left <= _SLICE:
                raise Failure(f"queue {self._name!r} is empty after {timeout:g} s", Exit.EMPTY)

    def _take_and_print(self, record: _Record, text: str) -> bool:
        with held():  # either both or none
            if not self._engine.take(record.number):
                return False
            self._last, self._lines.unread = (record, text), True
        self._lines.write(text)
        return True

    def _cannot_load(self, record: _Record, error: ShmQueueDeserializationError) -> bool:
        if not self._skip:
            raise Failure(
                f"the oldest item stays in queue {self._name!r}: {one_line(error)}; use --skip to drop it", Exit.ITEM
            ) from error
        with held():
            if self._engine.take(record.number):
                complain(f"dropped an item of queue {self._name!r}: {one_line(error)}")
        return False

    def _give_back(self, record: _Record, text: str) -> None:
        """A queue takes nothing at its front: the item that nobody has read goes to the end."""
        with held():
            self._lines.unread = False
            try:
                back = self._engine.put(record.method, record.payload, False, None)
                if back:
                    self._engine.task_done()  # it counts as a new item, and the one that was taken as processed
            except ShmQueueError:
                back = False
        if back:
            complain(f"the last item was not read: it is now at the end of queue {self._name!r}")
        else:
            complain(f"the last item was not read, and queue {self._name!r} does not take it back: {text}")


# ---- looking, and dropping ----


def peek_item(name: str, *, timeout: float, allow_pickle: bool) -> None:
    """Print the oldest item as one line of JSON, and leave it and the queue as they are.

    Args:
        timeout: seconds to wait for an item.

    Raises:
        Failure: there is none in time.
        ShmQueueNotFoundError: there is no queue of that name.
        ShmQueueDeserializationError: the item cannot be loaded.
    """
    with observed(name) as engine_:
        found = engine_.peek(timeout > 0, timeout)
    if found is None:
        raise Failure(f"queue {name!r} is empty" + (f" after {timeout:g} s" if timeout else ""), Exit.EMPTY)
    _, method, payload = found
    print(to_json(Serializer(allow_pickle).load(method, payload)))


def clear_queue(name: str) -> int:
    """Drop all items of a queue but those that living processes have leased. Returns how many there were.

    Raises:
        ShmQueueNotFoundError: there is no queue of that name.
    """
    with observed(name) as engine_:
        dropped = engine_.clear()
        try:
            more = engine_.peek(False, None)  # a get that finds nothing looks for leases of dead processes
        except ShmQueueShutDown:
            more = None
        return dropped + (engine_.clear() if more is not None else 0)


# ---- helpers ----


def _use_engine_of(name: str) -> None:
    """Let this process use the engine of an existing queue: the programs that share it have chosen already."""
    try:
        name_of_engine = segment.read_header(segment.path_of(name)).shape.engine
    except ShmQueueError:
        return  # opening it will say what is wrong, if anything is
    if name_of_engine == "portable" or engine.REASON is None:
        os.environ["SHMQUEUE_ENGINE"] = name_of_engine


def _tell_of_items_left(name: str, count: Callable[[], int]) -> None:
    """Say how many items nobody waits for. Counted last: who has gone by then has taken what it was to take."""
    if can_see_holders() and set(segment.holders_of(segment.path_of(name))) <= {os.getpid()} and (items := count()):
        what = "1 item stays" if items == 1 else f"{items} items stay"
        complain(f"no other process has queue {name!r} open: its {what} until one opens it")
