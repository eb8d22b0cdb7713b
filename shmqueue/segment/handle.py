"""One handle on a segment: it holds the segment's lock, survives a fork, and the last one removes the file."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from shmqueue.segment.contents import contents_of
from shmqueue.segment.files import (
    fcntl,
    fresh_description,
    lock_alone,
    lock_shared,
    remove_quietly,
    reserve,
    same_file,
    take_name_away,
    unlock,
)
from shmqueue.segment.header import HEADER_SIZE, Header
from shmqueue.segment.holders import holders_of
from shmqueue.segment.sidecar import remove_lock_files

__all__ = ["Replaced", "Segment"]


class Replaced(NamedTuple):
    """What lay at a segment's path and could not be used: why, and how many items it had; None, that is not known."""

    why: str
    items: int | None


class Segment:
    """One handle on a segment: an open, locked file and what its header says.

    Made by ``open_segment``. ``created`` tells whether this handle made the segment or found it, ``replaced`` what was
    removed for it. Set ``drops_items`` to False for a handle that is only to look: closing the last one then leaves
    a file that has items.
    """

    def __init__(self, name: str, path: str, fd: int, header: Header, created: bool) -> None:
        self.name = name
        self.path = path
        self.header = header
        self.created = created
        self.replaced: Replaced | None = None
        self.drops_items = True
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
        fresh = fresh_description(self._fd, self.path) if self._fd >= 0 else None
        if fresh is not None:
            try:
                take_name_away(fresh, self.path)
            finally:
                os.close(fresh)

    def close(self) -> int:
        """Close this handle; closing the last one removes the file, unless it is to be kept. Idempotent.

        Returns:
            How many items were removed with the file, as far as they can be counted.

        The handle's own lock is never upgraded: that would lose it on failure, and succeed wrongly in a process that
        shares the description with a forked child. A fresh description decides.
        """
        with self._closing:
            fd, self._fd = self._fd, -1
            _live.discard(self)
            return self._release(fd) if fd >= 0 else 0

    def _release(self, fd: int) -> int:
        fresh = fresh_description(fd, self.path) if fcntl is not None else None
        os.close(fd)
        if fcntl is None and not self.header.keep:
            remove_quietly(self.path)  # the platform refuses while anybody has it open
        if fresh is None:
            return 0
        try:
            return self._remove(fresh) if lock_alone(fresh) else 0
        finally:
            unlock(fresh)
            os.close(fresh)

    def _remove(self, alone: int) -> int:
        """Remove the file if nothing speaks against it; ``alone`` has its lock exclusively."""
        remove_lock_files(alone, os.path.dirname(self.path))
        if self.header.keep or not same_file(alone, self.path):
            return 0
        contents = contents_of(alone)
        if not self.drops_items and (contents is None or contents.items > 0):
            return 0
        return contents.items if take_name_away(alone, self.path) and contents is not None else 0

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
