"""Items that can never fit: what both engines say of them, in their user's terms."""

from __future__ import annotations

from shmqueue.exceptions import ShmQueueValueError
from shmqueue.segment import BY_MAX_BYTES, BY_MEMORY, directory

__all__ = ["LENGTH_MOST", "never_fits", "require_possible_length"]

LENGTH_MOST = 0xFFFFFFFF
"""Bytes of the largest payload: its length is a number of 32 bits."""


def require_possible_length(data: object) -> None:
    """Refuse bytes that no queue takes, before anything copies them. Other items pass.

    Raises:
        ShmQueueValueError: they are more than 4 GiB.
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


def _above_four_gib(length: int) -> str:
    return (
        f"item of {length} bytes can never fit: one item may have {LENGTH_MOST} bytes (4 GiB) at most; "
        "put it in several pieces"
    )
