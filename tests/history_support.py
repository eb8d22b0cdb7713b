"""Operations as a worker writes them down, and the pattern by which a checker of histories refutes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shmqueue.conformance.history import Operation, Pattern, Violation

A = 5
"""The worker that gets, unless another one is named."""


def put(value: object, invoked: int, returned: int | None, worker: int = 0) -> Operation:
    """A put; without ``returned``, of a worker that was killed meanwhile."""
    return Operation(worker, "put", value, invoked, returned, "pending" if returned is None else "ok")


def get(value: object, invoked: int, returned: int | None, worker: int = A) -> Operation:
    """A get; without ``returned``, of a worker that was killed meanwhile."""
    return Operation(worker, "get", value, invoked, returned, "pending" if returned is None else "ok")


def empty(invoked: int, returned: int, worker: int = 6) -> Operation:
    """A get that found no item."""
    return Operation(worker, "get", None, invoked, returned, "empty")


def full(value: object, invoked: int, returned: int, worker: int = 1) -> Operation:
    """A put that found no room."""
    return Operation(worker, "put", value, invoked, returned, "full")


def pending_get(invoked: int, worker: int = 7) -> Operation:
    """A get of a worker that was killed meanwhile."""
    return Operation(worker, "get", None, invoked, None, "pending")


def pattern_of(find: Callable[[Sequence[Operation]], Violation | None], history: Sequence[Operation]) -> Pattern | None:
    """The pattern of what the checker finds, which is the same in whatever order it is given the operations."""
    patterns = [violation.pattern if violation else None for violation in (find(history), find(history[::-1]))]
    assert patterns[0] == patterns[1]
    return patterns[0]
