"""Plain items from msgpack, as ``plain`` has packed them.

Nothing here recurses: a thread with a small stack handles every item. The native engine has all of this in C; see
``python_plain.h``.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

import msgpack

from shmqueue.interruptions import not_of_handler
from shmqueue.plain import DEPTH_MAX, HAS_GIL, MARK, MARK_CODE, MSGPACK, MSGPACK_TUPLES

__all__ = ["UNPACKERS", "unpack"]


class _Marks:
    """Turns the arrays of one payload that begin with a mark into tuples, whatever their depth."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = 0

    def extension(self, code: int, data: bytes) -> Any:
        if code == MARK_CODE:
            if data:
                raise ValueError("the mark of a tuple has contents")
            self.open += 1
            return MARK
        return msgpack.ExtType(code, data)

    def array(self, values: list[Any]) -> Any:
        if values and values[0] is MARK:
            self.open -= 1
            return tuple(values[1:])
        return values


def _unpack_by_msgpack(payload: bytes) -> Any:
    try:
        return msgpack.unpackb(payload)
    except not_of_handler(ValueError):
        # Keys that are no strings: allowed here, but the option would slow down other items.
        return msgpack.unpackb(payload, strict_map_key=False)


def _unpack_tuples_by_msgpack(payload: bytes) -> Any:
    marks = _Marks()
    item = msgpack.unpackb(payload, ext_hook=marks.extension, list_hook=marks.array, strict_map_key=False)
    if marks.open:
        raise ValueError("the mark of a tuple is not the first value of an array")
    return item


_FIXED = {
    0xCA: struct.Struct(">f"), 0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"), 0xCD: struct.Struct(">H"), 0xCE: struct.Struct(">I"), 0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"), 0xD1: struct.Struct(">h"), 0xD2: struct.Struct(">i"), 0xD3: struct.Struct(">q"),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_WIDTHS = {
    0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4,
}  # fmt: skip


class _Reader:
    """A payload that is read from its start."""

    __slots__ = ("at", "has_tuples", "payload")

    def __init__(self, payload: bytes, has_tuples: bool) -> None:
        self.payload, self.has_tuples, self.at = payload, has_tuples, 0

    def take(self, length: int) -> bytes:
        taken = self.payload[self.at : self.at + length]
        if len(taken) < length:
            raise ValueError("the payload is incomplete")
        self.at += length
        return taken

    def next(self) -> tuple[Any, str, int]:
        """A value, "" and 0; or None and, for a container, "array" or "map" and how many values or pairs follow."""
        (kind,) = self.take(1)
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 0x100, "", 0
        if kind in _CONSTANTS:
            return _CONSTANTS[kind], "", 0
        if kind in _FIXED:
            return _FIXED[kind].unpack(self.take(_FIXED[kind].size))[0], "", 0
        if kind < 0xA0:
            return None, "map" if kind < 0x90 else "array", kind & 15
        if kind < 0xC0:
            return str(self.take(kind & 31), "utf-8"), "", 0
        if 0xD4 <= kind <= 0xD8:
            return self._extension(1 << (kind - 0xD4)), "", 0
        if kind not in _WIDTHS:
            raise ValueError(f"no value begins with the byte {kind:#x}")
        number = int.from_bytes(self.take(_WIDTHS[kind]), "big")
        if kind <= 0xC6:
            return self.take(number), "", 0
        if kind <= 0xC9:
            return self._extension(number), "", 0
        if kind <= 0xDB:
            return str(self.take(number), "utf-8"), "", 0
        return None, "array" if kind <= 0xDD else "map", number

    def _extension(self, length: int) -> Any:
        code = int.from_bytes(self.take(1), "big", signed=True)
        data = self.take(length)
        if code == MARK_CODE and self.has_tuples and not data:
            return MARK
        return msgpack.Timestamp.from_bytes(data) if code == -1 else msgpack.ExtType(code, data)


def _unpack_here(payload: bytes, has_tuples: bool) -> Any:
    """What msgpack's unpacker makes of it, without interning anything."""
    reader = _Reader(payload, has_tuples)
    stack: list[tuple[str, int, list[Any]]] = []
    while True:
        value, kind, count = reader.next()
        if kind:
            if count > len(payload) - reader.at or len(stack) == DEPTH_MAX:
                raise ValueError("a container is incomplete, or nested too deeply")
            stack.append((kind, count if kind == "array" else 2 * count, []))
        elif not stack:
            break
        else:
            if value is MARK and (stack[-1][0] != "array" or stack[-1][2]):
                raise ValueError("the mark of a tuple is not the first value of an array")
            stack[-1][2].append(value)
        while stack and len(stack[-1][2]) == stack[-1][1]:
            kind, count, values = stack.pop()
            if kind == "map":
                value = dict(zip(values[::2], values[1::2], strict=True))
            else:
                value = tuple(values[1:]) if values and values[0] is MARK else values
            if stack:
                stack[-1][2].append(value)
        if not stack:
            break
    if value is MARK or reader.at < len(payload):
        raise ValueError("there is more in the payload than one item")
    return value


_INTERNS_FOR_EVER = (3, 12) <= sys.version_info < (3, 12, 6) or not HAS_GIL
"""Whether this Python never frees a string that was interned, as msgpack does with each key of a dict."""

unpack: Callable[[bytes], Any]
"""The way back of method 0, as far as it is fast; an exception is left to ``UNPACKERS``."""

UNPACKERS: dict[int, Callable[[bytes], Any]]
"""The way back by method; raises whatever it raises."""

if _INTERNS_FOR_EVER:

    def unpack(payload: bytes) -> Any:
        return _unpack_here(payload, has_tuples=False)

    UNPACKERS = {MSGPACK: unpack, MSGPACK_TUPLES: lambda payload: _unpack_here(payload, has_tuples=True)}
else:
    unpack = msgpack.unpackb  # without options, which would cost more than a small item's unpacking
    UNPACKERS = {MSGPACK: _unpack_by_msgpack, MSGPACK_TUPLES: _unpack_tuples_by_msgpack}
