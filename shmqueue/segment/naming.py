"""Where a queue's segment lies: its name, escaped, in the directory of segments."""

from __future__ import annotations

import os
import re
import tempfile

from shmqueue.exceptions import ShmQueueRefusedError, ShmQueueTypeError, ShmQueueValueError
from shmqueue.interruptions import not_of_handler

__all__ = [
    "ANOTHER_DIRECTORY",
    "NAME_LENGTH_MAX",
    "UNNAMED",
    "describe_user",
    "directory",
    "file_prefix",
    "free_bytes",
    "has_free_inode",
    "list_entries",
    "list_names",
    "list_segments",
    "name_of",
    "path_of",
    "total_bytes",
    "unescape",
    "user_of",
    "whose",
]

NAME_LENGTH_MAX = 180
"""Characters of an escaped name."""
ANOTHER_DIRECTORY = "the environment variable SHMQUEUE_DIR can name another directory"
"""What helps where the directory is what is wrong: for error messages."""
UNNAMED = "%new-"  # no escaped name begins like this
_OTHERS = re.compile(rb"[^A-Za-z0-9._-]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def directory() -> str:
    """The directory that holds the segments: ``$SHMQUEUE_DIR``, else /dev/shm, else the temporary directory.

    Its path is absolute, so that it stays the same when the process changes its working directory.

    Raises:
        ShmQueueRefusedError: ``SHMQUEUE_DIR`` is relative to a working directory that was removed.
    """
    chosen = os.environ.get("SHMQUEUE_DIR")
    if chosen:
        try:
            return chosen if os.path.isabs(chosen) else os.path.abspath(chosen)
        except not_of_handler(OSError) as error:
            why = f"SHMQUEUE_DIR is relative and the working directory is unknown: {error.strerror}"
            raise ShmQueueRefusedError(error.errno, why, chosen) from error
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


def file_prefix(user: int | None = None) -> str:
    """What the names of a user's segments begin with; of this process's user by default."""
    if user is not None:
        return f"shmqueue-{user}-"
    return f"shmqueue-{os.geteuid() if hasattr(os, 'geteuid') else os.environ.get('USERNAME', 'user')}-"


def user_of(path: str) -> int | None:
    """The id of the user whose segment or sidecar a path names; None where there are none.

    It is the user as which the segment was opened first. A process that has changed its user since keeps the path.
    """
    match = re.match(r"shmqueue-(?:lock-)?(\d+)-", os.path.basename(path))
    return int(match[1]) if match is not None and hasattr(os, "geteuid") else None


def describe_user(user: int) -> str:
    """A user's id and, if it has one, its name."""
    try:
        import pwd

        return f"{user} ({pwd.getpwuid(user).pw_name})"
    except (ImportError, KeyError, OverflowError):
        return str(user)


def whose(user: int) -> str:
    """The owner of something, and the user of this process, for messages that say why something is refused."""
    return f"belongs to user {describe_user(user)}; this process runs as {describe_user(os.geteuid())}"


def _escape(name: str) -> str:
    """Letters, digits, ``.``, ``_`` and ``-`` stay (a leading dot does not), all else becomes %XX of its UTF-8."""
    escaped = _OTHERS.sub(lambda byte: b"%%%02X" % byte[0][0], name.encode("utf-8", "surrogatepass")).decode()
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


def unescape(escaped: str) -> str:
    octets = escaped.encode("utf-8", "surrogateescape")  # the file of another program may be called anything
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), octets).decode("utf-8", "surrogatepass")


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
    return os.path.join(within or directory(), file_prefix() + escaped)


def list_names() -> list[str]:
    """The names of this user's segments, sorted, whether somebody holds them or not."""
    return sorted(name for name in map(name_of, list_entries()) if name is not None)


def list_segments(all_users: bool = False) -> list[tuple[str, str]]:
    """Name and path of each of this user's segments, or of those of all users, in no order."""
    if not all_users:
        return [(name, path_of(name)) for name in list_names()]
    within, found = directory(), []
    for entry in list_entries():
        match = re.fullmatch(r"shmqueue-(\d+)-(.+)", entry)
        if match is not None and not match[2].startswith(UNNAMED):
            try:
                name = unescape(match[2])
            except UnicodeDecodeError:
                continue
            if _escape(name) == match[2]:
                found.append((name, os.path.join(within, entry)))
    return found


def name_of(entry: str) -> str | None:
    """The name of the segment whose file is called ``entry``; None if no segment's would be."""
    prefix = file_prefix()
    try:
        name = unescape(entry[len(prefix) :])
    except UnicodeDecodeError:
        return None
    return name if name and entry == prefix + _escape(name) else None


def list_entries() -> list[str]:
    try:
        return os.listdir(directory())
    except not_of_handler(OSError):
        return []


def free_bytes(within: str | None = None) -> int:
    """Bytes that are free in the file system of a directory, by default ``directory()``; -1 where it does not say.

    Raises:
        OSError: there is no such directory.
    """
    if not hasattr(os, "statvfs"):
        return -1
    figures = os.statvfs(within or directory())
    return figures.f_bavail * figures.f_frsize if figures.f_blocks else -1  # a ramfs knows no blocks


def has_free_inode(where: str) -> bool:
    """Whether the file system of ``where`` takes one more file, as far as it says."""
    try:
        figures = os.statvfs(where)
    except not_of_handler(AttributeError, OSError):
        return True
    return figures.f_files == 0 or figures.f_favail > 0


def total_bytes(within: str | None = None) -> int:
    """Bytes that the file system with the segments has altogether; the machine's memory where it says nothing."""
    try:
        figures = os.statvfs(within or directory())
        if figures.f_blocks > 0:
            return figures.f_blocks * figures.f_frsize
    except not_of_handler(AttributeError, OSError):
        pass  # making a segment there raises an error that says what is wrong with the directory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except not_of_handler(AttributeError, ValueError, OSError):
        return 1 << 30
