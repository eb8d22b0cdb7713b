"""What goes through the queue of a round: items that name their producer, each byte known beforehand."""

from __future__ import annotations

import random
import zlib
from struct import Struct
from typing import Any

LARGEST = 100 << 10  # bytes of padding
_NAME = Struct("<IQI")
_PATTERN = random.Random(1).randbytes(2 * LARGEST)


def make_item(producer: int, number: int, largest: int) -> Any:
    """The item ``number`` of a producer, with up to ``largest`` bytes of padding.

    Most are bytes, some tuples, and of those some have what only pickle can pack.
    """
    chance = zlib.crc32(b"%d %d" % (producer, number))
    size = chance % 1000 * largest // 999
    if chance % 7:  # most are small
        size = chance % (min(largest, 200) + 1)
    start = (chance >> 8) % LARGEST
    padding = _PATTERN[start : start + size]
    if chance % 4 == 0:
        return producer, number, padding
    if chance % 17 == 1:
        return producer, number, padding, 1j
    return _NAME.pack(producer, number, size) + padding


def name_of(item: Any, largest: int) -> tuple[int, int]:
    """The producer and the number of an item.

    Raises:
        ValueError: it is not as ``make_item`` made it.
    """
    try:
        if type(item) is bytes:
            producer, number, _ = _NAME.unpack_from(item)
        else:
            producer, number = item[:2]
        wanted = make_item(producer, number, largest)
    except Exception as error:
        raise ValueError(f"no item of ours came out: {item!r:.200}") from error
    if type(item) is not type(wanted) or item != wanted:
        raise ValueError(f"item {number} of producer {producer} is corrupted: {item!r:.200}")
    return producer, number
