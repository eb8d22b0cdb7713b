"""What ``ShmQueue`` tells of itself: its items and bytes, its handles, and the tasks that are not done yet."""

from __future__ import annotations

from typing import NamedTuple

from shmqueue import engine
from shmqueue.any_queue import AnyQueue
from shmqueue.arguments import require_int, require_seconds
from shmqueue.attributes import absent_when_closed

__all__ = ["QueueState", "ShmRefDataSnapshot"]

_SMALLEST_ITEM = engine.RECORD_HEADER_SIZE + 1  # bytes: no serialization makes less than one


class _SnapshotFields(NamedTuple):
    ref_count: int
    put_pos: int
    get_pos: int
    buffer_size: int
    qsize: int
    same_lap: int


class ShmRefDataSnapshot(_SnapshotFields):
    """A queue at one moment.

    ``buffer_size`` is ``max_buffer_size()``, in bytes; ``put_pos`` and ``get_pos`` are offsets in a buffer of this
    size; ``same_lap`` is 1 when put and get are on the same lap around it, 0 when put has wrapped and get has not.
    ``qsize`` is in items. ``keep`` tells whether the queue outlives its holders; it is not one of the tuple's items.
    """

    keep: bool = False


class QueueState(AnyQueue):
    """The part of ``ShmQueue`` that says how the queue stands."""

    def task_done(self) -> None:
        """Mark one retrieved item as processed.

        Raises:
            ShmQueueValueError: more often than items were put.
        """
        self._channel.task_done()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until ``task_done`` was called for every item put.

        Args:
            timeout: seconds to wait for at most, None for ever.

        Returns:
            True, or False if the time was over first.
        """
        return self._channel.engine.join(None if timeout is None else require_seconds(timeout, True))

    @property
    @absent_when_closed
    def unfinished_tasks(self) -> int:
        """Items put for which ``task_done`` was not called yet; after ``close``, what it was then."""
        return self._channel.handle.state().unfinished

    def qsize(self) -> int:
        """Items in the queue. Others may change it at any time, as with the three below."""
        return self._channel.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._channel.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room even for the smallest item.

        A queue that grows is full when it has grown to its limit, ``max_buffer_size()``, or has ``maxsize`` items.
        """
        counters = self._channel.handle.counters()
        maxsize, free = self._channel.engine.maxsize(), self.max_buffer_size() - counters.occupancy
        return free < _SMALLEST_ITEM or 0 < maxsize <= counters.qsize

    def buffer_occupancy(self) -> int:
        """Bytes in use: for each item, 8 and its serialized form."""
        return self._channel.handle.counters().occupancy

    def max_buffer_size(self) -> int:
        """Most bytes of items: ``buffer_size``, or what the queue may grow to, as its creator chose."""
        self._channel.handle.require_open()
        return self._channel.handle.shape.capacity

    @property
    @absent_when_closed
    def maxsize(self) -> int:
        """Most items in the queue, 0 for as many as fit. Setting it changes it for all processes.

        Growing wakes blocked puts; when it shrinks, the items that are in the queue stay. After ``close``, what it was
        then.
        """
        return self._channel.maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self._channel.maxsize = require_int("maxsize", maxsize, least=None)

    def snapshot(self) -> ShmRefDataSnapshot:
        """Positions, size and holders at one moment."""
        counters = self._channel.handle.counters()
        size = self.max_buffer_size()
        put_lap, put_pos = divmod(counters.put_position, size)
        get_lap, get_pos = divmod(counters.get_position, size)
        same_lap = int(put_lap == get_lap)
        snapshot = ShmRefDataSnapshot(self.refs, put_pos, get_pos, size, counters.qsize, same_lap)
        snapshot.keep = self._channel.handle.keep
        return snapshot

    @property
    def keep(self) -> bool:
        """Whether the queue outlives its holders, see the argument ``keep``."""
        return self._channel.handle.keep

    @property
    @absent_when_closed
    def debug_ref_data(self) -> ShmRefDataSnapshot:
        """The same as ``snapshot()``."""
        return self.snapshot()

    @property
    def identifier(self) -> str:
        """The queue's name."""
        return self._channel.name

    @property
    @absent_when_closed
    def refs(self) -> int:
        """How many handles there are on the queue, in all processes; the kernel counts them."""
        self._channel.handle.require_open()
        return len(self._channel.handle.segment.holders())

    @property
    @absent_when_closed
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down for all processes; after ``close``, whether it was then."""
        return self._channel.handle.state().is_shut_down
