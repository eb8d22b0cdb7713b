"""A channel with two ends that can be closed each by itself, and a record that can be put back, as a pipe has them.

The queues of ``shmqueue.compat.multiprocessing`` use it. ``_pipe_emulation`` has the ends that programs reach
for; they share the queue's channel, so that it exists as long as any of them.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from shmqueue.channel import Channel, Codec
from shmqueue.engine import deadline_after, seconds_until
from shmqueue.exceptions import ShmQueueFull, ShmQueueNotInitializedError, ShmQueueShutDown
from shmqueue.handle import Handle
from shmqueue.items import as_get_item, as_put_item
from shmqueue.segment import READER, WRITER
from shmqueue.threads import sleep, start_daemon_thread

from ._closed_ends import ClosedEnds

__all__ = ["PipeChannel"]

_PACE = 0.01  # seconds between two attempts to put an item back
_FIRST_SLICE, _LONGEST_SLICE = 0.05, 1.0  # seconds that are waited before a look whether an end was closed


class PipeChannel(Channel):
    """One process's access to a queue that stands in for one with a pipe."""

    _closed_ends: ClosedEnds | None = None
    _reserved: tuple[int, int, bytes] | None = None  # the process that has taken a record, and the record

    def __init__(self, handle: Handle, codec: Codec) -> None:
        super().__init__(handle, codec)
        self._putting_back: list[int] = []  # for each thread that does, its process

    def _choose_way(self) -> None:
        super()._choose_way()
        ends = self._closed_ends
        if ends is not None:
            self.put_record, self.get_record = ends.route(self.engine.put, self.engine.get)
            self.put_item, self.get_item = as_put_item(self.put_record), as_get_item(self.get_record)

    def _may_be_fast(self) -> tuple[bool, bool]:
        ends = self._closed_ends
        return ends is None or ends.puts_may_be_fast, ends is None or ends.gets_may_be_fast

    def _put_items(self, items: tuple[Any, ...], block: bool, timeout: float | None) -> int:
        if self._closed_ends is not None:
            self._closed_ends.require(WRITER)
        return Channel._put_items(self, items, block, timeout)  # super() would cost as much as an item

    def _get_items(self, most: int, block: bool, timeout: float | None) -> list[Any] | tuple[list[Any]]:
        ends = self._closed_ends
        if ends is None:
            return Channel._get_items(self, most, block, timeout)
        ends.require(READER)
        return ends.until_end(lambda seconds: Channel._get_items(self, most, True, seconds), timeout if block else 0.0)

    def close_end(self, role: int) -> None:
        """Do not put (WRITER) or get (READER) in this process any more, and have the other one end when nobody does.

        That holds for calls that are blocked already, too.

        Raises:
            NotImplementedError: it would never end.
        """
        ends = self._closed_ends or ClosedEnds(self.handle.segment, self._putting_back)
        ends.close(role)
        self._closed_ends = ends
        self.handle.engine.while_waiting = ends.while_waiting
        self._choose_way()
        self._descriptor.watch_for_end(ends.is_over)

    def reserve(self, block: bool, timeout: float | None) -> bool:
        """Take a record for ``take_reserved``. False: there was none in time. Arguments as ``Engine.get``."""
        record = self.get_record(block, timeout)
        if record is not None:
            self._reserved = (os.getpid(), *record)
        return record is not None

    def has_reserved(self) -> bool:
        """Whether this process has reserved a record. What a parent reserved is not its forked child's."""
        return self._reserved is not None and self._reserved[0] == os.getpid()

    def take_reserved(self) -> tuple[int, bytes] | None:
        """The reserved record, which is not reserved any more; None if there is none."""
        reserved, self._reserved = self._reserved, None
        return reserved[1:] if reserved is not None and reserved[0] == os.getpid() else None

    def put_back(self) -> None:
        """Put the reserved record at the queue's end, whether this process still puts or not.

        Without room a thread does it as soon as there is some: the process that makes it may be waiting for the
        caller. After the queue was shut down nothing can be put: the record stays reserved, for the next ``recv`` of
        this process.
        """
        record = self.take_reserved()
        if record is not None and not self._has_put_back(record):
            pid = os.getpid()
            self._putting_back.append(pid)
            try:
                start_daemon_thread(functools.partial(self._put_back_later, record, pid))
            except BaseException:
                self._putting_back.remove(pid)
                self._reserved = (pid, *record)
                raise

    def _put_back_later(self, record: tuple[int, bytes], pid: int) -> None:
        try:
            while not self._has_put_back(record):
                sleep(_PACE)  # a put that blocks would be refused with the writer closed
        except ShmQueueNotInitializedError:
            pass  # closed meanwhile, on a full queue
        finally:
            self._putting_back.remove(pid)

    def _has_put_back(self, record: tuple[int, bytes]) -> bool:
        try:
            if not self.engine.put(*record, False, None):
                return False
            self.engine.task_done()  # it counts as a new item, and the one that was taken as processed
        except ShmQueueFull:
            return False  # another process has the lock
        except ShmQueueShutDown:
            self._reserved = (os.getpid(), *record)
        return True

    def wait_for_item(self, timeout: float | None) -> bool:
        """Whether a get would return or raise at once, within ``timeout`` seconds."""
        deadline, pace = deadline_after(timeout), _FIRST_SLICE
        while True:
            left = seconds_until(deadline)
            if self.engine.wait(True, pace if left is None else min(pace, left)):
                return True
            ends = self._closed_ends  # also one that was closed meanwhile
            if ends is not None:
                ends.require(READER)
                if ends.is_over():
                    return True
            if left is not None and left <= pace:
                return False
            pace = min(2 * pace, _LONGEST_SLICE)

    def is_empty(self) -> bool:
        """Whether there is nothing to take.

        Raises:
            OSError: the end from which items come was closed in this process.
        """
        if self._closed_ends is not None:
            self._closed_ends.require(READER)
        return self.engine.qsize() == 0

    def close(self) -> None:
        """Close it and both ends; every other call then raises ``ShmQueueNotInitializedError``. Idempotent."""
        if self.has_reserved():
            self.put_back()  # for other processes
        super().close()
        self._closed_ends = None
        self._choose_way()
