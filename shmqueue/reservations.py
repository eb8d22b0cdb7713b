"""Items whose bytes are written where they lie; see ``ShmQueue.put_view``."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from shmqueue.exceptions import ShmQueueFull

if TYPE_CHECKING:
    from shmqueue.engine import Reservation

__all__ = ["PutView"]


class PutView:
    """What ``put_view()`` returns: a context manager whose block writes the bytes of an item."""

    __slots__ = ("__weakref__", "_contents", "_reservation", "_why_full")

    def __init__(self, reservation: Reservation, why_full: Callable[[], str]) -> None:
        self._reservation, self._why_full = reservation, why_full
        self._contents: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._contents is not None:
            raise RuntimeError("a view is entered once")
        try:
            self._contents = self._reservation.contents()
        except BufferError:
            raise RuntimeError("a view is entered once, by the process that made it") from None
        return self._contents

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contents, self._contents = self._contents, None
        try:
            if contents is not None:
                contents.release()
        except BufferError:
            pass  # something still refers to it: commit() says so
        try:
            if kind is None and not self._reservation.commit():
                raise ShmQueueFull(self._why_full())
        finally:
            del contents
            self._reservation.abandon()
