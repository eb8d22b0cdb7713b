"""A named segment's life: create, attach, who holds it, free, sweep orphans.

A segment is one file that every holder maps. The kernel counts the holders, so that SIGKILL cannot leak a reference:
each handle keeps ``flock(LOCK_SH)`` on an open file description of its own, and whoever can get ``LOCK_EX`` knows that
nobody else is left. A file becomes visible under its name only when it is complete.

This module knows nothing of records or locks inside a segment: the engines do (``shmqueue.engine``). It may assume
Linux; elsewhere it does what the platform allows, which is said at each place.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shmqueue.exceptions import (
    ShmQueueExistsError,
    ShmQueueNoSpaceError,
    ShmQueueNotFoundError,
    ShmQueueRefusedError,
    ShmQueueTypeError,
    ShmQueueValueError,
)

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be unlinked: that counts the holders instead
    fcntl = None  # type: ignore[assignment]

try:
    import _posixshmem  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # Windows, where a block of shared memory goes with its last handle
    _posixshmem = None

__all__ = [
    "HAS_SIDECARS",
    "HEADER_SIZE",
    "SYSTEM_PAGESIZE",
    "Header",
    "Segment",
    "attach_segment",
    "block_has_room",
    "block_of",
    "directory",
    "free_bytes",
    "holders_of",
    "list_names",
    "open_segment",
    "open_sidecar",
    "path_of",
    "read_header",
    "remove_block",
    "sidecar_of",
    "sweep_orphans",
    "try_lock_sidecar",
    "unlock_sidecar",
]

SYSTEM_PAGESIZE: int = mmap.PAGESIZE

HEADER_SIZE = 4096
"""Bytes before the data: the header and whatever an engine keeps beside it."""

NAME_LENGTH_MAX = 180
"""Characters of an escaped name."""

_MAGIC = b"shmqueue"
_VERSION = 1
_BYTE_ORDER = 0x01020304
_HEADER = struct.Struct("=8s8sIIQQQ16sQI")  # the first 76 bytes of struct header in engine/native/layout.h
_CRC = struct.Struct("=I")

_UNNAMED = "%new-"  # no escaped name begins like this


class Header(NamedTuple):
    """What is written into a segment once, before anyone can see it.

    ``capacity`` is in bytes of records, ``maxsize`` in items (0: as many as fit), ``pid_namespace`` an inode number (0
    where there are none), ``created`` in nanoseconds since the epoch.
    """

    engine: str
    capacity: int
    maxsize: int
    pid_namespace: int
    uuid: bytes
    created: int

    def pack(self) -> bytes:
        """The header's bytes, checksum included. ``unpack`` reads them back."""
        fields = _HEADER.pack(
            _MAGIC,
            self.engine.encode(),
            _VERSION,
            HEADER_SIZE,
            self.capacity,
            self.maxsize,
            self.pid_namespace,
            self.uuid,
            self.created,
            _BYTE_ORDER,
        )
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, data: bytes, file_size: int, path: str) -> Header:
        """Read a header and check everything about it that does not depend on who attaches.

        Raises:
            ShmQueueRefusedError: it is not a whole, undamaged header of this version; the message says in which way.
        """
        if len(data) < _HEADER.size + _CRC.size or file_size < HEADER_SIZE:
            raise _refused(path, f"the file has only {file_size} bytes, a segment at least {HEADER_SIZE}")
        magic, engine, version, header_size, *numbers, byte_order = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise _refused(path, "it is not a shmqueue segment (wrong magic)")
        if version != _VERSION or header_size != HEADER_SIZE:
            raise _refused(path, f"it has layout version {version}, this installation uses version {_VERSION}")
        if byte_order != _BYTE_ORDER or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
            raise _refused(path, "its header is damaged (wrong checksum)")
        header = cls(engine.rstrip(b"\0").decode("ascii", "replace"), *numbers)
        if file_size != HEADER_SIZE + header.capacity:
            expected = HEADER_SIZE + header.capacity
            raise _refused(path, f"the file has {file_size} bytes and its header says {expected} (truncated?)")
        return header


def _refused(path: str, why: str) -> ShmQueueRefusedError:
    return ShmQueueRefusedError(errno.EACCES, f"refusing to attach: {why}", path)


# ---- names and paths ----


def directory() -> str:
    """The directory that holds the segments: ``$SHMQUEUE_DIR``, else /dev/shm, else the temporary directory."""
    chosen = os.environ.get("SHMQUEUE_DIR")
    if chosen:
        return chosen
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


def _prefix() -> str:
    user = str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "user")
    return f"shmqueue-{user}-"


def _escape(name: str) -> str:
    """Letters, digits, ``.``, ``_`` and ``-`` stay (a leading dot does not), all else becomes %XX of its UTF-8."""
    escaped = urllib.parse.quote(name.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


def _unescape(escaped: str) -> str:
    return urllib.parse.unquote_to_bytes(escaped).decode("utf-8", "surrogatepass")


def path_of(name: str, within: str | None = None) -> str:
    """The path of the segment called ``name``, in ``directory()`` or the directory that is given.

    Raises:
        ShmQueueTypeError: ``name`` is no str.
        ShmQueueValueError: it is empty, or longer than 180 characters once escaped.
    """
    if not isinstance(name, str):
        raise ShmQueueTypeError(f"queue_name must be a str, not {type(name).__name__}")
    escaped = _escape(name)
    if not 0 < len(escaped) <= NAME_LENGTH_MAX:
        raise ShmQueueValueError(
            f"queue_name must have 1 to {NAME_LENGTH_MAX} characters "
            f"(others than letters, digits, '.', '_' and '-' count three for each byte), this one has {len(escaped)}"
        )
    return os.path.join(within or directory(), _prefix() + escaped)


def list_names() -> list[str]:
    """The names of this user's segments, sorted, whether somebody holds them or not."""
    prefix = _prefix()
    return sorted(
        _unescape(entry[len(prefix) :])
        for entry in _entries()
        if entry.startswith(prefix) and not entry.startswith(prefix + _UNNAMED)
    )


def _entries() -> list[str]:
    try:
        return os.listdir(directory())
    except OSError:
        return []


def free_bytes() -> int:
    """Bytes that are free in the file system that holds the segments; -1 where it cannot be asked."""
    if not hasattr(os, "statvfs"):
        return -1
    figures = os.statvfs(directory())
    return figures.f_bavail * figures.f_frsize


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


# ---- open file descriptions and their locks ----

_OPEN_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _lock_shared(fd: int) -> None:
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_SH)


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _fresh_description(fd: int, path: str) -> int | None:
    """Open the file behind ``fd`` once more; None when its name is gone and there is no /proc to reach it by."""
    try:
        return os.open(f"/proc/self/fd/{fd}", _OPEN_FLAGS)
    except OSError:
        pass
    try:
        fresh = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    if os.path.samestat(os.fstat(fd), os.fstat(fresh)):
        return fresh
    os.close(fresh)
    return None


def _unlink_if_unheld(fd: int, path: str) -> bool:
    """Remove ``path`` if nobody holds the file behind ``fd``, whose description must carry no lock of its own."""
    if fcntl is None:  # the platform refuses to unlink a file that anyone has open; see Segment.close()
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _remove_lock_files(fd, os.path.dirname(path))
    if not _same_file(fd, path):
        return False
    os.unlink(path)
    return True


def sweep_orphans() -> list[str]:
    """Remove this user's segments that nobody holds, and return their names.

    They are left behind when all holders of a queue were killed. A file that is no segment is left alone.
    """
    removed = []
    prefix = _prefix()
    entries = _entries()
    for entry in entries:
        if entry.startswith(prefix):
            try:
                gone = _sweep(os.path.join(directory(), entry), half_made=entry.startswith(prefix + _UNNAMED))
            except OSError:
                continue  # somebody else's, or somebody else was faster
            if gone:
                removed.append(_unescape(entry[len(prefix) :]))
    _sweep_sidecars(entries)
    return removed


def _sweep(path: str, half_made: bool) -> bool:
    fd = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
            return False
        if not half_made and os.read(fd, len(_MAGIC)) != _MAGIC:
            return False
        return _unlink_if_unheld(fd, path)
    finally:
        os.close(fd)


def holders_of(path: str) -> list[int]:
    """The process id of each handle on the segment at ``path``, from the kernel's own table of locks.

    A process that holds it twice is listed twice. Where there is no /proc/locks the list is empty.
    """
    try:
        status = os.stat(path, follow_symlinks=False)
        table = _lock_table()
    except OSError:
        return []
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = []
    for line in table.splitlines():
        fields = line.split()  # "1: FLOCK ADVISORY READ 2394 00:1b:2002 0 EOF"; who still waits has "->" after the 1:
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[3] == "READ" and fields[5] == file:
            pids.append(int(fields[4]))
    return sorted(pids)


def _lock_table() -> str:
    """/proc/locks as it was at one moment.

    Only what one read() returns is of one moment, and that is a page at most; the next one goes on at an index that
    others may have shifted. So a longer table is read until it comes out the same twice.
    """
    before = None
    for _ in range(100):
        with open("/proc/locks", "rb", buffering=0) as file:
            chunks = [file.read(1 << 20)]
            while len(chunks[-1]) > SYSTEM_PAGESIZE - 256:  # perhaps cut off: a line is shorter than that
                chunks.append(file.read(1 << 20))
        table = b"".join(chunks)
        if len(chunks) == 1 or table == before:
            break
        before = table
    return table.decode("ascii", "replace")


# ---- sidecars: what the portable engine locks ----
#
# Its lock (engine/portable_lock.py) is an exclusive flock on a file beside the segment, the sidecar, and then a shmlock
# block, which only the owner of that flock touches. Both carry the segment's uuid in their names.
#
#   1. Who has got the flock owns the lock only if the sidecar's path still names the file that he locked: he looks
#      after locking, and opens the path anew if it does not.
#   2. Only the owner removes a sidecar from its path, and the block before it.
#
# Two never own the lock at once: for that the path would have to change while the first one owns it, which rule 2
# forbids. So a sidecar may be removed at any time, even that of a queue that has lost its name to unlink() and is still
# used: its users make another one. And no block outlives its sidecar, so that sweeping sidecars sweeps all blocks; to
# judge a block by itself would be wrong, for its segment may lie in another directory ($SHMQUEUE_DIR).

HAS_SIDECARS = fcntl is not None

_BLOCK = "shmqueue-block-"
_BLOCK_NAME_LENGTH = 30 if sys.platform == "darwin" else 255  # macOS cuts the uuid to 60 bits, which is plenty
_SIDECAR_PATIENCE = 50  # milliseconds that the last holder waits for somebody's short look at the sidecar


def _sidecar_prefix() -> str:
    return _prefix().replace("shmqueue-", "shmqueue-lock-", 1)


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
            fd = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            _make_sidecar(path)
            continue
        except OSError as error:
            raise _refused(path, _cannot_open(error)) from error
        try:
            _require_private_file(os.fstat(fd), path)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _make_sidecar(path: str) -> None:
    fd, temporary = _nameless_file(path)  # complete, with its mode, before others can meet it, like a segment
    try:
        _give_name(fd, temporary, path)
    except FileExistsError:
        pass
    finally:
        if temporary is not None:
            _remove_quietly(temporary)
        os.close(fd)


def try_lock_sidecar(fd: int, path: str) -> bool | None:
    """Try to own the lock. False: another does. None: ``fd`` is no longer the sidecar at ``path``, open it anew."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True if _same_file(fd, path) else None


def unlock_sidecar(fd: int) -> None:
    """Give the lock up, or do nothing if ``fd`` does not have it."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def block_has_room() -> bool:
    """Whether a shmlock block can be written to now: in a full /dev/shm that would be the death of the process."""
    try:
        return os.statvfs("/dev/shm").f_bavail > 0
    except OSError:
        return True


def remove_block(name: str) -> None:
    """Remove a shmlock block. One that was never given its size cannot be attached to first, so this does without."""
    try:
        if _posixshmem is not None:
            _posixshmem.shm_unlink("/" + name)
    except FileNotFoundError:
        pass


def _remove_lock_files(fd: int, parent: str) -> None:
    """For who has the segment behind ``fd`` for himself: nobody is left to use its lock."""
    data = os.pread(fd, _HEADER.size, 0)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC + b"portable"):
        return
    uuid_hex = _uuid_in(data).hex()
    try:
        remove_block(_block_name(uuid_hex))
        _remove_sidecar(os.path.join(parent, _sidecar_prefix() + uuid_hex), uuid_hex, _SIDECAR_PATIENCE)
    except OSError:
        pass  # the segment's removal is more important, and the next sweep tries again


def _uuid_in(data: bytes) -> bytes:
    return bytes(_HEADER.unpack_from(data)[7])


def _remove_sidecar(path: str, uuid_hex: str, patience: int) -> None:
    """Remove a sidecar and its block, by rule 2; leave it if it is in use for longer than ``patience`` milliseconds."""
    while True:
        try:
            fd = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
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


def _sweep_sidecars(entries: list[str]) -> None:
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
    for entry in _entries():
        if entry.startswith(_prefix()):
            try:
                with open(os.path.join(directory(), entry), "rb", buffering=0, opener=_open_quietly) as file:
                    data = file.read(_HEADER.size)
            except OSError:
                continue  # nobody can attach to it either
            if data is not None and len(data) == _HEADER.size and data.startswith(_MAGIC):
                uuids.add(_uuid_in(data).hex())
    return uuids


def _open_quietly(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


# ---- the segment ----


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
        self._closing = threading.Lock()
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
        fresh = _fresh_description(self._fd, self.path)
        try:
            yield self._fd if fresh is None else fresh
        finally:
            if fresh is not None:
                os.close(fresh)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return HEADER_SIZE + self.header.capacity

    def holders(self) -> list[int]:
        """The process id of each handle on this segment, as ``holders_of``; empty once its name is gone."""
        return holders_of(self.path) if self._fd >= 0 and _same_file(self._fd, self.path) else []

    def unlink(self) -> None:
        """Take the name away now. Those who hold the segment go on; the next one to use the name makes a new one."""
        if self._fd >= 0 and _same_file(self._fd, self.path):
            os.unlink(self.path)

    def close(self) -> None:
        """Give up this handle; the last one removes the file. Closing twice is harmless.

        The handle's own lock is never upgraded: that would lose it on failure, and succeed wrongly in a process that
        shares the description with a forked child. A fresh description decides.
        """
        with self._closing:
            fd, self._fd = self._fd, -1
            _live.discard(self)
        if fd < 0:
            return
        fresh = _fresh_description(fd, self.path) if fcntl is not None else None
        os.close(fd)
        if fcntl is None:
            _remove_quietly(self.path)  # the platform refuses while anybody has it open
        if fresh is not None:
            try:
                _unlink_if_unheld(fresh, self.path)
            finally:
                os.close(fresh)

    def _after_fork_in_child(self) -> None:
        """Become a holder in one's own right: until now the child only shares its parent's description."""
        self._closing = threading.Lock()
        fresh = _fresh_description(self._fd, self.path) if self._fd >= 0 else None
        if fresh is not None:
            _lock_shared(fresh)
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


# ---- create and attach ----


def open_segment(name: str, *, engine: str, capacity: int, maxsize: int, create: bool | None) -> Segment:
    """Create the segment called ``name``, or attach to it.

    Args:
        name: the queue's name.
        engine: whose layout a new segment gets, ``"native"`` or ``"portable"``. An existing one may have another: look
            at ``Segment.header.engine``.
        capacity: bytes of records in a new segment.
        maxsize: most items in a new segment, 0 for no limit.
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
        header = Header(engine, capacity, maxsize, _pid_namespace(), uuid.uuid4().bytes, time.time_ns())
        segment = _create(name, path, header)
        if segment is not None:
            return segment
        if create is True:
            raise ShmQueueExistsError(errno.EEXIST, f"a queue called {name!r} is in use", path)


def attach_segment(name: str, within: str, incarnation: bytes) -> Segment:
    """Attach to one incarnation of a name, in the directory where it was made.

    Args:
        name: the queue's name.
        within: the directory, whatever ``directory()`` says here.
        incarnation: the uuid that its header must have.

    Raises:
        ShmQueueNotFoundError: it is gone, or another one has its name.
        ShmQueueRefusedError: as ``open_segment``.
    """
    path = path_of(name, within)
    segment = _attach(name, path)
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
            fd = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(path, _cannot_open(error)) from error
        try:
            if fcntl is not None:
                _require_private_file(os.fstat(fd), path)
            _lock_shared(fd)
            status = os.fstat(fd)
            if status.st_nlink > 0:
                header = _read_header(fd, status, path)
                _require_own_pid_namespace(header, path)
                segment = Segment(name, path, fd, header, created=False)
                fd = -1
                return segment
        finally:
            if fd >= 0:
                os.close(fd)
        # it was freed between open() and flock(): look again


def _cannot_open(error: OSError) -> str:
    reasons = {
        errno.ELOOP: "it is a symbolic link",
        errno.EISDIR: "it is a directory",
        errno.ENXIO: "it is a socket or a device",
        errno.EACCES: "it belongs to somebody else (permission denied)",
    }
    return reasons.get(error.errno or 0, f"it cannot be opened: {error.strerror}")


def _require_private_file(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, f"it is not a regular file (mode {stat.filemode(status.st_mode)})")
    if status.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to user {status.st_uid}, this process runs as {os.geteuid()}")
    if status.st_mode & 0o077:
        raise _refused(
            path, f"others may access it (mode {stat.filemode(status.st_mode)}), a queue is private to a user"
        )


def _read_header(fd: int, status: os.stat_result, path: str) -> Header:
    os.lseek(fd, 0, os.SEEK_SET)
    return Header.unpack(os.read(fd, _HEADER.size + _CRC.size), status.st_size, path)


def _require_own_pid_namespace(header: Header, path: str) -> None:
    ours = _pid_namespace()
    if header.pid_namespace != ours:
        raise _refused(
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
        fd = os.open(path, _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise ShmQueueNotFoundError(errno.ENOENT, "there is no segment", path) from None
    except OSError as error:
        raise _refused(path, _cannot_open(error)) from error
    try:
        status = os.fstat(fd)
        if fcntl is not None:
            _require_private_file(status, path)
        return _read_header(fd, status, path)
    finally:
        os.close(fd)


def _create(name: str, path: str, header: Header) -> Segment | None:
    """Make a complete segment and give it its name; None when somebody else was faster."""
    size = HEADER_SIZE + header.capacity
    fd, temporary = _nameless_file(path)
    try:
        _reserve(fd, size, path)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, header.pack())
        _lock_shared(fd)
        try:
            _give_name(fd, temporary, path)
        except FileExistsError:
            return None
        segment = Segment(name, path, fd, header, created=True)
        fd = -1
        return segment
    finally:
        if temporary is not None:
            _remove_quietly(temporary)
        if fd >= 0:
            os.close(fd)


def _nameless_file(path: str) -> tuple[int, str | None]:
    """A new private file in the directory of ``path``, and its temporary name if it had to have one.

    Linux's O_TMPFILE needs no name, so that even a creator killed half-way leaves nothing behind.
    """
    parent = os.path.dirname(path)
    flags = _OPEN_FLAGS & ~getattr(os, "O_NONBLOCK", 0)
    try:
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                fd = os.open(parent, flags | os.O_TMPFILE, 0o600)
                os.fchmod(fd, 0o600)  # whatever the umask is
                return fd, None
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
        temporary = os.path.join(parent, f"{_prefix()}{_UNNAMED}{uuid.uuid4().hex}")
        fd = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o600)
        _lock_shared(fd)
        return fd, temporary
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(parent, HEADER_SIZE) from error
        raise ShmQueueRefusedError(error.errno, f"cannot create a segment: {error.strerror}", parent) from error


def _give_name(fd: int, temporary: str | None, path: str) -> None:
    if temporary is not None:
        os.link(temporary, path)
        return
    anchor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # a directory descriptor makes os.link() use linkat(AT_SYMLINK_FOLLOW), which /proc/self/fd needs
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=anchor, follow_symlinks=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(os.path.dirname(path), HEADER_SIZE) from error
        raise
    finally:
        os.close(anchor)


def _remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _reserve(fd: int, size: int, path: str) -> None:
    """Make the file ``size`` bytes long, with all its memory reserved: touching it later cannot fail."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            block = bytes(1 << 16)
            for start in range(0, size, len(block)):
                os.write(fd, block[: size - start])
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(os.path.dirname(path), size) from error
        raise ShmQueueNoSpaceError(error.errno, f"cannot reserve {size} bytes: {error.strerror}", path) from error


def _no_space(where: str, needed: int) -> ShmQueueNoSpaceError:
    return ShmQueueNoSpaceError(
        errno.ENOSPC,
        f"not enough shared memory: {needed} bytes needed, {free_bytes()} free "
        "(container runtimes allow 64 MiB unless told otherwise, for example with --shm-size)",
        where,
    )
