"""What workers do with leases. They keep them; the director of the workers knows a lease by its number."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

__all__ = ["Ended", "Leased", "end", "lease", "use_block"]


class Leased(NamedTuple):
    """A lease that a worker has: its number there, and what it says."""

    number: int
    item: Any
    attempt: int


class Ended(NamedTuple):
    """What ``ack`` or ``requeue`` returned, and what both returned when they were called again."""

    first: Any
    ack_again: Any
    requeue_again: Any


_held: dict[int, Any] = {}  # the leases of this process
_numbers = itertools.count(1)


def lease(queue: Any, **options: Any) -> Leased:
    """Lease an item and keep the lease."""
    held = queue.lease(**options)
    number = next(_numbers)
    _held[number] = held
    return Leased(number, held.item, held.attempt)


def end(_: Any, number: int, how: str) -> Ended:
    """Call a lease's method ``how``, and then each of its methods again."""
    held = _held.pop(number)
    first = getattr(held, how)()
    return Ended(first, held.ack(), held.requeue())


class _Planned(Exception):
    """What a block raises."""


def use_block(queue: Any, raises: bool) -> Leased:
    """Lease an item for the length of a block."""
    try:
        with queue.lease() as held:
            seen = Leased(0, held.item, held.attempt)
            if raises:
                raise _Planned
    except _Planned:
        pass
    return seen
