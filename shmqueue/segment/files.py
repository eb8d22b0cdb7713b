"""Files made whole before they have a name, opened with suspicion, and locked by open file description.

This is where the platform shows: what Linux has and others lack is said at each place.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid

from shmqueue.exceptions import ShmQueueNoSpaceError, ShmQueueRefusedError
from shmqueue.segment.header import HEADER_SIZE, refused
from shmqueue.segment.naming import UNNAMED, file_prefix, free_bytes, has_free_inode

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be unlinked: that counts the holders instead
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "OPEN_FLAGS",
    "cannot_open",
    "fcntl",
    "fresh_description",
    "give_name",
    "lengthen",
    "lock_shared",
    "nameless_file",
    "remove_quietly",
    "require_private_file",
    "reserve",
    "same_file",
]

OPEN_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def lock_shared(fd: int) -> None:
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_SH)


def same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def fresh_description(fd: int, path: str) -> int | None:
    """Open the file behind ``fd`` once more; None when its name is gone and there is no /proc to reach it by."""
    try:
        return os.open(f"/proc/self/fd/{fd}", OPEN_FLAGS)
    except OSError:
        pass
    try:
        fresh = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    if os.path.samestat(os.fstat(fd), os.fstat(fresh)):
        return fresh
    os.close(fresh)
    return None


def cannot_open(error: OSError) -> str:
    reasons = {
        errno.ELOOP: "it is a symbolic link",
        errno.EISDIR: "it is a directory",
        errno.ENXIO: "it is a socket or a device",
        errno.EACCES: "it belongs to somebody else (permission denied)",
    }
    return reasons.get(error.errno or 0, f"it cannot be opened: {error.strerror}")


def require_private_file(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise refused(path, f"it is not a regular file (mode {stat.filemode(status.st_mode)})")
    if status.st_uid != os.geteuid():
        raise refused(path, f"it belongs to user {status.st_uid}, this process runs as {os.geteuid()}")
    if status.st_mode & 0o077:
        raise refused(
            path, f"others may access it (mode {stat.filemode(status.st_mode)}), a queue is private to a user"
        )


def nameless_file(path: str) -> tuple[int, str | None]:
    """A new private file in the directory of ``path``, and its temporary name if it had to have one.

    Linux's O_TMPFILE needs no name, so that even a creator killed half-way leaves nothing behind.
    """
    parent = os.path.dirname(path)
    flags = OPEN_FLAGS & ~getattr(os, "O_NONBLOCK", 0)
    try:
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                fd = os.open(parent, flags | os.O_TMPFILE, 0o600)
                os.fchmod(fd, 0o600)  # whatever the umask is
                return fd, None
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
        while True:
            temporary = os.path.join(parent, f"{file_prefix()}{UNNAMED}{uuid.uuid4().hex}")
            fd = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o600)
            lock_shared(fd)
            if same_file(fd, temporary):
                return fd, temporary
            os.close(fd)  # a sweep came before the lock
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(parent, HEADER_SIZE) from error
        raise ShmQueueRefusedError(error.errno, f"cannot create a segment: {error.strerror}", parent) from error


def give_name(fd: int, temporary: str | None, path: str) -> None:
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


def remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def reserve(fd: int, size: int, path: str) -> None:
    """Make the file ``size`` bytes long, with all its memory reserved: touching it later cannot fail."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            block = bytes(1 << 16)
            for start in range(0, size, len(block)):
                os.write(fd, block[: size - start])
    except OSError as error:
        raise _cannot_have(error, size, path) from error


def lengthen(fd: int, size: int, path: str) -> None:
    """Make the file ``size`` bytes long, without any more memory."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise _cannot_have(error, size, path) from error


def _cannot_have(error: OSError, size: int, path: str) -> ShmQueueNoSpaceError:
    if error.errno == errno.ENOSPC:
        return _no_space(os.path.dirname(path), size)
    why = f"cannot reserve {size} bytes: {error.strerror}"
    if error.errno == errno.EFBIG:
        why += " (the file system allows no such file, or this process may not make one: RLIMIT_FSIZE, ulimit -f)"
    return ShmQueueNoSpaceError(error.errno, why, path)


def _no_space(where: str, needed: int) -> ShmQueueNoSpaceError:
    why = (
        f"not enough shared memory: {needed} bytes needed, {free_bytes()} free "
        "(container runtimes allow 64 MiB unless told otherwise, for example with --shm-size)"
    )
    if not has_free_inode(where):
        why = "no inodes left: the file system takes no more files (remove some, or mount it with a larger nr_inodes)"
    return ShmQueueNoSpaceError(errno.ENOSPC, why, where)
