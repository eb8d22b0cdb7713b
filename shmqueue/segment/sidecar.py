"""Sidecars: the files that the portable engine locks.

Its lock (engine/portable_lock.py) is an exclusive flock on a file beside the segment, the sidecar, which carries the
segment's uuid in its name.

  1. A sidecar is empty, and its path names it. A process that has the flock on a file that has bytes, or no name,
     does not own the lock: it opens the path again.
  2. Only the owner removes a sidecar: it writes a byte to the file, which stays there, then removes its name.
  3. A process that finds a file with bytes at the path, and has the flock on it, removes its name: the owner died
     before it did.

Two processes never own the lock at once: for that the first one's file would have to get a byte or lose its name while
the first one owns the lock, which rule 2 forbids. So a sidecar may be removed at any time, even that of a queue that
has lost its name to unlink() and is still used: its users make another one.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.files import OPEN_FLAGS, cannot_open, make_file, require_private_file
from shmqueue.segment.header import FIELDS, MAGIC, refused, uuid_in
from shmqueue.segment.locks import changing, fcntl, same_file
from shmqueue.segment.naming import directory, file_prefix, list_entries, user_of, whose

if TYPE_CHECKING:
    from shmqueue.segment.handle import Segment

__all__ = [
    "HAS_SIDECARS",
    "changing",
    "open_sidecar",
    "remove_lock_files",
    "remove_sidecar",
    "sidecar_of",
    "stray_sidecars",
    "sweep_sidecars",
    "try_lock_sidecar",
    "unlock_sidecar",
]

HAS_SIDECARS = fcntl is not None
_SIDECAR_PATIENCE = 1000  # milliseconds that the last holder waits for a daemon thread's call, or a sweep, to be over


def _sidecar_prefix(user: int | None = None) -> str:
    return file_prefix(user).replace("shmqueue-", "shmqueue-lock-", 1)


def sidecar_of(segment: Segment) -> str:
    """The path of a segment's sidecar, whether it exists or not. It belongs to the same user."""
    prefix = _sidecar_prefix(user_of(segment.path))
    return os.path.join(os.path.dirname(segment.path), prefix + segment.header.uuid.hex())


def open_sidecar(path: str, make: bool = True) -> Descriptor:
    """Open the sidecar at ``path`` on a description of its own; if there is none, ``make`` it.

    Raises:
        FileNotFoundError: there is none, and it is not to be made.
        ShmQueueRefusedError: what lies there is not a private file of the segment's user, or this process may not
            open or make it.
        ShmQueueNoSpaceError: there is no room to make it.
    """
    while True:
        try:
            fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError as error:
            if not make or is_of_handler(error):
                raise
            _make_sidecar(path)
            continue
        except not_of_handler(OSError) as error:
            raise refused(path, cannot_open(error, path)) from error
        try:
            require_private_file(os.fstat(fd), path, user_of(path))
            descriptor = Descriptor(fd)
        except BaseException:
            os.close(fd)
            raise
        return descriptor


def _make_sidecar(path: str) -> None:
    # Without a lock: a child forked meanwhile would inherit the descriptor, and with it the lock for its life.
    user = user_of(path)

    def give_to_user(fd: int) -> None:
        if user is not None and user != os.fstat(fd).st_uid:
            try:
                os.fchown(fd, user, -1)
            except not_of_handler(OSError) as error:
                raise refused(path, f"it {whose(user)}") from error

    fd = make_file(path, give_to_user, as_holder=False)
    if fd is not None:
        os.close(fd)


def try_lock_sidecar(sidecar: Descriptor, path: str) -> bool | None:
    """Try to own the lock. False: another does. None: it is no sidecar any more, or closed; open the path anew."""
    fd = sidecar.number
    return None if fd < 0 else _try_lock(fd, path)


def _try_lock(fd: int, path: str) -> bool | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except not_of_handler(BlockingIOError):
        return False
    status = os.fstat(fd)
    if status.st_nlink > 0 and status.st_size == 0:
        return True
    if same_file(fd, path):
        os.unlink(path)
    return None


def unlock_sidecar(fd: int) -> None:
    """Give the lock up, or do nothing if ``fd`` does not have it."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def remove_lock_files(fd: int, parent: str) -> None:
    """For a process that is alone on the segment behind ``fd``: no process is left to use its lock."""
    data = os.pread(fd, FIELDS.size, 0)
    if len(data) < FIELDS.size or not data.startswith(MAGIC + b"portable"):
        return
    user = os.fstat(fd).st_uid if hasattr(os, "geteuid") else None
    remove_sidecar(os.path.join(parent, _sidecar_prefix(user) + uuid_in(data).hex()), _SIDECAR_PATIENCE)


def remove_sidecar(path: str, patience: int = 0) -> None:
    """Remove a sidecar if that can be done; leave it if it is in use for longer than ``patience`` milliseconds."""
    try:
        with changing():
            _remove_sidecar(path, patience)
    except not_of_handler(OSError):
        pass  # whatever it is removed for is more important, and the next sweep tries again


def _remove_sidecar(path: str, patience: int) -> None:
    while True:
        try:
            fd = Descriptor.opened(os.open, path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except not_of_handler(FileNotFoundError):
            return
        try:
            owned = _try_lock(fd, path)
            if owned:
                os.ftruncate(fd, 1)
                os.unlink(path)
                return
        finally:
            os.close(fd)
        if owned is False:
            if patience <= 0:
                return
            patience -= 1
            time.sleep(0.001)


def stray_sidecars(entries: list[str]) -> list[str]:
    """The sidecars among ``entries`` that belong to no segment with a name.

    ``entries`` were listed before this looks for segments, and a segment is there before its sidecar: so one that is
    new cannot be taken for a stray. That of a queue whose name was taken away is one, though it is still used.
    """
    prefix = _sidecar_prefix()
    sidecars = [entry for entry in entries if entry.startswith(prefix)]
    if not sidecars or fcntl is None:
        return []
    alive = _uuids()
    return [entry for entry in sidecars if entry[len(prefix) :] not in alive]


def sweep_sidecars(entries: list[str]) -> list[str]:
    """Remove the stray sidecars among ``entries``, and return those that are gone."""
    strays = stray_sidecars(entries)
    for entry in strays:
        remove_sidecar(os.path.join(directory(), entry))
    return [entry for entry in strays if not os.path.lexists(os.path.join(directory(), entry))]


def _uuids() -> set[str]:
    """The uuids, in hexadecimal, of this user's segments that have a name and can be read."""
    uuids = set()
    for entry in list_entries():
        if entry.startswith(file_prefix()):
            try:
                with open(os.path.join(directory(), entry), "rb", buffering=0, opener=_open_quietly) as file:
                    data = file.read(FIELDS.size)
            except not_of_handler(OSError):
                continue  # nobody can attach to it either
            if data is not None and len(data) == FIELDS.size and data.startswith(MAGIC):
                uuids.add(uuid_in(data).hex())
    return uuids


def _open_quietly(path: str, flags: int) -> int:
    return Descriptor.opened(os.open, path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
