"""Creating, attaching, and sweeping what killed processes left."""

from __future__ import annotations

import errno
import os
import stat
import uuid

from shmqueue import clock
from shmqueue.exceptions import ShmQueueExistsError, ShmQueueNotFoundError
from shmqueue.segment.files import (
    OPEN_FLAGS,
    cannot_open,
    fcntl,
    fresh_description,
    lengthen,
    lock_shared,
    make_file,
    require_private_file,
    reserve,
    same_file,
)
from shmqueue.segment.handle import Segment, unlink_if_unheld
from shmqueue.segment.header import CRC, FIELDS, HEADER_SIZE, MAGIC, Header, Shape, boot_id, pid_namespace, refused
from shmqueue.segment.naming import UNNAMED, directory, file_prefix, list_entries, name_of, path_of
from shmqueue.segment.sidecar import sweep_sidecars

__all__ = ["attach_segment", "open_segment", "read_header", "sweep_orphans"]


def open_segment(name: str, shape: Shape, create: bool | None) -> Segment:
    """Create the segment called ``name``, or attach to it.

    Args:
        name: the queue's name.
        shape: of a new segment. An existing one may have another: look at ``Segment.header.shape``.
        create: True, it must not be in use; False, it must exist; None, either.

    Raises:
        ShmQueueExistsError, ShmQueueNotFoundError: as ``create`` says.
        ShmQueueRefusedError: what lies at the path is not a segment that this process may or can use.
        ShmQueueNoSpaceError: there is not enough memory for a new one.
    """
    path = path_of(name)
    while True:
        if create is not True:
            segment = _attach(name, path)
            if segment is not None:
                sweep_orphans()
                return segment
            if create is False:
                raise ShmQueueNotFoundError(errno.ENOENT, f"there is no queue called {name!r}", path)
        sweep_orphans()
        header = Header(shape, pid_namespace(), uuid.uuid4().bytes, clock.wall_ns(), boot_id())
        segment = _create(name, path, header)
        if segment is not None:
            return segment
        if create is True:
            raise ShmQueueExistsError(errno.EEXIST, f"a queue called {name!r} is in use", path)


def attach_segment(name: str, within: str, incarnation: bytes, held: int = -1) -> Segment:
    """Attach to one incarnation of a name, in the directory where it was made.

    Args:
        name: the queue's name.
        within: the directory, whatever ``directory()`` says here.
        incarnation: the uuid that its header must have.
        held: a descriptor of the segment itself, which a parent has handed down; -1, there is none.

    Raises:
        ShmQueueNotFoundError: it is gone, or another one has its name.
        ShmQueueRefusedError: as ``open_segment``.
    """
    path = path_of(name, within)
    segment = _attach_held(name, path, held) if held >= 0 else None
    segment = segment or _attach(name, path)
    if segment is None:
        raise ShmQueueNotFoundError(errno.ENOENT, f"there is no queue called {name!r}", path)
    if segment.header.uuid != incarnation:
        segment.close()
        raise ShmQueueNotFoundError(errno.ENOENT, f"the queue {name!r} is gone; another one has its name", path)
    return segment


def _attach(name: str, path: str) -> Segment | None:
    """Attach to the segment at ``path``; None when there is none."""
    while True:
        try:
            fd = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refused(path, cannot_open(error)) from error
        segment = _hold(name, path, fd, with_name=True)
        if segment is not None:
            return segment


def _attach_held(name: str, path: str, held: int) -> Segment | None:
    """Attach to the segment behind a descriptor, whether it still has its name or not; None if that cannot be done."""
    fd = fresh_description(held, path)
    return None if fd is None else _hold(name, path, fd, with_name=False)


def _hold(name: str, path: str, fd: int, with_name: bool) -> Segment | None:
    """Become a holder of the open file and take over its descriptor; None if it has lost its name meanwhile."""
    try:
        if fcntl is not None:
            require_private_file(os.fstat(fd), path)
        lock_shared(fd, path)
        status = os.fstat(fd)
        if with_name and fcntl is not None and not same_file(fd, path):  # its links may be another name's, see _create
            return None
        header = _header_of(fd, status, path)
        _require_own_pid_namespace(header, path)
        segment = Segment(name, path, fd, header, created=False)
        fd = -1
        return segment
    finally:
        if fd >= 0:
            os.close(fd)


def _require_own_pid_namespace(header: Header, path: str) -> None:
    ours = pid_namespace()
    if header.pid_namespace != ours:
        raise refused(
            path,
            f"it was made in another pid namespace ({header.pid_namespace}, ours is {ours}): "
            "the death of a process there could not be seen here",
        )


def read_header(path: str) -> Header:
    """The header of the segment at ``path``, without becoming a holder.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueRefusedError: as for attaching, except that any pid namespace will do.
    """
    try:
        fd = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise ShmQueueNotFoundError(errno.ENOENT, "there is no segment", path) from None
    except OSError as error:
        raise refused(path, cannot_open(error)) from error
    try:
        status = os.fstat(fd)
        if fcntl is not None:
            require_private_file(status, path)
        return _header_of(fd, status, path)
    finally:
        os.close(fd)


def _header_of(fd: int, status: os.stat_result, path: str) -> Header:
    os.lseek(fd, 0, os.SEEK_SET)
    return Header.unpack(os.read(fd, FIELDS.size + CRC.size), status.st_size, path)


def _create(name: str, path: str, header: Header) -> Segment | None:
    """Make a complete segment and give it its name; None when somebody else was faster."""
    shape = header.shape

    def fill(fd: int) -> None:
        reserve(fd, HEADER_SIZE + (shape.initial or shape.data_size), path)
        lengthen(fd, HEADER_SIZE + shape.data_size, path)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, header.pack())

    fd = make_file(path, fill, as_holder=True)
    return None if fd is None else Segment(name, path, fd, header, created=True)


def sweep_orphans() -> list[str]:
    """Remove this user's segments that nobody holds, and return their names.

    They are left behind when all holders of a queue were killed. A file that is no segment is left alone.
    """
    removed = []
    prefix = file_prefix()
    entries = list_entries()
    for entry in entries:
        if entry.startswith(prefix):
            try:
                gone = _sweep(os.path.join(directory(), entry), half_made=entry.startswith(prefix + UNNAMED))
            except OSError:
                continue  # somebody else's, or somebody else was faster
            name = name_of(entry)
            if gone and name is not None:
                removed.append(name)
    sweep_sidecars(entries)
    return removed


def _sweep(path: str, half_made: bool) -> bool:
    fd = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
            return False
        if not half_made and os.read(fd, len(MAGIC)) != MAGIC:
            return False
        return unlink_if_unheld(fd, path)
    finally:
        os.close(fd)
