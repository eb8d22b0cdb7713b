"""Errors that both engines raise, in their user's terms."""

from __future__ import annotations

import sys

from shmqueue.exceptions import ShmQueueEmpty, ShmQueueError, ShmQueueFull, ShmQueueValueError
from shmqueue.segment import BY_MAX_BYTES, BY_MEMORY, directory

__all__ = ["lock_timed_out", "never_fits", "tell_items_put"]

_LONG = 0xFFFFFFFE  # bytes of a payload whose length is a number of 64 bits


def never_fits(name: str, length: int, capacity: int, limit: int) -> ShmQueueValueError:
    """The error for an item that is too large for a queue.

    Args:
        name: the queue's name.
        length: bytes of the item, serialized.
        capacity: most bytes in the queue.
        limit: who decided that, as in ``Shape``.
    """
    if limit == BY_MEMORY and sys.maxsize < 1 << 32:
        who = f"all that addresses of 32 bits and the memory of {directory()} allow"
    elif limit == BY_MEMORY:
        who = f"all the memory of {directory()}; a larger item needs more of it (containers: --shm-size)"
    elif limit == BY_MAX_BYTES:
        who = "max_bytes, chosen by its creator"
    else:
        who = "buffer_size, chosen by its creator"
    return ShmQueueValueError(
        f"item of {length} bytes can never fit: queue {name!r} holds {capacity} bytes ({who}), "
        f"and an item takes {8 if length < _LONG else 16} bytes more than its own"
    )


def lock_timed_out(name: str, is_put: bool) -> ShmQueueFull | ShmQueueEmpty:
    """The error for a call that could not have the lock of the producers (``is_put``) or of the consumers in time."""
    error: ShmQueueFull | ShmQueueEmpty
    if is_put:
        error = ShmQueueFull(
            f"queue {name!r}: its producers' lock was not released in time, nothing was put: "
            "the process that holds it is stopped, or copies a large item"
        )
    else:
        error = ShmQueueEmpty(
            f"queue {name!r}: its consumers' lock was not released in time, nothing was taken: "
            "the process that holds it is stopped, or copies a large item"
        )
    error.is_busy = True
    return error


def tell_items_put(error: BaseException, put: int, count: int) -> None:
    """Add to an error how many of the items of a ``put_many`` were put before it.

    A signal handler may raise another one in the middle of that. So the caller adds ``items_put`` to whatever is raised
    here, and calls nothing for it.
    """
    if put > 0:
        error.items_put = put  # type: ignore[attr-defined]
        if isinstance(error, ShmQueueError):
            error.args = (f"{error}; {put} of {count} items were put",)
