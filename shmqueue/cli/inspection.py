"""What the commands tell about queues, as plain data.

Looking at a queue attaches to it for a moment, whichever engine it belongs to. The holders are looked up before that,
so that the one who looks is not among them.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import Any

from shmqueue import ShmQueueError, ShmQueueNotFoundError, ShmQueueRefusedError, segment
from shmqueue import engine as engines
from shmqueue.engine import Counters

__all__ = [
    "Listed",
    "Look",
    "can_see_holders",
    "list_queues",
    "look_at",
    "one_line",
    "remove_name",
]


def one_line(error: Exception) -> str:
    """What an error says, on one line and without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(text.split())


def can_see_holders() -> bool:
    """Whether this platform tells who holds a segment; where it does not, holders are always an empty list."""
    return os.access("/proc/locks", os.R_OK)


# ---- one queue ----


@dataclass(frozen=True)
class Look:
    """A queue at one moment.

    ``age`` is in seconds, ``created`` in seconds since the epoch, ``holders`` are pids. ``buffer_size`` is the most
    bytes of items, ``grows_from`` what an elastic queue starts with (0: of fixed size), ``memory`` what its file has.
    """

    name: str
    path: str
    engine: str
    created: float
    age: float
    holders: list[int]
    buffer_size: int
    grows_from: int
    memory: int
    maxsize: int
    counters: Counters

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
            "items": counters.qsize,
            "occupancy": counters.occupancy,
            "buffer_size": self.buffer_size,
            "grows_from": self.grows_from or None,
            "memory": self.memory,
            "maxsize": self.maxsize,
            "unfinished_tasks": counters.unfinished,
            "put_pos": put_pos,
            "get_pos": get_pos,
            "same_lap": int(put_lap == get_lap),
            "is_shutdown": counters.is_shut_down,
            "statistics": {
                "puts": counters.put_count,
                "gets": counters.get_count - counters.dropped,
                "dropped": counters.dropped,
                "bytes": counters.put_position,
                "high_water": counters.high_water,
                "recoveries": counters.recoveries,
                "putters_waiting": counters.putters_waiting,
                "getters_waiting": counters.getters_waiting,
            },
        }


def look_at(name: str) -> Look:
    """Look at a queue, and leave it as it was.

    Raises:
        ShmQueueNotFoundError: there is none of that name.
        ShmQueueRefusedError, ShmQueueCorruptedError: it cannot be read here; the message says why.
    """
    path = segment.path_of(name)
    holders = segment.holders_of(path)
    try:
        attached = segment.attach_segment(name, segment.directory(), segment.read_header(path).uuid)
    except ShmQueueNotFoundError:
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}") from None
    memory = _memory_of(path)
    try:
        opened = engines.open_engine(attached, lambda error: None)
        try:
            counters = Counters(*opened.counters())
        finally:
            opened.close()
    finally:
        attached.drops_items = False
        attached.close()
    header = attached.header
    created = header.created / 1e9
    return Look(
        name=name,
        path=path,
        engine=header.shape.engine,
        created=created,
        age=max(0.0, time.time() - created),
        holders=holders,
        buffer_size=header.shape.capacity,
        grows_from=header.shape.initial,
        memory=memory,
        maxsize=header.shape.maxsize,
        counters=counters,
    )


def _memory_of(path: str) -> int:
    """Bytes of memory that a segment has; an elastic one is mostly empty."""
    try:
        return os.stat(path).st_blocks * 512
    except (OSError, AttributeError):
        return 0


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# ---- all queues ----


@dataclass(frozen=True)
class Listed:
    """A name and what could be seen of its queue: either ``look``, or a ``problem`` that says why not."""

    name: str
    holders: list[int]
    look: Look | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The figures of the list; those that could not be read are None."""
        look = self.look
        return {
            "name": self.name,
            "items": look.counters.qsize if look else None,
            "occupancy": look.counters.occupancy if look else None,
            "buffer_size": look.buffer_size if look else None,
            "holders": self.holders,
            "age": round(look.age, 3) if look else None,
            "engine": look.engine if look else None,
            "problem": self.problem,
        }


def list_queues() -> list[Listed]:
    """This user's queues, orphans among them."""
    found = []
    for name in segment.list_names():
        try:
            look = look_at(name)
            found.append(Listed(name, look.holders, look=look))
        except ShmQueueNotFoundError:
            continue  # freed just now
        except ShmQueueError as error:
            found.append(Listed(name, _holders(name), problem=_reason(error)))
    return found


def _holders(name: str) -> list[int]:
    try:
        return segment.holders_of(segment.path_of(name))
    except ShmQueueError:
        return []


def _reason(error: ShmQueueError) -> str:
    text = error.strerror if isinstance(error, ShmQueueRefusedError) and error.strerror else str(error)
    return text.removeprefix("refusing to attach: ")


def remove_name(name: str) -> None:
    """Take a queue's name away, whatever state its segment is in. Those who hold it go on.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueRefusedError: what is there is not a regular file of this user's own.
    """
    path = segment.path_of(name)
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ShmQueueRefusedError(f"refusing to remove {path}: it is not a regular file")
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            raise ShmQueueRefusedError(f"refusing to remove {path}: it belongs to user {status.st_uid}")
        os.unlink(path)
    except FileNotFoundError:
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}") from None
    except PermissionError as error:
        if isinstance(error, ShmQueueError):
            raise
        raise ShmQueueRefusedError(f"cannot remove {path}: {error.strerror}") from error
    segment.sweep_orphans()  # with its name gone, nothing else would remove what the portable engine kept beside it
