"""Items and text: values of the command line and lines of standard input to items, items to lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from shmqueue.cli.exits import Exit, Failure, one_line

__all__ = ["Parse", "as_bytes", "as_json", "as_text", "items_of_lines", "to_json"]

Parse = Callable[[bytes], Any]
"""Makes an item of what was written, or raises ValueError."""


def as_json(data: bytes) -> Any:
    """The value that ``data`` is in JSON; NaN and the infinities, which Python's reader accepts, are none.

    Raises:
        ValueError: it is not exactly one JSON value.
    """
    text = as_text(data)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        hint = """; a string needs its own quotes: '"text"', or use --text""" if text.isidentifier() else ""
        raise ValueError(f"not a JSON value: {text!r} ({one_line(error)}){hint}") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def as_text(data: bytes) -> str:
    """``data`` as UTF-8.

    Raises:
        ValueError: it is not.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {data!r} ({error.reason}); use --bytes") from error


def as_bytes(data: bytes) -> bytes:
    """``data`` as it is."""
    return data


def items_of_lines(lines: Iterator[bytes], parse: Parse) -> Iterator[Any]:
    """An item of each line; blank ones are skipped where they cannot be an item.

    Raises:
        Failure: a line is no item; the message has its number.
    """
    for number, line in enumerate(lines, 1):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if parse is as_json and not content.strip():
            continue
        try:
            yield parse(content)
        except ValueError as error:
            raise Failure(f"line {number}: {one_line(error)}", Exit.ITEM) from error


def to_json(item: Any) -> str:
    """An item as one line of JSON; ``{"repr": ...}`` of what JSON cannot express. A tuple becomes an array."""
    try:
        if _is_json(item):
            return json.dumps(item)
    except RecursionError:
        pass
    try:
        text = repr(item)
    except Exception as error:  # the item's own code
        text = f"<{type(item).__name__}, whose repr() fails: {error}>"
    return json.dumps({"repr": text})


def _is_json(item: Any) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    if isinstance(item, dict):
        return all(isinstance(key, str) and _is_json(value) for key, value in item.items())
    if isinstance(item, (list, tuple)):
        return all(map(_is_json, item))
    return item is None or isinstance(item, (int, str))
