"""A descriptor that an event loop waits for, readable when it is time to look for messages.

It rings when one of several queues gets something, when a consumer has room again, and for whatever else a transport
has to look at. Ringing once too often is harmless.
"""

from __future__ import annotations

import math
import os
import select
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from shmqueue import threads
from shmqueue.interruptions import not_of_handler
from shmqueue.readiness import Request, ask, withdraw
from shmqueue.segment.descriptor import Descriptor

__all__ = ["Doorbell", "Wish"]

_READ_MOST = 4096  # bytes


class Wish(NamedTuple):
    """What to wait for; the fields are those of ``shmqueue.readiness.Request``."""

    engine: Any
    kind: int
    moment: int
    """From before the last attempt."""
    is_exact: bool = False


class Doorbell:
    """The descriptor, and what has been asked of ``shmqueue.readiness`` for it."""

    _read = _write = -1

    def __init__(self) -> None:
        self._lock = threads.new_reentrant_lock()  # held, so that the descriptor that is written to is still ours
        self._requests: dict[tuple[int, int], Request] = {}
        self._read, self._write = Descriptor.opened(os.pipe2, os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._read

    def ring(self) -> None:
        """Make it readable; from any thread."""
        with self._lock:
            if self._write >= 0:
                try:
                    os.write(self._write, b"!")
                except not_of_handler(BlockingIOError):
                    pass  # it is readable enough

    def quiet(self) -> None:
        """Make it not readable."""
        try:
            os.read(self._read, _READ_MOST)
        except not_of_handler(BlockingIOError):
            pass

    def wait(self, timeout: float | None) -> bool:
        """Wait until it is readable.

        Args:
            timeout: seconds, None for ever.

        Returns:
            False, it is not.
        """
        if not hasattr(select, "poll"):  # eventlet takes it away
            return bool(select.select([self._read], [], [], timeout)[0])
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000))))

    def ring_for(self, wishes: Iterable[Wish]) -> None:
        """Ring when one of the wishes is granted."""
        for engine, kind, moment, is_exact in wishes:
            key = id(engine), kind
            if key not in self._requests:  # else it rings for what came after an older moment
                request = Request(engine, kind, moment, _teller(weakref.ref(self), key), is_exact)
                self._requests[key] = request
                ask(request)

    def forget(self) -> None:
        """Ring for no engine any more."""
        while self._requests:
            withdraw(self._requests.popitem()[1])

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self.forget()
        with self._lock:
            self._close_ends()

    def _close_ends(self) -> None:
        # No call between forgetting a number and closing it: what a signal handler raised there would leave it open.
        if self._read >= 0:
            end, self._read = self._read, -1
            os.close(end)
        if self._write >= 0:
            end, self._write = self._write, -1
            os.close(end)

    def _granted(self, key: tuple[int, int]) -> None:
        self._requests.pop(key, None)
        self.ring()

    def __del__(self) -> None:
        self._close_ends()


def _teller(bell: weakref.ref[Doorbell], key: tuple[int, int]) -> Callable[[], object]:
    """What tells the doorbell, and does not keep it."""

    def tell() -> None:
        rung = bell()
        if rung is not None:
            rung._granted(key)

    return tell
