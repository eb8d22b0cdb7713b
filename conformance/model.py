"""What a queue should hold by what was done so far: its items, the leases, and the operations that wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

__all__ = ["Item", "Lease", "Model", "Waiting"]


class Item(NamedTuple):
    """An item, which worker has put it, and its number in the order of the puts.

    ``attempts``: how often it was leased. ``back``: the clause by which it is in the queue again; "" for a new one.
    """

    value: Any
    producer: int
    number: int
    attempts: int = 0
    back: str = ""


class Lease(NamedTuple):
    """An item that a worker has leased, and the lease's number there."""

    item: Item
    worker: int
    number: int


@dataclass
class Model:
    """What the queue should hold."""

    maxsize: int
    items: list[Item] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    acknowledged: list[Item] = field(default_factory=list)
    puts: int = 0
    unfinished: int = 0
    shut: bool = False
    shut_now: bool = False

    @property
    def has_room(self) -> bool:
        return self.maxsize == 0 or len(self.items) < self.maxsize

    def put(self, value: Any, producer: int) -> None:
        self.items.append(Item(value, producer, self.puts))
        self.puts += 1
        self.unfinished += 1

    def give_back(self, item: Item, back: str) -> None:
        self.items.append(item._replace(attempts=item.attempts + 1, back=back))
        self.items.sort(key=attrgetter("number"))


class Waiting(NamedTuple):
    """An operation under way that has to wait; ``bar``: its place in the trial's history."""

    worker: int
    number: int
    kind: str
    value: Any
    bar: int
