"""How a figure is written."""

from __future__ import annotations

from shmqueue.cli.bench.report import Cell
from shmqueue.cli.bench.workloads import Column

__all__ = ["DASH", "range_of", "ratio_of", "value_of"]

DASH = "-"
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def value_of(cell: Cell, column: Column) -> str:
    """The median with its unit: ``2.83 M/s``, ``11.3 GB/s``, ``1.7 us``."""
    if cell.why is not None:
        return cell.why if cell.why == "hangs" else DASH
    return f"{_number(cell.median, column)}{_space(column)}{column.unit}"


def range_of(cell: Cell, column: Column) -> str:
    """The least and the most of all rounds."""
    if cell.why is not None:
        return ""
    return f"{_number(cell.least, column)} … {_number(cell.most, column)}"


def ratio_of(cell: Cell) -> str:
    """How many times better than the yardstick: ``8.76x``."""
    return "" if cell.ratio is None else f"{_three(cell.ratio)}x"


def _space(column: Column) -> str:
    return "" if column.unit == "/s" else " "


def _number(value: float, column: Column) -> str:
    if column.unit == "/s":
        for step, letter in _STEPS:
            if value >= step * 0.9995:
                return f"{_three(value / step)} {letter}"
    return _three(value)


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.0995 else f"{value:.2g}"
