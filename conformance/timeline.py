"""What is drawn of a history: operations as bars by worker, those that violate a clause marked.

Of a run of thousands of operations it takes those around the marked ones. How they are drawn is not its business.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from .operations import Operation, end_of

__all__ = ["AROUND", "Bar", "excerpt", "marked"]

AROUND = 5
"""How many operations are shown before and after each marked one."""


class Bar(NamedTuple):
    """One operation. Times are readings in nanoseconds of one monotonic clock; ``ended`` is None if it never returned.

    ``gap``: how many operations that are not shown lie between the one before and this one.
    """

    worker: int
    label: str
    began: int
    ended: int | None
    is_marked: bool = False
    gap: int = 0

    def until(self, ended: int, outcome: object) -> Bar:
        """The same operation, ended."""
        return self._replace(label=f"{self.label} -> {outcome}", ended=ended)


def marked(bars: Sequence[Bar], places: set[int]) -> list[Bar]:
    """The bars, those in these places marked."""
    return [bar._replace(is_marked=place in places) for place, bar in enumerate(bars)]


def excerpt(history: Sequence[Operation], violating: Sequence[Operation]) -> list[Bar]:
    """The first operations that violate a clause, marked, with those invoked just before and after them."""
    ordered = sorted(history, key=attrgetter("invoked"))
    times = [operation.invoked for operation in ordered]
    known = set(ordered)
    wrong = [operation for operation in violating if operation in known][:4]
    shown: set[int] = set()
    for operation in wrong:
        for moment in (operation.invoked, min(end_of(operation), times[-1] + 1)):
            at = bisect_left(times, moment)
            shown.update(range(max(0, at - AROUND), min(len(ordered), at + AROUND + 1)))
        shown.add(ordered.index(operation))
    bars = []
    last = -1
    for at in sorted(shown):
        operation = ordered[at]
        bars.append(
            Bar(
                operation.worker,
                _label(operation),
                operation.invoked,
                operation.returned,
                operation in wrong,
                at - last - 1,
            )
        )
        last = at
    return bars


def _label(operation: Operation) -> str:
    value = "" if operation.value is None else str(operation.value)
    if operation.outcome == "pending":
        return f"{operation.kind}({value}) never returned"
    if operation.kind == "put":
        return f"put({value})" + (" -> Full" if operation.outcome == "full" else "")
    if operation.outcome == "empty":
        return f"{operation.kind}() -> Empty"
    if operation.kind in ("get", "lease"):
        return f"{operation.kind}() -> {value}"
    return f"{operation.kind}({value})" + (" -> refused" if operation.outcome == "refused" else "")
