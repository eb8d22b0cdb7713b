"""What was declared in a namespace of ``shm://``: exchanges, bindings, queues and their owners, and how it changes.

This module knows nothing of how processes share it, of kombu and of messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shmqueue import plain, plain_unpacking
from shmqueue.engine.portable_processes import is_alive, this_process
from shmqueue.exceptions import ShmQueueCorruptedError
from shmqueue.interruptions import not_of_handler

__all__ = ["LEVELS", "Binding", "Exchange", "Owner", "Queue", "State", "drop_ownerless", "has_ownerless", "this_owner"]

LEVELS = 10
"""Priorities, each of which is a queue of its own once a message has it."""

Owner = tuple[int, int, str]
"""A process, by its id and start time, and what in it wants an automatically deleted queue."""

Exchange = tuple[str, bool, bool, dict[str, Any]]
"""Type, durable, auto_delete, arguments."""

Binding = tuple[str, str, dict[str, Any]]
"""Routing key, queue, arguments."""

_GONE_MOST = 1000  # names of deleted queues that are remembered


@dataclass
class Queue:
    """A queue as it was declared."""

    id: int
    """Another one each time that a queue of this name is declared anew."""
    levels: list[int]
    """Priorities of which there has been a message."""
    arguments: dict[str, Any]
    owners: list[Owner] | None
    """Of an automatically deleted queue: while one of them lives, the queue does; None, it stays."""


@dataclass
class State:
    """Everything that was declared."""

    serial: int = 0
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    """By name."""
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    """By exchange."""
    queues: dict[str, Queue] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    """Automatically deleted queues, newest last: what is sent to them is dropped."""
    doomed: list[tuple[str, list[int]]] = field(default_factory=list)
    """Queues that were deleted and whose memory is being freed: name and levels."""

    def pack(self) -> tuple[int, Any]:
        """The state as a record."""
        queues = {name: (q.id, q.levels, q.arguments, q.owners) for name, q in self.queues.items()}
        return plain.pack_copies((self.serial, self.exchanges, self.bindings, queues, self.gone, self.doomed))

    @classmethod
    def unpack(cls, method: int, payload: bytes) -> State:
        """The state of a record.

        Raises:
            ShmQueueCorruptedError: it is none.
        """
        try:
            serial, exchanges, bindings, queues, gone, doomed = plain_unpacking.UNPACKERS[method](payload)
            described = {name: Queue(*fields) for name, fields in queues.items()}
        except not_of_handler(KeyError, TypeError, ValueError) as error:
            raise ShmQueueCorruptedError(
                f"what was declared on shm:// cannot be read ({error!r}): end the programs that use it, and remove "
                "it with shmqueue.compat.kombu.remove()"
            ) from error
        return cls(serial, exchanges, bindings, described, gone, doomed)

    def add_exchange(self, name: str, described: Exchange) -> bool:
        """Declare an exchange. False: it is declared already."""
        if self.exchanges.get(name) == described:
            return False
        self.exchanges[name] = described
        return True

    def drop_exchange(self, name: str) -> bool:
        """Delete an exchange and its bindings. False: there is none."""
        self.bindings.pop(name, None)
        return self.exchanges.pop(name, None) is not None

    def is_bound(self, exchange: str, binding: Binding) -> bool:
        """Whether an exchange has a binding."""
        return binding in self.bindings.get(exchange, ())

    def bind(self, exchange: str, binding: Binding) -> bool:
        """Bind a queue to an exchange. False: there is no such queue, or it is bound already."""
        if binding[1] not in self.queues or self.is_bound(exchange, binding):
            return False
        self.bindings.setdefault(exchange, []).append(binding)
        return True

    def unbind(self, exchange: str, routing_key: str, queue: str) -> bool:
        """Remove the bindings of a queue with a routing key. False: there are none."""
        bindings = self.bindings.get(exchange, [])
        left = [found for found in bindings if found[:2] != (routing_key, queue)]
        self.bindings[exchange] = left
        return len(left) != len(bindings)

    def disown(self, names: Iterable[str], owner: Owner) -> bool:
        """End an owner of automatically deleted queues; those without another one are deleted. False: it owned none."""
        owned = [(name, self.queues[name]) for name in names if name in self.queues]
        mine = [(name, queue.owners) for name, queue in owned if queue.owners is not None and owner in queue.owners]
        for name, owners in mine:
            owners.remove(owner)
            if not owners:
                self.drop_queue(name)
        return bool(mine)

    def drop_queue(self, name: str) -> bool:
        """Delete a queue and its bindings; its memory is freed at the end of the change. False: there is none."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return False
        for exchange, bindings in self.bindings.items():
            self.bindings[exchange] = [binding for binding in bindings if binding[1] != name]
        if queue.owners is not None:
            self.gone = [*self.gone[1 - _GONE_MOST :], name]
        self.doomed.append((name, queue.levels))
        return True


def this_owner(token: str) -> Owner:
    """An owner in this process."""
    return (*this_process(), token)


def drop_ownerless(state: State) -> bool:
    """Delete the automatically deleted queues all of whose owners have ended."""
    changed = False
    for name, queue in list(state.queues.items()):
        if queue.owners is None:
            continue
        alive = [owner for owner in queue.owners if is_alive(owner[:2])]
        if len(alive) != len(queue.owners):
            queue.owners = alive
            changed = True
        if not alive:
            changed = state.drop_queue(name)
    return changed


def has_ownerless(state: State, names: list[str]) -> bool:
    """Whether one of these queues has no owner left that lives."""
    for name in names:
        queue = state.queues.get(name)
        if queue is not None and queue.owners is not None and not any(is_alive(owner[:2]) for owner in queue.owners):
            return True
    return False
