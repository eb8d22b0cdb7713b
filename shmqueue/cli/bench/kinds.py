"""The items that are sent, and the loops that put, take and check them.

The loops are written out for each kind: they are what a queue is measured with, and cost the same for all of them.
"""

from __future__ import annotations

import ctypes
import importlib
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import cycle, islice
from typing import Any, ClassVar

__all__ = [
    "KINDS",
    "LARGE",
    "Arrays",
    "Bytes",
    "Dicts",
    "Ints",
    "Kind",
    "Lists",
    "Mistake",
    "Numbered",
    "Raw",
    "check_logs",
]

Put = Callable[[Any], object]
Get = Callable[[], Any]

LARGE = 1 << 20  # bytes in a large item
_POOL = 9  # large items that differ: more than fit a queue of them, so that a lost one is noticed
_WINDOW = 4096  # bytes of a large item that are compared, another part each time
_DICTS = 100  # in a list


class Mistake(Exception):
    """An item arrived that is not the one that was due."""

    def __init__(self, number: int, item: object) -> None:
        text = repr(item)
        super().__init__(f"item {number} arrived as {text[:80]}{'…' * (len(text) > 80)}")


class Kind:
    """What is sent. Producers and consumers agree on the items by their numbers."""

    size: ClassVar[int]
    """Bytes of an item when it is serialized, at most."""
    needs: ClassVar[str | None] = None
    """A module without which there are no such items."""
    raw: ClassVar[bool] = False
    """Whether the bytes go as they are, and are read in place where a queue offers it."""

    def prepare(self) -> None:
        """Make what takes long, in the worker that will use it."""

    def produce(self, put: Put, numbers: range) -> None:
        """Put these items."""
        raise NotImplementedError

    def consume(self, get: Get, count: int) -> None:
        """Take the items from 0 on, and check that each is the one that is due."""
        raise NotImplementedError


class Numbered(Kind):
    """Small items that carry their number."""

    def acknowledge(self, lease: Get, count: int) -> None:
        """As ``consume``, and each item is leased and acknowledged."""
        raise NotImplementedError

    def log(self, get: Get, count: int) -> array[int]:
        """Take items of several producers; check their content and return their numbers in the order of arrival."""
        raise NotImplementedError

    def pair(self, put: Put, get: Get, start: int, count: int, behind: int) -> None:
        """Put and take in turn, where ``behind`` items are already there."""
        raise NotImplementedError

    def convert(self, pack: Callable[[Any], Any], unpack: Callable[[Any], Any], count: int) -> None:
        """What ``pair`` does, without a queue."""
        raise NotImplementedError

    def make(self, numbers: Sequence[int]) -> list[Any]:
        """The items with these numbers."""
        raise NotImplementedError


class Ints(Numbered):
    """Small integers: the number itself."""

    size = 5

    def produce(self, put: Put, numbers: range) -> None:
        for number in numbers:
            put(number)

    def consume(self, get: Get, count: int) -> None:
        for number in range(count):
            item = get()
            if item != number:
                raise Mistake(number, item)

    def acknowledge(self, lease: Get, count: int) -> None:
        for number in range(count):
            held = lease()
            item = held.item
            if item != number:
                raise Mistake(number, item)
            held.ack()

    def log(self, get: Get, count: int) -> array[int]:
        return array("q", [get() for _ in range(count)])

    def pair(self, put: Put, get: Get, start: int, count: int, behind: int) -> None:
        for number in range(start, start + count):
            put(number)
            item = get()
            if item != number - behind:
                raise Mistake(number - behind, item)

    def convert(self, pack: Callable[[Any], Any], unpack: Callable[[Any], Any], count: int) -> None:
        for number in range(count):
            item = unpack(pack(number))
            if item != number:
                raise Mistake(number, item)

    def make(self, numbers: Sequence[int]) -> list[Any]:
        return list(numbers)


class Dicts(Numbered):
    """Small dicts: the number, a string and a float."""

    size = 48

    def produce(self, put: Put, numbers: range) -> None:
        for number in numbers:
            put({"id": number, "name": "widget", "price": 9.75})

    def consume(self, get: Get, count: int) -> None:
        due = {"id": 0, "name": "widget", "price": 9.75}
        for number in range(count):
            item = get()
            due["id"] = number
            if item != due:
                raise Mistake(number, item)

    def log(self, get: Get, count: int) -> array[int]:
        due = {"id": 0, "name": "widget", "price": 9.75}
        numbers = array("q")
        note = numbers.append
        for _ in range(count):
            item = get()
            number = due["id"] = item["id"]
            if item != due:
                raise Mistake(number, item)
            note(number)
        return numbers

    def pair(self, put: Put, get: Get, start: int, count: int, behind: int) -> None:
        due = {"id": 0, "name": "widget", "price": 9.75}
        for number in range(start, start + count):
            put({"id": number, "name": "widget", "price": 9.75})
            item = get()
            due["id"] = number - behind
            if item != due:
                raise Mistake(number - behind, item)

    def convert(self, pack: Callable[[Any], Any], unpack: Callable[[Any], Any], count: int) -> None:
        due = {"id": 0, "name": "widget", "price": 9.75}
        for number in range(count):
            item = unpack(pack({"id": number, "name": "widget", "price": 9.75}))
            due["id"] = number
            if item != due:
                raise Mistake(number, item)

    def make(self, numbers: Sequence[int]) -> list[Any]:
        return [{"id": number, "name": "widget", "price": 9.75} for number in numbers]


class _Pooled(Kind):
    """Items that are costly to make: some that differ are made before the clock starts, and go round and round."""

    def prepare(self) -> None:
        self.pool = [self.item(number) for number in range(_POOL)]

    def item(self, number: int) -> Any:
        """The item with this number."""
        raise NotImplementedError

    def is_due(self, item: Any, due: Any, number: int) -> bool:
        """Whether it is the item, as far as a short check shows: another part of it is compared each time."""
        raise NotImplementedError

    def produce(self, put: Put, numbers: range) -> None:
        for item in islice(cycle(self.pool), len(numbers)):
            put(item)

    def consume(self, get: Get, count: int) -> None:
        for number, due in zip(range(count), cycle(self.pool)):
            item = get()
            if not self.is_due(item, due, number):
                raise Mistake(number, item)


class Bytes(_Pooled):
    """Large bytes: begin and end, which carry the number, are compared each time, and a window that wanders."""

    size = LARGE + 16

    def item(self, number: int) -> bytes:
        block = bytes((number * 31 + byte * 7) & 255 for byte in range(_WINDOW - 1))  # odd: windows of it differ
        stamp = number.to_bytes(8, "little")
        return stamp + (block * (LARGE // len(block) + 1))[: LARGE - 16] + stamp

    def is_due(self, item: Any, due: Any, number: int) -> bool:
        start = number * _WINDOW % LARGE
        return (
            len(item) == LARGE
            and item[:8] == due[:8]
            and item[-8:] == due[-8:]
            and item[start : start + _WINDOW] == due[start : start + _WINDOW]
        )


class Raw(Bytes):
    """The same, as it is: where a queue gives access to the bytes in place, they are compared there."""

    size = LARGE
    raw = True

    def consume_lent(self, lend: Callable[[], AbstractContextManager[Any]], count: int) -> None:
        """``consume``, reading the bytes in place."""
        for number, due in zip(range(count), cycle(self.pool)):
            with lend() as view:
                if not self.is_due(view, due, number):
                    raise Mistake(number, bytes(view[:80]))


class Made(Kind):
    """Large bytes that the producer makes for each item, in place where a queue allows it, as a camera does."""

    size = LARGE
    raw = True

    def produce(self, put: Put, numbers: range) -> None:
        for number in numbers:
            put(bytes([number & 255]) * LARGE)

    def produce_in_place(self, make: Callable[[int, Callable[[int], object]], object], numbers: range) -> None:
        """``produce``, where ``make`` gives access to the place."""
        for number in numbers:
            make(LARGE, lambda address, value=number & 255: ctypes.memset(address, value, LARGE))  # type: ignore[misc]

    def consume(self, get: Get, count: int) -> None:
        for number in range(count):
            self._check(get(), number)

    def consume_lent(self, lend: Callable[[], AbstractContextManager[Any]], count: int) -> None:
        """``consume``, reading the bytes in place."""
        for number in range(count):
            with lend() as view:
                self._check(view, number)

    def _check(self, item: Any, number: int) -> None:
        start, due = number * _WINDOW % LARGE, bytes([number & 255]) * _WINDOW
        if len(item) != LARGE or any(item[at : at + _WINDOW] != due for at in (0, start, LARGE - _WINDOW)):
            raise Mistake(number, bytes(item[:80]))


class Arrays(_Pooled):
    """Large numpy arrays: type, shape, both ends, and a window that wanders."""

    size = LARGE + 1024
    needs = "numpy"

    def item(self, number: int) -> Any:
        numpy: Any = importlib.import_module("numpy")
        return numpy.arange(LARGE // 8, dtype=numpy.float64) + number

    def is_due(self, item: Any, due: Any, number: int) -> bool:
        start = number * (_WINDOW // 8) % (LARGE // 8)
        window = slice(start, start + _WINDOW // 8)
        return bool(
            item.dtype == due.dtype
            and item.shape == due.shape
            and item[0] == due[0]
            and item[-1] == due[-1]
            and item[window].tobytes() == due[window].tobytes()
        )


class Lists(_Pooled):
    """Lists of small dicts that all differ; the first dict, which carries the number, is compared, and another one."""

    size = _DICTS * Dicts.size

    def item(self, number: int) -> list[Any]:
        return Dicts().make(range(number * _DICTS, (number + 1) * _DICTS))

    def is_due(self, item: Any, due: Any, number: int) -> bool:
        place = number % _DICTS
        return len(item) == _DICTS and bool(item[0] == due[0] and item[place] == due[place])


def check_logs(logs: Sequence[Sequence[int]], producers: int, total: int) -> str | None:
    """What is wrong with the numbers that several consumers took, None if nothing.

    Producer ``p`` has put ``p``, ``p + producers``, ``p + 2 * producers`` and so on below ``total``. Each must be there
    once, and each consumer must have had those of a producer in order.
    """
    seen = bytearray(total)
    for log in logs:
        last = [-1] * producers
        for number in log:
            if not 0 <= number < total or seen[number]:
                return f"item {number} arrived {'twice' if 0 <= number < total else 'and was never put'}"
            seen[number] = 1
            producer = number % producers
            if number < last[producer]:
                return f"item {number} arrived after item {last[producer]} of the same producer"
            last[producer] = number
    missing = seen.find(0)
    return None if missing < 0 else f"item {missing} did not arrive"


KINDS: dict[str, type[Kind]] = {
    "int": Ints,
    "dict": Dicts,
    "bytes": Bytes,
    "raw": Raw,
    "made": Made,
    "numpy": Arrays,
    "list": Lists,
}
