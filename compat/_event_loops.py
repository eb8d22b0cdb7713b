"""How coroutines of one event loop wait in line for a queue: asyncio and its like (uvloop), and trio.

Nothing here knows of items. An attempt is a function that does not wait; it is made on the loop's own thread, and no
``await`` lies between its success and the return to the caller. So a coroutine that is cancelled has taken nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from shmqueue.engine import Engine
from shmqueue.exceptions import ShmQueueError
from shmqueue.interruptions import not_of_handler
from shmqueue.readiness import ITEMS, Request, ask, withdraw

__all__ = ["Line", "Refused", "current_loop", "running_loop"]

_T = TypeVar("_T")

_FIRST_PACE, _LONGEST_PACE = 0.001, 0.02  # seconds until another attempt while a process has the queue's lock


class Refused(Exception):
    """An attempt did not succeed.

    ``is_busy``: it may succeed as soon as another process, which has the lock, goes on.
    """

    def __init__(self, is_busy: bool = False) -> None:
        super().__init__()
        self.is_busy = is_busy


class _Place(Protocol):
    """A coroutine's place in a line. ``call`` returns False if it is cancelled, and has only not heard of it yet."""

    @property
    def was_called(self) -> bool: ...
    def call(self) -> bool: ...
    async def wait(self) -> None: ...


class Loop(Protocol):
    """What is needed of an event loop. ``key`` tells loops apart, and keeps none alive."""

    key: object

    def place(self) -> _Place: ...
    def call_from_thread(self, function: Callable[[], object]) -> None: ...
    def call_later(self, seconds: float, function: Callable[[], object]) -> None: ...


class _AsyncioPlace:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[None] = loop.create_future()

    @property
    def was_called(self) -> bool:
        return self._future.done() and not self._future.cancelled()

    def call(self) -> bool:
        if self._future.done():
            return False
        self._future.set_result(None)
        return True

    async def wait(self) -> None:
        await self._future


class _AsyncioLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key: object = loop
        self._loop = loop

    def place(self) -> _Place:
        return _AsyncioPlace(self._loop)

    def call_from_thread(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        self._loop.call_later(seconds, function)


class _TrioPlace:
    def __init__(self, trio: Any) -> None:
        self._event = trio.Event()

    @property
    def was_called(self) -> bool:
        return bool(self._event.is_set())

    def call(self) -> bool:
        self._event.set()
        return True

    async def wait(self) -> None:
        await self._event.wait()


class _TrioLoop:
    def __init__(self, trio: Any, token: Any) -> None:
        self._trio, self._token = trio, token
        self.key: object = token

    def place(self) -> _Place:
        return _TrioPlace(self._trio)

    def call_from_thread(self, function: Callable[[], object]) -> None:
        self._token.run_sync_soon(function)  # trio's RunFinishedError is a RuntimeError

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        async def later() -> None:
            await self._trio.sleep(seconds)
            function()

        self._trio.lowlevel.spawn_system_task(later)


def running_loop() -> object:
    """The ``key`` of the event loop that runs the caller; None, there is none."""
    loop = asyncio._get_running_loop()
    trio = sys.modules.get("trio")
    if loop is not None or trio is None:
        return loop
    try:
        return trio.lowlevel.current_trio_token()
    except not_of_handler(RuntimeError):
        return None


def current_loop() -> Loop:
    """The event loop that runs the caller.

    Raises:
        RuntimeError: there is none.
    """
    loop = running_loop()
    if loop is None or isinstance(loop, asyncio.AbstractEventLoop):
        return _AsyncioLoop(asyncio.get_running_loop())
    return _TrioLoop(sys.modules["trio"], loop)


class Line:
    """The coroutines of one loop that wait for one queue and the same thing, first come, first served.

    Args:
        loop: whose coroutines these are.
        engine: the queue's.
        kind: what they wait for, see ``shmqueue.readiness``.
    """

    def __init__(self, loop: Loop, engine: Engine, kind: int) -> None:
        self._loop, self._engine, self._kind = loop, engine, kind
        self._places: deque[_Place] = deque()
        self._request: Request | None = None
        self._pace = _FIRST_PACE
        self._called = 0  # coroutines that were called and have not tried again yet

    def __len__(self) -> int:
        return len(self._places) + self._called

    async def until(self, attempt: Callable[[], _T], is_turn_over: bool) -> _T:
        """What ``attempt`` returns, as soon as it does not raise ``Refused`` and it is the caller's turn.

        Args:
            is_turn_over: whether the loop's other tasks are to run first. Those that come meanwhile wait behind the
                caller.
        """
        is_in_front = False
        if not len(self) and is_turn_over:
            self._loop.call_later(0, self.call_first)
        elif not len(self):
            moment = self._engine.moment(self._kind)
            try:
                return attempt()
            except Refused as refused:
                self._ask(moment, refused.is_busy)
        while True:
            place = self._loop.place()
            (self._places.appendleft if is_in_front else self._places.append)(place)
            try:
                await place.wait()
            except BaseException:  # cancelled
                if place.was_called:
                    self._called -= 1
                    self._pass_on()
                else:
                    if place in self._places:
                        self._places.remove(place)
                    if not len(self):
                        self._withdraw()
                raise
            self._called -= 1
            try:
                moment = self._engine.moment(self._kind)
                result = attempt()
            except Refused as refused:
                is_in_front = True
                self._ask(moment, refused.is_busy)
                continue
            except BaseException:
                self.call_first()  # the queue was shut down, or closed, or an item cannot be loaded
                raise
            self._pace = _FIRST_PACE
            self.call_first()
            return result

    def call_first(self) -> None:
        """Have the first one in the line try again."""
        while self._places and not self._called:
            self._called += self._places.popleft().call()

    def _pass_on(self) -> None:
        """The same, for one that was called and does not come; else for another process."""
        if self._places:
            self.call_first()
        elif self._kind == ITEMS:
            try:
                self._engine.pass_on()
            except ShmQueueError:
                pass  # it is closed

    def _ask(self, moment: int, is_busy: bool) -> None:
        if is_busy:
            self._loop.call_later(self._pace, self.call_first)
            self._pace = min(2 * self._pace, _LONGEST_PACE)
            return
        self._withdraw()
        self._request = Request(self._engine, self._kind, moment, self._tell)
        ask(self._request)

    def _tell(self) -> None:
        """In the readiness thread."""
        self._loop.call_from_thread(self.call_first)

    def _withdraw(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            withdraw(request)
