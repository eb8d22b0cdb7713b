"""Segments in transit: pickled in one process, not yet loaded in another.

Between the two, perhaps no process has the segment open: a worker returns a queue and ends, or a sender drops the queue
that it has sent. So each pickled queue leaves a note in the segment that says until when it may still arrive. Before
that the last process to close the segment leaves the file in place, and so does a sweep of orphans. A note needs no
descriptor and no process: it outlives its writer. The arrival removes it.

The notes are ``NOTES`` numbers of 64 bits in the header page, the same in both engines' segments. Each is a time on the
system's monotonic clock in nanoseconds, 0 for none. One more number counts the adoptions: how often a process attached
when no process had the segment open. A process that left the file for a pickled queue removes it later only if this
number is still the same; otherwise the items are those of a later user.

Two queues pickled at once never share a note: a slot is claimed under a lock on its bytes, and a locked one is skipped.
When all slots are taken, slot 0 is moved on instead, which no arrival removes: the file then outlives its last holder
by up to ``PATIENCE``.

A note further ahead than ``PATIENCE`` does not count: it was written before a reboot.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from shmqueue import clock
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.header import HEADER_SIZE, uuid_in
from shmqueue.segment.locks import fcntl

__all__ = [
    "NOTES",
    "PATIENCE",
    "Left",
    "Note",
    "adoptions",
    "arrive",
    "await_arrival",
    "await_still",
    "count_adoption",
    "depart",
    "is_awaited",
    "no_longer_awaits",
    "overdue",
]

PATIENCE = 30.0
"""Seconds that a pickled queue is waited for."""
NOTES = 63

Note = tuple[int, int]
"""A slot, and what is written in it."""

_START = 3584  # offset in the file; the header page is 4096 bytes long, see engine/native/layout.h
_TABLE = struct.Struct(f"={NOTES}Q")
_NUMBER = struct.Struct("=Q")
_ADOPTIONS = _START + _TABLE.size
_LOCK = struct.Struct("@hhqqi4x")  # struct flock of Linux, with its padding

_claimed: set[tuple[bytes, int]] = set()  # what a finalizer in the middle of ``depart`` must pass over: (uuid, slot)


def depart(fd: int, uuid: bytes) -> Note | None:
    """Note in a segment that a pickled queue is on its way. Returns the note, for its arrival.

    None: it has no note of its own, or could not be noted. It arrives all the same while a process has the queue open.

    Args:
        fd: a descriptor of the segment, whose description only this thread uses now.
        uuid: the segment's, without which nothing is written: the number may be another file's by now.
    """
    try:
        notes, now = _notes(fd, uuid), _now()
        for slot in range(1, len(notes)):
            if not _counts(notes[slot], now) and (uuid, slot) not in _claimed:
                until = _claim(fd, uuid, slot)
                if until:
                    return slot, until
        if notes:
            _write(fd, 0)
    except not_of_handler(OSError):
        pass
    return None


def _claim(fd: int, uuid: bytes, slot: int) -> int:
    """Write a note to a slot; 0 if another process is doing that, or has done it."""
    _claimed.add((uuid, slot))
    try:
        if not _lock(fd, slot, True):
            return 0
        try:
            return 0 if _counts(_read(fd, slot), _now()) else _write(fd, slot)
        finally:
            _lock(fd, slot, False)
    finally:
        _claimed.discard((uuid, slot))


def arrive(fd: int, uuid: bytes, note: Note | None) -> None:
    """Remove the note of a pickled queue that has arrived. A second arrival of the same pickle changes nothing."""
    if note is None:
        return
    try:
        slot, until = note
        if not 0 < slot < len(_notes(fd, uuid)) or not _lock(fd, slot, True):
            return
        try:
            if _read(fd, slot) == until:  # else its time is over, and the slot another pickle's
                os.pwrite(fd, _NUMBER.pack(0), _START + slot * _NUMBER.size)
        finally:
            _lock(fd, slot, False)
    except not_of_handler(OSError):
        pass  # its time runs out


def is_awaited(fd: int) -> bool:
    """Whether a pickled queue may still arrive at the segment behind ``fd``."""
    try:
        now = _now()
        return any(_counts(note, now) for note in _notes(fd, None))
    except not_of_handler(OSError):
        return False


def adoptions(fd: int) -> int:
    """How often a process attached to the segment behind ``fd`` when no process had it open."""
    return int(_NUMBER.unpack(os.pread(fd, _NUMBER.size, _ADOPTIONS))[0])


def count_adoption(fd: int) -> None:
    """Count one more. The caller has the segment's lock exclusively."""
    os.pwrite(fd, _NUMBER.pack(adoptions(fd) + 1 & (1 << 64) - 1), _ADOPTIONS)


# ---- what this process closed last ----


class Left(NamedTuple):
    """A segment that this process was the last to close and left in place for a pickled queue."""

    name: str
    path: str
    uuid: bytes
    adoptions: int
    """How many there were then."""


_left: dict[Left, float] = {}  # and when its notes are over


def await_arrival(left: Left) -> None:
    """Return this segment from ``overdue`` when its notes are over."""
    _left[left] = clock.monotonic() + PATIENCE


def overdue() -> list[Left]:
    """The segments whose notes are over by now."""
    if not _left:
        return []
    now = clock.monotonic()
    return [left for left, end in list(_left.items()) if end <= now]


def no_longer_awaits(left: Left) -> bool:
    """Have ``overdue`` return a segment no more. False: it did not any more."""
    return _left.pop(left, None) is not None


def await_still(left: Left) -> None:
    """Have ``overdue`` return a segment again that it returned, unless it is to do so later."""
    _left.setdefault(left, 0.0)


def _after_fork_in_child() -> None:
    _left.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# ---- the notes ----


def _counts(note: int, now: int) -> bool:
    return now < note <= now + PATIENCE * 1e9


def _now() -> int:
    return int(clock.monotonic() * 1e9)


def _notes(fd: int, uuid: bytes | None) -> tuple[int, ...]:
    """All notes; none if it is another segment or no segment at all."""
    page = os.pread(fd, HEADER_SIZE, 0)
    if len(page) < HEADER_SIZE or (uuid is not None and uuid_in(page) != uuid):
        return ()
    return _TABLE.unpack_from(page, _START)


def _read(fd: int, slot: int) -> int:
    return int(_NUMBER.unpack(os.pread(fd, _NUMBER.size, _START + slot * _NUMBER.size))[0])


def _write(fd: int, slot: int) -> int:
    until = _now() + int(PATIENCE * 1e9)
    os.pwrite(fd, _NUMBER.pack(until), _START + slot * _NUMBER.size)
    return until


def _lock(fd: int, slot: int, wanted: bool) -> bool:
    """Take or release the lock on a slot's bytes, for this open file description; False if another one has it."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return True
    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, _START + slot * _NUMBER.size, _NUMBER.size, 0))
    except not_of_handler(BlockingIOError):
        return False
    except not_of_handler(OSError):  # EACCES
        return False
    return True
