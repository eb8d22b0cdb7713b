"""What all queue classes of this package have, whatever they stand in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from shmqueue.attributes import absent_when_closed
from shmqueue.channel import Channel
from shmqueue.exceptions import ShmQueueShutDown
from shmqueue.fast_paths import QueueBase
from shmqueue.generics import Self
from shmqueue.statistics import Statistics, statistics_of

__all__ = ["AnyQueue", "Iterated"]


class AnyQueue(QueueBase):
    """A queue on a channel, whose engine puts and gets the most ordinary items by itself."""

    _channel: Channel

    def _start(self, channel: Channel) -> None:
        self._channel = channel
        self._try_first(channel.handle.engine, channel.load, channel.look)

    def close(self) -> None:
        """Close this handle on the queue; closing the last one of all processes frees the memory. Idempotent.

        Every other call then raises ``ShmQueueNotInitializedError``, as calls of other threads do that are blocked on
        this handle. Other processes go on, and get what was put.
        """
        self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether this handle on the queue is closed."""
        return not self._channel.handle.is_open

    def fileno(self) -> int:
        """A descriptor for ``select`` and its like: readable while the queue is not empty, or was shut down for all.

        It is made when it is first asked for, another one in each process, and closed with the queue. What this process
        puts and takes is seen when the call returns, what others do, and the end of a ``put_view`` or ``get_view``,
        within milliseconds. Another process may be faster: use ``get_nowait()`` when it is readable.

        Raises:
            ShmQueueNotInitializedError: the queue is closed.
        """
        channel = self._channel
        channel.require_open()
        self._try_first(channel.handle.engine, channel.load, channel.look)
        return channel.fileno()

    @property
    def capacity_bytes(self) -> int:
        """Most bytes of items, 8 and its serialized form for each: what the queue may grow to; also after ``close``."""
        return self._channel.handle.shape.capacity

    @property
    def initial_bytes(self) -> int:
        """Bytes for items that the queue has at first and always keeps; more are allocated as they are needed."""
        return self._channel.handle.initial_bytes

    @property
    @absent_when_closed
    def used_bytes(self) -> int:
        """Bytes in use: for each item, 8 and its serialized form; after ``close``, what it was then."""
        return self._channel.handle.state().occupancy

    def statistics(self) -> Statistics:
        """What has gone through the queue since it was made, and what is in it.

        Puts, gets, items and bytes are of one moment, those of leases of the next one: while others acknowledge,
        ``gets`` may be ahead.

        Raises:
            ShmQueueNotInitializedError: the queue is closed.
        """
        return statistics_of(self._channel.handle)

    def _uuid(self) -> bytes:
        return self._channel.uuid()

    def __enter__(self) -> Self:
        self._channel.require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Iterated(AnyQueue):
    """What those of them have whose ``get`` blocks its thread."""

    def __iter__(self) -> Iterator[Any]:
        """``for item in q``: take items, waiting for each, until the queue was shut down for all and is empty."""
        while True:
            try:
                item = self.get()
            except ShmQueueShutDown:
                return
            yield item

    __contains__: ClassVar[None] = None  # else ``in`` would take items

    if TYPE_CHECKING:

        def get(self) -> Any: ...
