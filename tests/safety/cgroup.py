"""A memory cgroup of one's own, below the one that this process is in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["enter", "memory_cgroup"]

_ROOT = "/sys/fs/cgroup"


@contextmanager
def memory_cgroup(limit: int) -> Iterator[str]:
    """The directory of a new cgroup whose processes have ``limit`` bytes together; removed when they have ended.

    Raises:
        OSError: this machine does not allow it; it says why.
    """
    parent, limits = _parent()
    path = f"{parent}/shmqueue-safety-{os.getpid()}"
    os.mkdir(path)
    try:
        _write(f"{path}/{limits[0]}", limit)
        for other in limits[1:]:  # without swap the limit is the end
            if os.path.exists(f"{path}/{other}"):
                _write(f"{path}/{other}", 0 if "max" in other else limit)
        yield path
    finally:
        _remove(path)


def enter(path: str) -> None:
    """This process goes into the cgroup."""
    _write(f"{path}/cgroup.procs", os.getpid())


def _parent() -> tuple[str, tuple[str, ...]]:
    """This process's own memory cgroup, and the names of the limits of one below it."""
    unified = None
    with open("/proc/self/cgroup", encoding="ascii") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(","):
                return _existing(f"{_ROOT}/memory", path), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if number == "0":
                unified = _existing(_ROOT, path)
    if unified is None or not os.path.exists(f"{unified}/cgroup.subtree_control"):
        raise OSError("there is no memory cgroup")
    with open(f"{unified}/cgroup.subtree_control", encoding="ascii") as file:
        if "memory" not in file.read().split():
            raise OSError(f"{unified} gives no memory controller to cgroups below it")
    return unified, ("memory.max", "memory.swap.max")


def _existing(root: str, path: str) -> str:
    """A container may see its own cgroup as the root."""
    return root + path.rstrip("/") if os.path.isdir(root + path) else root


def _write(path: str, number: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(str(number))


def _remove(path: str) -> None:
    """The kernel releases ended processes a little later than their parent does."""
    deadline = time.monotonic() + 10
    while True:
        try:
            os.rmdir(path)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
