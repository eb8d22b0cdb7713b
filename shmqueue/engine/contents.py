"""The layouts of both engines, as far as they can be read from a file: how many items, and whose locks.

Pure Python: whether the compiled engine is there or not, its segments can be counted. The layouts themselves are in
``native/layout.h`` and ``portable.py``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator

from shmqueue.engine.portable_leases import LeaseArea
from shmqueue.engine.portable_processes import Process, is_alive
from shmqueue.engine.portable_state import SLOT_SIZE, Contradiction, Room, State, unpack
from shmqueue.segment.contents import Contents, Layout, Leased, register_layout
from shmqueue.segment.header import FIELDS

__all__ = ["register_layouts"]

_ATTEMPTS = 100  # at a moment in which no commit happens, while others use the segment
_WORD = struct.Struct("=I")
_FUTEX_TID_MASK, _FUTEX_OWNER_DIED = 0x3FFFFFFF, 0x40000000

# ---- native: struct segment in native/layout.h ----

_GUARDS = 256, 512  # of the put and of the get side
_LEDGERS = 384, 640
_WAITING = 388, 644, 780  # flags: of both ledgers, and of the tally
_END = 784
_LEDGER = struct.Struct("=II2Q2Q2Q2I")  # sequence, waiting, position, count, what differs between the sides, arena
_LEASES = 0x80000000  # in the arena of a get ledger: some item is leased
_NEXT, _NEXT_FIELDS = 704, struct.Struct("=2Q2Q2I2I2Q")  # position, count, arena, entries, generation
_ENTRY = struct.Struct("=II5Q4I")  # state, in_place, position, count, window, started, since, pid, and three more
_ENTRIES_MAX = 1024
_PAGE = 4096
_LENT, _RETURNED, _PINNED, _WRITING = 1, 2, 3, 4
_PID = 48  # in an entry: pid and handle
_STARTED_FIELD, _SINCE_FIELD, _PID_FIELD = 5, 6, 7  # of an entry
_LOOKED = 3104  # when somebody last looked for leases of the dead
_GUARD = struct.Struct("=IIQ")  # lock, reserved, recoveries
_SHUT_IMMEDIATE = 2
_RECORD_HEADER_SIZE = 8


def _read_native(fd: int) -> Contents | None:
    for _ in range(_ATTEMPTS):
        # Rule 3 of the layout: the sequences must be the same before and after the slots were read.
        before, data, after = (os.pread(fd, _END, 0) for _ in range(3))
        if len(data) < _END or len(after) < _END:
            return None
        if _sequences(before) == _sequences(data) == _sequences(after):
            break
    else:
        return None
    (put_position, put_count, shut, _), (get_position, get_count, _, arena) = (
        _current(data, start) for start in _LEDGERS
    )
    used, items = put_position - get_position, put_count - get_count
    if arena & _LEASES:
        entries = [entry for _, entry in _entries(fd, data)]
        lent = [
            ((entry[_PID_FIELD], entry[_STARTED_FIELD]), entry[_SINCE_FIELD]) for entry in entries if entry[0] == _LENT
        ]
        items += len(lent)
        generation = _NEXT_FIELDS.unpack_from(data, _NEXT)[8 + (_LEDGER.unpack_from(data, _LEDGERS[1])[0] & 1)]
        returned = [entry for entry in entries if entry[0] == _RETURNED and entry[_STARTED_FIELD] == generation]
        leased = _leased(lent, len(returned))
        return Contents(items, used, shut != 0, leased) if items >= 0 and used >= 0 else None
    if used < 0 or items < 0 or items * _RECORD_HEADER_SIZE > used or (items == 0) != (used == 0):
        return None
    return Contents(0, 0, True) if shut == _SHUT_IMMEDIATE else Contents(items, used, shut != 0)


def _leased(lent: Iterable[tuple[Process, int]], returned: int) -> Leased:
    """The figures of leases, given for each its holder and since when it has it."""
    lent = list(lent)
    alive = {holder for holder in {holder for holder, _ in lent} if is_alive(holder)}
    held = [since for holder, since in lent if holder in alive]
    return Leased(len(held), len(lent) - len(held), returned, min(held, default=0))


def _sequences(data: bytes) -> list[int]:
    return [_LEDGER.unpack_from(data, start)[0] for start in _LEDGERS]


def _current(data: bytes, start: int) -> tuple[int, int, int, int]:
    sequence, _, *pairs = _LEDGER.unpack_from(data, start)
    slot = sequence & 1
    return pairs[slot], pairs[2 + slot], pairs[4 + slot], pairs[6 + slot]


def _entries(fd: int, data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where each used entry of the lease table lies in the file, and its fields, of which the first is its state."""
    slot = _LEDGER.unpack_from(data, _LEDGERS[1])[0] & 1
    count = min(_NEXT_FIELDS.unpack_from(data, _NEXT)[6 + slot], _ENTRIES_MAX)
    capacity = FIELDS.unpack_from(data)[4]
    start = _whole_pages(os.fstat(fd).st_size - capacity - _ENTRIES_MAX * _ENTRY.size - _PAGE)
    table = os.pread(fd, count * _ENTRY.size, start)
    for number in range(len(table) // _ENTRY.size):
        yield start + number * _ENTRY.size, _ENTRY.unpack_from(table, number * _ENTRY.size)


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _clear_native(fd: int, is_used_by: Callable[[int], bool]) -> bool:
    is_clear = True
    data = os.pread(fd, _END, 0)
    for start in _GUARDS:
        lock, reserved, recoveries = _GUARD.unpack_from(data, start)
        owner = lock & _FUTEX_TID_MASK
        if owner and is_used_by(owner):
            is_clear = False
        elif lock != 0:
            recovered = owner != 0 or bool(lock & _FUTEX_OWNER_DIED)
            os.pwrite(fd, _GUARD.pack(0, reserved, recoveries + recovered), start)
    for start in _WAITING:
        if _WORD.unpack_from(data, start)[0]:
            os.pwrite(fd, _WORD.pack(0), start)
    if is_clear and _current(data, _LEDGERS[1])[3] & _LEASES:
        for at, (state, *_) in _entries(fd, data):
            if state in {
                _LENT,
                _PINNED,
                _WRITING,
            }:  # by nobody: the id of its holder may belong to another process one day
                os.pwrite(fd, bytes(8), at + _PID)
        os.pwrite(fd, bytes(8), _LOOKED)  # so that the first consumer looks for them, before it takes newer items
    return is_clear


# ---- portable: see portable.py ----

_SELECTOR, _SLEEPERS = 128, 129
_SLOTS = 192, 448
_ANY_ROOM = Room(1, 1)  # stands for a size of 0, and the contents do not depend on the size
_PORTABLE_END = _SLOTS[1] + SLOT_SIZE


def _read_portable(fd: int) -> Contents | None:
    for _ in range(_ATTEMPTS):
        before, data, after = (os.pread(fd, _PORTABLE_END, 0) for _ in range(3))
        if len(data) < _PORTABLE_END or len(after) < _PORTABLE_END:
            return None
        selector = data[_SELECTOR]
        start = _SLOTS[selector & 1]
        state = unpack(data[start : start + SLOT_SIZE], _ANY_ROOM)
        if state is not None and before[_SELECTOR] == selector == after[_SELECTOR] == state.serial & 0xFF:
            if not 0 <= state.items <= state.used:
                return None
            try:
                leased = _leased_of_portable(fd, data, state) if state.entries else Leased()
            except Contradiction:
                continue  # the table was replaced meanwhile
            return Contents(state.items + state.entries, state.used, state.shut != 0, leased)
    return None


def _leased_of_portable(fd: int, data: bytes, state: State) -> Leased:
    area = LeaseArea(FIELDS.unpack_from(data)[4])
    at = area.table(state)
    entries = area.entries(state, os.pread(fd, at.stop - at.start, at.start))
    lent = [((entry.pid, entry.started), entry.since) for entry in entries if not entry.is_returned]
    return _leased(lent, state.returned)


def _clear_portable(fd: int, is_used_by: Callable[[int], bool]) -> bool:
    """Its lock is the kernel's. The mark of a dead owner stays: the next owner of the lock counts it."""
    if any(os.pread(fd, 2, _SLEEPERS)):
        os.pwrite(fd, bytes(2), _SLEEPERS)
    return True


def register_layouts() -> None:
    """Let ``shmqueue.segment`` know both layouts."""
    register_layout("native", Layout(frozenset({2, 3, 4, 5, 6, 7}), _read_native, _clear_native))
    register_layout("portable", Layout(frozenset({4, 5, 6, 7}), _read_portable, _clear_portable))
