"""Errors that both engines raise, in their user's terms."""

from __future__ import annotations

from shmqueue.exceptions import ShmQueueEmpty, ShmQueueError, ShmQueueFull, ShmQueueValueError
from shmqueue.segment import BY_MAX_BYTES, BY_MEMORY, directory

__all__ = ["LENGTH_MOST", "lock_timed_out", "never_fits", "require_possible_length", "tell_items_put"]

LENGTH_MOST = 0xFFFFFFFD
"""Bytes of the largest payload: its length is a number of 32 bits, two of which mean something else."""


def require_possible_length(data: object) -> None:
    """Refuse bytes that no queue takes, before anything copies them. Other items pass.

    Raises:
        ShmQueueValueError: they are more than 4 GiB less 3 bytes.
    """
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        length = data.nbytes if isinstance(data, memoryview) else len(data)
        if length > LENGTH_MOST:
            raise ShmQueueValueError(_above_four_gib(length))


def never_fits(name: str, length: int, capacity: int, limit: int) -> ShmQueueValueError:
    """The error for an item that is too large for a queue.

    Args:
        name: the queue's name.
        length: bytes of the item, serialized.
        capacity: most bytes in the queue.
        limit: who decided that, as in ``Shape``.
    """
    if length > LENGTH_MOST:
        return ShmQueueValueError(_above_four_gib(length))
    if limit == BY_MEMORY:
        who = f"all the memory of {directory()}; a larger item needs more of it (containers: --shm-size)"
    elif limit == BY_MAX_BYTES:
        who = "max_bytes, chosen by its creator"
    else:
        who = "buffer_size, chosen by its creator"
    return ShmQueueValueError(
        f"item of {length} bytes can never fit: queue {name!r} holds {capacity} bytes ({who}), "
        "and an item takes 8 bytes more than its own"
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
    """Add to an error how many of the items of a ``put_many`` were put before it."""
    if put > 0:
        error.items_put = put  # type: ignore[attr-defined]
        if isinstance(error, ShmQueueError):
            error.args = (f"{error}; {put} of {count} items were put",)


def _above_four_gib(length: int) -> str:
    return (
        f"item of {length} bytes can never fit: one item may have {LENGTH_MOST} bytes (4 GiB) at most; "
        "put it in several pieces"
    )
