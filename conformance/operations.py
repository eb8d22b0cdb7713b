"""What workers log of a concurrent run, sorted out: operations, and values' ways through the queue.

It finds what contradicts itself and judges nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

__all__ = ["NEVER", "Kind", "Log", "Operation", "Stay", "end_of"]

Kind = Literal["put", "get", "lease", "ack", "requeue"]

NEVER = 1 << 63
"""Later than every reading of a clock."""


class Operation(NamedTuple):
    """What a worker logged of one put or get, or of a lease or its end.

    ``value`` is None for a get or lease that took nothing. The times are readings in nanoseconds of one monotonic
    clock; ``returned`` is None if, and only if, the outcome is pending. An ack or requeue that says that the lease was
    over is refused. ``attempt`` is that of a lease that took something.
    """

    worker: int
    kind: Kind
    value: Hashable
    invoked: int
    returned: int | None
    outcome: Literal["ok", "empty", "full", "refused", "pending"]
    attempt: int = 0


def end_of(operation: Operation) -> int:
    """When it returned."""
    return NEVER if operation.returned is None else operation.returned


class Log:
    """The operations of a history by what came of them."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self._history = history
        self.puts: dict[Hashable, Operation] = {}  # those pending too
        self.gets: dict[Hashable, Operation] = {}
        self.gets_again: list[Operation] = []
        self.pending_gets: list[Operation] = []
        self.empties: list[Operation] = []
        self.fulls: list[Operation] = []
        for operation in history:
            _, kind, value, invoked, returned, outcome, _ = operation
            if (returned is None) is not (outcome == "pending") or (returned is not None and returned < invoked):
                raise ValueError(f"outcome and times contradict each other: {operation}")
            if kind == "put" and outcome in ("ok", "pending"):
                if value in self.puts:
                    raise ValueError(f"values must be unique, and {value!r} was put twice: {operation}")
                self.puts[value] = operation
            elif kind == "get" and outcome == "ok":
                if value in self.gets:
                    self.gets_again.append(operation)
                else:
                    self.gets[value] = operation
            elif (kind, outcome) in (("get", "pending"), ("get", "empty"), ("put", "full")):
                {"pending": self.pending_gets, "empty": self.empties, "full": self.fulls}[outcome].append(operation)
            else:
                raise ValueError(f"a put ends ok, full or pending, a get ok, empty or pending: {operation}")

    @cached_property
    def _start(self) -> int:
        return min(operation.invoked for operation in self._history)

    def tell(self, operation: Operation) -> str:
        """Which worker did it, and when."""
        since = f"{(operation.invoked - self._start) / 1e6:.6f}"
        if operation.returned is None:
            return f"worker {operation.worker} (from {since} ms on)"
        return f"worker {operation.worker} ({since} to {(operation.returned - self._start) / 1e6:.6f} ms)"


class Stay(NamedTuple):
    """A value's way through the queue; ``get`` is None if it is in there for ever."""

    put: Operation
    get: Operation | None
    put_invoked: int
    put_returned: int
    get_invoked: int
    get_returned: int

    @classmethod
    def between(cls, put: Operation, get: Operation | None) -> Stay:
        if get is None:
            return cls(put, None, put.invoked, end_of(put), NEVER, NEVER)
        return cls(put, get, put.invoked, end_of(put), get.invoked, end_of(get))
