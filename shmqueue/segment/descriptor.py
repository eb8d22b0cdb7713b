"""Descriptor numbers that are kept, and whether they still are what they were.

A program may close descriptors that it did not open: daemons close all numbers from 3 on. The next file that it opens
then has the number of one of ours. So every use of a number that was kept goes through here.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from shmqueue.interruptions import not_of_handler

__all__ = ["Descriptor", "identity_of"]

_T = TypeVar("_T")

_kept: dict[int, object] = {}
"""For each number the mark of the Descriptor that got it last: an older one with this number was closed by others."""


def identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Descriptor:
    """A descriptor number and the file that it was opened for.

    Another open file description of the same file is recognized if it is another ``Descriptor``; one that the program
    opened itself, at the same number, is not.
    """

    __slots__ = ("_device", "_held", "_inode", "_mark", "_number", "identity")

    def __init__(self, number: int) -> None:
        self.identity = self._device, self._inode = identity_of(os.fstat(number))
        self._number = number
        self._held = {"number": number}
        self._mark = _kept[number] = object()

    @staticmethod
    def opened(opener: Callable[..., _T], *arguments: Any) -> _T:
        """Call what opens descriptors, such as ``os.open``, and lose none if a signal handler raises just after it.

        Python runs handlers when a call has returned, before its result is assigned, but not while it unpacks an
        iterator.
        """
        (result,) = itertools.starmap(opener, (arguments,))
        return result

    @property
    def number(self) -> int:
        """The number; -1 once it is closed, by ``close`` or by somebody else."""
        number = self._number
        if _kept.get(number) is not self._mark:
            return -1
        try:
            status = os.fstat(number)
        except not_of_handler(OSError):
            return -1
        return number if status.st_ino == self._inode and status.st_dev == self._device else -1

    @property
    def unchecked(self) -> int:
        """``number`` without a look at the file, for a moment after one, or where there may be no memory for it."""
        return self._number if _kept.get(self._number) is self._mark else -1

    def close(self) -> None:
        """Close it if it is still ours. Idempotent, also for threads that call it at once."""
        if self.number >= 0:
            taken = map(self._held.pop, ("number",), (-1,))  # by one thread
            closed = map(os.close, filter((-1).__lt__, taken))
            collections.deque(closed, 0)  # all of it within one call: no signal handler runs between the two
        self._number = -1
