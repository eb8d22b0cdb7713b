"""Items that stay in the queue while a process works on them.

A lease is at-least-once delivery without a broker or a timeout: the kernel tells that a process has ended, and what it
had not acknowledged goes to another one. See ``shmqueue.engine.Loan`` for the record underneath.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from shmqueue.exceptions import ShmQueueClosedError
from shmqueue.generics import Self

if TYPE_CHECKING:
    from shmqueue.engine import Engine, Loan

try:
    from shmqueue.engine.native import lease_types
except ImportError:
    if not TYPE_CHECKING:
        lease_types = None

__all__ = ["Lease", "View", "lease_of", "take_lease"]

_T = TypeVar("_T")

_NOT_LOADED: Any = object()


class Lease(Generic[_T]):
    """One item in the hands of this process, from ``lease()``; see ``ShmQueue.lease``.

    As a context manager it is acknowledged at the block's end, and requeued if the block raises, unless one of these
    was called in it. A lease that is collected is requeued; so is one whose queue is closed or collected. Any thread
    may end it. In a forked child, whose parent has the lease, it is not held: ``ack`` and ``requeue`` raise
    ``ShmQueueError``, and the end of a block does nothing.

    There are subclasses, for any engine and for the native one. Leases are made by ``lease()`` only.
    """

    __slots__ = ()

    @property
    def item(self) -> _T:
        """The item, loaded when it is first asked for.

        Raises:
            ShmQueueDeserializationError: it cannot be loaded. It is still leased.
        """
        raise NotImplementedError

    @property
    def attempt(self) -> int:
        """How often the item was handed out: 1 the first time, one more after each requeue or death of a holder."""
        raise NotImplementedError

    @property
    def is_held(self) -> bool:
        """Whether it was neither acknowledged nor requeued, and the queue is open."""
        raise NotImplementedError

    def ack(self) -> bool:
        """Acknowledge: the item is finished and leaves the queue; counts as ``task_done()``.

        Returns False if the lease was over already.
        """
        raise NotImplementedError

    def requeue(self) -> bool:
        """Give the item back: the next ``get`` or ``lease``, in any process, receives it.

        Returns False if the lease was over already.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_held:
            (self.ack if kind is None else self.requeue)()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease belongs to the process that took it: it cannot be pickled or copied")

    def __repr__(self) -> str:
        return f"<Lease, attempt {self.attempt}, {'held' if self.is_held else 'over'}>"


class _LoanLease(Lease[_T]):
    """A lease of whatever hands out loans of records."""

    __slots__ = ("__weakref__", "_ended", "_item", "_load", "_loan", "_payload")

    def __init__(self, loan: Loan, load: Callable[[int, bytes], _T], ended: Callable[[], object] | None) -> None:
        self._loan, self._load, self._ended = loan, load, ended
        self._payload: bytes | None = loan.payload()  # at once: the record need not stay where it lies
        self._item: Any = _NOT_LOADED

    @property
    def item(self) -> _T:
        if self._item is _NOT_LOADED:
            assert self._payload is not None
            self._item = self._load(self._loan.method, self._payload)
            self._payload = None
        return cast(_T, self._item)

    @property
    def attempt(self) -> int:
        return self._loan.attempt

    @property
    def is_held(self) -> bool:
        return self._loan.is_held

    def ack(self) -> bool:
        return self._end(self._loan.finish)

    def requeue(self) -> bool:
        return self._end(self._loan.give_back)

    def _end(self, how: Callable[[], bool]) -> bool:
        done = how()
        if self._ended is not None:
            try:
                self._ended()
            except (RecursionError, MemoryError):
                pass  # the descriptor's thread looks, too
        return done


if lease_types is not None:
    lease_types(Lease)  # the native engine makes its leases of it


def take_lease(
    engine: Engine,
    block: bool,
    timeout: float | None,
    load: Callable[[int, bytes], Any],
    ended: Callable[[], object] | None = None,
) -> Lease[Any] | None:
    """Lease the oldest item of an engine; None if there was none in time.

    Args:
        block, timeout: as for ``Engine.lend``.
        load: turns a record, (method, payload), into an item.
        ended: called after each ``ack`` and ``requeue``; by a native engine unless its ``fast_gets`` is true.
    """
    native: Any = getattr(engine, "lease", None)
    if native is not None:
        return cast("Lease[Any] | None", native(block, timeout, load, ended))
    loan = engine.lend(block, timeout, False)
    return None if loan is None else lease_of(loan, load, ended)


def lease_of(loan: Loan, load: Callable[[int, bytes], Any], ended: Callable[[], object] | None = None) -> Lease[Any]:
    """The lease of a loan; ``load`` and ``ended`` as for ``take_lease``, but ``ended`` is always called."""
    return _LoanLease(loan, load, ended)


class View:
    """What ``get_view()`` returns: a context manager whose block sees the bytes of an item in shared memory."""

    __slots__ = ("__weakref__", "_contents", "_is_entered", "_loan")

    def __init__(self, loan: Loan) -> None:
        self._loan = loan
        self._is_entered = False
        self._contents: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._is_entered:
            raise RuntimeError("a view is entered once")
        try:
            self._contents = self._loan.contents()
        except BufferError:
            raise ShmQueueClosedError(
                "the queue was closed before the block of its view began, which requeued the item; or another process "
                "made the view"
            ) from None
        self._is_entered = True
        return self._contents

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._contents is not None:
            try:
                self._contents.release()
            except BufferError:
                pass  # something still looks at it: the bytes stay until that is gone
            self._contents = None
        if self._loan.is_held:
            (self._loan.finish if kind is None else self._loan.give_back)()
