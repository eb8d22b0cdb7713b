"""An open file with the lock that tells that its queue is open here: it survives forks, and the loss of its descriptor.

This module does not know when a file is made or removed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from shmqueue.exceptions import ShmQueueError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import roles
from shmqueue.segment.descriptor import Descriptor, identity_of
from shmqueue.segment.files import fresh_description
from shmqueue.segment.header import Header, uuid_of
from shmqueue.segment.locks import changing, fcntl, lock_shared, patiently, same_file
from shmqueue.segment.naming import user_of
from shmqueue.threads import WeakRegistry

__all__ = ["Anchor", "HeldFile", "forget", "open_files"]


class Anchor(Protocol):
    """Keeps an open file description, and so its lock, without a descriptor. Forked children do not inherit it."""

    def close(self) -> None:
        """Let it go. Idempotent."""


class HeldFile:
    """An open, locked file of a queue, and what its header says.

    ``path`` and ``user``, the id of the user that the file belongs to, stay what they were when it was opened, also in
    a process that runs as another user since, and wherever the handle is sent.
    """

    def __init__(self, name: str, path: str, descriptor: Descriptor, header: Header, is_shared: bool) -> None:
        self.name = name
        self.path = path
        self.user = user_of(path)
        self.header = header
        self._descriptor = descriptor
        self._is_shared = is_shared
        self._locked_in = os.getpid()  # the process that opened the description
        self._is_open = True
        self.is_in_use = False  # while it is not, a forked child does not want it: nobody there could close it
        self.used_by: Callable[[], object] | None = (
            None  # a weak reference to what uses it; dead, it is in use no longer
        )
        self._renounced: set[int] = set()
        self._make_anchor: Callable[[int], Anchor] | None = None
        self._anchor: Anchor | None = None
        _live.add(self)

    def close(self) -> int:
        """Close this handle. Idempotent."""
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return self._is_open

    def fileno(self) -> int:
        """The descriptor that holds the lock. Not for mapping, see ``descriptor_to_map``.

        If somebody else has closed it the file is opened again. -1: that is not possible, or the segment is closed.
        """
        number = self._descriptor.number
        return number if number >= 0 or not self._is_open else self._reopen()

    def fileno_to_share(self) -> int:
        """As ``fileno``, to be given to another process, which holds the lock together with this one."""
        self._is_shared = True
        return self.fileno()

    def anchor_by(self, make: Callable[[int], Anchor]) -> None:
        """Hold the lock by an anchor as well, which ``make`` makes of a descriptor: closing that loses nothing then."""
        with changing():
            self._make_anchor = make
            self._renew_anchor()

    def require_hold(self) -> None:
        """Make sure that the lock is held, also after somebody has closed the descriptor.

        Raises:
            ShmQueueError: it was lost, and the segment has been removed since.
        """
        if self._is_open and self._anchor is None and self.fileno() < 0:
            raise ShmQueueError(
                f"queue {self.name!r}: this program has closed descriptors that it did not open, and the queue was "
                "removed meanwhile; open queues after closing descriptors, or leave theirs open"
            )

    @contextmanager
    def descriptor_to_map(self) -> Iterator[int]:
        """A descriptor of the file for ``mmap``, closed at the end, for a caller that has ``changing``: forks wait.

        A mapping keeps its open file description alive, and a forked child inherits mappings: if it were the one with
        the lock, a handle that its process closed would continue to count while the child lives. One that is
        inherited before this process knows of it would keep the memory as long.
        """
        with self._descriptor_without_lock() as number:  # no lock is held over a yield: an exception could leave it
            yield number

    @contextmanager
    def _descriptor_without_lock(self) -> Iterator[int]:
        """A descriptor of the file on a description of its own, closed at the end, and in a child forked before."""
        number = fresh = None
        try:
            with changing():
                number = self._fresh()
                if number is not None:
                    fresh = Descriptor(number)
                    _for_a_while[fresh] = threading.get_ident()
            found = (self._descriptor if fresh is None else fresh).number
            if found < 0:
                raise OSError(errno.EBADF, "the program closed the queue's descriptor, and its name is gone", self.path)
            yield found
        finally:
            if fresh is not None:
                try:
                    with changing():
                        _for_a_while.pop(fresh, None)
                        fresh.close()
                except BaseException:  # of a signal handler
                    fresh.close()
                    _for_a_while.pop(fresh, None)
                    raise
            elif number is not None:
                os.close(number)

    def _has_name(self) -> bool:
        return self._is_open and self._names_this()

    def _names_this(self) -> bool:
        try:
            return identity_of(os.stat(self.path, follow_symlinks=False)) == self._descriptor.identity
        except not_of_handler(OSError):
            return False

    def _fresh(self) -> int | None:
        """The file on a description of its own; None when there is no way to it."""
        number = self._descriptor.number
        fresh = fresh_description(number, self.path, self._descriptor.identity)
        if fresh is None or number >= 0:
            return fresh
        is_this = False
        try:
            is_this = uuid_of(fresh) == self.header.uuid
        finally:
            if not is_this:  # the file has been removed, and a later one has its inode
                os.close(fresh)
        return fresh if is_this else None

    @patiently
    def _reopen(self) -> int:
        fresh = self._fresh()
        if fresh is None:
            return -1
        held = self._descriptor
        try:
            lock_shared(fresh, self.path)
            if fcntl is not None and not same_file(fresh, self.path):
                return -1
            self._hold_by(fresh)
        finally:
            if self._descriptor is held:
                os.close(fresh)
        return fresh

    def _hold_by(self, fd: int) -> None:
        """Hold the lock by this descriptor from now on, which the caller closes if ``_descriptor`` is not another then.

        An exception of a signal handler leaves either the old one or the new one.
        """
        for role in self._renounced:
            roles.mark(fd, role)
        process = os.getpid()
        inherited, descriptor = self._descriptor, Descriptor(fd)
        self._descriptor, self._is_shared, self._locked_in = descriptor, False, process
        try:
            self._renew_anchor()
            inherited.close()
        except BaseException:
            inherited.close()
            raise

    def _renew_anchor(self) -> None:
        self._drop_anchor()
        number = self._descriptor.number
        if self._make_anchor is not None and number >= 0:
            try:
                self._anchor = self._make_anchor(number)
            except not_of_handler(OSError):
                pass  # out of addresses: the descriptor alone holds the lock

    def _drop_anchor(self) -> None:
        anchor, self._anchor = self._anchor, None
        if anchor is not None:
            anchor.close()

    def _after_fork_in_child(self) -> None:
        """Become a holder in one's own right: until now the child only shares its parent's description."""
        if not self._is_open:
            return
        self._drop_anchor()  # which stayed with the parent
        self._is_shared = True
        if not self.is_in_use or (self.used_by is not None and self.used_by() is None):
            self.close()  # the parent may have closed its handle already, and taken this process for another holder
            return
        fresh = self._fresh()
        if fresh is not None:
            held = self._descriptor
            try:
                lock_shared(fresh, self.path)
                self._hold_by(fresh)
            finally:
                if self._descriptor is held:
                    os.close(fresh)


_live: WeakRegistry[HeldFile] = WeakRegistry()

_for_a_while: dict[Descriptor, int] = {}
"""Descriptors without a lock that are closed soon, and the thread that does it: in a child that one does not exist."""


def open_files() -> list[HeldFile]:
    """All that this process has open."""
    return [file for file in _live if file.is_open]


def forget(file: HeldFile) -> None:
    """It is closed: forks need not look at it any more."""
    _live.discard(file)


def _after_fork_in_child() -> None:
    for descriptor, thread in list(_for_a_while.items()):
        if thread != threading.get_ident():  # this one may have forked in a signal handler, and goes on with it
            descriptor.close()
            _for_a_while.pop(descriptor, None)
    for file in _live:
        try:
            file._after_fork_in_child()
        except OSError:
            continue  # out of descriptors: the inherited one still keeps the queue alive


def _after_fork_in_parent() -> None:
    for file in _live:
        file._is_shared = True  # perhaps: what the child can open again it does not share


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)
