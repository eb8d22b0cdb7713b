"""What queues have in common, for annotations: a function that takes one need not say whose class it is.

>>> def work(jobs: shmqueue.SyncQueue[str]) -> None: ...

Only the names and parameters that all classes share are here. Type checkers compare them; ``isinstance`` does not work,
because a class with these names need not be a queue.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

__all__ = ["AsyncQueue", "SyncQueue"]

_T = TypeVar("_T")


class SyncQueue(Protocol[_T]):
    """A queue whose calls block the thread.

    ``ShmQueue``, ``queue.Queue``, ``queue.SimpleQueue``, ``multiprocessing.Queue``, ``multiprocessing.JoinableQueue``
    and their counterparts in ``shmqueue.compat`` are such queues. ``multiprocessing.SimpleQueue`` is not: its ``put``
    and ``get`` have no options.
    """

    def put(self, item: _T, /, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end. Raises ``queue.Full`` if there is no room in time (``timeout``, in seconds)."""

    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        """Take the oldest item. Raises ``queue.Empty`` if there is none in time (``timeout``, in seconds)."""
        ...

    def put_nowait(self, item: _T, /) -> None:
        """``put(item, block=False)``."""

    def get_nowait(self) -> _T:
        """``get(block=False)``."""
        ...

    def qsize(self) -> int:
        """Items in the queue."""
        ...

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        ...


class AsyncQueue(Protocol[_T]):
    """A queue whose calls are coroutines: ``asyncio.Queue`` and ``shmqueue.compat.asyncio.Queue``."""

    async def put(self, item: _T, /) -> None:
        """Put an item at the end; wait for room."""

    async def get(self) -> _T:
        """Take the oldest item; wait for one."""
        ...

    def put_nowait(self, item: _T, /) -> None:
        """Put an item at the end. Raises ``asyncio.QueueFull`` if there is no room."""

    def get_nowait(self) -> _T:
        """Take the oldest item. Raises ``asyncio.QueueEmpty`` if there is none."""
        ...

    def qsize(self) -> int:
        """Items in the queue."""
        ...

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        ...

    def full(self) -> bool:
        """Whether there is no room."""
        ...

    def task_done(self) -> None:
        """Mark one retrieved item as processed."""

    async def join(self) -> None:
        """Wait until ``task_done`` was called for every item put."""
