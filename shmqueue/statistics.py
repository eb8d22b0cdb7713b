"""All figures of a queue, the same for every kind of queue."""

from __future__ import annotations

from dataclasses import dataclass

from shmqueue import engine
from shmqueue.handle import Handle

__all__ = ["Statistics", "statistics_of"]


@dataclass(frozen=True)
class Statistics:
    """What has gone through a queue since it was made, all processes together, and what is in it."""

    puts: int
    """Items put; on the native engine also those of ``put_view`` blocks that put nothing."""
    gets: int
    """Items taken; those that ``clear()`` dropped are not among them."""
    bytes: int
    """Bytes put, record headers included; of ``put_view`` as for ``puts``."""
    high_water: int
    """Most items that were in the queue at once; of more than 1,000, to within 2 %."""
    recoveries: int
    """How often the lock of a process that died was taken over."""
    waiting: bool
    """Whether somebody may be asleep in a put or a get."""
    leased: int = 0
    """Items that are leased now."""
    returned: int = 0
    """Items that were leased and given back, and wait to be taken again."""
    redelivered: int = 0
    """How often an item was leased once more; one that ``get`` takes then is not counted."""
    acknowledged: int = 0
    """Items that were leased and acknowledged."""
    oldest_lease: float = 0.0
    """Seconds since the oldest item that is leased now was handed out; 0 if there is none."""
    qsize: int = 0
    """Items in the queue."""
    unfinished_tasks: int = 0
    """Items put for which ``task_done`` was not called yet."""
    used_bytes: int = 0
    """Bytes in use: for each item, 8 and its serialized form; leased items that were moved aside are not among them."""
    capacity_bytes: int = 0
    """Most bytes of items."""
    initial_bytes: int = 0
    """Bytes of items that the queue always has room for; more are allocated as they are needed."""
    maxsize: int = 0
    """Most items; 0, as many as fit."""
    is_shutdown: bool = False
    """Whether the queue was shut down for all processes."""


def statistics_of(handle: Handle) -> Statistics:
    """Those of the queue of a handle.

    Raises:
        ShmQueueNotInitializedError: it is closed.
    """
    counters, leases = handle.counters(), engine.LeaseFigures(*handle.engine.lease_figures())
    return Statistics(
        puts=counters.put_count,
        gets=counters.get_count - counters.dropped + leases.acknowledged,
        bytes=counters.put_position,
        high_water=counters.high_water,
        recoveries=counters.recoveries,
        waiting=counters.putters_waiting or counters.getters_waiting,
        leased=leases.leased,
        returned=leases.returned,
        redelivered=leases.redelivered,
        acknowledged=leases.acknowledged,
        oldest_lease=leases.oldest,
        qsize=counters.qsize,
        unfinished_tasks=counters.unfinished,
        used_bytes=counters.occupancy,
        capacity_bytes=handle.shape.capacity,
        initial_bytes=handle.initial_bytes,
        maxsize=handle.engine.maxsize(),
        is_shutdown=counters.is_shut_down,
    )
