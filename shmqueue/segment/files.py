"""Files made whole before they have a name, opened with suspicion, and locked by open file description.

This is where the platform shows: what Linux has and others lack is said at each place.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from shmqueue import clock
from shmqueue.exceptions import ShmQueueNoSpaceError, ShmQueueRefusedError
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.segment.descriptor import Descriptor, identity_of
from shmqueue.segment.header import HEADER_SIZE, refused
from shmqueue.segment.naming import UNNAMED, file_prefix, free_bytes, has_free_inode, whose
from shmqueue.threads import Guard, forks_wait

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be unlinked: that counts the holders instead
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "NOT_SUPPORTED",
    "OPEN_FLAGS",
    "Locked",
    "cannot_open",
    "changing",
    "discard",
    "fcntl",
    "fresh_description",
    "lengthen",
    "link_nameless",
    "lock_alone",
    "lock_shared",
    "make_file",
    "patiently",
    "remove_quietly",
    "require_private_file",
    "reserve",
    "same_file",
    "take_name_away",
    "unlock",
    "while_changing",
]

OPEN_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

changing = Guard()
"""Held while this process opens or closes a file that it locks: ``with changing():``.

A fork waits for it. A child that inherited such a file from the middle of that would keep its lock for life. A thread
that opens a sidecar looks in here whether its segment is still open; so the sidecar is there, or will not be made, when
the process that has closed the segment looks for it.
"""

forks_wait(changing)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def while_changing(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function hold ``changing``."""

    @functools.wraps(function)
    def hold_and_call(*arguments: _P.args, **options: _P.kwargs) -> _R:
        with changing():
            return function(*arguments, **options)

    return hold_and_call


NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What a file system says that does not know a call."""
_LOCK_PATIENCE = 10.0  # seconds; a process has a file locked exclusively for some milliseconds, or a second at most
_NAMING_PATIENCE = 10_000  # milliseconds to wait for the lock of a directory without hard links
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_ANOTHER_DIRECTORY = "the environment variable SHMQUEUE_DIR can name another directory"


class Locked(ShmQueueRefusedError):
    """Another process has the file locked just now."""

    def __init__(self, path: str) -> None:
        why = "another process has it locked; it may have been stopped (SIGSTOP, a debugger): let it go on, or end it"
        super().__init__(errno.EAGAIN, why, path)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShmQueueRefusedError, (self.errno, self.strerror, self.filename)


def patiently(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function hold ``changing``, and call it again for some seconds while it raises ``Locked``.

    In between, other threads and forks have their turn: the process that has the file locked may have been stopped.
    """

    @functools.wraps(function)
    def hold_and_call(*arguments: _P.args, **options: _P.kwargs) -> _R:
        deadline = clock.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                with changing():
                    return function(*arguments, **options)
            except Locked:
                if clock.monotonic() > deadline:
                    raise
            time.sleep(0.001)

    return hold_and_call


def lock_shared(fd: int, path: str) -> None:
    """Take the shared lock that makes a holder. Never waits.

    Raises:
        Locked: another process has it locked exclusively.
        ShmQueueRefusedError: the file system has no such locks.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except not_of_handler(BlockingIOError):
        raise Locked(path) from None
    except not_of_handler(OSError) as error:
        why = f"cannot lock a segment, by which its holders are counted: {error.strerror}; {_ANOTHER_DIRECTORY}"
        raise ShmQueueRefusedError(error.errno, why, path) from error


def lock_alone(fd: int) -> bool:
    """Lock the file exclusively, unless somebody else has a lock on it. ``fd`` must have none of its own yet."""
    if fcntl is None:  # the platform refuses to unlink a file that anyone has open; see Segment.close()
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except not_of_handler(OSError):  # somebody has it, or the file system has no locks: lock_shared() says so
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock. Closing is not enough: a child forked meanwhile has the description too."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def take_name_away(fd: int, path: str) -> bool:
    """Remove ``path`` if it still names the file behind ``fd``, and return whether it did.

    The caller has the file locked, in whichever way, so no process that has it locked exclusively removes its name.
    Processes that share the lock do this one after the other, by a lock of another kind on ``fd``, whose description
    must not be shared: otherwise the second one might remove a name that is another file's by then.

    Raises:
        Locked: another process is doing it just now.
    """
    if not _lock_record(fd, True):
        raise Locked(path)
    try:
        if not same_file(fd, path):
            return False
        os.unlink(path)
        return True
    finally:
        _lock_record(fd, False)  # closing is not enough, as for ``unlock``


_RECORD = struct.Struct("@hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid


def _lock_record(fd: int, wanted: bool) -> bool:
    """Take or release a record lock that belongs to the open file description. False: another one has it."""
    if fcntl is None or not hasattr(fcntl, "F_OFD_SETLK") or not sys.platform.startswith("linux"):
        return True
    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _RECORD.pack(kind, os.SEEK_SET, 0, 1, 0))
    except not_of_handler(OSError) as error:
        # Else the file system has none: then two unlink() at one moment are not told apart.
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except not_of_handler(FileNotFoundError):
        return False


def fresh_description(fd: int, path: str, identity: tuple[int, int]) -> int | None:
    """Open the file behind ``fd`` once more, or the one at ``path`` if it is the same, with this ``identity_of``.

    ``fd`` may be -1. None: the file has lost its name, and there is no descriptor or no /proc to reach it by.
    """
    ways = [(path, getattr(os, "O_NOFOLLOW", 0))]
    if fd >= 0:
        ways.insert(0, (f"/proc/self/fd/{fd}", 0))
    for way, more in ways:
        try:
            fresh = Descriptor.opened(os.open, way, OPEN_FLAGS | more)
        except not_of_handler(OSError):
            continue
        try:
            if identity_of(os.fstat(fresh)) == identity:
                return fresh
        except BaseException:
            os.close(fresh)
            raise
        os.close(fresh)
    return None


def cannot_open(error: OSError, path: str) -> str:
    """Why ``path`` could not be opened."""
    if error.errno == errno.EACCES and hasattr(os, "geteuid"):
        try:
            user = os.lstat(path).st_uid
        except not_of_handler(OSError):
            pass
        else:
            if user != os.geteuid():
                return f"it {whose(user)}"
    reasons = {
        errno.ELOOP: "it is a symbolic link",
        errno.EISDIR: "it is a directory",
        errno.ENXIO: "it is a socket or a device",
    }
    return reasons.get(error.errno or 0, f"it cannot be opened: {error.strerror}; {_ANOTHER_DIRECTORY}")


def require_private_file(status: os.stat_result, path: str, user: int | None = None) -> None:
    """Refuse all but a regular file that only its user may access: ``user``, or as which this process runs now."""
    if not stat.S_ISREG(status.st_mode):
        raise refused(path, f"it is not a regular file (mode {stat.filemode(status.st_mode)})")
    if status.st_uid != (os.geteuid() if user is None else user):
        raise refused(path, f"it {whose(status.st_uid)}")
    if status.st_mode & 0o077:
        raise refused(
            path, f"others may access it (mode {stat.filemode(status.st_mode)}), a queue is private to a user"
        )


def make_file(path: str, fill: Callable[[int], None], as_holder: bool) -> int | None:
    """Make a private file and give it its name when it is complete. Returns its descriptor; None, there is one already.

    A creator that is killed half-way leaves nothing where there is O_TMPFILE, else a file with a temporary name.

    Args:
        path: where.
        fill: makes it complete, given its descriptor.
        as_holder: whether the descriptor has the shared lock when others can see the file.

    Raises:
        ShmQueueRefusedError: the directory takes no file, or no lock.
        ShmQueueNoSpaceError: there is no room for one.
    """
    may_be_nameless = True
    while True:
        fd, temporary = _new_file(path, may_be_nameless)
        is_kept = False
        try:
            fill(fd)
            if as_holder:
                lock_shared(fd, path)
            elif temporary is not None and fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_UN)
            if _give_name(fd, temporary, path):
                if temporary is not None:
                    remove_quietly(temporary)
                is_kept = True
                return fd
            may_be_nameless = may_be_nameless and temporary is not None
        except not_of_handler(FileExistsError):
            return None
        finally:
            if not is_kept:
                try:
                    try:
                        _take_back(fd, temporary, path if as_holder else None)
                    except BaseException:  # of a signal handler
                        _take_back(fd, temporary, path if as_holder else None)
                        raise
                finally:
                    os.close(fd)


def discard(fd: int, path: str) -> None:
    """Remove the new file behind ``fd`` from ``path``, unless another process has it open by now.

    ``fd`` may be its holder, and then is none any more. For one whose maker has been interrupted; it can be repeated.
    """
    if fcntl is not None and same_file(fd, path) and lock_alone(fd):
        take_name_away(fd, path)


def _take_back(fd: int, temporary: str | None, path: str | None) -> None:
    if temporary is not None:
        remove_quietly(temporary)
    if path is not None:
        discard(fd, path)


def _new_file(path: str, may_be_nameless: bool) -> tuple[int, str | None]:
    """A new private file in the directory of ``path``, and its temporary name if it had to have one."""
    parent = os.path.dirname(path)
    flags = OPEN_FLAGS & ~getattr(os, "O_NONBLOCK", 0)
    try:
        if may_be_nameless and hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                fd = Descriptor.opened(os.open, parent, flags | os.O_TMPFILE, 0o600)
            except not_of_handler(OSError) as error:  # a file with a name will be made, or tell what is wrong
                if error.errno in _NO_DESCRIPTORS:
                    raise
            else:
                try:
                    os.fchmod(fd, 0o600)  # whatever the umask is
                except BaseException:
                    os.close(fd)
                    raise
                return fd, None
        while True:
            temporary = os.path.join(parent, f"{file_prefix()}{UNNAMED}{os.urandom(16).hex()}")
            fd = Descriptor.opened(os.open, temporary, flags | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                lock_shared(fd, temporary)
                if same_file(fd, temporary):
                    return fd, temporary
            except Locked:
                pass
            except BaseException:
                try:
                    remove_quietly(temporary)
                finally:
                    os.close(fd)
                raise
            os.close(fd)  # a sweep came before the lock
    except OSError as error:
        if isinstance(error, ShmQueueRefusedError) or is_of_handler(error):
            raise
        raise _no_file(error, parent) from error


def _give_name(fd: int, temporary: str | None, path: str) -> bool:
    """Name a file. False: there are no hard links to a nameless one here, or a sweep has removed it.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        if temporary is not None:
            os.link(temporary, path)
        else:
            link_nameless(fd, path)
    except FileExistsError:
        raise
    except not_of_handler(OSError) as error:
        if error.errno in _FULL | _NO_DESCRIPTORS:
            raise _no_file(error, os.path.dirname(path)) from error
        if temporary is None:
            return False
        try:
            _rename(temporary, path)
        except not_of_handler(ShmQueueRefusedError) as refusal:
            if refusal.errno != errno.ENOENT or not os.path.isdir(os.path.dirname(path)):
                raise
            return False
    return True


def link_nameless(fd: int, path: str) -> None:
    """Give a name to a file that was made without one, by way of /proc."""
    anchor = Descriptor.opened(os.open, os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # a directory descriptor makes os.link() use linkat(AT_SYMLINK_FOLLOW), which /proc/self/fd needs
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=anchor, follow_symlinks=True)
    finally:
        os.close(anchor)


def _rename(temporary: str, path: str) -> None:
    """Name a file where there are no hard links. Renaming replaces what has the name, so only one does it at a time."""
    parent = os.path.dirname(path)
    try:
        with _only_namer_in(parent):
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            os.rename(temporary, path)
    except FileExistsError:
        raise
    except not_of_handler(OSError) as error:
        raise _no_file(error, parent) from error


@contextmanager
def _only_namer_in(parent: str) -> Iterator[None]:
    """Hold the lock of a directory, for at most a few system calls."""
    if fcntl is None:  # there renaming does not replace
        yield
        return
    anchor = Descriptor.opened(os.open, parent, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        patience = _NAMING_PATIENCE
        while True:
            try:
                fcntl.flock(anchor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except not_of_handler(BlockingIOError):
                if patience <= 0:
                    raise
                patience -= 1
                time.sleep(0.001)
        try:
            yield
        finally:
            fcntl.flock(anchor, fcntl.LOCK_UN)  # a child that was forked meanwhile has the description too
    finally:
        os.close(anchor)


def _no_file(error: OSError, parent: str) -> ShmQueueNoSpaceError | ShmQueueRefusedError:
    if error.errno in _FULL:
        return _no_space(error, parent, HEADER_SIZE)
    another = "SHMQUEUE_DIR names this directory" if os.environ.get("SHMQUEUE_DIR") else _ANOTHER_DIRECTORY
    why = f"cannot create a segment: {error.strerror}; {another}"
    return ShmQueueRefusedError(error.errno, why, parent)


def remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except not_of_handler(OSError):
        pass


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def reserve(
    fd: int,
    size: int,
    path: str,
    start: int = 0,
    call: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = _call,
) -> None:
    """Make the file ``size`` bytes long, with all its memory reserved: touching it later cannot fail.

    Args:
        fd: its descriptor.
        size: bytes.
        path: for what is raised.
        start: bytes from its start that have their memory. Where the file system cannot reserve memory, those behind
            them are written: they become zeros.
        call: makes the system calls, given a function and its arguments.

    Raises:
        ShmQueueNoSpaceError: there is not enough memory.
    """
    try:
        if not _allocate(fd, start, size, call):
            while start < size:
                start += call(os.pwrite, (fd, _ZEROS[: size - start], start))
    except not_of_handler(OSError) as error:
        raise _cannot_have(error, size, path) from error


_ZEROS = bytes(1 << 16)


def _allocate(fd: int, start: int, end: int, call: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> bool:
    """Have the file system reserve bytes of a file. False: it cannot."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        call(os.posix_fallocate, (fd, start, end - start))
    except not_of_handler(OSError) as error:  # musl's; glibc writes into each block instead
        if error.errno not in NOT_SUPPORTED:
            raise
        return False
    return True


def lengthen(fd: int, size: int, path: str) -> None:
    """Make the file ``size`` bytes long, without any more memory."""
    try:
        os.ftruncate(fd, size)
    except not_of_handler(OSError) as error:
        raise _cannot_have(error, size, path) from error


def _cannot_have(error: OSError, size: int, path: str) -> ShmQueueNoSpaceError:
    if error.errno in _FULL:
        return _no_space(error, os.path.dirname(path), size)
    why = f"cannot reserve {size} bytes: {error.strerror}"
    if error.errno == errno.EFBIG:
        why += " (the file system allows no such file, or this process may not make one: RLIMIT_FSIZE, ulimit -f)"
    return ShmQueueNoSpaceError(error.errno, why, path)


def _no_space(error: OSError, where: str, needed: int) -> ShmQueueNoSpaceError:
    try:
        free = f"{free_bytes(where)} free"
    except not_of_handler(OSError):
        free = "the number of free bytes is unknown"
    why = (
        f"not enough shared memory: {needed} bytes needed, {free} "
        f"(containers often have 64 MiB, which --shm-size changes; {_ANOTHER_DIRECTORY})"
    )
    if not has_free_inode(where):
        why = "no inodes left: the file system takes no more files (remove some, or mount it with a larger nr_inodes)"
    elif error.errno != errno.ENOSPC:
        why = f"cannot reserve {needed} bytes: {error.strerror}; {_ANOTHER_DIRECTORY}"
    return ShmQueueNoSpaceError(error.errno, why, where)
