"""Putting records with the portable engine: when there is room, whose turn it is, and what is added then."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shmqueue.engine import RECORD_HEADER_SIZE, deadline_after, seconds_until
from shmqueue.engine.portable_claim import Claim
from shmqueue.engine.portable_commit import PUTTERS, Attempt, Step
from shmqueue.engine.portable_lock import Hold
from shmqueue.engine.portable_records import LONGEST_WRITTEN
from shmqueue.engine.portable_reservation import PortableReservation, head_of
from shmqueue.engine.portable_state import State
from shmqueue.engine.portable_waiting import Waiting
from shmqueue.exceptions import ShmQueueError, ShmQueueValueError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import Segment

if TYPE_CHECKING:
    from shmqueue.engine import Buffer, Payload

__all__ = ["Puts"]


class _TooMany(Exception):
    """``maxsize`` has become less than the number of records that are to be put together."""


class Puts(Waiting):
    """A handle that puts records."""

    def __init__(self, segment: Segment, report: Callable[[int], None]) -> None:
        super().__init__(segment, report)
        self._threshold = segment.header.shape.threshold

    def put(self, method: int, payload: Payload, block: bool, timeout: float | None, /) -> bool:
        block = bool(block)  # which may run any code, as in the three below
        self._require_usable()
        return self._put(self._record(method, payload), 1, block, timeout)

    def put_many(self, records: Sequence[tuple[int, Buffer]], block: bool, timeout: float | None, /) -> int:
        block = bool(block)
        self._require_usable()
        encoded = [self._record(method, payload) for method, payload in records]
        deadline = deadline_after(timeout)
        while True:
            count = self._fitting(encoded)
            try:
                put = count > 0 and self._put(b"".join(encoded[:count]), count, block, seconds_until(deadline))
                return count if put else 0
            except _TooMany:
                pass  # somebody has made maxsize smaller meanwhile

    def reserve(self, length: int, block: bool, timeout: float | None, /) -> PortableReservation | None:
        block = bool(block)
        self._require_usable()
        if length < 0:
            raise ValueError("a reservation has at least 0 bytes")
        if length > LONGEST_WRITTEN:
            raise ShmQueueValueError(f"put_view() writes {LONGEST_WRITTEN} bytes at most, not {length}")
        size = length + len(head_of(length))
        self._require_to_fit(size)
        has_room = self._room_for(RECORD_HEADER_SIZE + size, 1)

        def look(state: State, hold: Hold) -> Step[bool]:
            self._require_open_to_all(state)
            return None, has_room(state) or None, b""

        def ready(state: State) -> bool:
            return state.shut > 0 or has_room(state)

        is_room = self._counted(lambda: self._until(ready, look, _do_nothing, PUTTERS, block, timeout))
        return PortableReservation(self, length, block, timeout) if is_room else None

    def _fitting(self, records: list[bytes]) -> int:
        """How many of the records, from the first, an empty queue could hold together."""
        most = min(len(records), self._maxsize_in(self._counted(self._current)) or len(records))
        size = 0
        for index in range(most):
            size += len(records[index])
            if size > self._capacity:
                return index
        return most

    def _put(self, data: bytes, count: int, block: bool, timeout: float | None) -> bool:
        has_room = self._room_for(len(data), count)
        shortage: list[int] = []  # the errno of a look that found room but no memory
        claim = Claim(self._memory, len(data), count)

        def unmet(waited: float) -> None:
            if self._told and self._has_grown:  # not when it grew: what a signal handler raises would hide that it put
                self._tell(0)
            while shortage:
                self._tell(shortage.pop())
            if block:
                claim.insist(waited)

        def has_polite_room(state: State) -> bool:
            others = claim.of_others()
            if others is not None:
                is_free = self._room_for(len(data) + others.size, count + others.records)(state)
            else:
                is_free = has_room(state)
            claim.note(state.put_count, state.get_position + state.get_count, has_room(state))
            return is_free

        def attempt(has_room: Callable[[State], bool], block: bool, timeout: float | None) -> bool:
            def ready(state: State) -> bool:
                return state.shut > 0 or has_room(state) or self._is_too_many(state, count)

            add = self._adding(data, count, has_room, shortage, claim)
            return self._until(ready, add, unmet, PUTTERS, block, timeout) is True

        def in_the_end() -> bool:
            """There may be room for it that was left for a claim, also if that has ended by now."""
            claim.withdraw()
            return attempt(has_room, False, None)

        def put() -> bool:
            if not block:  # Full only if it is full: a claim is for those that wait
                return attempt(has_room, False, None)
            try:
                return attempt(has_polite_room, True, timeout) or in_the_end()
            except BaseException:
                claim.withdraw()
                raise

        return self._counted(put)

    def _room_for(self, length: int, count: int) -> Callable[[State], bool]:
        most_used = self._capacity - length
        if self._threshold:
            most_used = min(most_used, self._threshold - 1)
        first_maxsize = self._first_maxsize

        def has_room(state: State) -> bool:
            maxsize = state.maxsize - 1 if state.maxsize else first_maxsize
            return state.put_position - state.get_position <= most_used and (
                not maxsize or state.available + count <= maxsize
            )

        return has_room

    def _is_too_many(self, state: State, count: int) -> bool:
        """Whether the queue will never again take ``count`` records together, unless maxsize grows."""
        return 0 < self._maxsize_in(state) < count

    def _adding(
        self, data: bytes, count: int, has_room: Callable[[State], bool], shortage: list[int], claim: Claim
    ) -> Attempt[bool]:
        def add(state: State, hold: Hold) -> Step[bool]:
            self._require_open_to_all(state)
            if not has_room(state):
                if self._is_too_many(state, count):
                    raise _TooMany
                return None, None, b""
            try:
                place = self._larger(state, len(data), hold)
            except not_of_handler(OSError) as error:
                if error.errno is None:  # what a signal handler raises usually has none
                    raise error.__cause__ or error from None
                if error.errno == errno.EBADF:
                    raise ShmQueueError(
                        f"queue {self._name!r} needs its file, and cannot open it: this program has closed descriptors "
                        "that it did not open, and the queue's name is gone"
                    ) from error
                shortage.append(error.errno)
                return None, None, b""
            claim.withdraw()  # here, for after the commit an exception comes too late
            return place.after_put(len(data), count), True, data

        return add


def _do_nothing(waited: float) -> None:
    """What a call that waits for room does beside that."""
