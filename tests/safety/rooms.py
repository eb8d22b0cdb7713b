"""Namespaces and mounts of a process's own, which end with it. For forked children only: there is no way back."""

from __future__ import annotations

import ctypes
import os

from .trials import ask

__all__ = [
    "bind_read_only",
    "enter_pid_namespace",
    "mount_tmpfs",
    "own_mounts",
    "unmount",
    "why_no_mounts",
    "why_no_pid_namespace",
]

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """From now on what this process mounts is seen by nobody else; one that is not root becomes root of a namespace.

    Raises:
        OSError: this machine does not allow it.
    """
    _unshare(_CLONE_NEWNS)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)


def enter_pid_namespace() -> None:
    """The children of this process will live in another pid namespace.

    Raises:
        OSError: this machine does not allow it.
    """
    _unshare(_CLONE_NEWPID)


def mount_tmpfs(directory: str, options: str) -> None:
    _mount("shmqueue-safety", directory, "tmpfs", 0, options)


def bind_read_only(directory: str) -> None:
    """Make what lies in a directory read-only for a process that uses its path."""
    _mount(directory, directory, None, _MS_BIND, None)
    _mount(None, directory, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)


def unmount(directory: str) -> None:
    """Undo the last mount there, even if something in it is still open."""
    _checked(_libc.umount2(os.fsencode(directory), _MNT_DETACH), f"unmounting {directory}")


def why_no_mounts() -> str | None:
    """Why no process can have mounts of its own here; None, it can."""

    def try_it() -> str:
        try:
            own_mounts()
            mount_tmpfs("/dev/shm", "size=1m")
        except OSError as error:
            return error.strerror or str(error)
        return ""

    return ask(try_it) or None


def why_no_pid_namespace() -> str | None:
    """Why no process can have a pid namespace of its own here; None, it can."""

    def try_it() -> str:
        try:
            enter_pid_namespace()
        except OSError as error:
            return error.strerror or str(error)
        return ""

    return ask(try_it) or None


def _unshare(what: int) -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _checked(_libc.unshare(what), "unshare")
        return
    _checked(_libc.unshare(what | _CLONE_NEWUSER), "unshare")
    for file, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{file}", "w", encoding="ascii") as map_:
            map_.write(content)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mounting {target}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
