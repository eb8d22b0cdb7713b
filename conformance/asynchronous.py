"""``compat.asyncio.Queue`` for the kit, whose workers make ordinary calls: each call runs an event loop for a while.

>>> Target("shmqueue.conformance.asynchronous:Queue", "fork")

Such a queue promises what ``queue.Queue`` does. The waiting, with and without a timeout, is done by its coroutines,
which a timeout cancels. One thing is different by design: a call that may not wait does not wait for a lock either,
since it is made in an event loop. It says so (``is_busy``), and is made again here.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Queue"]

_LOCK_PATIENCE = 1.0  # seconds

_loops = threading.local()


class Queue:
    """``shmqueue.compat.asyncio.Queue`` with the interface of ``queue.Queue``."""

    def __init__(self, maxsize: int = 0, *, name: str | None = None) -> None:
        self._start(importlib.import_module("shmqueue.compat.asyncio").Queue(maxsize, name=name))

    def _start(self, shared_queue: Any) -> None:
        self._queue = shared_queue
        self.qsize, self.empty, self.full = shared_queue.qsize, shared_queue.empty, shared_queue.full
        self.task_done, self.shutdown, self.close = shared_queue.task_done, shared_queue.shutdown, shared_queue.close

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """``queue.Queue.put``."""
        if _waits(block, timeout):
            self._run(self._queue.put(item), timeout, queue.Full)
        else:
            self.put_nowait(item)

    def put_nowait(self, item: Any) -> None:
        """``put(item, block=False)``."""
        _at_once(self._queue.put_nowait, item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """``queue.Queue.get``."""
        if not _waits(block, timeout):
            return self.get_nowait()
        return self._run(self._queue.get(), timeout, queue.Empty)

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return _at_once(self._queue.get_nowait)

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:
        """``shmqueue.compat.queue.Queue.lease``."""

        async def lease() -> Any:
            return await self._queue.lease()

        if not _waits(block, timeout):
            return _at_once(self._queue.lease_nowait)
        return self._run(lease(), timeout, queue.Empty)

    def join(self) -> None:
        """``queue.Queue.join``."""
        self._run(self._queue.join(), None, queue.Empty)

    @property
    def unfinished_tasks(self) -> int:
        """``queue.Queue.unfinished_tasks``."""
        return int(self._queue.sync_queue.unfinished_tasks)

    def _run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, error: type[Exception]) -> Any:
        try:
            return _loop().run_until_complete(coroutine if timeout is None else asyncio.wait_for(coroutine, timeout))
        except asyncio.TimeoutError:
            raise error from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._queue,)


def _at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call that may not wait returns or raises, as soon as it can have the lock."""
    end = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return call(*arguments)
        except (queue.Empty, queue.Full) as error:
            if not getattr(error, "is_busy", False) or time.monotonic() >= end:
                raise


def _waits(block: bool, timeout: float | None) -> bool:
    return block and (timeout is None or timeout > 0)


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this thread; a forked child makes one of its own."""
    pid, loop = getattr(_loops, "of_process", (0, None))
    if loop is None or pid != os.getpid():
        loop = asyncio.new_event_loop()
        _loops.of_process = os.getpid(), loop
    return loop


def _arrived(shared_queue: Any) -> Queue:
    arrived = Queue.__new__(Queue)
    arrived._start(shared_queue)
    return arrived
