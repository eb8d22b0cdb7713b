"""One item that the portable engine's user writes; see ``shmqueue.engine.Reservation`` for what the methods do.

The bytes are this process's own, and are copied into the queue when they are committed: a record may wrap in this ring,
so there is no place in one piece that could be lent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmqueue.exceptions import ShmQueueError

if TYPE_CHECKING:
    from shmqueue.engine.portable_put import Puts

__all__ = ["PortableReservation", "head_of"]


def head_of(length: int) -> bytes:
    """What stands before the contents of a bytes item of that length, as msgpack packs it."""
    for kind, width in (0xC4, 1), (0xC5, 2):
        if length < 1 << 8 * width:
            return bytes([kind]) + length.to_bytes(width, "big")
    return b"\xc6" + length.to_bytes(4, "big")


class PortableReservation:
    """Bytes that become an item: ``length`` of them."""

    def __init__(self, engine: Puts, length: int, block: bool, timeout: float | None) -> None:
        self._engine, self._block, self._timeout = engine, block, timeout
        self._bytes: bytearray | None = bytearray(length)
        self._pid = os.getpid()

    def contents(self, /) -> memoryview:
        if self._bytes is None or self._pid != os.getpid():
            raise BufferError("the reservation is over")
        return memoryview(self._bytes)

    def commit(self, /) -> bool:
        if self._pid != os.getpid():
            raise ShmQueueError("a reservation belongs to the process that made it, not to its child")
        written = self._bytes
        if written is None:
            return False
        length = len(written)
        try:
            written.append(0)  # which an exported bytearray refuses
        except BufferError:
            raise BufferError(
                f"queue {self._engine.name!r}: something still refers to the bytes of the item, which may be written "
                "until it is gone (an array, a slice): nothing was put"
            ) from None
        del written[length:]
        put = self._engine.put(0, (head_of(length), written), self._block, self._timeout)
        self._bytes = None
        return put

    def abandon(self, /) -> None:
        self._bytes = None
