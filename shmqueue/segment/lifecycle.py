"""Creating and attaching.

An open file that no process has locked has no owner: a process that gets its lock exclusively may change it (adopt it,
see ``adoption``) or remove it. A process that cannot get it so becomes a holder among others, or is refused.
"""

from __future__ import annotations

import errno
import os
import time

from shmqueue import clock
from shmqueue.exceptions import ShmQueueExistsError, ShmQueueNoSpaceError, ShmQueueNotFoundError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.adoption import adopt
from shmqueue.segment.contents import contents_of
from shmqueue.segment.descriptor import Descriptor, identity_of
from shmqueue.segment.files import OPEN_FLAGS, cannot_open, discard, fresh_description, make_file, require_private_file
from shmqueue.segment.handle import Replaced, Segment
from shmqueue.segment.header import (
    HEADER_SIZE,
    KEEP,
    PRIVATE,
    SYSTEM_PAGESIZE,
    Header,
    Shape,
    Unfit,
    boot_id,
    pid_namespace,
    refused,
)
from shmqueue.segment.locks import (
    fcntl,
    lock_alone,
    lock_shared,
    patiently,
    same_file,
    take_name_away,
    unlock,
    while_changing,
)
from shmqueue.segment.namesakes import warn_of_namesakes
from shmqueue.segment.naming import path_of, user_of
from shmqueue.segment.removal import header_at, open_to_look, sweep_now_and_then, sweep_orphans
from shmqueue.segment.reserving import lengthen, reserve
from shmqueue.segment.sidecar import remove_lock_files
from shmqueue.segment.transit import is_awaited

__all__ = ["attach_segment", "judge", "open_segment", "read_header"]

_PATIENCE = 0.2
"""Seconds for which a file that cannot be used counts as held only by processes that are just looking at it too."""


def open_segment(name: str, shape: Shape, create: bool | None, flags: int = 0) -> Segment:
    """Create the segment called ``name``, or attach to it.

    A file that nobody holds and that cannot be used is replaced by a new segment, unless ``create`` is False.

    Args:
        name: the queue's name.
        shape: of a new segment. An existing one may have another: look at ``Segment.header.shape``.
        create: True, it must not be in use; False, it must exist; None, either.
        flags: of a new segment, KEEP and PRIVATE. One that no process has open gets the former too.

    Raises:
        ShmQueueExistsError, ShmQueueNotFoundError: as ``create`` says.
        ShmQueueRefusedError: what lies at the path is not a segment that this process may or can use.
        ShmQueueNoSpaceError: there is not enough memory for a new one.
    """
    path = path_of(name)
    opening = _Opening(name, path, shape.engine, create, flags & KEEP)
    is_swept = False
    while True:
        if create is not True:
            segment = _attach(name, path, opening)
            if segment is not None:
                break
            if create is False:
                raise ShmQueueNotFoundError(errno.ENOENT, f"there is no queue called {name!r}", path)
        header = Header(shape, pid_namespace(), os.urandom(16), clock.wall_ns(), boot_id(), flags)
        try:
            segment = _create(name, path, header)
        except not_of_handler(ShmQueueNoSpaceError):
            if is_swept:
                raise
            sweep_orphans()  # killed processes may have left the memory of queues that nobody can reach any more
            is_swept = True
            continue
        if segment is not None:
            entries = sweep_now_and_then(header.uuid)
            if not flags & PRIVATE:
                warn_of_namesakes(name, path, entries)
            break
        if create is True:
            opening.make_way_or_raise()
    segment.replaced = opening.replaced
    return segment


class _Opening:
    """One call of ``open_segment``: whether what nobody holds has to make way for a new segment."""

    def __init__(self, name: str, path: str, engine: str, create: bool | None, flags: int) -> None:
        self.flags = flags
        self.replaced: Replaced | None = None
        self._name, self._path, self._engine, self._create = name, path, engine, create

    def makes_way(self, fd: int, found: Header | Unfit) -> bool:
        """Remove the file behind ``fd``, which nobody else holds, if a new segment has to take its place.

        Raises:
            ShmQueueRefusedError: the file is no segment, or one of the other engine that is to be kept.
            ShmQueueExistsError: it has items, or is to be kept, and ``create`` is True.
        """
        if isinstance(found, Unfit) and not found.is_segment:
            raise refused(self._path, found.why)
        if self._create is False:
            return False
        contents = contents_of(fd)
        if is_awaited(fd):
            if self._create is True:
                raise self._has_items(None if contents is None else contents.items)
            return False
        why = self._why_useless(found)
        if why is not None and isinstance(found, Header) and found.keep:
            raise refused(self._path, f"{why}, and it is to be kept: use that engine, or remove it with 'shmqueue rm'")
        if why is None:
            assert isinstance(found, Header)
            is_over = contents is not None and contents.items == 0 and not found.keep
            if self._create is True and not is_over:
                raise self._has_items(None if contents is None else contents.items)
            if self._create is None and not (is_over and contents is not None and contents.is_shut_down):
                return False
        remove_lock_files(fd, os.path.dirname(self._path))
        if take_name_away(fd, self._path) and why is not None:
            self.replaced = Replaced(why, None if contents is None else contents.items)
        return True

    def make_way_or_raise(self) -> None:
        """For ``create=True``, when there is something at the path: see to it that there is not.

        Raises:
            ShmQueueExistsError: it is in use, or as ``makes_way``.
        """
        in_use = ShmQueueExistsError(errno.EEXIST, f"a queue called {self._name!r} is in use", self._path)
        try:
            fd = open_to_look(self._path)
        except not_of_handler(FileNotFoundError):
            return
        except not_of_handler(OSError) as error:
            raise in_use from error
        try:
            if not lock_alone(fd):
                raise in_use
            try:
                found = header_at(fd)
                if isinstance(found, Unfit) and not found.is_segment:
                    raise in_use from refused(self._path, found.why)
                self.makes_way(fd, found)
            finally:
                unlock(fd)
        finally:
            os.close(fd)

    def _why_useless(self, found: Header | Unfit) -> str | None:
        if isinstance(found, Unfit):
            return found.why
        if found.shape.engine != self._engine:
            return f"it belongs to the {found.shape.engine} engine, this process uses the {self._engine} one"
        return None

    def _has_items(self, items: int | None) -> ShmQueueExistsError:
        what = "is there" if not items else f"has {items} item{'s' if items > 1 else ''}"
        return ShmQueueExistsError(
            errno.EEXIST,
            f"a queue called {self._name!r} {what} and no process has it open: open it with create=None or False, "
            "or remove it with 'shmqueue rm'",
            self._path,
        )


def attach_segment(name: str, path: str, incarnation: bytes, held: int = -1) -> Segment:
    """Attach to one incarnation of a name, where it was made and as whose it was made.

    Args:
        name: the queue's name.
        path: the segment's, whatever ``directory()`` says here and whichever user this process runs as.
        incarnation: the uuid that its header must have.
        held: a descriptor of the segment itself, which a parent has handed down; -1, there is none.

    Raises:
        ShmQueueNotFoundError: it is gone, or another one has its name.
        ShmQueueRefusedError: as ``open_segment``.
    """
    segment = _attach_held(name, path, held) if held >= 0 else None
    segment = segment or _attach(name, path, user=user_of(path))
    if segment is None:
        raise _vanished(name, path, "")
    if segment.header.uuid != incarnation:
        segment.drops_items = False
        segment.close()
        raise _vanished(name, path, ", and another queue has its name")
    return segment


def _vanished(name: str, path: str, more: str) -> ShmQueueNotFoundError:
    why = f"queue {name!r} vanished: its last holder closed it before this copy of it arrived{more}"
    return ShmQueueNotFoundError(errno.ENOENT, why, path)


def _attach(name: str, path: str, opening: _Opening | None = None, user: int | None = None) -> Segment | None:
    """Attach to the segment at ``path``; None when there is none, or when it had to make way.

    It must belong to ``user``, by default to the one as which this process runs.
    """
    deadline = clock.monotonic() + _PATIENCE
    while True:
        found = _try_to_attach(name, path, opening, user)
        if not isinstance(found, Unfit):
            return found
        if clock.monotonic() >= deadline:
            raise refused(path, found.why)
        time.sleep(0.001)


@patiently
def _try_to_attach(name: str, path: str, opening: _Opening | None, user: int | None) -> Segment | Unfit | None:
    """As ``_attach``. Unfit: it cannot be used, and others have it locked, perhaps just to look at it too."""
    while True:
        try:
            fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except not_of_handler(FileNotFoundError):
            return None
        except not_of_handler(OSError) as error:
            raise refused(path, cannot_open(error, path)) from error
        is_locked = False
        held: Descriptor | None = None
        try:
            if fcntl is not None:
                require_private_file(os.fstat(fd), path, user)
            is_locked = is_alone = lock_alone(fd)
            found = header_at(fd)
            if not is_alone and isinstance(_of_here(found), Header):
                # The process that had it locked may only have looked at it: if it has gone, the file is to be adopted.
                lock_shared(fd, path)
                is_locked = True
                is_alone = lock_alone(fd)
                found = header_at(fd)
            if is_alone and opening is not None and opening.makes_way(fd, found):
                return None
            if is_alone and isinstance(found, Header):
                found = adopt(fd, found, pid_namespace(), 0 if opening is None else opening.flags)
            found = _of_here(found)
            if isinstance(found, Header):
                # Not atomic: a process that comes in between may remove the file, or adopt it for another place.
                lock_shared(fd, path)
                is_locked = True
                found = _of_here(header_at(fd))
                if fcntl is not None and not same_file(fd, path):
                    continue
            if isinstance(found, Header):
                held = Descriptor(fd)
                segment = Segment(name, path, held, found, created=False)
                fd = -1
                return segment
            if not is_alone and found.is_segment:
                return found
            raise refused(path, found.why + "; no process has it open" * is_alone)
        finally:
            if fd >= 0:
                try:
                    if is_locked and _is_ours(fd, held):
                        unlock(fd)
                finally:
                    _close(fd, held)


@patiently
def _attach_held(name: str, path: str, held: int) -> Segment | None:
    """Attach to the segment behind a descriptor, whether it still has its name or not; None if that cannot be done.

    Where the file cannot be opened again, because the user has changed, the description is shared with the sender.
    """
    fd = fresh_description(held, path, identity_of(os.fstat(held)))
    is_shared = fd is None
    if fd is None:
        fd = Descriptor.opened(os.dup, held)
    ours: Descriptor | None = None
    try:
        if fcntl is not None:
            require_private_file(os.fstat(fd), path, user_of(path))
        lock_shared(fd, path)
        found = _of_here(header_at(fd))
        if isinstance(found, Unfit):
            raise refused(path, found.why)
        ours = Descriptor(fd)
        segment = Segment(name, path, ours, found, created=False, is_shared=is_shared)
        fd = -1
        return segment
    finally:
        if fd >= 0:
            _close(fd, ours)


def _is_ours(fd: int, held: Descriptor | None) -> bool:
    """Whether it is still open; ``held`` is given to a segment, which is finalized if a handler raises right then."""
    return held is None or held.number == fd


def _close(fd: int, held: Descriptor | None) -> None:
    if held is None:
        os.close(fd)
    else:
        held.close()


def _of_here(found: Header | Unfit) -> Header | Unfit:
    """The header, unless it is another machine's or pid namespace's, whose processes use the segment."""
    if isinstance(found, Unfit):
        return found
    ours = pid_namespace()
    if found.pid_namespace != ours:
        return Unfit(
            f"it was made in another pid namespace ({found.pid_namespace}, ours is {ours}): "
            "the death of a process there could not be seen here",
            True,
        )
    if found.boot != boot_id():
        return Unfit("it is in use on another machine: the death of a process there could not be seen here", True)
    return found


def judge(fd: int, is_held: bool) -> Header | Unfit:
    """What ``open_segment`` would find behind the descriptor, if it is held by others or not."""
    found = header_at(fd)
    return _of_here(found) if is_held else found


def read_header(path: str) -> Header:
    """The header of the segment at ``path``, without becoming a holder.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueRefusedError: as for attaching, except that any pid namespace will do.
    """
    try:
        fd = open_to_look(path)
    except not_of_handler(FileNotFoundError):
        raise ShmQueueNotFoundError(errno.ENOENT, "there is no segment", path) from None
    try:
        found = header_at(fd)
    finally:
        os.close(fd)
    if isinstance(found, Unfit):
        raise refused(path, found.why)
    return found


@while_changing
def _create(name: str, path: str, header: Header) -> Segment | None:
    """Make a complete segment and give it its name; None when somebody else was faster."""
    shape = header.shape

    def fill(fd: int) -> None:
        reserve(fd, max(HEADER_SIZE, SYSTEM_PAGESIZE) + (shape.initial or shape.capacity), path)
        lengthen(fd, HEADER_SIZE + shape.data_size, path)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, header.pack())

    fd = make_file(path, fill, as_holder=True)
    if fd is None:
        return None
    held: Descriptor | None = None
    try:
        held = Descriptor(fd)
        segment = Segment(name, path, held, header, created=True)
    except BaseException:  # of a signal handler
        try:
            if _is_ours(fd, held):
                discard(fd, path)
        finally:
            _close(fd, held)
        raise
    return segment
