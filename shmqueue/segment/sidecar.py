"""Sidecars: the files that the portable engine locks.

Its lock (engine/portable_lock.py) is an exclusive flock on a file beside the segment, the sidecar, and then a shmlock
block, which only the owner of that flock touches. Both carry the segment's uuid in their names.

  1. Who has got the flock owns the lock only if the sidecar's path still names the file that he locked: he looks
     after locking, and opens the path anew if it does not.
  2. Only the owner removes a sidecar from its path, and the block before it.

Two never own the lock at once: for that the path would have to change while the first one owns it, which rule 2
forbids. So a sidecar may be removed at any time, even that of a queue that has lost its name to unlink() and is still
used: its users make another one. And no block outlives its sidecar, so that sweeping sidecars sweeps all blocks; to
judge a block by itself would be wrong, for its segment may lie in another directory ($SHMQUEUE_DIR).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from shmqueue.segment.files import (
    OPEN_FLAGS,
    cannot_open,
    fcntl,
    give_name,
    nameless_file,
    remove_quietly,
    require_private_file,
    same_file,
)
from shmqueue.segment.header import FIELDS, MAGIC, refused, uuid_in
from shmqueue.segment.naming import directory, file_prefix, has_free_inode, list_entries

if TYPE_CHECKING:
    from shmqueue.segment.handle import Segment

try:
    import _posixshmem  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # Windows, where a block of shared memory goes with its last handle
    _posixshmem = None

__all__ = [
    "HAS_SIDECARS",
    "block_has_room",
    "block_of",
    "open_sidecar",
    "remove_block",
    "remove_lock_files",
    "sidecar_of",
    "sweep_sidecars",
    "try_lock_sidecar",
    "unlock_sidecar",
]

HAS_SIDECARS = fcntl is not None
_BLOCK = "shmqueue-block-"
_BLOCK_NAME_LENGTH = 30 if sys.platform == "darwin" else 255  # macOS cuts the uuid to 60 bits, which is plenty
_SIDECAR_PATIENCE = 50  # milliseconds that the last holder waits for somebody's short look at the sidecar


def _sidecar_prefix() -> str:
    return file_prefix().replace("shmqueue-", "shmqueue-lock-", 1)


def sidecar_of(segment: Segment) -> str:
    """The path of a segment's sidecar, whether it exists or not."""
    return os.path.join(os.path.dirname(segment.path), _sidecar_prefix() + segment.header.uuid.hex())


def block_of(segment: Segment) -> str:
    """The name of a segment's shmlock block."""
    return _block_name(segment.header.uuid.hex())


def _block_name(uuid_hex: str) -> str:
    return (_BLOCK + uuid_hex)[:_BLOCK_NAME_LENGTH]


def open_sidecar(path: str) -> int:
    """Open the sidecar at ``path`` on a description of its own, and make it if there is none.

    Raises:
        ShmQueueRefusedError: what lies there is not a private file of this user.
        ShmQueueNoSpaceError: there is no room to make it.
    """
    while True:
        try:
            fd = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            _make_sidecar(path)
            continue
        except OSError as error:
            raise refused(path, cannot_open(error)) from error
        try:
            require_private_file(os.fstat(fd), path)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _make_sidecar(path: str) -> None:
    fd, temporary = nameless_file(path)  # complete, with its mode, before others can meet it, like a segment
    try:
        give_name(fd, temporary, path)
    except FileExistsError:
        pass
    finally:
        if temporary is not None:
            remove_quietly(temporary)
        os.close(fd)


def try_lock_sidecar(fd: int, path: str) -> bool | None:
    """Try to own the lock. False: another does. None: ``fd`` is no longer the sidecar at ``path``, open it anew."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True if same_file(fd, path) else None


def unlock_sidecar(fd: int) -> None:
    """Give the lock up, or do nothing if ``fd`` does not have it."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def block_has_room() -> bool:
    """Whether a shmlock block can be made and written to now: in a full /dev/shm that would be the process's death."""
    try:
        return os.statvfs("/dev/shm").f_bavail > 0 and has_free_inode("/dev/shm")
    except OSError:
        return True


def remove_block(name: str) -> None:
    """Remove a shmlock block. One that was never given its size cannot be attached to first, so this does without."""
    try:
        if _posixshmem is not None:
            _posixshmem.shm_unlink("/" + name)
    except FileNotFoundError:
        pass


def remove_lock_files(fd: int, parent: str) -> None:
    """For who has the segment behind ``fd`` for himself: nobody is left to use its lock."""
    data = os.pread(fd, FIELDS.size, 0)
    if len(data) < FIELDS.size or not data.startswith(MAGIC + b"portable"):
        return
    uuid_hex = uuid_in(data).hex()
    try:
        remove_block(_block_name(uuid_hex))
        _remove_sidecar(os.path.join(parent, _sidecar_prefix() + uuid_hex), uuid_hex, _SIDECAR_PATIENCE)
    except OSError:
        pass  # the segment's removal is more important, and the next sweep tries again


def _remove_sidecar(path: str, uuid_hex: str, patience: int) -> None:
    """Remove a sidecar and its block, by rule 2; leave it if it is in use for longer than ``patience`` milliseconds."""
    while True:
        try:
            fd = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return
        try:
            owned = try_lock_sidecar(fd, path)
            if owned:
                remove_block(_block_name(uuid_hex))
                os.unlink(path)
                return
        finally:
            os.close(fd)
        if owned is False:
            if patience <= 0:
                return
            patience -= 1
            time.sleep(0.001)


def sweep_sidecars(entries: list[str]) -> None:
    """Remove the sidecars among ``entries`` that belong to no segment with a name.

    ``entries`` were listed before this looks for segments, and a segment is there before its sidecar: so one that is
    new cannot be taken for a stray.
    """
    prefix = _sidecar_prefix()
    sidecars = [entry for entry in entries if entry.startswith(prefix)]
    if not sidecars or fcntl is None:
        return
    alive = _uuids()
    for entry in sidecars:
        uuid_hex = entry[len(prefix) :]
        if uuid_hex not in alive:
            try:
                _remove_sidecar(os.path.join(directory(), entry), uuid_hex, patience=0)
            except OSError:
                continue  # somebody else was faster


def _uuids() -> set[str]:
    """The uuids, in hexadecimal, of this user's segments that have a name and can be read."""
    uuids = set()
    for entry in list_entries():
        if entry.startswith(file_prefix()):
            try:
                with open(os.path.join(directory(), entry), "rb", buffering=0, opener=_open_quietly) as file:
                    data = file.read(FIELDS.size)
            except OSError:
                continue  # nobody can attach to it either
            if data is not None and len(data) == FIELDS.size and data.startswith(MAGIC):
                uuids.add(uuid_in(data).hex())
    return uuids


def _open_quietly(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
