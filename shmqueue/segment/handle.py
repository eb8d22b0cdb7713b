"""One handle on a segment: it holds the segment's lock, survives a fork, and the last one removes the file."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shmqueue.segment.files import fcntl, fresh_description, lock_shared, remove_quietly, reserve, same_file
from shmqueue.segment.header import HEADER_SIZE, Header
from shmqueue.segment.holders import holders_of
from shmqueue.segment.sidecar import remove_lock_files

__all__ = ["Segment", "unlink_if_unheld"]


def unlink_if_unheld(fd: int, path: str) -> bool:
    """Remove ``path`` if nobody holds the file behind ``fd``, whose description must carry no lock of its own."""
    if fcntl is None:  # the platform refuses to unlink a file that anyone has open; see Segment.close()
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    remove_lock_files(fd, os.path.dirname(path))
    if not same_file(fd, path):
        return False
    os.unlink(path)
    return True


class Segment:
    """One handle on a segment: an open, locked file and what its header says.

    Made by ``open_segment``. ``created`` tells whether this handle made the segment or found it.
    """

    def __init__(self, name: str, path: str, fd: int, header: Header, created: bool) -> None:
        self.name = name
        self.path = path
        self.header = header
        self.created = created
        self._fd = fd
        self._closing = threading.RLock()  # held to the end: who closes again knows it is done
        _live.add(self)

    def fileno(self) -> int:
        """The descriptor that holds the lock; -1 when closed. Not for mapping, see ``descriptor_to_map``."""
        return self._fd

    @contextmanager
    def descriptor_to_map(self) -> Iterator[int]:
        """A descriptor of the file for ``mmap``, closed at the end.

        A mapping keeps its open file description alive, and a forked child inherits mappings: if it were the one with
        the lock, a handle that its process gave up would go on counting as long as the child lives.
        """
        fresh = fresh_description(self._fd, self.path)
        try:
            yield self._fd if fresh is None else fresh
        finally:
            if fresh is not None:
                os.close(fresh)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return HEADER_SIZE + self.header.shape.data_size

    def reserve(self, size: int, start: int, call: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> None:
        """Make sure that the first ``size`` bytes of the file have their memory: touching them cannot fail then.

        Args:
            size: bytes.
            start: bytes from the file's start that have it already. Those behind may become zeros.
            call: makes the system calls, given a function and its arguments.

        Raises:
            ShmQueueNoSpaceError: there is not enough of it.
        """
        with self.descriptor_to_map() as fd:
            reserve(fd, size, self.path, start, call)

    def holders(self) -> list[int]:
        """The process id of each handle on this segment, as ``holders_of``; empty once its name is gone."""
        return holders_of(self.path) if self._fd >= 0 and same_file(self._fd, self.path) else []

    def unlink(self) -> None:
        """Take the name away now. Those who hold the segment go on; the next one to use the name makes a new one."""
        if self._fd >= 0 and same_file(self._fd, self.path):
            os.unlink(self.path)

    def close(self) -> None:
        """Give up this handle; the last one removes the file. Closing twice is harmless.

        The handle's own lock is never upgraded: that would lose it on failure, and succeed wrongly in a process that
        shares the description with a forked child. A fresh description decides.
        """
        with self._closing:
            fd, self._fd = self._fd, -1
            _live.discard(self)
            if fd >= 0:
                self._release(fd)

    def _release(self, fd: int) -> None:
        fresh = fresh_description(fd, self.path) if fcntl is not None else None
        os.close(fd)
        if fcntl is None:
            remove_quietly(self.path)  # the platform refuses while anybody has it open
        if fresh is not None:
            try:
                unlink_if_unheld(fresh, self.path)
            finally:
                os.close(fresh)

    def _after_fork_in_child(self) -> None:
        """Become a holder in one's own right: until now the child only shares its parent's description."""
        self._closing = threading.RLock()
        fresh = fresh_description(self._fd, self.path) if self._fd >= 0 else None
        if fresh is not None:
            lock_shared(fresh, self.path)
            inherited, self._fd = self._fd, fresh
            os.close(inherited)


_live: weakref.WeakSet[Segment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for segment in list(_live):
        try:
            segment._after_fork_in_child()
        except OSError:
            continue  # out of descriptors: the inherited one still keeps the queue alive


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
