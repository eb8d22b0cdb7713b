"""Attributes that are not there and say what to use instead, and subclasses whose methods would never be called.

A ``__getattr__`` would say it as well, and make every other attribute slower to find.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from opcode import opmap
from typing import Any, NoReturn

from shmqueue.attributes import readable_names, static_attributes

__all__ = ["Absent", "ListsWhatIsThere", "refuse_hooks", "refuse_name"]

_ORDERS = ("LifoQueue", "PriorityQueue")
_IMPORT_FROM = opmap["IMPORT_FROM"]


def refuse_name(module: str, name: str) -> NoReturn:
    """What the ``__getattr__`` of a module ends with.

    Raises:
        ImportError: ``from module import LifoQueue``, with the reason, which an AttributeError would lose there.
        AttributeError: everywhere else, so that ``hasattr`` works.
    """
    if name not in _ORDERS:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    why = f"{module} does not offer {name}: only queues in which the oldest item comes first are shared"
    asker = sys._getframe(2)
    if asker.f_code.co_code[asker.f_lasti] == _IMPORT_FROM:
        raise ImportError(why)
    raise AttributeError(why)


class Absent:
    """In a class, an attribute that neither it nor its instances have; ``why`` ends the sentence that says so."""

    def __init__(self, why: str) -> None:
        self._why = why
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        what = f"type object {owner.__name__!r}" if instance is None else f"{owner.__name__!r} object"
        raise AttributeError(f"{what} has no attribute {self._name!r}: {self._why}")


class _WithoutAbsent(ABCMeta):
    """A class for which ``dir()`` lists no ``Absent`` attribute.

    It derives from ABCMeta so that a subclass may have an abstract base class beside it.
    """

    def __dir__(cls) -> list[str]:
        return sorted(set(super().__dir__()) - _absent_names(cls))


class ListsWhatIsThere(metaclass=_WithoutAbsent):
    """Its instances list neither what is absent nor what cannot be read now, such as the state of a closed queue."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        names = set(readable_names(self))
        return sorted(names - (_absent_names(type(self)) - set(vars(self))))


def _absent_names(cls: type) -> set[str]:
    return {name for name, value in static_attributes(cls).items() if isinstance(value, Absent)}


def refuse_hooks(cls: type, hooks: dict[str, str], ours: Any) -> None:
    """Refuse a subclass that overrides what the standard class calls and the shared one does not.

    Args:
        cls: the subclass.
        hooks: the methods' names, and what to do instead of overriding each.
        ours: whether a class is one whose methods of these names are known, and may stay unused.

    Raises:
        TypeError: it does.
    """
    for base in cls.__mro__:
        for hook in hooks.keys() & vars(base).keys():
            if not ours(base) and not isinstance(vars(base)[hook], Absent):
                where = "" if base is cls else f" (of {base.__qualname__})"
                raise TypeError(
                    f"class {cls.__qualname__!r} overrides {hook}(){where}, "
                    f"which a queue in shared memory never calls: {hooks[hook]}"
                )
