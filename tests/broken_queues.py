"""Queues that are broken on purpose, one way each: the conformance kit has to find every one of them out."""

from __future__ import annotations

import os
import queue as standard_queue
import time
from typing import Any

from shmqueue.compat import queue as shm_queue
from shmqueue.compat._queues import Queue as MultiprocessingQueue

__all__ = ["MUTANTS"]


class LosesEveryFourth(shm_queue.Queue[Any]):
    """As if an item was overwritten where the ring wraps."""

    _count = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._count += 1
        if self._count % 4:
            super().put(item, block, timeout)


class LastInFirstOut(shm_queue.Queue[Any]):
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        items = [super().get(block, timeout)]
        while super().qsize():
            items.append(super().get())
        self.put_many(items[:-1])
        return items[-1]


def is_dead(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class TwiceAfterAKill(shm_queue.Queue[Any]):
    """Hands out again what a process had taken that was killed: at least once instead of at most once."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._flight = shm_queue.Queue[Any]()

    def __reduce__(self) -> Any:
        raise TypeError("only for forked processes")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        kept = {}
        again = None
        while True:
            try:
                pid, value = self._flight.get_nowait()
            except standard_queue.Empty:
                break
            if again is None and is_dead(pid):
                again = (pid, value)
            else:
                kept[pid] = value  # of each process what it took last
        self._flight.put_many(kept.items())
        value = again[1] if again is not None else super().get(block, timeout)
        self._flight.put((os.getpid(), value))
        return value

    def close(self) -> None:
        super().close()
        self._flight.close()


class WakesNobody(shm_queue.Queue[Any]):
    """A get that has to wait goes on waiting when there is something."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and timeout is None:
            while not self.qsize():
                time.sleep(3600)
        return super().get(block, timeout)


class CountsOnlyItsOwn(shm_queue.Queue[Any]):
    """Each process counts what it has put itself."""

    _mine = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._mine += 1

    def task_done(self) -> None:
        if self._mine <= 0:
            raise ValueError("task_done() called too many times")
        self._mine -= 1
        super().task_done()


class BlocksOnANegativeTimeout(MultiprocessingQueue):
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, None if timeout is not None and timeout < 0 else timeout)


class ListsForTuples(shm_queue.Queue[Any]):
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(_as_lists(item), block, timeout)


def _as_lists(item: Any) -> Any:
    return [_as_lists(each) for each in item] if type(item) in (list, tuple) else item


class ForgetsToClose(MultiprocessingQueue):
    def close(self) -> None:
        pass


class IsFullTooLate(shm_queue.Queue[Any]):
    def full(self) -> bool:
        return 0 < self.maxsize < self.qsize()


class GivesUpTooEarly(shm_queue.Queue[Any]):
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, None if timeout is None else timeout / 2)


class SaysEmptyAtTimes(shm_queue.Queue[Any]):
    """A get that may not wait looks only at every second call."""

    _count = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._count += 1
        if not block and self._count % 2:
            raise standard_queue.Empty
        return super().get(block, timeout)


class SwapsUnderLoad(shm_queue.Queue[Any]):
    """Keeps the order as long as it is used by one after the other."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if self.qsize() > 20:
            first = super().get()
            super().put(item, block, timeout)
            item = first
        super().put(item, block, timeout)


class GoesOnAfterShutdown(shm_queue.Queue[Any]):
    def shutdown(self, immediate: bool = False) -> None:
        super().shutdown(False)


class LosesWhatCannotBePickled(shm_queue.Queue[Any]):
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            super().put(item, block, timeout)
        except (AttributeError, TypeError):
            pass


MUTANTS: dict[type[Any], tuple[str, set[str]]] = {
    LosesEveryFourth: ("queue.Queue", {"fifo", "kept"}),
    LastInFirstOut: ("queue.Queue", {"fifo"}),
    TwiceAfterAKill: ("queue.Queue", {"killed-busy"}),
    WakesNobody: ("queue.Queue", {"get-woken"}),
    CountsOnlyItsOwn: ("queue.Queue", {"unfinished"}),
    BlocksOnANegativeTimeout: ("multiprocessing.Queue", {"get-negative"}),
    ListsForTuples: ("queue.Queue", {"same"}),
    ForgetsToClose: ("multiprocessing.Queue", {"close"}),
    IsFullTooLate: ("queue.Queue", {"full"}),
    GivesUpTooEarly: ("queue.Queue", {"get-timeout"}),
    SaysEmptyAtTimes: ("queue.Queue", {"linear"}),
    SwapsUnderLoad: ("queue.Queue", {"linear"}),
    GoesOnAfterShutdown: ("queue.Queue", {"shut-now"}),
    LosesWhatCannotBePickled: ("queue.Queue", {"unpicklable-told"}),
}
"""Each with the profile that it should keep, and the clause that it breaks, or the clauses."""
