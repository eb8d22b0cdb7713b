"""Which attributes of an object can be read, for its ``__dir__``.

Programs read every attribute that ``dir()`` lists (``BaseManager.register``, ``unittest.mock``, ``xmlrpc``, debuggers)
and do not expect an exception.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from shmqueue.exceptions import ShmQueueNotInitializedError
from shmqueue.interruptions import not_of_handler

__all__ = ["absent_when_closed", "readable_names", "static_attributes"]

_Self = TypeVar("_Self")
_T = TypeVar("_T")


class _ClosedAttributeError(ShmQueueNotInitializedError, AttributeError):
    """Raised by properties of a closed queue, so that ``hasattr`` is False and ``getattr`` takes its default."""


def absent_when_closed(read: Callable[[_Self], _T]) -> Callable[[_Self], _T]:
    """For the function of a property: what it raises on a closed queue is an AttributeError as well."""

    @functools.wraps(read)
    def read_if_open(self: _Self) -> _T:
        try:
            return read(self)
        except not_of_handler(ShmQueueNotInitializedError) as error:
            raise _ClosedAttributeError(*error.args) from None

    return read_if_open


def readable_names(obj: object) -> list[str]:
    """The names that ``object.__dir__`` lists, without those of properties that raise now."""
    names = set(object.__dir__(obj))
    for name, value in static_attributes(type(obj)).items():
        if isinstance(value, property) and name in names and not _can_be_read(obj, name):
            names.discard(name)
    return sorted(names)


def static_attributes(cls: type) -> dict[str, Any]:
    """What stands in a class and its bases under each name, without calling a descriptor."""
    attributes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        attributes.update(vars(base))
    return attributes


def _can_be_read(obj: object, name: str) -> bool:
    try:
        getattr(obj, name)
    except not_of_handler(Exception):  # of whatever kind: then it cannot be read
        return False
    return True
