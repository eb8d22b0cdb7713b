"""The portable engine's memory: how a ring grows, and how it returns memory.

An elastic segment is a sparse file as long as the largest ring. The pages behind the present ring may have no
memory: a process that makes it longer reserves them first, and one that makes it shorter punches them out afterwards,
both under the lock. Pages of a process that died between these steps are found by the next one that grows the ring.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from shmqueue.engine.portable_leases import Entry, LeaseArea
from shmqueue.engine.portable_lock import NOTHING, Act, Hold
from shmqueue.engine.portable_state import Contradiction, Room, State
from shmqueue.exceptions import ShmQueueCorruptedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import HEADER_SIZE, SYSTEM_PAGESIZE, Segment
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.locks import changing

__all__ = ["RingMemory"]

_CAN_RESERVE = hasattr(os, "posix_fallocate")  # macOS and Windows promise nobody the memory of a sparse file
_REMOVE: int | None = getattr(mmap, "MADV_REMOVE", None)  # without it memory goes back when the queue is freed

_KEPT = 1 << 20
_KEPT_TIMES = 16
"""A ring becomes smaller only if it has more bytes than the one, and more times those to begin with than the other."""
_NEEDED = 16
_SPARE = 4
"""It does so when the records need less than one part in ``_NEEDED`` of it, and keeps ``_SPARE`` times their bytes."""


class RingMemory:
    """The memory of one segment's ring, as one handle sees it. ``map`` is the whole file."""

    _duplicate: Descriptor | None = None  # until it is mapped, which can fail

    def __init__(self, segment: Segment) -> None:
        shape = segment.header.shape
        if not 0 <= shape.initial <= shape.capacity > 0 or shape.data_size != LeaseArea.data_size(shape.capacity):
            raise ShmQueueCorruptedError(f"queue {segment.name!r} is corrupted: its header contradicts itself")
        self._segment = segment
        self.is_elastic = shape.initial > 0
        self.room = Room(shape.initial or shape.capacity, shape.capacity)
        self.leases = LeaseArea(shape.capacity)
        with changing(), segment.descriptor_to_map() as fd:
            self.map, self._duplicate = _map(fd, segment.file_size)

    def close(self) -> None:
        """Unmap. Idempotent."""
        if self.map.closed or self._duplicate is None or self._duplicate.number >= 0:
            self.map.close()
        else:
            _keep_mapped(self.map)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing():
            return  # the names in this module may be gone, and all ends with the process
        if self._duplicate is not None and not self.map.closed and self._duplicate.number < 0:
            _keep_mapped(self.map)

    def larger(self, state: State, length: int, hold: Hold) -> int:
        """Reserve the memory of a larger ring, in which ``length`` bytes more have their place, and return its size.

        It is twice as large or more, but takes no more than half of what is free, unless it cannot do with less.

        Raises:
            OSError: there is not enough memory.
            Contradiction: the lock was lost.
        """
        fd = self._require_file()
        least = min(_whole_pages(state.end + length), self.room.most)
        size = state.size
        while size < least:
            size *= 2
        size = min(size, self.room.most)
        there, free = _allocated_and_free(fd)
        if free is not None:  # an attempt that fails would for a moment take all the memory there is
            if HEADER_SIZE + least > there + free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._segment.path)
            modest = (there + free // 2 - HEADER_SIZE) // SYSTEM_PAGESIZE * SYSTEM_PAGESIZE
            size = min(size, max(least, modest))
        if _CAN_RESERVE:
            self._segment.reserve(HEADER_SIZE + size, HEADER_SIZE + state.size, _while_owned(hold))
        return size

    def smaller(self, state: State, following: State) -> int | None:
        """The size of a smaller ring that ``following`` should have, if there is anything to give back.

        That is a state after records of ``state`` were taken. Those left go to the start of the ring, so what ``state``
        has must not be there: it stays the current one until ``following`` is committed.
        """
        used, size = following.used, state.size
        if not self.is_elastic or size <= max(_KEPT, _KEPT_TIMES * self.room.least) or used * _NEEDED > size:
            return None
        if used and (state.end > size or state.offset(state.get_position) < used):
            return None
        least = self.room.least
        while least < used * _SPARE:
            least *= 2
        return least

    def giving_back(self, state: State) -> Act:
        """What gives back the memory behind the ring."""
        start = _whole_pages(HEADER_SIZE + state.size)
        return self._removing(start, HEADER_SIZE + self.room.most - start)

    def reserve_for_lease(self, places: Iterable[slice], hold: Hold) -> None:
        """Reserve the memory of these places in the file.

        Raises:
            OSError: there is not enough memory.
            Contradiction: the lock was lost.
        """
        self._require_file()
        for place in places:
            if _CAN_RESERVE and place.start < place.stop:
                self._segment.reserve(place.stop, place.start, _while_owned(hold))

    def giving_back_window(self, entry: Entry) -> Act:
        """What gives back the memory of an entry's payload."""
        return self._removing(*self.leases.pages_of(entry))

    def _removing(self, start: int, length: int) -> Act:
        if _REMOVE is None or length <= 0:
            return NOTHING
        return self.map.madvise, (_REMOVE, start, length)

    def _require_file(self) -> int:
        fd = self._segment.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._segment.path)
        return fd

    def moving(self, state: State, following: State) -> Act:
        """What copies records to where they are in another ring: what wraps to behind one that grows, all to the start
        of one that shrinks. The bytes there belong to nobody."""
        if following.size > state.size and state.end > state.size:
            return self.map.move, (HEADER_SIZE + state.size, HEADER_SIZE, state.end - state.size)
        if following.size < state.size and following.used:
            return self.map.move, (HEADER_SIZE, HEADER_SIZE + state.offset(following.get_position), following.used)
        return NOTHING


def _while_owned(hold: Hold) -> Callable[[Callable[..., Any], tuple[Any, ...]], Any]:
    """Calls a C function only while the lock is owned: what an overtaker has put behind the ring must stay."""
    owner = hold.owner

    def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        acts = (NOTHING, (function, arguments))
        # No jump and no call between the look at the hold and the body of act.
        act, given = acts[owner.hold is hold]
        result = act(*given)
        if owner.hold is not hold:
            raise Contradiction("the lock was lost")
        return result

    return call


def _map(fd: int, size: int) -> tuple[mmap.mmap, Descriptor | None]:
    """Map a file; also the duplicate of the descriptor that the mapping keeps, before Python 3.13.

    It closes that number in the end, whosever it is by then, and does not tell it. A duplicate made just before had the
    same one, unless another thread opened something meanwhile.
    """
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False), None
    with changing():  # no other thread opens the same file
        while True:
            number = Descriptor.opened(os.dup, fd)
            os.close(number)
            memory = mmap.mmap(fd, size)
            try:
                if os.path.samestat(os.fstat(number), os.fstat(fd)):
                    return memory, Descriptor(number)
            except not_of_handler(OSError):
                pass
            memory.close()


def _keep_mapped(memory: mmap.mmap) -> None:
    """Never unmap: the descriptor that would be closed with it is somebody else's by now."""
    _mapped_for_ever.append(memory)
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # the end of the interpreter empties the list
    except ImportError:
        pass


_mapped_for_ever: list[mmap.mmap] = []


def _whole_pages(size: int) -> int:
    return -(-size // SYSTEM_PAGESIZE) * SYSTEM_PAGESIZE


def _allocated_and_free(fd: int) -> tuple[int, int | None]:
    """Bytes that the file has, and that its file system has left; None where it does not say."""
    if not hasattr(os, "fstatvfs"):
        return 0, None
    figures = os.fstatvfs(fd)
    if figures.f_blocks == 0:  # a tmpfs without a limit
        return 0, None
    return os.fstat(fd).st_blocks * 512, figures.f_bavail * figures.f_frsize
