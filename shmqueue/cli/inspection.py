"""What the commands tell about queues, as plain data.

Looking at a queue maps it for a moment, whichever engine it belongs to, without becoming a holder: so the caller is
not among the holders, and nothing is removed afterwards.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shmqueue import ShmQueueError, ShmQueueNotFoundError, ShmQueueRefusedError, clock, inspection, segment
from shmqueue import engine as engines
from shmqueue.cli.exits import one_line
from shmqueue.engine import Counters, Engine, LeaseFigures
from shmqueue.inspection import QueueInfo
from shmqueue.segment import Segment
from shmqueue.segment.descriptor import Descriptor

__all__ = [
    "Listed",
    "Look",
    "can_see_holders",
    "is_orphan",
    "list_queues",
    "look_at",
    "observed",
]


_LEASE_FIGURES = "returned", "redelivered", "acknowledged", "oldest_lease"


def can_see_holders() -> bool:
    """Whether this platform shows the holders of a segment; where it does not, holders are always an empty list."""
    return os.access("/proc/locks", os.R_OK)


# ---- one queue ----


class _Onlooker(Segment):
    """A segment that this process maps without holding it."""

    def _release(self) -> int:
        self._drop_anchor()
        self._descriptor.close()
        return 0


@contextmanager
def _mapped(name: str) -> Iterator[tuple[Segment, Engine]]:
    path = segment.path_of(name)
    try:
        header = segment.read_header(path)
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}") from None
    looked_at = _Onlooker(name, path, Descriptor(fd), header, created=False)
    try:
        opened = engines.open_engine(looked_at, lambda error: None)
        try:
            yield looked_at, opened
        finally:
            if header.shape.engine != "native":  # that one unmaps by itself, and its close() gives memory back
                opened.close()
    finally:
        looked_at.close()


@contextmanager
def observed(name: str) -> Iterator[Engine]:
    """The engine of a queue that this process does not hold: what removes the queue does not wait for it.

    Raises:
        ShmQueueNotFoundError: there is none of that name.
        ShmQueueRefusedError, ShmQueueCorruptedError: it cannot be read here; the message says why.
    """
    with _mapped(name) as (_, opened):
        yield opened


@dataclass(frozen=True)
class Look:
    """A queue at one moment.

    ``age`` is in seconds, ``created`` in seconds since the epoch, ``holders`` are pids. ``buffer_size`` is the most
    bytes of items, ``grows_from`` what an elastic queue starts with (0: of fixed size), ``memory`` what its file has.
    ``uuid`` tells it from others that had the name. ``leased`` tells apart what is leased by living processes, and by
    ones that have ended.
    """

    name: str
    path: str
    uuid: bytes
    engine: str
    created: float
    age: float
    holders: list[int]
    buffer_size: int
    grows_from: int
    memory: int
    maxsize: int
    keep: bool
    counters: Counters
    leases: LeaseFigures
    leased: segment.Leased

    @property
    def items(self) -> int:
        """Items that can be taken: one that a process had leased that has ended since is one of them."""
        return self.counters.qsize + self.leased.stranded

    @property
    def oldest_lease(self) -> float:
        """Seconds since the oldest item that a living process has leased was handed out; 0 if there is none."""
        return max(0.0, clock.monotonic() - self.leased.since / 1e9) if self.leased.since else 0.0

    @property
    def taken(self) -> int:
        """Items that have left the queue for good."""
        return self.counters.get_count - self.leases.leased

    def leases_as_json(self) -> dict[str, Any]:
        """What became of leases. ``oldest_lease`` is in seconds."""
        return {
            "returned": self.leases.returned,
            "redelivered": self.leases.redelivered,
            "acknowledged": self.leases.acknowledged,
            "oldest_lease": round(self.oldest_lease, 3),
        }

    @property
    def is_orphan(self) -> bool:
        """Whether no process has it open, and it was not made to be kept then."""
        return can_see_holders() and not self.holders and not self.keep

    @property
    def waiting(self) -> list[str]:
        """The calls that may be waiting: "put", "get"."""
        flags = {"put": self.counters.putters_waiting, "get": self.counters.getters_waiting}
        return [call for call, waits in flags.items() if waits]

    def as_json(self) -> dict[str, Any]:
        """Everything about the queue; positions in the buffer as ``ShmQueue.snapshot()`` gives them."""
        counters = self.counters
        put_lap, put_pos = divmod(counters.put_position, self.buffer_size)
        get_lap, get_pos = divmod(counters.get_position, self.buffer_size)
        return {
            "name": self.name,
            "path": self.path,
            "engine": self.engine,
            "created": _utc(self.created),
            "age": round(self.age, 3),
            "holders": self.holders,
            "items": self.items,
            "leased": self.leased.held,
            "occupancy": counters.occupancy,
            "buffer_size": self.buffer_size,
            "grows_from": self.grows_from or None,
            "memory": self.memory,
            "maxsize": self.maxsize,
            "keep": self.keep,
            "orphan": self.is_orphan,
            "unfinished_tasks": counters.unfinished,
            "put_pos": put_pos,
            "get_pos": get_pos,
            "same_lap": int(put_lap == get_lap),
            "is_shutdown": counters.is_shut_down,
            "statistics": {
                "puts": counters.put_count,
                "gets": counters.get_count - counters.dropped + self.leases.acknowledged,
                "dropped": max(0, counters.dropped - self.leases.acknowledged),  # in the segment those count, too
                "bytes": counters.put_position,
                "high_water": counters.high_water,
                "recoveries": counters.recoveries,
                "putters_waiting": counters.putters_waiting,
                "getters_waiting": counters.getters_waiting,
                **self.leases_as_json(),
            },
        }


def look_at(name: str) -> Look:
    """Look at a queue, which stays as it is, whether any process has it open or not.

    Raises:
        ShmQueueNotFoundError: there is none of that name.
        ShmQueueRefusedError, ShmQueueCorruptedError: it cannot be read here; the message says why.
    """
    with _mapped(name) as (looked_at, opened):
        counters, leases = Counters(*opened.counters()), LeaseFigures(*opened.lease_figures())
        contents = segment.contents_of(looked_at.fileno())
        header, path = looked_at.header, looked_at.path
        memory = _memory_of(looked_at.fileno())
    created = header.created / 1e9
    return Look(
        name=name,
        path=path,
        uuid=header.uuid,
        engine=header.shape.engine,
        created=created,
        age=max(0.0, time.time() - created),
        holders=segment.holders_of(path),
        buffer_size=header.shape.capacity,
        grows_from=header.shape.initial,
        memory=memory,
        maxsize=header.shape.maxsize,
        keep=header.keep,
        counters=counters,
        leases=leases,
        leased=contents.leased if contents is not None else segment.Leased(leases.leased),
    )


def _memory_of(fd: int) -> int:
    """Bytes of memory that a segment has; an elastic one is mostly empty."""
    try:
        return os.fstat(fd).st_blocks * 512
    except (OSError, AttributeError):
        return 0


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# ---- all queues ----


@dataclass(frozen=True)
class Listed:
    """A queue in a list: what can be seen from outside, and ``look`` where this process may map it."""

    info: QueueInfo
    look: Look | None

    def as_json(self) -> dict[str, Any]:
        """The figures of the list; those that could not be read are None."""
        info, look = self.info, self.look
        return {
            "name": info.name,
            "user": info.user,
            "items": info.items,
            "leased": info.leased,
            **(look.leases_as_json() if look else dict.fromkeys(_LEASE_FIGURES)),
            "occupancy": info.bytes_used,
            "buffer_size": look.buffer_size if look else None,
            "memory": info.file_bytes,
            "holders": info.holders,
            "keep": info.keep,
            "orphan": is_orphan(info),
            "is_shutdown": info.is_shutdown,
            "age": round(max(0.0, time.time() - info.created), 3),
            "engine": info.engine,
            "problem": info.problem,
        }


def is_orphan(info: QueueInfo) -> bool:
    """Whether no process has it open, and it was not made to be kept then."""
    return can_see_holders() and not info.holders and not info.keep


def list_queues(all_users: bool) -> list[Listed]:
    """The queues of this user, or of all, those that no process has open included."""
    found = []
    for info in inspection.list_queues(all_users):
        look = None
        if info.problem is None:
            try:
                look = look_at(info.name)
            except ShmQueueNotFoundError:
                continue  # freed just now
            except (ShmQueueError, OSError) as error:
                info = dataclasses.replace(info, problem=_reason(error))
        found.append(Listed(info, look))
    return found


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, ShmQueueRefusedError) and error.strerror else one_line(error)
    return text.removeprefix("refusing to attach: ")
