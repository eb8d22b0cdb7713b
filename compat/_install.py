"""Puts this package's queues into ``multiprocessing`` itself, and takes them out again.

The methods of ``BaseContext`` are exchanged, so all contexts have them. Child processes that are forked have it
already; to the others it is sent, with the data by which ``multiprocessing`` prepares them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import context, spawn
from typing import Any

from ._contexts import Queues

__all__ = ["install", "uninstall"]

_NAMES = ("Queue", "JoinableQueue", "SimpleQueue")

_replaced: list[tuple[Any, str, Any]] = []


def install() -> None:
    """See ``shmqueue.compat.install``."""
    if _replaced:
        return
    for name in _NAMES:
        _replace(context.BaseContext, name, Queues.__dict__[name])
    for name in _NAMES:
        _replace(multiprocessing, name, getattr(context._default_context, name))
    _replace(spawn, "get_preparation_data", _telling(spawn.get_preparation_data))


def uninstall() -> None:
    """See ``shmqueue.compat.uninstall``."""
    while _replaced:
        holder, name, before = _replaced.pop()
        setattr(holder, name, before)


def _replace(holder: Any, name: str, value: Any) -> None:
    _replaced.append((holder, name, vars(holder)[name]))
    setattr(holder, name, value)


def _telling(get_preparation_data: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    def get_preparation_data_and_tell(name: str) -> dict[str, Any]:
        data = get_preparation_data(name)
        data["shmqueue.compat"] = _InstallThere(data["sys_path"])
        return data

    return get_preparation_data_and_tell


class _InstallThere:
    """Installs where it is unpickled: in a new process, before its main module is imported."""

    def __init__(self, path: list[str]) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        # multiprocessing sets the module path a moment later; until then this package might not be found
        source = f"import sys; sys.path[:] = {self._path!r}; from shmqueue.compat import install; install()"
        return exec, (source, {})
