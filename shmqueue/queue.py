"""ShmQueue: objects in, objects out, between processes that share a name.

This is the storey where names, serialization, and bytes meet: ``shmqueue.segment`` finds the memory,
``shmqueue.serialization`` turns items into bytes, ``shmqueue.engine`` moves those. It knows no layout and no lock.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing.util
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from shmqueue import console, engine, reflog
from shmqueue.engine import Counters, Engine
from shmqueue.exceptions import (
    ShmQueueEmpty,
    ShmQueueFull,
    ShmQueueNotInitializedError,
    ShmQueueTypeError,
    ShmQueueValueError,
)
from shmqueue.segment import SYSTEM_PAGESIZE, Segment, attach_segment, open_segment
from shmqueue.serialization import (
    SCALARS,
    CustomDeserialize,
    CustomSerialize,
    SerializationMethods,
    Serializer,
    pack_plain,
    pack_scalar,
    unpack_plain,
)

__all__ = ["ShmQueue", "ShmRefDataSnapshot", "Statistics"]

_MSGPACK = SerializationMethods.MSGPACK
_SMALLEST_ITEM = engine.RECORD_HEADER_SIZE + 1  # bytes: no serialization makes less than one


class ShmRefDataSnapshot(NamedTuple):
    """A queue at one moment.

    ``put_pos`` and ``get_pos`` are offsets in the buffer, in bytes; ``same_lap`` is 1 when put and get are on the same
    lap around it, 0 when put has wrapped and get has not. ``buffer_size`` is in bytes, ``qsize`` in items.
    """

    ref_count: int
    put_pos: int
    get_pos: int
    buffer_size: int
    qsize: int
    same_lap: int


@dataclass(frozen=True)
class Statistics:
    """What has gone through a queue since it was made, all processes together."""

    puts: int
    """Items put."""
    gets: int
    """Items taken; those that ``clear()`` dropped are not among them."""
    bytes: int
    """Bytes put, record headers included."""
    high_water: int
    """Most items that were in the queue at once."""
    recoveries: int
    """How often the lock of a process that died was taken over."""
    waiting: bool
    """Whether somebody may be asleep in a put or a get."""


class ShmQueue:
    """A FIFO queue that any process of this user on this machine can open by its name.

    Creates the queue, or attaches to it when it exists. All methods may be called from several threads, and a handle
    that a forked child inherits works there.

    Args:
        queue_name: the name; letters, digits, ``.``, ``_``, ``-`` count one character, all others three per byte, 180
            at most.
        buffer_size: bytes for items, rounded up to a multiple of ``SYSTEM_PAGESIZE``. An item takes 8 bytes and its
            serialized form. The first creator's size holds for all.
        maxsize: most items in the queue; 0, as many as fit. The first creator's holds for all.
        create: True, the queue must not be in use yet; False, it must exist; None, either.
        allow_pickle: False refuses pickle in both directions, for queues on which not everybody is trusted.
        track_resources: accepted for compatibility and without effect: the kernel counts who holds a segment, so the
            resource tracker of ``multiprocessing``, which would free it under its users, is never told of it.
        logger: where to report what is not an error, at debug level.
        debug_ref_to_file_log: True appends a line of JSON for each create, attach and shutdown to a file in the
            temporary directory, a str names the file.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: an argument is unusable; the message names it.
        ShmQueueExistsError, ShmQueueNotFoundError: as ``create`` says.
        ShmQueueNoSpaceError: there is not enough shared memory left.
        ShmQueueRefusedError: something else is at the queue's path, or a queue of another engine or version.

    ``for item in iter(q.get, sentinel)`` takes items until one equals the sentinel.
    """

    def __init__(
        self,
        queue_name: str,
        *,
        buffer_size: int = SYSTEM_PAGESIZE,
        maxsize: int = 0,
        create: bool | None = None,
        allow_pickle: bool = True,
        track_resources: bool = False,
        logger: logging.Logger | None = None,
        debug_ref_to_file_log: bool | str = False,
    ) -> None:
        segment = open_segment(
            queue_name,
            engine=engine.chosen(),
            capacity=_round_up(_require_int("buffer_size", buffer_size, least=1)),
            maxsize=_require_int("maxsize", maxsize, least=None),
            create=create,
        )
        try:
            engine.require_chosen(segment)
        except BaseException:
            segment.close()
            raise
        self._start(segment, Serializer(allow_pickle), logger, reflog.path_for(queue_name, debug_ref_to_file_log))

    def _start(
        self, segment: Segment, serializer: Serializer, logger: logging.Logger | None, log_file: str | None
    ) -> None:
        """Become the handle on a segment, and close it if that fails."""
        try:
            self._engine: Engine = engine.open_engine(segment)
        except BaseException:
            segment.close()
            raise
        self._name, self._segment, self._serializer = segment.name, segment, serializer
        self._logger, self._log_file = logger, log_file
        self._put, self._get, self._load = self._engine.put, self._engine.get, self._serializer.load
        self._close_once = weakref.finalize(self, _give_up, self._engine, self._segment, self._log_file, logger)
        self._close_once.atexit = False  # see _leave_all
        _open_queues.add(self)
        self._note(reflog.DebugRefLogAction.CREATE if self._segment.created else reflog.DebugRefLogAction.ATTACH)

    # ---- put and get ----

    def put(
        self,
        data: Any,
        block: bool = True,
        timeout: float | None = None,
        serialization_method: int = _MSGPACK,
    ) -> None:
        """Put an item at the end.

        Args:
            data: the item.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.
            serialization_method: see ``SerializationMethods``; by default msgpack, or pickle where msgpack would not
                keep the item as it is.

        Raises:
            ShmQueueFull: there was no room in time.
            ShmQueueValueError: the item is larger than the whole buffer, or ``timeout`` is negative.
            ShmQueueSerializationError: the item cannot be serialized. Nothing was put, as with the others.
        """
        if not serialization_method:
            try:
                payload, method = (pack_scalar if type(data) in SCALARS else pack_plain)(data), 0
            except Exception:
                method, payload = self._serializer.dump(data, 0)
        else:
            method, payload = self._serializer.dump(data, serialization_method)
        if timeout is not None:
            timeout = _seconds(timeout, block)
        if not self._put(method, payload, block, timeout):
            raise ShmQueueFull(self._no_room(1, block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item.

        Args:
            block: whether to wait for one.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: the item could not be loaded; it is consumed, the next one comes next.
        """
        if timeout is not None:
            timeout = _seconds(timeout, block)
        record = self._get(block, timeout)
        if record is None:
            raise ShmQueueEmpty(f"queue {self._name!r} is empty" + _in_time(block, timeout))
        method, payload = record
        if not method:
            try:
                return unpack_plain(payload)
            except Exception:
                pass  # keys that are no strings, or an item that cannot be loaded: the serializer knows which
        return self._load(method, payload)

    def put_nowait(self, data: Any) -> None:
        """``put(data, block=False)``."""
        self.put(data, False)

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return self.get(False)

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Put several items, one after the other and with nothing in between.

        Items that fit the buffer together are put all or not at all. More than that are put in pieces, each as large
        as the buffer allows, with the same deadline for all.

        Args:
            items: the items; all of them are serialized before the first is put.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueFull: there was no room in time; its ``items_put`` says how many of a larger batch were put.
            ShmQueueValueError, ShmQueueSerializationError: as ``put``, for any one of them; nothing was put.
        """
        if timeout is not None:
            timeout = _seconds(timeout, block)
        records = [self._serializer.dump(item, 0) for item in items]
        deadline = engine.deadline_after(timeout)
        done = 0
        while done < len(records):
            put = self._engine.put_many(records[done:] if done else records, block, engine.seconds_until(deadline))
            if put == 0:
                raise ShmQueueFull(self._no_room(len(records) - done, block, timeout), items_put=done)
            done += put

    def get_many(self, max_items: int, timeout: float | None = None) -> list[Any]:
        """Take up to ``max_items`` of the oldest items at once: what is there, waiting only for the first.

        Args:
            max_items: most items to take, at least 1.
            timeout: seconds to wait for the first one at most, None for ever, 0 not at all.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        _require_int("max_items", max_items, least=1)
        if timeout is not None:
            timeout = _seconds(timeout, True)
        records = self._engine.get_many(max_items, True, timeout)
        if not records:
            raise ShmQueueEmpty(f"queue {self._name!r} is empty" + _in_time(True, timeout))
        return self._serializer.load_many(records)

    def clear(self) -> None:
        """Drop all items. ``join`` does not wait for them any more."""
        self._engine.clear()

    # ---- what is finished ----

    def task_done(self) -> None:
        """Say that an item taken is dealt with.

        Raises:
            ShmQueueValueError: more often than items were put.
        """
        if not self._engine.task_done():
            raise ShmQueueValueError("task_done() called too many times")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until ``task_done`` was called for every item put.

        Args:
            timeout: seconds to wait for at most, None for ever.

        Returns:
            True, or False if the time was over first.
        """
        return self._engine.join(None if timeout is None else _seconds(timeout, True))

    @property
    def unfinished_tasks(self) -> int:
        """Items put for which ``task_done`` was not called yet."""
        return self._counters().unfinished

    # ---- how it stands ----

    def qsize(self) -> int:
        """Items in the queue. Others may change it at any time, as with the three below."""
        return self._engine.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._engine.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room even for the smallest item."""
        counters = self._counters()
        maxsize, free = self._segment.header.maxsize, self.max_buffer_size() - counters.occupancy
        return free < _SMALLEST_ITEM or 0 < maxsize <= counters.qsize

    def buffer_occupancy(self) -> int:
        """Bytes in use: for each item, 8 and its serialized form."""
        return self._counters().occupancy

    def max_buffer_size(self) -> int:
        """Bytes for items, as the queue's creator chose them, rounded up to whole pages."""
        self._require_open()
        return self._segment.header.capacity

    @property
    def maxsize(self) -> int:
        """Most items in the queue, 0 for as many as fit; as the queue's creator chose it."""
        self._require_open()
        return self._segment.header.maxsize

    def snapshot(self) -> ShmRefDataSnapshot:
        """Positions, size and holders at one moment."""
        counters = self._counters()
        size = self.max_buffer_size()
        put_lap, put_pos = divmod(counters.put_position, size)
        get_lap, get_pos = divmod(counters.get_position, size)
        return ShmRefDataSnapshot(self.refs, put_pos, get_pos, size, counters.qsize, int(put_lap == get_lap))

    @property
    def debug_ref_data(self) -> ShmRefDataSnapshot:
        """The same as ``snapshot()``."""
        return self.snapshot()

    def statistics(self) -> Statistics:
        """What has gone through the queue since it was made."""
        counters = self._counters()
        return Statistics(
            puts=counters.put_count,
            gets=counters.get_count - counters.dropped,
            bytes=counters.put_position,
            high_water=counters.high_water,
            recoveries=counters.recoveries,
            waiting=counters.putters_waiting or counters.getters_waiting,
        )

    @property
    def identifier(self) -> str:
        """The queue's name."""
        return self._name

    @property
    def refs(self) -> int:
        """How many handles there are on the queue, in all processes; the kernel counts them."""
        self._require_open()
        return len(self._segment.holders())

    @property
    def debug_ref_log_path(self) -> str | None:
        """Where ``debug_ref_to_file_log`` writes; None when it was not asked for."""
        return self._log_file

    # ---- serialization of one's own ----

    def custom_serialize(self, callable_function: CustomSerialize) -> None:
        """Set the function that turns items into bytes for serialization methods from 1001 on.

        It is called with (method, item) and returns bytes.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_serialize takes a function of (method, item)")
        self._serializer.custom_serialize = callable_function

    def custom_deserialize(self, callable_function: CustomDeserialize) -> None:
        """Set the function that turns bytes back into items for serialization methods from 1001 on.

        It is called with (method, chunks), a list of bytes that belong together in this order, and returns the item.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_deserialize takes a function of (method, chunks)")
        self._serializer.custom_deserialize = callable_function

    # ---- the end ----

    def shutdown(self) -> None:
        """Give up this handle; the last one frees the memory. Again is harmless, anything else afterwards raises.

        Calls of other threads that wait in this handle end with ``ShmQueueNotInitializedError``, as later ones do.
        """
        self._close_once()

    def unlink(self) -> None:
        """Take the name away now. Those who hold the queue go on; the next one to use the name makes a new one."""
        self._require_open()
        self._segment.unlink()

    def __enter__(self) -> ShmQueue:
        self._require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def set_console_handlers(self, register_atexit: bool = False) -> None:
        """Give up this handle when the process is told to end by SIGINT, SIGTERM or SIGHUP (console events on Windows).

        The handlers that were there run afterwards, and the process ends as the signal says. The kernel frees what a
        killed process held in any case; this only does it at once.

        Args:
            register_atexit: also at the interpreter's exit; handles do that by themselves, so it changes nothing.
        """
        self._require_open()
        console.close_on_signals(self)

    def add_ref_manually(self, pid: int) -> None:
        """Does nothing: kept for programs that counted a process in by hand. The kernel counts the holders."""
        _require_int("pid", pid, least=0)
        self._require_open()

    def reduce_ref_counter(self) -> None:
        """Does nothing: kept for programs that counted a killed process out by hand. The kernel counts the holders."""
        self._require_open()

    # ---- travelling ----

    def __reduce__(self) -> tuple[Any, ...]:
        self._require_open()
        where = (self._name, os.path.dirname(self._segment.path), self._segment.header.uuid)
        return _attach_pickled, (type(self), where, self._serializer, self._log_file)

    def __repr__(self) -> str:
        if not self._close_once.alive:
            return f"<ShmQueue {self._name!r}, shut down>"
        counters = self._counters()
        size = self._segment.header.capacity
        return f"<ShmQueue {self._name!r}, {counters.qsize} items, {counters.occupancy} of {size} bytes>"

    # ---- inside ----

    def _counters(self) -> Counters:
        return Counters(*self._engine.counters())

    def _require_open(self) -> None:
        if not self._close_once.alive:
            raise ShmQueueNotInitializedError(f"queue {self._name!r} was shut down")

    def _no_room(self, items: int, block: bool, timeout: float | None) -> str:
        what = "another item" if items == 1 else f"{items} items together"
        return f"queue {self._name!r} has no room for {what}" + _in_time(block, timeout)

    def _leave(self) -> None:
        """Give up the handle and keep the memory mapped, which ends with the process."""
        if self._close_once.detach() is not None:
            _let_go(self._segment, self._log_file, self._logger)
        else:  # a daemon thread may be in the middle of it, and would not come to the end
            self._segment.close()

    def _note(self, action: reflog.DebugRefLogAction) -> None:
        if self._logger is not None:
            self._logger.debug("queue %r: %s, engine %s", self._name, action.value, self._segment.header.engine)
        if self._log_file is not None:
            reflog.append(self._log_file, action, self._name, self.refs)


def _give_up(the_engine: Engine, segment: Segment, log_file: str | None, logger: logging.Logger | None) -> None:
    """Close a handle: the engine first, which unmaps, then the segment, whose last holder frees the memory."""
    the_engine.close()
    _let_go(segment, log_file, logger)


def _let_go(segment: Segment, log_file: str | None, logger: logging.Logger | None) -> None:
    if log_file is not None:
        reflog.append(log_file, reflog.DebugRefLogAction.SHUTDOWN, segment.name, max(0, len(segment.holders()) - 1))
    if logger is not None:
        logger.debug("queue %r: shutdown", segment.name)
    segment.close()


# ---- the end of the process ----

_open_queues: weakref.WeakSet[ShmQueue] = weakref.WeakSet()


def _leave_all() -> None:
    """Give up what is still open. Daemon threads may go on in a blocked call, to which nothing happens any more."""
    for queue in list(_open_queues):
        queue._leave()


def _leave_at_exit_of_child(_: object = None) -> None:
    """Children of multiprocessing end without running atexit; they run these finalizers, forgotten at their start."""
    multiprocessing.util.Finalize(None, _leave_all, exitpriority=0)


atexit.register(_leave_all)
multiprocessing.util.register_after_fork(_open_queues, _leave_at_exit_of_child)


def _attach_pickled(
    queue_type: type[ShmQueue], where: tuple[str, str, bytes], serializer: Serializer, log_file: str | None
) -> ShmQueue:
    """Attach to the very queue that was pickled; its engine is used, whatever the environment says here."""
    queue = queue_type.__new__(queue_type)
    queue._start(attach_segment(*where), serializer, None, log_file)
    return queue


# ---- arguments ----


def _require_int(name: str, value: int, least: int | None) -> int:
    """The value, checked; with ``least`` None negative numbers count as 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ShmQueueTypeError(f"{name} must be an int, not {type(value).__name__}")
    if least is not None and value < least:
        raise ShmQueueValueError(f"{name} must be at least {least}, not {value}")
    return max(0, value)


def _round_up(size: int) -> int:
    return -(-size // SYSTEM_PAGESIZE) * SYSTEM_PAGESIZE


def _seconds(timeout: float, block: bool) -> float:
    if not block:
        return 0.0
    if not isinstance(timeout, (int, float)):
        raise ShmQueueTypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    if timeout < 0 or math.isnan(timeout):
        raise ShmQueueValueError("'timeout' must be a non-negative number")
    return timeout


def _in_time(block: bool, timeout: float | None) -> str:
    return f" after {timeout} s" if block and timeout is not None else ""
