"""What puts and gets do after one end of a queue was closed in this process, as they would do on a pipe.

With its writer closed a process can learn that nothing will come any more: when no process is left that has the queue
open and could write. So gets end with EOFError then. With its reader closed, puts that find no room end with
BrokenPipeError when no process could read. The kernel counts the handles; a blocked call asks it now and then, also one
that was blocked before the end was closed. At a closed end itself every call raises OSError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from multiprocessing import process
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from shmqueue import clock
from shmqueue.engine import deadline_after, seconds_until
from shmqueue.exceptions import ShmQueueClosedError, ShmQueueEmpty, ShmQueueFull
from shmqueue.segment import READER, WRITER, Segment

if TYPE_CHECKING:
    from shmqueue.engine import Payload

__all__ = ["ClosedEnds"]

_T = TypeVar("_T")
_Put = Callable[[int, "Payload", bool, "float | None"], bool]
_Get = Callable[[bool, "float | None"], "tuple[int, bytes] | None"]

_SENTENCES = {
    WRITER: ("_writer", "get() could never raise EOFError"),
    READER: ("_reader", "put() could never raise BrokenPipeError"),
}
_FIRST_PACE, _SLOWEST_PACE = 0.05, 1.0  # seconds between two questions to the kernel


class ClosedEnds:
    """Which ends of a queue this process has closed.

    Args:
        segment: the handle on the queue's segment.
        putting_back: the processes whose threads will put an item back; changes.
    """

    def __init__(self, segment: Segment, putting_back: Sequence[int]) -> None:
        self._segment = segment
        self._putting_back = putting_back
        self._closed: set[int] = set()
        self._guardian = _Guardian()
        self._pace, self._next_question = _FIRST_PACE, 0.0

    def close(self, role: int) -> None:
        """Close the end that has a role.

        Raises:
            NotImplementedError: it would never be seen that no process is left at the other end.
        """
        if not self._segment.renounce(role) and not self._guardian.exists:
            what, then = _SENTENCES[role]
            raise NotImplementedError(
                f"closing {what} of queue {self._segment.name!r} is not possible here: this system does not tell which "
                f"processes have the queue open, so {then}; send an item that says that it is the last one"
            )
        self._closed.add(role)

    @property
    def puts_may_be_fast(self) -> bool:
        """Whether puts that succeed at once need not know of this."""
        return WRITER not in self._closed

    @property
    def gets_may_be_fast(self) -> bool:
        """The same for gets."""
        return not self._closed

    def route(self, put: _Put, get: _Get) -> tuple[_Put, _Get]:
        """What to call instead of these two."""
        if READER in self._closed:
            put, get = self._to_readers(put), self._refusing
        elif WRITER in self._closed:
            get = self._from_writers(get)
        return (self._refusing if WRITER in self._closed else put), get

    def require(self, role: int) -> None:
        """Raise OSError if the end that has the role is closed."""
        if role in self._closed:
            self._refusing()

    def while_waiting(self, is_put: bool) -> Exception | None:
        """``Engine.while_waiting``: what a waiting call is to raise, which may have begun before an end was closed."""
        own, other = (WRITER, READER) if is_put else (READER, WRITER)
        if own in self._closed:
            return OSError("handle is closed")
        if other not in self._closed or clock.monotonic() < self._next_question:
            return None
        if self._nobody_else(other):
            return _end_without(other)  # and let other waiting calls ask at once
        self._next_question = clock.monotonic() + self._pace
        self._pace = min(2 * self._pace, _SLOWEST_PACE)
        return None

    def until_end(self, attempt: Callable[[float | None], _T], timeout: float | None) -> _T:
        """``attempt(timeout)``, whose result is false when the time is over, and EOFError once nothing can come."""
        if WRITER not in self._closed:
            return attempt(timeout)
        return self._repeated(attempt, timeout, self.is_over, _end_without(WRITER))

    def is_over(self) -> bool:
        """Whether nothing can come any more.

        Raises:
            ShmQueueNotInitializedError: the queue was closed.
        """
        if not self._segment.is_open:
            raise ShmQueueClosedError(f"queue {self._segment.name!r} is closed")
        return WRITER in self._closed and self._nobody_else(WRITER)

    def _from_writers(self, get: _Get) -> _Get:
        def get_until_end(block: bool, timeout: float | None) -> tuple[int, bytes] | None:
            return self.until_end(lambda seconds: get(True, seconds), timeout if block else 0.0)

        return get_until_end

    def _to_readers(self, put: _Put) -> _Put:
        def put_until_end(method: int, payload: Payload, block: bool, timeout: float | None) -> bool:
            return self._repeated(
                lambda seconds: put(method, payload, True, seconds),
                timeout if block else 0.0,
                lambda: self._nobody_else(READER),
                _end_without(READER),
            )

        return put_until_end

    def _repeated(
        self,
        attempt: Callable[[float | None], _T],
        timeout: float | None,
        is_over: Callable[[], bool],
        end: Exception,
    ) -> _T:
        deadline = deadline_after(timeout)
        pace = _FIRST_PACE
        while True:
            left = seconds_until(deadline)
            result, busy = _attempted(attempt, pace if left is None else min(pace, left))
            if result:
                return result
            if busy is None and is_over():
                result, busy = _attempted(attempt, 0.0)  # what came before the end
                if result:
                    return result
                if busy is None:
                    raise end
            if left is not None and left <= pace:
                if busy is not None:
                    raise busy
                return result  # type: ignore[return-value]
            pace = min(2 * pace, _SLOWEST_PACE)

    def _nobody_else(self, role: int) -> bool:
        if role == WRITER and os.getpid() in self._putting_back:
            return False
        if self._guardian.pid != os.getpid():
            self._guardian = _Guardian()
        return self._guardian.has_ended or self._segment.others_with(role) is False

    def _refusing(self, *arguments: Any) -> NoReturn:
        raise OSError("handle is closed")


def _end_without(role: int) -> OSError | EOFError:
    """What a call raises when no process is left that has the role."""
    if role == WRITER:
        return EOFError("no process is left that could put an item")
    return BrokenPipeError(errno.EPIPE, "no process is left that could take an item")


def _attempted(attempt: Callable[[float | None], _T], seconds: float) -> tuple[_T | None, Exception | None]:
    """The result, or the exception which says that another process has the lock, so that nothing is known."""
    try:
        return attempt(seconds), None
    except (ShmQueueEmpty, ShmQueueFull) as error:
        return None, error


class _Guardian:
    """The parent of a daemonic process, such as a worker of a ``Pool``, which must not outlive it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._parent: Any = process.parent_process() if process.current_process().daemon else None
        self._number = os.getppid() if hasattr(os, "getppid") else -1

    @property
    def exists(self) -> bool:
        return self._parent is not None

    @property
    def has_ended(self) -> bool:
        if self._parent is None:
            return False
        # Siblings may keep a dead parent's sentinel open, so its number is looked at too.
        return not self._parent.is_alive() or (self._number >= 0 and os.getppid() != self._number)
