"""What the creator of a queue chooses, from the caller's arguments to the segment's ``Shape``.

It knows what the arguments mean, and what to say when a queue exists with another shape than the caller asks for.
"""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any, NamedTuple

from shmqueue import engine
from shmqueue.arguments import require_int
from shmqueue.exceptions import ShmQueueShapeWarning, ShmQueueValueError
from shmqueue.segment import BY_BUFFER_SIZE, BY_MAX_BYTES, BY_MEMORY, SYSTEM_PAGESIZE, Shape, total_bytes

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["Asked", "callers_level", "require_shape", "warn_of_another"]

_FIRST_SIZE = 64 << 10
"""Bytes that a queue starts with when nobody says how many; it grows when it needs more."""

_PARTS = 8
"""A queue that nobody limits takes at most one part in so many of the largest file, and of the address space, that this
process may have: a file is a few times as long as its queue is large, and there may be other queues."""

_ADDRESSES = (sys.maxsize + 1) // _PARTS
"""Bytes of the largest queue that a process can map, with its windows and mapped twice: 256 MiB where an address has 32
bits."""

_MAX_BYTES = min(1 << 46, _ADDRESSES)
"""Where growth ends at the latest: an address space has room for several times as much."""

_MAPPED_MOST = min(_MAX_BYTES, _ADDRESSES // _PARTS)
"""And that of a queue that nobody limits, on the engine that maps all that a queue may grow to: there may be others."""

_BUFFER_MOST = min(1 << 55, _ADDRESSES)
"""The largest ``buffer_size``, whatever memory there is."""


class Asked(NamedTuple):
    """The arguments that the caller gave, checked, sizes in bytes; None where it gave none."""

    buffer_size: int | None
    max_bytes: int | None
    maxsize: int | None

    def shape(self, engine_name: str, threshold: int) -> Shape:
        """The shape of a new queue.

        Args:
            threshold: a put blocks while this number of bytes is in the queue; 0, no limit.
        """
        start = _whole_pages(self.buffer_size or _FIRST_SIZE)
        if self.max_bytes:
            capacity, limit = min(_whole_pages(self.max_bytes), _MAX_BYTES), BY_MAX_BYTES
        elif self.max_bytes == 0 or self.buffer_size is None:
            capacity, limit = _whole_pages(_all_there_is(engine_name)), BY_MEMORY
        else:
            capacity, limit = start, BY_BUFFER_SIZE
        if self.buffer_size is not None:
            capacity = max(capacity, start)
        initial = start if start < capacity else 0
        data_size = engine.data_size(engine_name, capacity, initial)
        return Shape(engine_name, capacity, self.maxsize or 0, initial, threshold, data_size, limit)


def require_shape(buffer_size: Any, max_bytes: Any, maxsize: Any) -> Asked:
    """Check the arguments of these names; None, it was not given.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: one of them is unusable; the message names it.
    """
    asked = Asked(
        None if buffer_size is None else require_int("buffer_size", buffer_size, least=1),
        None if max_bytes is None else require_int("max_bytes", max_bytes, least=0),
        None if maxsize is None else require_int("maxsize", maxsize, least=None),
    )
    if (asked.buffer_size or 0) > _BUFFER_MOST:
        raise ShmQueueValueError(
            f"buffer_size must be at most {_BUFFER_MOST}, for addresses of {sys.maxsize.bit_length() + 1} bits, "
            f"not {asked.buffer_size}"
        )
    if asked.max_bytes and asked.max_bytes < (asked.buffer_size or 0):
        raise ShmQueueValueError(
            f"max_bytes must be at least buffer_size, {asked.buffer_size}, or 0, not {asked.max_bytes}"
        )
    return asked


def warn_of_another(name: str, asked: Asked, shape: Shape, maxsize: int) -> None:
    """Warn if an existing queue has another shape than the caller asked for: its creator's choice holds.

    Args:
        maxsize: what it is now.
    """
    has, wanted = [], []
    size = shape.initial or shape.capacity
    if asked.buffer_size is not None and _whole_pages(asked.buffer_size) != size:
        has.append(f"buffer_size={size}" if shape.limit == BY_BUFFER_SIZE else "no fixed buffer_size (it grows)")
        wanted.append(f"buffer_size={asked.buffer_size}")
    if asked.max_bytes is not None and not _is_limit_of(shape, asked.max_bytes):
        has.append(f"max_bytes={_max_bytes_of(shape)}")
        wanted.append(f"max_bytes={asked.max_bytes}")
    if asked.maxsize is not None and asked.maxsize != maxsize:
        has.append(f"maxsize={maxsize}")
        wanted.append(f"maxsize={asked.maxsize}")
    if wanted:
        warnings.warn(
            f"queue {name!r} exists with {', '.join(has)}, which holds: {', '.join(wanted)} given here has no effect",
            ShmQueueShapeWarning,
            stacklevel=callers_level(),
        )


def _all_there_is(engine_name: str) -> int:
    """Bytes that a queue may grow to when nobody limits it: what the system has, and lets this process have."""
    most = min(total_bytes(), _MAX_BYTES if engine_name == "native" else _MAPPED_MOST)
    if resource is not None:
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS):
            allowed = resource.getrlimit(kind)[0]
            if allowed != resource.RLIM_INFINITY:
                most = min(most, allowed // _PARTS)
    return max(most, SYSTEM_PAGESIZE)


def _is_limit_of(shape: Shape, max_bytes: int) -> bool:
    if max_bytes == 0:
        return shape.limit == BY_MEMORY
    return shape.limit != BY_MEMORY and min(_whole_pages(max_bytes), _MAX_BYTES) == shape.capacity


def _max_bytes_of(shape: Shape) -> str:
    return "0 (all the memory there is)" if shape.limit == BY_MEMORY else str(shape.capacity)


def callers_level() -> int:
    """How far above its caller the first frame is that is neither this package's nor a finalizer's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("shmqueue", "weakref"):
        frame, level = frame.f_back, level + 1
    return level


def _whole_pages(size: int) -> int:
    return -(-size // SYSTEM_PAGESIZE) * SYSTEM_PAGESIZE
