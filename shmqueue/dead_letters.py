"""Items that were leased too often without success: they are moved to another queue, and hold up their own no longer.

A process may be killed between any two instructions here. The item is put to the other queue first and acknowledged
then, so at worst it comes again and is moved once more: it is never in neither queue.

This module knows loans and records. Of the other queue it knows that it has ``put``.
"""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from shmqueue.arguments import require_int
from shmqueue.engine import deadline_after, seconds_until
from shmqueue.exceptions import ShmQueueClosedError, ShmQueueFull, ShmQueueTypeError, ShmQueueValueError

if TYPE_CHECKING:
    from shmqueue.engine import Loan

__all__ = ["DeadLetterQueue", "Limit", "lend_within", "limit_for"]

_SLICE = 0.1  # seconds of a wait for room, after each of which it is asked whether the item is still to be moved

_PutRecord = Callable[[int, bytes, bool, "float | None"], bool]


class DeadLetterQueue(Protocol):
    """Any queue. With a timeout, or without blocking, ``put`` is called as that of ``queue.Queue``."""

    def put(self, item: Any, /) -> object:
        """Put an item."""


class Limit:
    """How often an item may be handed out, and where it goes then.

    Args:
        name: of the queue that the items come from.
        max_attempts: as checked by ``limit_for``.
    """

    def __init__(self, name: str, max_attempts: int, dead_letter: Any) -> None:
        self._name, self.max_attempts, self._dead_letter = name, max_attempts, dead_letter

    def move(self, loan: Loan, load: Callable[[int, bytes], Any], block: bool, timeout: float | None) -> None:
        """Move the item of a loan, or give it back and raise.

        Raises:
            ShmQueueFull: the other queue had no room in time.
            Exception: what its ``put`` raises.
        """
        try:
            self._put(loan, load, block, timeout)
        except queue.Full as error:
            loan.give_back()
            raise ShmQueueFull(
                f"the dead-letter queue has no room for an item of queue {self._name!r} that was handed out "
                f"{loan.attempt} times ({str(error) or type(error).__name__}); the item was requeued: "
                "take items from the dead-letter queue"
            ) from error
        except BaseException:
            loan.give_back()
            raise
        loan.finish()

    def _put(self, loan: Loan, load: Callable[[int, bytes], Any], block: bool, timeout: float | None) -> None:
        put_record = _put_record_of(self._dead_letter)
        if put_record is not None and self._put_record(put_record, loan, block, timeout):
            return  # as it is: loading it may be what fails
        item, put = load(loan.method, loan.payload()), self._dead_letter.put
        returned = put(item) if block and timeout is None else put(item, block, timeout)
        if inspect.isawaitable(returned):
            getattr(returned, "close", lambda: None)()
            raise ShmQueueTypeError(
                f"dead_letter must be a queue whose put() returns when it is done: {type(self._dead_letter).__name__} "
                "returns an awaitable; nothing was put"
            )

    def _put_record(self, put_record: _PutRecord, loan: Loan, block: bool, timeout: float | None) -> bool:
        """Put it as it is, unless its own queue is closed while this waits for room. False: it must be loaded.

        Raises:
            ShmQueueClosedError: it was closed, which gave the item back.
        """
        method, payload, deadline = loan.method, loan.payload(), deadline_after(timeout)
        while block and (left := seconds_until(deadline)) != 0:
            try:
                return put_record(method, payload, True, _SLICE if left is None else min(left, _SLICE))
            except queue.Full:
                if not loan.is_held:
                    raise ShmQueueClosedError(f"queue {self._name!r} is closed") from None
        return put_record(method, payload, False, None)


def limit_for(
    name: str, uuid: Callable[[], bytes], max_attempts: int | None, dead_letter: DeadLetterQueue | None
) -> Limit | None:
    """The limit that the arguments of ``lease`` mean; None, there is none.

    Args:
        uuid: tells that of the segment that the items come from.

    Raises:
        ShmQueueValueError: one is given without the other, ``max_attempts`` is less than 1, or ``dead_letter`` is the
            queue itself.
        ShmQueueTypeError: ``max_attempts`` is no whole number, or ``dead_letter`` has no ``put``, or one to be
            awaited.
    """
    if max_attempts is None and dead_letter is None:
        return None
    if max_attempts is None:
        raise ShmQueueValueError("dead_letter needs max_attempts: how often an item is handed out before it goes there")
    if dead_letter is None:
        raise ShmQueueValueError("max_attempts needs dead_letter: a queue for items that were handed out more often")
    most = require_int("max_attempts", max_attempts, least=1)
    if not callable(getattr(dead_letter, "put", None)):
        raise ShmQueueTypeError(f"dead_letter must be a queue, with put(), not {type(dead_letter).__name__}")
    if inspect.iscoroutinefunction(dead_letter.put):
        raise ShmQueueTypeError(
            f"dead_letter must be a queue whose put() returns when it is done: {type(dead_letter).__name__} "
            "returns an awaitable; nothing was put"
        )
    other = getattr(dead_letter, "_uuid", None)
    if callable(other) and other() == uuid():
        raise ShmQueueValueError(f"dead_letter is queue {name!r} itself: the item would come back with attempt 1")
    return Limit(name, most, dead_letter)


def lend_within(
    limit: Limit,
    lend: Callable[[float | None], Loan],
    load: Callable[[int, bytes], Any],
    block: bool,
    timeout: float | None,
) -> Loan:
    """The first loan within the limit; the items of those before it are moved.

    Args:
        lend: hands out the oldest item, within the seconds given, or raises.
        load: turns a record into the item.
        timeout: seconds for all together: to wait for an item, and for room in the other queue.
    """
    deadline = deadline_after(timeout)
    while True:
        loan = lend(seconds_until(deadline))
        if loan.attempt <= limit.max_attempts:
            return loan
        limit.move(loan, load, block, seconds_until(deadline))


def _put_record_of(dead_letter: Any) -> _PutRecord | None:
    """The function that puts a record, for a queue of this package whose ``put`` is not replaced."""
    if "put" in getattr(dead_letter, "__dict__", ()):
        return None
    for owner in type(dead_letter).__mro__:
        if "put" in vars(owner):
            return getattr(dead_letter, "_put_record") if "_put_record" in vars(owner) else None  # noqa: B009 - private, of any class
    return None
