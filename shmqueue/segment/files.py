"""Files made whole before they have a name, and opened with suspicion."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shmqueue.exceptions import ShmQueueNoSpaceError, ShmQueueRefusedError
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.segment.descriptor import Descriptor, identity_of
from shmqueue.segment.header import HEADER_SIZE, refused
from shmqueue.segment.locks import Locked, fcntl, lock_alone, lock_shared, same_file, take_name_away
from shmqueue.segment.naming import ANOTHER_DIRECTORY, UNNAMED, file_prefix, whose
from shmqueue.segment.reserving import FULL, no_space

__all__ = [
    "OPEN_FLAGS",
    "cannot_open",
    "discard",
    "fresh_description",
    "link_nameless",
    "make_file",
    "remove_quietly",
    "require_private_file",
]

OPEN_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_NAMING_PATIENCE = 10_000  # milliseconds to wait for the lock of a directory without hard links
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


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
    return reasons.get(error.errno or 0, f"it cannot be opened: {error.strerror}; {ANOTHER_DIRECTORY}")


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
        if error.errno in FULL | _NO_DESCRIPTORS:
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
    if error.errno in FULL:
        return no_space(error, parent, HEADER_SIZE)
    another = "SHMQUEUE_DIR names this directory" if os.environ.get("SHMQUEUE_DIR") else ANOTHER_DIRECTORY
    why = f"cannot create a segment: {error.strerror}; {another}"
    return ShmQueueRefusedError(error.errno, why, parent)


def remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except not_of_handler(OSError):
        pass
