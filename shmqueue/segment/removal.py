"""Removing names: of one segment, and of what killed processes left behind.

A segment that has a name and items is only removed where somebody asks for that very segment. What may be swept is what
can never be opened again (private segments without a holder, files that were never finished), and what is empty.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable

from shmqueue import clock
from shmqueue.exceptions import ShmQueueRefusedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import transit
from shmqueue.segment.contents import contents_of
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.files import OPEN_FLAGS, cannot_open, require_private_file
from shmqueue.segment.header import CRC, FIELDS, MAGIC, Header, Unfit, refused
from shmqueue.segment.holders import holders_of
from shmqueue.segment.locks import lock_alone, lock_shared, patiently, take_name_away, unlock, while_changing
from shmqueue.segment.naming import UNNAMED, directory, file_prefix, list_entries, name_of
from shmqueue.segment.sidecar import remove_lock_files, stray_sidecars, sweep_sidecars

__all__ = [
    "header_at",
    "leave_to_others",
    "list_strays",
    "open_to_look",
    "remove_if_unheld",
    "remove_left_to_others",
    "remove_name",
    "remove_unarrived",
    "sweep_now_and_then",
    "sweep_orphans",
    "sweep_strays",
    "unlink_if_unheld",
]

_HANDFUL = 4  # files that are looked at in passing
_SELDOM = 60.0  # seconds, at least, between two such looks of a process
_CHANCE = 1 / 16  # of such a look, when a segment is created and the time has come


def header_at(fd: int) -> Header | Unfit:
    """The header of the file behind a descriptor, or why it is none."""
    size = os.fstat(fd).st_size
    return Header.judge(_read_start(fd, FIELDS.size + CRC.size), size)


def _read_start(fd: int, size: int) -> bytes:
    if hasattr(os, "pread"):  # another thread may just read by the same descriptor
        return os.pread(fd, size, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, size)


def open_to_look(path: str) -> int:
    """A descriptor of the file at ``path``, to read what it contains; the caller closes it.

    Raises:
        FileNotFoundError: there is none.
        ShmQueueRefusedError: it is not a private file of this user.
    """
    try:
        fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise
    except not_of_handler(OSError) as error:
        raise refused(path, cannot_open(error, path)) from error
    try:
        if hasattr(os, "geteuid"):
            require_private_file(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _always(fd: int) -> bool:
    return True


@while_changing
def unlink_if_unheld(fd: int, path: str, may_go: Callable[[int], bool] = _always) -> bool:
    """Remove ``path`` if no process has the file behind ``fd`` open and ``may_go(fd)`` is true; return whether it did.

    The description of ``fd`` must carry no lock of its own. What ``may_go`` says counts while the file is locked: until
    then another process may open the queue, use it and close it. It is asked before as well, for the lock would make a
    last holder take this process for another one.
    """
    if not may_go(fd) or not lock_alone(fd):
        return False
    try:
        if not may_go(fd):
            return False
        remove_lock_files(fd, os.path.dirname(path))
        return take_name_away(fd, path)
    finally:
        unlock(fd)


def remove_if_unheld(path: str) -> bool:
    """Remove this user's segment at ``path``, with its items, unless it is open, in transit or to be kept.

    Raises:
        OSError: it cannot be opened.
    """
    fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        return _is_own_file(fd) and unlink_if_unheld(fd, path, _is_orphan)
    finally:
        os.close(fd)


def _is_orphan(fd: int) -> bool:
    header = header_at(fd)
    return _has_magic(fd) and not (isinstance(header, Header) and header.keep) and not transit.is_awaited(fd)


@patiently
def remove_name(path: str) -> None:
    """Remove ``path``, whatever this user's file there contains. Its holders can go on.

    Raises:
        FileNotFoundError: there is none.
        ShmQueueRefusedError: it is not a regular file of this user.
        OSError: it cannot be removed.
    """
    while True:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ShmQueueRefusedError(f"refusing to remove {path}: it is not a regular file")
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            raise ShmQueueRefusedError(f"refusing to remove {path}: it belongs to user {status.st_uid}")
        try:
            fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except not_of_handler(PermissionError):
            os.unlink(path)  # no process can have it open as a queue
            return
        try:
            if unlink_if_unheld(fd, path):
                return
            lock_shared(fd, path)  # as a holder, for only holders may take the name of a held segment away
            if take_name_away(fd, path):
                unlock(fd)
                if lock_alone(fd):  # the others have gone meanwhile, and took this for one of them
                    remove_lock_files(fd, os.path.dirname(path))
                return
        finally:
            try:
                unlock(fd)
            finally:
                os.close(fd)


def remove_unarrived() -> list[tuple[str, int]]:
    """Remove the segments that this process closed last and that a pickled queue never arrived at.

    Returns:
        For each that is not private, its name, and how many items it had, as far as they can be counted.
    """
    removed = []
    for left in transit.overdue():
        try:
            items = _look_at_left(left) if transit.no_longer_awaits(left) else None
        except BaseException:  # of a signal handler: the next call looks at it
            transit.await_still(left)
            raise
        if items is not None:
            removed.append((left.name, items))
    return removed


def _look_at_left(left: transit.Left) -> int | None:
    """As ``_remove_left``; None also if there is none any more."""
    try:
        fd = Descriptor.opened(os.open, left.path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except not_of_handler(OSError):
        return None  # it arrived and was closed since, or another process swept it
    try:
        return _remove_left(fd, left)
    except not_of_handler(OSError):
        return None
    finally:
        os.close(fd)


def _remove_left(fd: int, left: transit.Left) -> int | None:
    """Remove a segment that only this process's pickled queues could still have needed.

    Returns:
        How many items it had, as far as they can be counted; None: it is private, or was not removed.
    """
    items = 0

    def may_go(fd: int) -> bool:
        nonlocal items
        contents = contents_of(fd)
        items = 0 if contents is None else contents.items
        return _is_still(fd, left) and not transit.is_awaited(fd)

    if _is_still(fd, left) and transit.is_awaited(fd):  # it was pickled once more
        transit.await_arrival(left)
        return None
    header = header_at(fd)
    is_private = isinstance(header, Header) and header.private
    return items if unlink_if_unheld(fd, left.path, may_go) and not is_private else None


def _is_still(fd: int, left: transit.Left) -> bool:
    """Whether a segment is as this process left it. A private one may have arrived since: no other process opens it."""
    header = header_at(fd)
    return (
        isinstance(header, Header)
        and header.uuid == left.uuid
        and not header.keep
        and (header.private or transit.adoptions(fd) == left.adoptions)
    )


# ---- what this process closed while others held it ----

_MOST_LEFT = 256

_left_to_others: dict[str, bytes] = {}  # path and uuid of private segments


def leave_to_others(path: str, uuid: bytes) -> None:
    """Note that other processes hold the private segment at ``path``, which this one has closed.

    The last of them removes it, unless it is killed. That happens to forked children that inherited a queue by chance.
    """
    if len(_left_to_others) < _MOST_LEFT:
        _left_to_others[path] = uuid


def remove_left_to_others() -> None:
    """Remove the noted segments that nobody holds any more."""
    for path, uuid in list(_left_to_others.items()):
        try:
            fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except not_of_handler(OSError):
            pass
        else:
            try:
                unlink_if_unheld(fd, path, functools.partial(_is_left, uuid))
            except not_of_handler(OSError):
                pass
            finally:
                os.close(fd)
        _left_to_others.pop(path, None)  # last, for a signal handler may raise before


def _is_left(uuid: bytes, fd: int) -> bool:
    header = header_at(fd)
    return isinstance(header, Header) and header.uuid == uuid and not transit.is_awaited(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_left_to_others.clear)


# ---- sweeping ----


def sweep_orphans() -> list[str]:
    """Remove all that may be swept of this user's files, and return the names of the segments among them.

    A file that is no segment is left alone, and so is a segment that has items and a name, or is to be kept.
    """
    entries = list_entries()
    removed = _sweep(entries)
    sweep_sidecars(entries)
    return removed


def list_strays() -> list[str]:
    """The names of this user's files that belong to no queue: lock files, and what a killed process had half made.

    They take no memory worth speaking of. The lock file of a queue whose name was taken away counts, though it is used.
    """
    entries, half_made = list_entries(), file_prefix() + UNNAMED
    strays = [entry for entry in entries if entry.startswith(half_made)]
    strays = [entry for entry in strays if not holders_of(os.path.join(directory(), entry))]
    return sorted(strays + stray_sidecars(entries))


def sweep_strays() -> list[str]:
    """Remove those of ``list_strays`` that no process has locked, and return their names."""
    entries, half_made = list_entries(), file_prefix() + UNNAMED
    removed = sweep_sidecars(entries)
    for entry in entries:
        if entry.startswith(half_made):
            try:
                if _sweep_one(os.path.join(directory(), entry), half_made=True):
                    removed.append(entry)
            except not_of_handler(OSError):
                continue
    return sorted(removed)


def sweep_now_and_then(dice: bytes) -> list[str]:
    """Sweep a handful of files, by chance, and not again soon: the cost does not depend on how many there are.

    Args:
        dice: random bytes, which decide, as those of a new segment's uuid. The program may have seeded what ``random``
            has, and a fork shares it.

    Returns:
        What is in the directory, if it was listed for this; else nothing.
    """
    global _not_before
    now = clock.monotonic()
    if now < _not_before or dice[0] / 256 >= _CHANCE:
        return []
    _not_before = now + _SELDOM
    prefix = file_prefix()
    everything = list_entries()
    entries = [entry for entry in everything if entry.startswith(prefix)]
    start = int.from_bytes(dice[1:5], "little") % max(1, len(entries))
    _sweep((entries[start:] + entries[:start])[:_HANDFUL])
    return everything


_not_before = 0.0


def _sweep(entries: list[str]) -> list[str]:
    removed = []
    prefix = file_prefix()
    for entry in entries:
        if entry.startswith(prefix):
            try:
                gone = _sweep_one(os.path.join(directory(), entry), half_made=entry.startswith(prefix + UNNAMED))
            except not_of_handler(OSError):
                continue  # somebody else's, or somebody else was faster
            name = name_of(entry)
            if gone and name is not None:
                removed.append(name)
    return removed


@while_changing
def _sweep_one(path: str, half_made: bool) -> bool:
    fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not _is_own_file(fd):
            return False
        return unlink_if_unheld(fd, path, _always if half_made else _may_be_swept)
    finally:
        os.close(fd)


def _may_be_swept(fd: int) -> bool:
    header = header_at(fd)
    if not isinstance(header, Header) or header.keep or transit.is_awaited(fd):
        return False
    contents = contents_of(fd)
    return header.private or (contents is not None and contents.items == 0)


def _is_own_file(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())


def _has_magic(fd: int) -> bool:
    return _read_start(fd, len(MAGIC)) == MAGIC
