"""The messages of one process's transport: put, lease, count and clear them, by the names of kombu's queues.

A message that was handed out and not acknowledged is a lease. So it comes again, before newer ones, at once when its
consumer gives it back or closes the connection, and within a slice of the waiting when the consumer is killed.

This module knows nothing of kombu's classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from shmqueue import clock
from shmqueue.arguments import whole_number
from shmqueue.engine import deadline_after, seconds_until
from shmqueue.exceptions import (
    ShmQueueEmpty,
    ShmQueueError,
    ShmQueueFull,
    ShmQueueNotFoundError,
    ShmQueueNotInitializedError,
)
from shmqueue.interruptions import not_of_handler
from shmqueue.leases import Lease
from shmqueue.readiness import ITEMS, ROOM

from ._kombu_doorbell import Wish
from ._kombu_level import NO_LIMIT, Level
from ._kombu_state import LEVELS, Owner, Queue, State
from ._kombu_topology import NO_MEMORY, Topology, changing

__all__ = ["Messages"]

_SLICE = 1.0  # seconds that a put waits for room before it looks whether the queue was deleted
_OPEN_MOST = 64  # queues and priorities that are kept open without being in use; each has two descriptors

_T = TypeVar("_T")


class _Open:
    """A queue that this process has opened."""

    def __init__(self, topology: Topology, name: str, queue: Queue) -> None:
        self.id, self.arguments = queue.id, queue.arguments
        self.used = clock.monotonic()
        self._all_levels: dict[int, Level] = {}  # in any order
        try:
            for number in queue.levels:
                self._all_levels[number] = Level(topology.open(name, number))
        except BaseException:
            self.close()
            raise
        self._sort()

    def _sort(self) -> None:
        # It is replaced, not changed: other threads iterate over it.
        self.levels = {number: self._all_levels[number] for number in sorted(self._all_levels, reverse=True)}

    def deadline(self, began: float, seconds: float | None) -> float:
        """When a message is worth nothing any more that is worth something for ``seconds`` at most; None, for ever."""
        ages = self.arguments.get("x-message-ttl")
        if ages is not None:
            seconds = ages / 1000 if seconds is None else min(seconds, ages / 1000)
        return NO_LIMIT if seconds is None else began + seconds

    def add(self, number: int, level: Level) -> bool:
        """Within ``changing``: add a priority. False: it is there already; messages may have been leased from that."""
        is_added = self._all_levels.setdefault(number, level) is level
        self._sort()
        return is_added

    def close(self) -> None:
        for level in list(self._all_levels.values()):
            level.handle.close()


class Messages:
    """All queues of a namespace, each opened when it is first used, and closed when it is no longer declared.

    When there are many, those that were not used for the longest time are closed, too.

    Any thread may use it. What is open is what all of them lease from: closing it gives back what any of them has.

    Args:
        topology: what queues there are.
        put_timeout: seconds that a put waits for room, None for ever.
        in_use: the names of the queues that must stay open: consumers wait for them, or have messages of them.
    """

    def __init__(
        self,
        topology: Topology,
        put_timeout: float | None = None,
        in_use: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.topology = topology
        self._put_timeout = put_timeout
        self._in_use = in_use
        self._open: dict[str, _Open] = {}  # changed within ``changing``
        self._known: State | None = None  # of which no deleted queue is open; changed likewise
        self._changes = 0  # how often that was replaced
        self._leasing: dict[object, str] = {}  # the queues of which threads are taking a message; changed likewise
        self._held_up: set[Level] = set()

    def state(self) -> State:
        """What is declared now, not to be changed."""
        while True:
            changes = self._changes
            state = self.topology.current()
            if state is self._known:
                return state
            with changing():
                if self._changes != changes:
                    continue  # another thread may have seen a newer state, and opened what this one does not have
                self._known = state
                self._changes += 1
            self._close_deleted()
            return state

    def change(self, how: Callable[[State], bool], patience: float | None = None) -> None:
        """Change what is declared; arguments and errors as those of ``Topology.change``."""
        self.topology.change(how, patience)
        self.state()

    def exists(self, name: str) -> bool:
        """Whether the queue was declared."""
        return name in self.state().queues

    def declare(self, name: str, arguments: dict[str, Any], owner: Owner | None) -> None:
        """Make the queue if it is not there yet; with an owner, one that ends with its last one."""
        queue = self.state().queues.get(name)
        if queue is None or (owner is not None and queue.owners is not None and owner not in queue.owners):
            self.change(lambda state: self.topology.declare(state, name, arguments, owner))

    def put(self, name: str, message: Any, level: int, seconds: float | None) -> None:
        """Put a message; into a queue that was deleted with its last owner, or is while this waits, it is dropped.

        Args:
            level: its priority, 0 to 9.
            seconds: how long it is worth something at most; None, for ever.

        Raises:
            ShmQueueFull: there was no room in time.
        """
        began, patience = clock.monotonic(), deadline_after(self._put_timeout)
        while True:
            opened = self._opened(name)
            if opened is None:
                if name in self.state().gone:
                    return
                self.declare(name, {}, None)
                continue
            if level not in opened.levels:
                self.change(lambda state: self.topology.add_level(state, name, level))
                continue
            left = seconds_until(patience)
            wait = _SLICE if left is None else min(left, _SLICE)
            try:
                if opened.levels[level].put(message, opened.deadline(began, seconds), wait):
                    return
            except ShmQueueNotInitializedError:
                if self._open.get(name) is opened:
                    raise
                continue  # another thread has closed it: it was deleted, or many others are used
            if left is not None and seconds_until(patience) == 0:
                why = opened.levels[level].handle.why_full(1)
                raise ShmQueueFull(f"{why} after {self._put_timeout} s")

    def lease(
        self, name: str, keep: Callable[[Lease[Any]], object] = lambda lease: None
    ) -> tuple[Lease[Any], Any] | None:
        """The next message and its lease, by priority and age; None, there is none, or as many are leased as can be.

        Args:
            name: the queue.
            keep: is called with the lease, and makes the queue one of those that are in use.
        """
        token = object()
        try:
            with changing():
                self._leasing[token] = name
            found = self._use(name, self._lease, None)
            if found is not None:
                keep(found[0])
            return found
        finally:
            self._leasing.pop(token, None)

    def _lease(self, opened: _Open) -> tuple[Lease[Any], Any] | None:
        for level in opened.levels.values():
            try:
                found = level.lease()
            except ShmQueueEmpty as empty:
                if empty.is_busy:
                    raise
                continue  # the portable engine has no room to set another one aside: acknowledging one makes room
            except not_of_handler(ShmQueueError, OSError) as error:
                if type(error) is not ShmQueueError and not _is_for_leases(error, level):
                    raise
                self._held_up.add(level)
                continue  # as many as can be are leased: acknowledging one makes room
            self._held_up.discard(level)
            if found is not None:
                return found
        return None

    @property
    def held_up(self) -> frozenset[object]:
        """Of which queues and priorities the last attempt found as many messages leased as can be."""
        return frozenset(self._held_up)

    def size(self, name: str) -> int:
        """How many messages can be taken."""
        return self._use(name, lambda opened: sum(level.engine.qsize() for level in opened.levels.values()), 0)

    def clear(self, name: str) -> int:
        """Drop the messages that are not leased, and return how many there were."""
        dropped = 0  # also those that were dropped before another thread closed the queue

        def drop(opened: _Open) -> None:
            nonlocal dropped
            for level in opened.levels.values():
                dropped += level.engine.clear()

        self._use(name, drop, None)
        return dropped

    def delete(self, name: str) -> None:
        """Delete the queue with its messages and bindings."""
        if self.exists(name):
            self.change(lambda state: state.drop_queue(name))

    def wishes(self, names: Iterable[str]) -> list[Wish]:
        """What to wait for: that one of the queues gets something, or that the state changes.

        The state is one record that is always there, so its queue is waited for as one from which something is taken.
        That moves its ``moment`` whichever process does it, or finishes it for one that was killed.

        A queue of which as many messages are leased as can be has something to take, which cannot be taken: it is
        waited for as one from which something goes away.
        """
        state = self.topology.engine
        wishes = [Wish(state, ROOM, _moment(state, ROOM) or 0, True)]  # from before the looks at the state
        wanted = []
        for name in names:
            opened = self._opened(name)
            if opened is not None:
                wanted += [
                    (level.engine, ROOM if level in self._held_up else ITEMS) for level in opened.levels.values()
                ]
        for engine, kind in wanted:
            moment = _moment(engine, kind)
            if moment is not None:
                wishes.append(Wish(engine, kind, moment))
        return wishes

    def close(self) -> None:
        """Close everything; what is leased is given back."""
        with changing():
            taken = self._take(list(self._open))
        _close_all(taken)
        self.topology.close()

    def _use(self, name: str, how: Callable[[_Open], _T], otherwise: _T) -> _T:
        """What ``how`` returns for the queue; once more if another thread closes it meanwhile."""
        while True:
            opened = self._opened(name)
            if opened is None:
                return otherwise
            try:
                return how(opened)
            except ShmQueueNotInitializedError:
                if self._open.get(name) is opened:
                    raise

    def _opened(self, name: str) -> _Open | None:
        """The queue as it is now; None, there is none."""
        while True:
            queue = self.state().queues.get(name)
            if queue is None:
                return None
            opened = self._open.get(name)
            try:
                if opened is None:
                    self._close_idle()
                    self._open_queue(name, queue)
                elif opened.id != queue.id:
                    self._close_deleted()
                else:
                    if len(opened.levels) != len(queue.levels):
                        self._add_levels(opened, name, queue)
                    opened.used = clock.monotonic()
                    if self._open.get(name) is opened:  # else another thread has closed it
                        return opened
            except ShmQueueNotFoundError:
                self._renew(name, queue.id)

    def _open_queue(self, name: str, queue: Queue) -> None:
        fresh = _Open(self.topology, name, queue)
        self.state()  # if the queue is still declared now, no newer one of its name was opened
        with changing():
            is_kept = self._is_known(name, fresh) and self._open.setdefault(name, fresh) is fresh
        if not is_kept:
            fresh.close()  # it was deleted, or another thread has just opened it, and may have leased a message

    def _is_known(self, name: str, opened: _Open) -> bool:
        queue = None if self._known is None else self._known.queues.get(name)
        return queue is not None and queue.id == opened.id

    def _close_deleted(self) -> None:
        """Close the queues that are not declared any more."""
        with changing():
            names = [name for name, opened in list(self._open.items()) if not self._is_known(name, opened)]
            deleted = self._take(names)
        _close_all(deleted)

    def _close_idle(self) -> None:
        """Close the queues that were not used for the longest time, until there is room for one more."""
        surplus = sum(len(opened.levels) for opened in list(self._open.values())) + 1 - _OPEN_MOST
        if surplus <= 0:
            return
        names = []
        with changing():
            # First what is being leased: from there it goes to what the callback finds. None begins meanwhile.
            in_use = {*list(self._leasing.values())}.union(self._in_use())
            for name, opened in sorted(self._open.items(), key=lambda item: item[1].used):
                if surplus > 0 and name not in in_use:
                    surplus -= len(opened.levels)
                    names.append(name)
            idle = self._take(names)
        _close_all(idle)

    def _add_levels(self, opened: _Open, name: str, queue: Queue) -> None:
        """Open the priorities that the queue has got since it was opened."""
        for number in queue.levels:
            if number not in opened.levels:
                level = Level(self.topology.open(name, number))
                self.state()  # if the queue is still open now, it is a priority of that one
                with changing():
                    is_kept = self._open.get(name) is opened and opened.add(number, level)
                if not is_kept:
                    level.handle.close()  # another thread has closed the queue, or added it and may have leased

    def _renew(self, name: str, id: int) -> None:
        """Make anew what somebody has removed by hand, unless somebody else has done so, or deleted it, meanwhile."""

        def change(state: Any) -> bool:
            queue = state.queues.get(name)
            return queue is not None and queue.id == id and self.topology.renew(state, name)

        self.change(change)

    def _take(self, names: Iterable[str]) -> list[_Open]:
        """Within ``changing``: queues that were open until now, which are to be closed after it."""
        found = [self._open.pop(name, None) for name in names]
        taken = [opened for opened in found if opened is not None]
        for opened in taken:
            self._held_up.difference_update(opened.levels.values())
        return taken


def _close_all(queues: Iterable[_Open]) -> None:
    for opened in queues:
        opened.close()


def _is_for_leases(error: Exception, level: Level) -> bool:
    """Whether there is no memory for one more lease, beside those that there are."""
    return getattr(error, "errno", None) in NO_MEMORY and level.engine.lease_figures()[0] > 0


def level_of(priority: Any) -> int:
    """The priority that messages with this one have, 0 to 9, the most urgent; None is 0.

    Raises:
        ShmQueueTypeError: it is not a whole number.
    """
    return 0 if priority is None else max(0, min(whole_number("priority", priority), LEVELS - 1))


def _moment(engine: Any, kind: int) -> int | None:
    """None: it was closed because its queue was deleted just now; what waits for one of those goes on at once."""
    try:
        moment: int = engine.moment(kind)
    except ShmQueueNotInitializedError:
        return None
    return moment
