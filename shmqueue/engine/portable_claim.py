"""The claim of a put on the portable engine: others that wait as well leave it the room that it needs.

It is a hint in shared memory, valid for a moment only: the process that wrote it renews it while it waits, and one that
is killed delays the others no longer than that. Two that write it at once overwrite each other, and one of them
tries again.
"""

from __future__ import annotations

import os
import threading
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from shmqueue import clock

if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["Claim", "Claimed"]

VALID = 100_000_000
"""Nanoseconds for which a claim counts."""

OVERTAKEN = 20e-3
"""Seconds after which a put that others overtake claims the room that it needs."""

_CLAIM = Struct("=4Q")  # until when, on the monotonic clock in ns; bytes; records; whose
_PLACE = slice(136, 136 + _CLAIM.size)
_NONE = bytes(_CLAIM.size)


class Claimed(NamedTuple):
    """What somebody else claims: bytes, and how many records."""

    size: int
    records: int


class Claim:
    """That of one put, of ``count`` records of ``length`` bytes together."""

    def __init__(self, memory: mmap, length: int, count: int) -> None:
        self._memory = memory
        self._length, self._count = length, count
        self._whose = os.getpid() << 32 | threading.get_native_id()
        self._put_count: int | None = None  # records ever put, at the first look
        self._is_overtaken = False
        self._is_left = False
        self._taken = self._claimed_at = -1  # what get has moved in all, at the last look and at the last claim

    def of_others(self) -> Claimed | None:
        """What somebody else claims just now, if anybody does."""
        claim = self._memory[_PLACE]
        if claim == _NONE:
            return None
        until, length, count, whose = _CLAIM.unpack(claim)
        left = until - int(clock.monotonic() * 1e9)
        return Claimed(length, count) if whose != self._whose and 0 < left <= VALID else None

    def note(self, put_count: int, taken: int, has_room: bool) -> None:
        """Tell what a look has found: records ever put, what moves with each get, and whether there was room."""
        self._taken = taken
        if self._put_count is None:
            self._put_count = put_count
        self._is_overtaken = not has_room and put_count != self._put_count

    def insist(self, waited: float) -> None:
        """After a look without success: claim, if others put while this one has waited ``waited`` seconds."""
        if self._taken == self._claimed_at:
            return  # the consumer may have to put first
        if self._is_overtaken and waited >= OVERTAKEN and self.of_others() is None:
            self._claimed_at = self._taken
            until = int(clock.monotonic() * 1e9) + VALID
            self._is_left = True
            self._memory[_PLACE] = _CLAIM.pack(until, self._length, self._count, self._whose)

    def withdraw(self) -> None:
        """The put is over, or about to be. Idempotent."""
        if self._is_left and _CLAIM.unpack(self._memory[_PLACE])[3] == self._whose:
            self._memory[_PLACE] = _NONE
