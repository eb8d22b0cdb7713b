"""Queues that are broken on purpose, one way each: the conformance kit has to find every one of them out."""

from __future__ import annotations

import contextlib
import os
import queue as standard_queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from shmqueue import Lease as QueueLease
from shmqueue import ShmQueue
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
        with contextlib.suppress(standard_queue.Empty):
            while True:
                items.append(super().get(False))
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
        items = [item]
        if self.qsize() > 20:
            with contextlib.suppress(standard_queue.Empty):  # others may have taken all of them meanwhile
                items.append(super().get(False))
        for each in items:
            super().put(each, block, timeout)


class GoesOnAfterShutdown(shm_queue.Queue[Any]):
    def shutdown(self, immediate: bool = False) -> None:
        super().shutdown(False)


class LosesWhatCannotBePickled(shm_queue.Queue[Any]):
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            super().put(item, block, timeout)
        except (AttributeError, TypeError):
            pass


# ---- leases ----


class Passed:
    """A lease that does what the lease inside of it does; what is broken overrides some of it."""

    def __init__(self, queue: Any, inner: QueueLease[Any]) -> None:
        self.queue, self.inner = queue, inner
        self.item, self.attempt = inner.item, inner.attempt

    def ack(self) -> bool:
        return self.inner.ack()

    def requeue(self) -> bool:
        return self.inner.requeue()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.inner.is_held:
            (self.ack if kind is None else self.requeue)()


class Leasing(shm_queue.Queue[Any]):
    """Its leases are of the class ``Lease``."""

    Lease: type[Passed] = Passed

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        return self.Lease(self, super().lease(block, timeout))


class AcknowledgesOnlyHere(Leasing):
    """What was acknowledged comes again when the process has ended."""

    class Lease(Passed):
        acknowledged: list[Any] = []  # noqa: RUF012
        is_over = False

        def ack(self) -> bool:
            was_over, self.is_over = self.is_over, True
            self.acknowledged.append(self.inner)
            return not was_over

        def requeue(self) -> bool:
            was_over, self.is_over = self.is_over, True
            return not was_over and super().requeue()


class RequeuesBehindNewer(Leasing):
    class Lease(Passed):
        def requeue(self) -> bool:
            if self.inner.is_held:
                self.queue.put(self.item)
            return self.inner.ack()


class LosesWhatAKilledProcessHad(Leasing):
    """As if a lease was a get, and a requeue a put."""

    class Lease(Passed):
        is_over = False

        def __init__(self, queue: Any, inner: Any) -> None:
            super().__init__(queue, inner)
            inner.ack()

        def ack(self) -> bool:
            was_over, self.is_over = self.is_over, True
            return not was_over

        def requeue(self) -> bool:
            if not self.is_over:
                self.queue.put(self.item)
            return self.ack()


class PrefersNewItems(Leasing):
    """What came back is handed out when there is nothing else."""

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        old = super().lease(block, timeout)
        if old.attempt == 1:
            return old
        try:
            new = super().lease(False)
        except standard_queue.Empty:
            return old
        old.requeue()
        return new


class LeavesInPlace(Leasing):
    """What is leased can be leased again at once, and is taken out when it is acknowledged."""

    class Lease(Passed):
        def __init__(self, queue: Any, inner: Any) -> None:
            super().__init__(queue, inner)
            inner.requeue()

        def ack(self) -> bool:
            self.queue.get(timeout=1)
            return True


class TimesOut(Leasing):
    """A lease is over after a while, though its holder lives."""

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        lease = super().lease(block, timeout)
        timer = threading.Timer(0.1, lease.requeue)
        timer.daemon = True
        timer.start()
        return lease


class ForgetsAttempts(Leasing):
    class Lease(Passed):
        def __init__(self, queue: Any, inner: Any) -> None:
            super().__init__(queue, inner)
            self.attempt = 1


class EndsTwice(Leasing):
    class Lease(Passed):
        def ack(self) -> bool:
            self.inner.ack()
            return True


class AcknowledgesWhatRaised(Leasing):
    class Lease(Passed):
        def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
            self.ack()


class NeverEndsABlock(Leasing):
    class Lease(Passed):
        entered: list[Any] = []  # noqa: RUF012

        def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
            self.entered.append(self)


class CountsALeaseAsDone(Leasing):
    class Lease(Passed):
        def __init__(self, queue: Any, inner: Any) -> None:
            super().__init__(queue, inner)
            if queue.unfinished_tasks:
                queue.task_done()


class AcknowledgesWithoutTaskDone(Leasing):
    """As with a queue whose consumers call task_done() besides."""

    class Lease(Passed):
        def ack(self) -> bool:
            if not self.inner.is_held:
                return False
            self.queue.put(self.item)
            self.inner.ack()
            self.queue.get()
            return True


class CountsWhatIsLeased(Leasing):
    _mine = 0

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        lease = super().lease(block, timeout)
        self._mine += 1
        return lease

    def qsize(self) -> int:
        return super().qsize() + self._mine


class LeasesNothing(Leasing):
    """Says with None that there is nothing."""

    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        try:
            return super().lease(block, timeout)
        except standard_queue.Empty:
            return None


class GivesUpALeaseTooEarly(Leasing):
    def lease(self, block: bool = True, timeout: float | None = None) -> Any:  # type: ignore[override]
        return super().lease(block, None if timeout is None else timeout / 2)


class SwapsRequeuedUnderLoad(RequeuesBehindNewer):
    """Keeps the order of what is requeued as long as little is queued."""

    class Lease(RequeuesBehindNewer.Lease):
        def requeue(self) -> bool:
            return super().requeue() if self.queue.qsize() > 20 else self.inner.requeue()


class LeasesTwiceUnderLoad(Leasing):
    """Now and then an item is left in the queue when it is leased."""

    class Lease(Passed):
        count = 0

        def __init__(self, queue: Any, inner: Any) -> None:
            super().__init__(queue, inner)
            type(self).count += 1
            if queue.qsize() > 20 and self.count % 50 == 0:
                queue.put(self.item)


class LosesWhatIsRequeuedUnderLoad(Leasing):
    class Lease(Passed):
        count = 0

        def requeue(self) -> bool:
            type(self).count += 1
            return self.inner.ack() if self.count % 50 == 0 else self.inner.requeue()


class PutsWhenABlockBegins(ShmQueue[Any]):
    """What is still being written can be got."""

    @contextlib.contextmanager
    def put_view(self, length: int, block: bool = True, timeout: float | None = None) -> Iterator[bytearray]:  # type: ignore[override]
        contents = bytearray(length)
        self.put(bytes(contents))
        yield contents


class PutsWhatIsDropped(ShmQueue[Any]):
    """A block that raises puts what it has written."""

    @contextlib.contextmanager
    def put_view(self, length: int, block: bool = True, timeout: float | None = None) -> Iterator[bytearray]:  # type: ignore[override]
        contents = bytearray(length)
        try:
            yield contents
        finally:
            self.put(bytes(contents))


class TakesWhenABlockBegins(ShmQueue[Any]):
    """What a killed process looked at is gone."""

    @contextlib.contextmanager
    def get_view(self, block: bool = True, timeout: float | None = None) -> Iterator[bytes]:  # type: ignore[override]
        yield self.get(block, timeout)


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
    AcknowledgesOnlyHere: ("queue.Queue", {"lease-acked"}),
    RequeuesBehindNewer: ("queue.Queue", {"lease-requeued"}),
    LosesWhatAKilledProcessHad: ("queue.Queue", {"lease-killed"}),
    PrefersNewItems: ("queue.Queue", {"lease-killed"}),
    LeavesInPlace: ("queue.Queue", {"lease-alone"}),
    TimesOut: ("queue.Queue", {"lease-alone"}),
    ForgetsAttempts: ("queue.Queue", {"lease-attempt"}),
    EndsTwice: ("queue.Queue", {"lease-ends"}),
    AcknowledgesWhatRaised: ("queue.Queue", {"lease-block"}),
    NeverEndsABlock: ("queue.Queue", {"lease-block"}),
    CountsALeaseAsDone: ("queue.Queue", {"lease-join"}),
    AcknowledgesWithoutTaskDone: ("queue.Queue", {"lease-join"}),
    CountsWhatIsLeased: ("queue.Queue", {"lease-qsize"}),
    LeasesNothing: ("queue.Queue", {"lease-as-get"}),
    GivesUpALeaseTooEarly: ("queue.Queue", {"lease-as-get"}),
    SwapsRequeuedUnderLoad: ("queue.Queue", {"lease-linear"}),
    LeasesTwiceUnderLoad: ("queue.Queue", {"lease-linear"}),
    LosesWhatIsRequeuedUnderLoad: ("queue.Queue", {"lease-linear"}),
    PutsWhenABlockBegins: ("ShmQueue", {"view-put"}),
    PutsWhatIsDropped: ("ShmQueue", {"view-dropped"}),
    TakesWhenABlockBegins: ("ShmQueue", {"view-get"}),
}
"""Each with the profile that it should keep, and the clause that it breaks, or the clauses."""
