"""Processes of another user, or that do not see this user's processes, cannot attach.

Fails if: another user, or a process that does not see the others, attaches to a queue, or is refused without its
reason.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from shmqueue import ShmQueue, segment
from shmqueue.exceptions import ShmQueueNotFoundError, ShmQueueRefusedError

from .planted import NOBODY, image_of_a_segment, write_held
from .rooms import enter_pid_namespace
from .trials import Notes

__all__ = ["another_pid_namespace", "another_user", "linked_directory"]


def another_user(notes: Notes) -> None:
    """In a directory like /dev/shm, where any user may make files and remove only files of that user."""
    directory = segment.directory()
    os.chmod(os.path.dirname(directory), 0o711)
    os.chmod(directory, 0o1777)
    image = image_of_a_segment()
    with ShmQueue("target") as queue:
        queue.put("secret")
        path, squatted, lured = (segment.path_of(name) for name in ("target", "squatted", "lured"))
        descriptor = f"/proc/{os.getpid()}/fd/{queue._segment.fileno()}"
        _in_fork(notes, lambda: _be_another_user(notes, path, descriptor, image, squatted, lured))
        for name, words in (("squatted", f"it belongs to user {NOBODY}"), ("lured", "it is a symbolic link")):
            _expect(notes, ShmQueueRefusedError, words, lambda: ShmQueue(name))  # noqa: B023
        segment.sweep_orphans()
        notes.require(os.path.lexists(squatted) and os.path.lexists(lured), "somebody else's file was swept away")
        notes.require(queue.get(False) == "secret" and queue.empty(), "the queue is not as it was")
    for left in (squatted, lured):
        os.unlink(left)


def _be_another_user(notes: Notes, path: str, descriptor: str, image: bytes, squatted: str, lured: str) -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    own = segment.path_of("target")
    _expect(notes, ShmQueueNotFoundError, "there is no queue called 'target'", lambda: ShmQueue("target", create=False))
    for target in (path, descriptor):
        for flags in (os.O_RDONLY, os.O_RDWR):
            _expect_errno(notes, f"opening {target}", errno.EACCES, lambda: os.open(target, flags))  # noqa: B023
    for what, call in (
        ("removing", lambda: os.unlink(path)),
        ("moving", lambda: os.rename(path, own)),
        ("truncating", lambda: os.truncate(path, 0)),
        ("giving access", lambda: os.chmod(path, 0o666)),
    ):
        _expect_errno(notes, what, (errno.EPERM, errno.EACCES), call)
    os.symlink(path, own)
    _expect(notes, ShmQueueRefusedError, "it is a symbolic link", lambda: ShmQueue("target"))
    os.unlink(own)
    try:
        os.link(path, own)
    except PermissionError:  # fs.protected_hardlinks
        notes.count("strangers kept out")
    else:
        _expect(notes, ShmQueueRefusedError, r"it belongs to (somebody else|user [0-9]+)", lambda: ShmQueue("target"))
        os.unlink(own)
    write_held(squatted, image)
    os.symlink("/etc/passwd", lured)


def another_pid_namespace(notes: Notes) -> None:
    """A process there sees the file and cannot see which process dies here."""
    with ShmQueue("target") as queue:
        queue.put("kept")

        def there() -> None:
            words = r"it was made in another pid namespace"
            for create in (None, False):
                _expect(notes, ShmQueueRefusedError, words, lambda: ShmQueue("target", create=create))  # noqa: B023
            segment.sweep_orphans()

        def between() -> None:
            enter_pid_namespace()
            _in_fork(notes, there)

        _in_fork(notes, between)
        _in_fork(notes, lambda: _leave_there("left"))
        with ShmQueue("left") as left:
            notes.require(left.get(False) == "kept", "what was left there was not adopted")
        notes.require(queue.get(False) == "kept", "the queue is not as it was")


def _leave_there(name: str) -> None:
    """Have a process in another pid namespace open a queue, put an item, and be killed."""
    enter_pid_namespace()
    pid = os.fork()
    if pid == 0:
        queue = ShmQueue(name)
        queue.put("kept")
        os._exit(0)
    os.waitpid(pid, 0)


def linked_directory(notes: Notes) -> None:
    """A directory that is reached through a symbolic link is the same directory: a user that chooses it trusts it."""
    directory = segment.directory()
    os.mkdir(f"{directory}/real", 0o700)
    os.symlink("real", f"{directory}/link")
    os.environ["SHMQUEUE_DIR"] = f"{directory}/link"
    with ShmQueue("target") as by_link:
        by_link.put("same")
        os.environ["SHMQUEUE_DIR"] = f"{directory}/real"
        with ShmQueue("target", create=False) as direct:
            notes.require(direct.get(False) == "same", "two queues in one directory have one name")
    notes.require(os.listdir(f"{directory}/real") == [], "something is left")
    notes.count("directories behind a link")


def _in_fork(notes: Notes, action: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException as error:
            notes.fault(repr(error))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    notes.require(status == 0, f"a process ended with {status}")


def _expect(notes: Notes, kind: type[Exception], words: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        notes.require(words in str(error), f"unclear: {error}")
        notes.count("strangers kept out")
    else:
        notes.fault(f"nothing was raised where it says {words!r}")


def _expect_errno(notes: Notes, what: str, numbers: int | tuple[int, ...], call: Callable[[], object]) -> None:
    allowed = (numbers,) if isinstance(numbers, int) else numbers
    try:
        call()
    except OSError as error:
        notes.require(error.errno in allowed, f"{what}: {error}")
        notes.count("strangers kept out")
    else:
        notes.fault(f"{what}: it was allowed")
