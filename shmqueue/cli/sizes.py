"""Sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from typing import Any

import click

__all__ = ["Seconds", "Size", "readable_bytes", "readable_seconds", "short_size"]

_UNITS = "kmgt"
_SIZE = re.compile(rf"([0-9]+(?:\.[0-9]+)?)([{_UNITS}]?)(?:i?b)?", re.IGNORECASE)


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of bytes: ``4096``, ``64k``, ``1M``, ``1.5GiB``; units are powers of 1024.

    Args:
        least: the smallest that is allowed.
    """

    name = "size"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size: a number of bytes, or one with k, M, G or T such as 64k", param, ctx)
        number, unit = match.groups()
        size = round(float(number) * 1024 ** (_UNITS.index(unit.lower()) + 1)) if unit else round(float(number))
        if not self._least <= size < 1 << 62:
            self.fail(f"{value!r} is not a size from {self._least} on", param, ctx)
        return size


class Seconds(click.FloatRange):
    """A number of seconds; ``nan`` is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def readable_bytes(size: int) -> str:
    """A number of bytes in the largest binary unit of which there is at least one."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(0, size.bit_length() - 1) // 10, len(units) - 1)
    amount = size / 1024**power
    return f"{amount:.0f} {units[power]}" if amount == int(amount) else f"{amount:.1f} {units[power]}"


def short_size(size: int) -> str:
    """The same in as few characters as a column of a table has, as ``Size`` reads it."""
    amount, _, unit = readable_bytes(size).partition(" ")
    return amount if unit == "bytes" else amount + unit[0]


def readable_seconds(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller_size}{smaller}"
    return f"{whole}s"
