"""One handle on a segment: what it is used for, and how it is closed; closing the last one removes the file."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shmqueue import clock
from shmqueue.exceptions import ShmQueueRefusedError
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.segment import roles, transit
from shmqueue.segment.contents import contents_of
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.files import remove_quietly
from shmqueue.segment.header import HEADER_SIZE, Header
from shmqueue.segment.held_file import HeldFile, forget, open_files
from shmqueue.segment.holders import can_see_holders, holders_of
from shmqueue.segment.locks import (
    Locked,
    changing,
    fcntl,
    lock_alone,
    lock_shared,
    patiently,
    same_file,
    take_name_away,
    unlock,
)
from shmqueue.segment.naming import whose
from shmqueue.segment.removal import leave_to_others
from shmqueue.segment.reserving import reserve
from shmqueue.segment.sidecar import remove_lock_files, remove_sidecar, sidecar_of

__all__ = ["Replaced", "Segment"]


_PATIENCE = 0.02
"""Seconds for which a lock counts as one that is about to go: that of a process which this one is just starting, or of
one that looks at the file."""


class Replaced(NamedTuple):
    """What lay at a segment's path and could not be used: why, and how many items it had; None, that is not known."""

    why: str
    items: int | None


class Segment(HeldFile):
    """One handle on a segment: an open, locked file and what its header says.

    Made by ``open_segment``. ``created`` tells whether this handle made the segment or found it, ``replaced`` what was
    removed for it. Set ``drops_items`` to False for a handle that is only to look: closing the last one then leaves
    a file that has items.
    """

    _is_released = True  # until it is made

    def __init__(
        self, name: str, path: str, descriptor: Descriptor, header: Header, created: bool, is_shared: bool = False
    ) -> None:
        self.created = created
        self.replaced: Replaced | None = None
        self.drops_items = True
        self._way: Descriptor | None = None  # the description that decides whether this handle was the last one
        super().__init__(name, path, descriptor, header, is_shared)
        self._is_released = False

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close what nobody can close: a signal handler has raised before the caller had it, or while it was closed."""
        if not self._is_released and not is_finalizing():
            self.drops_items = False
            self.close()

    @property
    def is_released(self) -> bool:
        """Whether ``close`` came to its end. If an exception interrupted it, another call goes on."""
        return self._is_released

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
        with self._descriptor_without_lock() as fd:  # a fork need not wait for the memory
            reserve(fd, size, self.path, start, call)

    def holders(self) -> list[int]:
        """The process id of each handle on this segment, as ``holders_of``; empty once its name is gone."""
        return holders_of(self.path) if self._has_name() else []

    @patiently
    def unlink(self) -> None:
        """Remove the name now. Its holders go on using it; the next process that uses the name makes a new one.

        Raises:
            ShmQueueRefusedError: this process may not.
        """
        if not self._is_open:
            return
        fresh = self._fresh()
        try:
            if fresh is not None:
                take_name_away(fresh, self.path)
            elif self._has_name():
                os.unlink(self.path)
        except Locked:
            raise
        except not_of_handler(PermissionError) as error:
            raise ShmQueueRefusedError(
                error.errno, f"cannot take the name away: {self._why_not()}", self.path
            ) from error
        finally:
            if fresh is not None:
                os.close(fresh)

    @patiently
    def renounce(self, role: int) -> bool:
        """Have this handle's process not count any more as one with a role, ``roles.WRITER`` or ``roles.READER``.

        Returns False, and changes nothing, where the kernel does not tell which processes have the segment open.
        """
        # On a new description: a child that is being started has the old one until it has a handle of its own.
        fresh = self._fresh() if role not in self._renounced else None
        if fresh is not None:
            held = self._descriptor
            try:
                lock_shared(fresh, self.path)
                if not roles.mark(fresh, role) or roles.count_without(fresh, self.path, role) is None:
                    return False
                self._hold_by(fresh)
            finally:
                if self._descriptor is held:
                    os.close(fresh)
            self._renounced.add(role)
        return role in self._renounced

    def others_with(self, role: int) -> bool | None:
        """Whether a process may have a role that this handle has renounced; None where the kernel does not tell.

        It looks twice, for a pickled queue may arrive between a look at the handles and one at the notes in transit.
        """
        for _ in range(2):
            fd = self.fileno()
            count = roles.count_without(fd, self.path, role) if fd >= 0 else None
            if count is None:
                return None
            if count > 0 or transit.is_awaited(fd):
                return True
        return False

    def depart(self) -> transit.Note | None:
        """Have the file outlive its last handle for a while: a pickled queue is on its way, with what this returns."""
        with changing():  # nobody else uses the description meanwhile
            fd = self.fileno()
            return transit.depart(fd, self.header.uuid) if fd >= 0 else None

    def arrived(self, note: transit.Note | None) -> None:
        """The pickled queue has arrived: this handle was opened for it."""
        transit.arrive(self.fileno(), self.header.uuid, note)

    def close(self) -> int:
        """Close this handle; closing the last one removes the file, unless it is to be kept. Idempotent.

        Returns:
            How many items were removed with the file, as far as they can be counted.

        A fresh description decides. The handle's own lock is not upgraded: that would succeed wrongly in a process that
        shares the description with a forked child. Only a process that cannot open the file again, because it runs as
        another user now, and that shares the description with nobody, does it all the same.
        """
        with changing():  # to the end: a second call returns when the first one is done
            if self._is_released:
                return 0
            self._is_open = False
            try:
                return self._release()
            except BaseException as error:  # of a signal handler: a program does not close a queue twice
                if self._is_released and isinstance(error, OSError) and not is_of_handler(error):
                    return 0  # a finalizer that closes this queue came in between, and has done it all
                self._release()
                raise
            finally:
                if self._way is not None:
                    try:
                        self._way.close()
                    except BaseException:  # of a signal handler
                        self._way.close()
                        raise
                self._way = None
                forget(self)

    def _release(self) -> int:
        """Close the descriptors. Each step can be repeated: an exception may interrupt any of them."""
        if self._way is None and fcntl is not None:
            fresh = self._fresh()
            if fresh is not None:
                try:
                    self._way = Descriptor(fresh)
                except BaseException:
                    os.close(fresh)
                    raise
        awaited = fcntl is None and transit.is_awaited(self._descriptor.number)
        self._drop_anchor()
        if self._way is None and fcntl is not None:
            dropped = self._release_without_another()
        else:
            self._unlock()
            self._descriptor.close()
            if fcntl is None and not self.header.keep and not awaited:
                remove_quietly(self.path)  # the platform refuses while anybody has it open
            dropped = 0 if self._way is None else self._release_by(self._way)
        self._is_released = True
        return dropped

    def _unlock(self) -> None:
        """Release the lock before the descriptor is closed, unless another handle depends on it.

        A program that another thread is just starting has a copy of each descriptor until it runs. So closing alone
        does not release the lock, and this handle would not find out that it is the last one.
        """
        number = self._descriptor.number
        if number >= 0 and not self._is_shared and self._locked_in == os.getpid():
            unlock(number)

    def _release_by(self, way: Descriptor) -> int:
        number = way.number
        if number < 0:
            return 0  # it was closed when an exception came
        dropped = 0
        if self._lock_alone(number):
            dropped = self._remove(number)
        elif self.header.private:
            leave_to_others(self.path, self.header.uuid)
        if (number := way.number) >= 0:  # else a finalizer that closes this queue came in between
            unlock(number)
        way.close()
        return dropped

    def _lock_alone(self, number: int) -> bool:
        """Lock the file exclusively, unless another handle has it open."""
        deadline = None
        while not lock_alone(number):
            if deadline is None:
                identity = self._descriptor.identity
                if not can_see_holders() or any(other._descriptor.identity == identity for other in open_files()):
                    return False
                deadline = clock.monotonic() + _PATIENCE
            if clock.monotonic() > deadline or set(holders_of(self.path)) - {os.getpid()}:
                return False
            time.sleep(0.001)
        return True

    def _release_without_another(self) -> int:
        """Close the only description that there is."""
        number, has_name = self._descriptor.number, self._names_this()
        try:
            if number >= 0 and not self._is_shared:
                return self._remove(number) if lock_alone(number) else 0
        finally:
            self._descriptor.close()
        is_foreign = self.user is not None and self.user != os.geteuid()
        if not is_foreign:
            remove_sidecar(sidecar_of(self))  # last chance; a process that still needs it makes another one
        elif has_name and not self.header.keep and can_see_holders() and not holders_of(self.path):
            self._tell_of_left()
        return 0

    def why_not_as_this_user(self, what: str) -> str:
        """That something cannot be done here, and whose the queue is."""
        return f"{self._why_not()}, and {what}"

    def _why_not(self) -> str:
        if self.user is None or self.user == os.geteuid():
            return f"queue {self.name!r}: permission denied"
        return f"queue {self.name!r} {whose(self.user)}"

    def _tell_of_left(self) -> None:
        logging.getLogger("shmqueue").warning(
            "%s, which was the last to have it open and cannot remove %s: the file stays until its user removes it "
            "('shmqueue rm')",
            self._why_not(),
            self.path,
        )

    def _remove(self, alone: int) -> int:
        """Remove the file if nothing speaks against it; ``alone`` has its lock exclusively."""
        if transit.is_awaited(alone) and same_file(alone, self.path):  # without a name nothing can arrive
            transit.await_arrival(transit.Left(self.name, self.path, self.header.uuid, transit.adoptions(alone)))
            return 0
        remove_lock_files(alone, os.path.dirname(self.path))
        if self.header.shape.engine == "portable":
            remove_sidecar(sidecar_of(self))  # if the file does not tell any more which one is its own
        if self.header.keep or not same_file(alone, self.path):
            return 0
        contents = contents_of(alone)
        if not self.drops_items and (contents is None or contents.items > 0):
            return 0
        try:
            return contents.items if take_name_away(alone, self.path) and contents is not None else 0
        except not_of_handler(PermissionError):
            self._tell_of_left()
            return 0
