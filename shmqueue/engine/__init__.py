"""Engines move bytes between processes through a segment; they know nothing of Python objects.

There are two: ``native`` (C11, Linux: ``shmqueue.engine.native``) and ``portable`` (pure Python under a flock, or a
shmlock lock where there is none: ``shmqueue.engine.portable``). They behave alike and keep different layouts, so a
segment belongs to the engine that made it. The environment variable ``SHMQUEUE_ENGINE`` chooses; without it the native
one is used where it was compiled.

``shmqueue.engine.NAME`` is the name of the engine that new queues get, ``REASON`` why it is not the native one (None
where it is, or where the environment asked for the portable one).
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shmqueue import clock
from shmqueue.exceptions import (
    PortableEngineWarning,
    ShmQueueNoSpaceError,
    ShmQueueRefusedError,
    ShmQueueValueError,
)
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import Segment

if TYPE_CHECKING:
    from typing import Union

    Buffer = Union[bytes, bytearray, memoryview]
    Payload = Union[Buffer, "tuple[Buffer, ...]"]
    NAME: str

__all__ = [
    "NAME",
    "REASON",
    "RECORD_HEADER_SIZE",
    "Counters",
    "Engine",
    "chosen",
    "data_size",
    "deadline_after",
    "open_engine",
    "register_layouts",
    "require_chosen",
    "seconds_until",
]

RECORD_HEADER_SIZE = 8
"""Bytes that a record takes beside its payload, in either engine."""


class Counters(NamedTuple):
    """A segment's figures, both sides as they were at one moment.

    Positions count bytes and counts count items since the segment was made. ``dropped`` are the items that ``clear``
    took and that were not done, ``done`` the calls of ``task_done``, ``high_water`` the most items queued at once,
    ``recoveries`` how often a dead owner's lock was taken over. The flags say whether somebody may be asleep on that
    side, and whether the queue was shut down.
    """

    put_position: int
    put_count: int
    get_position: int
    get_count: int
    dropped: int
    done: int
    high_water: int
    recoveries: int
    putters_waiting: bool
    getters_waiting: bool
    is_shut_down: bool

    @property
    def qsize(self) -> int:
        """Items in the queue."""
        return self.put_count - self.get_count

    @property
    def occupancy(self) -> int:
        """Bytes in use."""
        return self.put_position - self.get_position

    @property
    def unfinished(self) -> int:
        """Items put, not dropped, and not yet done."""
        return max(0, self.put_count - self.dropped - self.done)


def deadline_after(timeout: float | None) -> float | None:
    """The moment, on the monotonic clock, at which a timeout in seconds is over; None for never."""
    return None if timeout is None else clock.monotonic() + timeout


def seconds_until(deadline: float | None) -> float | None:
    """Seconds left until a deadline, at least 0; None for ever."""
    return None if deadline is None else max(0.0, deadline - clock.monotonic())


class LeaseFigures(NamedTuple):
    """What is handed out and not finished: records in the hands of processes, records given back that wait, how many
    were ever finished and handed out again, and the age of the oldest loan in seconds (0 if there is none)."""

    leased: int
    returned: int
    acknowledged: int
    redelivered: int
    oldest: float


class Loan(Protocol):
    """One record in the hands of this process.

    If the process ends, the handle is closed, or the object is collected before ``finish``, the record is requeued.
    Any thread may use it. In a forked child every method raises ``ShmQueueError``: it belongs to the parent.
    """

    @property
    def attempt(self) -> int:
        """How often the record was handed out; 1 the first time."""

    @property
    def method(self) -> int:
        """The record's method."""

    @property
    def is_held(self) -> bool:
        """Whether it is neither finished nor given back, as far as this process knows."""

    def payload(self, /) -> bytes:
        """A copy of the record's payload, in a bytearray if objects may live in it."""

    def contents(self, /) -> memoryview:
        """The contents of a bytes item, read-only, where they lie if they can be read there.

        They stay valid while anything looks at them, even after ``finish``.

        Raises:
            BufferError: the item is not bytes, or the loan is over.
        """

    def finish(self, /) -> bool:
        """The record is done: it leaves the queue, and counts as one ``task_done``. False: the loan was over."""

    def give_back(self, /) -> bool:
        """The record is not done: the next one to ask for a record gets it. False: the loan was over."""


class Reservation(Protocol):
    """An item of bytes that is not put yet, and whose bytes this process writes.

    If the process ends, or the object is collected before ``commit``, nothing is put. Any thread may use it. In a
    forked child it puts nothing: it belongs to the parent.
    """

    def contents(self, /) -> memoryview:
        """The bytes, to be written; what they are at first is not defined.

        Raises:
            BufferError: the reservation is over.
        """

    def commit(self, /) -> bool:
        """Put the item. False: the reservation was over, or there is no room for the item in time.

        Raises:
            BufferError: something still refers to the bytes (a memoryview, an array). The reservation is not over.
            ShmQueueError: another process took this one for dead, and ended the reservation.
            ShmQueueShutDown: the queue was shut down meanwhile.
        """

    def abandon(self, /) -> None:
        """Put nothing. What still refers to the bytes may go on to write them."""


class Engine(Protocol):
    """A handle on the records of one segment. All methods may be called from several threads.

    ``method`` is a number of 32 bits that travels with a payload, ``timeout`` is in seconds (None: for ever; ignored
    unless ``block``). After ``close`` every method raises ``ShmQueueNotInitializedError``; on a corrupted segment they
    raise ``ShmQueueCorruptedError``. After ``shut_down`` in any process ``put`` and ``put_many`` raise
    ``ShmQueueShutDown`` whether there is room or not, and so do ``get`` and ``get_many`` when there is nothing to take,
    calls that are waiting included.

    An elastic segment grows when a put finds no room. When the machine's memory is out it is like a full one, and the
    function ``report`` that the engine was opened with is called with the errno, once, by the put that has failed for
    this reason or waits for it, and with 0 by the next one without room after it could grow again. So what it raises
    is raised by a put that has put nothing. It gives memory back when it has become empty.

    A put that waits while others put before it claims, after 20 ms, the room that it needs: others that wait then go
    first only if there is room for both. A put that does not block, and any at its deadline, ignores claims: it fails
    only if there is no room. A claim of a process that died counts for another 100 ms at most.

    ``while_waiting`` is called, unless it is None, several times a second by each put (with True) and get (with False)
    that waits, calls already in flight included. An exception that it returns is raised unless one more attempt at the
    put or get succeeds.
    """

    while_waiting: Callable[[bool], Exception | None] | None

    lock_patience: float
    """Seconds that a put or get which may not block waits for its side's lock while another process has it."""

    def put(self, method: int, payload: Payload, block: bool, timeout: float | None, /) -> bool:
        """Put one record, whose payload may come in parts. False: there was no room in time.

        Raises:
            ShmQueueValueError: the record can never fit.
        """

    def reserve(self, length: int, block: bool, timeout: float | None, /) -> Reservation | None:
        """Make room for one item of ``length`` bytes, to be written by the caller. None: there was no room in time.

        Raises:
            ShmQueueValueError: the item can never fit.
        """

    def put_many(self, records: Sequence[tuple[int, Buffer]], block: bool, timeout: float | None, /) -> int:
        """Put as many of the records, from the first, as can fit an empty queue together: all those or none.

        Returns how many were put; 0, there was no room in time.

        Raises:
            ShmQueueValueError: one of the records can never fit; nothing was put.
        """

    def get(self, block: bool, timeout: float | None, /) -> tuple[int, bytes] | None:
        """Take the oldest record as (method, payload). None: there was none in time."""

    def get_many(self, most: int, block: bool, timeout: float | None, /) -> list[tuple[int, bytes]]:
        """Take 1 to ``most`` of the oldest records, waiting only for the first. Empty: there was none in time.

        Fewer than there are only if one has 32 KiB or more, or all together 1 MiB, or the first one was leased before.
        """

    def peek(self, block: bool, timeout: float | None, /) -> tuple[int, int, bytes] | None:
        """Copy the oldest record, which stays in the queue, as (number, method, payload). None: there was none in time.

        The number is how many records were taken before it since the segment was made.
        """

    def take(self, number: int, /) -> bool:
        """Take the oldest record if it is the one with that number. False: it is not, or there is none."""

    def lend(self, block: bool, timeout: float | None, bytes_only: bool, /) -> Loan | None:
        """Hand out the oldest record, which stays in the queue until the loan ends. None: there was none in time.

        Records that were given back come before those that were never handed out, oldest first; so do they in ``get``.

        Raises:
            TypeError: ``bytes_only``, and the oldest item is not bytes. It stays in the queue.
            ShmQueueError: 1,024 records are handed out, which is the most that can be.
            ShmQueueEmpty: the portable engine had no room in time to set the record aside, see its ``README``.
        """

    def lease_figures(self, /) -> tuple[int, int, int, int, float]:
        """The fields of ``LeaseFigures``."""

    def clear(self, /) -> int:
        """Drop all records, which then count as done. Returns how many there were."""

    def task_done(self, /) -> bool:
        """Count one record as done. False: there is none that is not."""

    def join(self, timeout: float | None, /) -> bool:
        """Wait until every record put is done or dropped. False: not in time."""

    def qsize(self, /) -> int:
        """Records in the queue."""

    def counters(self, /) -> tuple[int, int, int, int, int, int, int, int, bool, bool, bool]:
        """The fields of ``Counters``."""

    def wait(self, records: bool, timeout: float | None, /) -> bool:
        """Wait until there are records (True), or until there are none (False), and take nothing.

        Returns False if that was not so in time, and True at once if the queue is shut down.
        """

    def moment(self, kind: int, /) -> int:
        """A number that changes when an attempt that failed may succeed; see ``shmqueue.readiness``."""

    def pass_on(self, /) -> None:
        """Wake a blocked get of any process, for a caller that was woken for a record and does not take it."""

    def shut_down(self, immediate: bool, /) -> None:
        """Refuse all puts from now on, in all processes, and wake blocked calls; ``immediate`` drops the records too.

        Dropped records count as done. It may be called again, also with ``immediate`` after a call without.
        """

    def maxsize(self, /) -> int:
        """Most records in the queue, 0 for as many as fit. At first it is what the segment's header says."""

    def set_maxsize(self, maxsize: int, /) -> None:
        """Change it for all processes, and wake blocked putters. More records than that stay, and are taken as usual.

        Args:
            maxsize: at least 0, less than 2**62.
        """

    def prefault(self, /) -> bool:
        """Map the memory that the segment never gives back into this process now, so that no call meets a page fault.

        False: that cannot be done here.
        """

    def close(self, /) -> None:
        """Wake this handle's own waiting calls, wait for calls in flight, and unmap. Closing twice is harmless."""


REASON: str | None = None

try:
    from shmqueue.engine import native as _native
except ImportError as error:
    _native = None  # type: ignore[assignment]
    REASON = str(error)


def chosen() -> str:
    """The engine that new queues get: ``"native"`` or ``"portable"``.

    Raises:
        ShmQueueValueError: ``SHMQUEUE_ENGINE`` names neither, or the native one, which is not there.
    """
    name = os.environ.get("SHMQUEUE_ENGINE", "")
    if name not in ("", "native", "portable"):
        raise ShmQueueValueError(f"SHMQUEUE_ENGINE must be 'native' or 'portable', not {name!r}")
    if name == "native" and _native is None:
        raise ShmQueueValueError(f"SHMQUEUE_ENGINE asks for the native engine, which is not available: {REASON}")
    if name == "" and _native is None:
        _warn_once()
    return name or ("native" if _native is not None else "portable")


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"shmqueue uses its portable engine, which is much slower than the native one, because {REASON}",
            PortableEngineWarning,
            stacklevel=4,
        )


def data_size(name: str, capacity: int, initial: int) -> int:
    """Bytes that the engine called ``name`` needs in a segment's file, behind the header, for a queue of this shape."""
    if name == "native":
        return _native.data_size(initial, capacity)
    from shmqueue.engine.portable_leases import LeaseArea

    return LeaseArea.data_size(capacity)


def marks_dead_owners() -> bool | None:
    """Whether the kernel itself marks a lock of the native engine whose owner ends; None, that engine is not here.

    Where it does not (qemu-user, some sandboxes) a process that waits for the lock finds its owner dead, within 0.1 s.

    Raises:
        OSError: it cannot be tried, for that takes a thread.
    """
    return _native.marks_dead_owners() if _native is not None else None


_CANNOT_MAP = frozenset({errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP})


def open_engine(segment: Segment, report: Callable[[int], None]) -> Engine:
    """The engine for a segment, by what its header says.

    Args:
        segment: the handle on it, which stays the caller's to close, after the engine.
        report: called with the errno when the queue cannot grow, see ``Engine``.

    Raises:
        ShmQueueRefusedError: the segment belongs to an engine that is not available here, or its file system cannot map
            files.
        ShmQueueNoSpaceError: this process has no room for it in its address space.
    """
    try:
        if _native is not None:
            segment.anchor_by(_native.Anchor)
        if segment.header.shape.engine == "portable":
            from shmqueue.engine.portable import PortableEngine

            return PortableEngine(segment, report)
        if segment.header.shape.engine == "native" and _native is not None:
            return _native.open_ring(segment, report)
    except not_of_handler(OSError) as error:
        if error.errno in _CANNOT_MAP:
            why = (
                f"cannot map queue {segment.name!r}: {error.strerror}; its file system cannot share memory between "
                "processes, the environment variable SHMQUEUE_DIR can name another directory"
            )
            raise ShmQueueRefusedError(error.errno, why, segment.path) from error
        if error.errno != errno.ENOMEM:
            raise
        why = (
            f"cannot map queue {segment.name!r}: {error.strerror} (address space of this process: RLIMIT_AS, ulimit -v)"
        )
        raise ShmQueueNoSpaceError(error.errno, why, segment.path) from error
    raise ShmQueueRefusedError(
        f"queue {segment.name!r} belongs to the {segment.header.shape.engine} engine, "
        f"which is not available here: {REASON}"
    )


def require_chosen(segment: Segment) -> None:
    """Refuse a segment of the other engine: all programs that share a queue use the same one.

    Raises:
        ShmQueueRefusedError: it is.
    """
    ours, theirs = chosen(), segment.header.shape.engine
    if theirs != ours:
        raise ShmQueueRefusedError(
            f"queue {segment.name!r} belongs to the {theirs} engine and this process uses the {ours} one: "
            f"set SHMQUEUE_ENGINE={theirs} here, or use the same engine in all programs that share the queue"
        )


# Last, for it builds on what is above.
from shmqueue.engine.contents import register_layouts  # noqa: E402

register_layouts()


def __getattr__(attribute: str) -> str:
    if attribute == "NAME":
        return chosen()
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
