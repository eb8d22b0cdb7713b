"""Attributes that are not there and say what to use instead.

A ``__getattr__`` would say it as well, and make every other attribute slower to find.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Absent"]


class Absent:
    """In a class, an attribute that its instances do not have; ``why`` ends the sentence that says so."""

    def __init__(self, why: str) -> None:
        self._why = why
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}: {self._why}")
