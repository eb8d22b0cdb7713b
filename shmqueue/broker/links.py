"""Connections to a broker: one for each process and thread, made when it is first used, and anew after it has failed.

Nothing that kombu makes may be used by two threads at once or on both sides of a fork. So a thread has its own, and
what a forked child inherits is neither used nor closed by it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import kombu

from shmqueue import clock, threads
from shmqueue.broker.answers import UNDOING, Asker, Overdue, attempt, start
from shmqueue.broker.transports import connection_to
from shmqueue.interruptions import is_of_handler, not_of_handler

__all__ = ["Link", "Links"]


_T = TypeVar("_T")

_FAREWELL = 5.0  # seconds that a broker has for the end of a connection
_MOST_OVERDUE = 4  # calls of a thread that wait for a broker's answer although it has abandoned them
_OVERDUE_PACE = 0.05  # seconds between two looks whether there are fewer


class Link:
    """A connection with a channel, on which the queue is declared.

    Args:
        url, transport_options: for ``connection_to``.
        name: the queue.
        asker: of the thread that has the link.

    Raises:
        Exception: what kombu and the broker's client raise, of any kind.
    """

    def __init__(self, url: str, name: str, transport_options: Mapping[str, Any], asker: Asker) -> None:
        self.asker = asker
        self.pid = os.getpid()
        self.lock = threading.RLock()
        """Held while the connection is used: leases may be ended by any thread."""
        self.is_alive = True
        self.is_left = False
        """Whether its thread has ended: it is closed with the last of its leases."""
        self.leases = 0
        """Those that are held, counted with the lock held. Those that were dropped are among them."""
        self.dropped: deque[Any] = deque()
        """Messages of leases that were dropped, to be requeued with the next use of the connection.

        A destructor runs anywhere, also within what holds locks of kombu or of its client: it only appends here.
        """
        self.ending: dict[int, Asker] = {}
        """Those that wait for the end of a lease."""
        self.name = name
        self.connection: Any = connection_to(url, transport_options)
        try:
            self.connection.ensure_connection(max_retries=0)  # how often to try is the caller's to decide
            self.channel = self.connection.channel()
            if self.connection.transport.driver_type == "memory":
                self.channel.do_restore = True  # or else it forgets what is leased when it is closed
            self.producer = kombu.Producer(self.channel)
            kombu.Queue(name, routing_key=name, durable=True).bind(self.channel).declare()
        except BaseException:
            self.close()
            raise

    def use(self, how: Callable[[Link], _T]) -> _T:
        """What ``how`` returns; no other thread uses the connection meanwhile."""
        is_outermost = not _is_owned(self.lock)
        try:
            with self.lock:
                if is_outermost:
                    self._requeue_dropped()
                return how(self)
        finally:
            if is_outermost:
                _set_free(self.lock)
                if not self.is_alive:
                    self._end()

    def settle(self, seconds: float) -> None:
        """Requeue what was dropped, unless the connection is in use: its thread does it with the next use.

        Args:
            seconds: what the broker has for it, or else the connection is closed.
        """
        asker = Asker()
        try:
            asker.answer(self._settle, clock.monotonic() + seconds)
        except TimeoutError as error:
            self.close_soon()
            if is_of_handler(error):
                raise
        finally:
            asker.close()

    def _settle(self) -> None:
        if not self.lock.acquire(blocking=False):
            return
        try:
            self._requeue_dropped()
            if self.is_left:
                self.leave()
        except not_of_handler(ConnectionError):  # it is closed
            pass
        finally:
            _set_free(self.lock)
            if not self.is_alive:
                self._end()

    def _requeue_dropped(self) -> None:
        """Called with the lock held.

        Raises:
            ConnectionError: the broker has failed; the connection is closed, which gives back the rest.
        """
        try:
            while self.dropped and self.is_alive and self.pid == os.getpid():
                self.dropped.popleft().requeue()
                self.leases -= 1
        except BaseException as error:
            self.close_soon()
            if isinstance(error, Exception) and not is_of_handler(error):
                raise ConnectionError(f"a lease that was dropped cannot be given back: {error!r}") from error
            raise

    def confirm(self) -> None:
        """Wait until the broker has handled what was sent before, where that is not answered: acknowledgements."""
        if self.connection.transport.driver_name == "py-amqp":
            self.channel.basic_qos(0, 0, False)  # changes nothing, and is answered

    def was_held(self) -> bool:
        """Whether the broker had the lease that was ended last, as far as it tells: Redis does."""
        return bool(getattr(getattr(self.channel, "qos", None), "was_held", True))

    def put_back(self, messages: list[Any]) -> None:
        """Have Redis hand out first what it handed out for good, in order.

        What was in doubt may come twice then, and says ``redelivered``.
        """
        self.channel.put_back(self.name, messages)

    def leave(self) -> None:
        """Close the connection as soon as it has no leases: any thread may have them. Does not wait."""
        self.is_left = True
        if self.leases <= len(self.dropped):
            self.close_soon()

    def close(self, seconds: float | None = None) -> None:
        """Close the connection, whatever state it is in; the broker gives back what was leased.

        If another thread uses it just now, that one closes it when it has its answer. After an interrupt it may be
        called again.

        Args:
            seconds: to wait for its end; None, 5.
        """
        self.is_alive = False
        if self.pid == os.getpid() and self.connection is not None:
            self.asker.close()
            attempt(self._end, _FAREWELL if seconds is None else seconds)

    def close_soon(self) -> None:
        """``close`` that does not wait."""
        self.is_alive = False
        if self.pid == os.getpid() and self.connection is not None:
            self.asker.close()
            start(self._end)

    def release(self) -> None:
        """Have those that wait for the end of a lease wait no longer."""
        for asker in list(self.ending.values()):
            asker.abandon()

    def _end(self) -> None:
        if _is_owned(self.lock):
            return  # within a use of the connection, at whose end this comes again
        try:
            if self.lock.acquire(blocking=False):  # else the thread that has it comes here next
                connection, self.connection = self.connection, None
                try:
                    if connection is not None:
                        connection.close()
                        _disconnect_again(getattr(self, "channel", None))
                except not_of_handler(Exception):
                    pass  # of whatever kind: it may be broken in any way, and nothing is asked of it any more
        finally:
            _set_free(self.lock)


def _disconnect_again(channel: Any) -> None:
    """Close what kombu leaves open: at Redis a channel that is closed connects once more, to give back its messages."""
    disconnect = getattr(channel, "_disconnect_pools", None)
    if disconnect is not None:
        disconnect()


def _is_owned(lock: threading.RLock) -> bool:
    return lock._is_owned()  # type: ignore[attr-defined,no-any-return]


def _set_free(lock: threading.RLock) -> None:
    """Release it as often as this thread has acquired it.

    A signal handler may raise between ``acquire()`` and what follows it, on CPython 3.14 also between the lock and the
    block of a ``with``, which then does not release it. ``threads.Guard`` does not serve: its lock is the same for all
    greenlets of a thread.
    """
    while _is_owned(lock):
        lock.release()


class _ThreadsEnd:
    """Leaves the link of a thread that has ended."""

    def __init__(self, link: Link, links: dict[int, Link]) -> None:
        self.link, self._links = link, links

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:  # at the end the names in this module are gone
        if self.link.pid == getpid() and id(self.link) in self._links:
            self.link.leave()
            if not self.link.is_alive:
                self._links.pop(id(self.link), None)


class Links:
    """The links of one queue.

    Args:
        url: for ``connection_to``.
        name: the queue.
        transport_options: for ``connection_to``.
        errors: those of a connection that has failed.
    """

    def __init__(
        self, url: str, name: str, transport_options: Mapping[str, Any], errors: tuple[type[BaseException], ...]
    ) -> None:
        self._arguments = url, name, transport_options
        self.errors = errors
        self._of_thread = threading.local()
        self._is_closed = False
        self._connecting: dict[int, Asker] = {}
        """Those that wait for a connection."""
        self._all: dict[int, Link] = {}
        """Those of the threads of this process; and of its ancestors, so that nothing collects and closes them."""

    def current(self, deadline: float | None = None) -> Link:
        """The link of this thread; a new one is made until the deadline, by ``clock.monotonic``.

        Raises:
            TimeoutError: the broker has not answered until then, or not to earlier calls of this thread.
            Exception: as ``Link``.
        """
        found: _ThreadsEnd | None = getattr(self._of_thread, "end", None)
        if found is not None and found.link.is_alive and found.link.pid == os.getpid():
            return found.link
        asker = Asker(self._overdue(deadline))
        try:
            self._connecting[id(asker)] = asker
            if self._is_closed:
                raise ConnectionError("the queue was closed meanwhile")
            link = asker.answer(lambda: Link(*self._arguments, asker), deadline, Link.close)
            if self._is_closed:
                link.close()
                raise ConnectionError("the queue was closed meanwhile")
            for key, other in list(self._all.items()):
                if not other.is_alive and other.pid == os.getpid():
                    self._all.pop(key, None)
            self._all[id(link)] = link
            self._of_thread.end = _ThreadsEnd(link, self._all)
        except BaseException:
            asker.close()
            raise
        finally:
            self._connecting.pop(id(asker), None)
        return link

    def _overdue(self, deadline: float | None) -> Overdue:
        """The overdue calls of this thread, as soon as there are few of them."""
        overdue: Overdue | None = getattr(self._of_thread, "overdue", None)
        if overdue is None or overdue.pid != os.getpid():
            overdue = self._of_thread.overdue = Overdue()
        while deadline is not None and (count := overdue.count()) >= _MOST_OVERDUE:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer to {count} earlier calls")
            threads.sleep(min(left, _OVERDUE_PACE))
        return overdue

    def is_current(self, link: Link) -> bool:
        """Whether it is the link of this thread."""
        found: _ThreadsEnd | None = getattr(self._of_thread, "end", None)
        return found is not None and found.link is link

    def settle(self, own: Link, deadline: float | None) -> None:
        """Give back the leases that were dropped and are of the links of other threads."""
        for key, link in list(self._all.items()):
            if link.dropped and link is not own and link.is_alive and link.pid == os.getpid():
                left = _FAREWELL if deadline is None else deadline - clock.monotonic()
                link.settle(max(0.0, min(left, _FAREWELL)))
                if not link.is_alive:
                    self._all.pop(key, None)

    def drop(self, is_interrupted: bool) -> None:
        """Close the link of this thread, which has failed.

        Args:
            is_interrupted: whether its caller was, and is not to wait for a broker that is silent.
        """
        found: _ThreadsEnd | None = getattr(self._of_thread, "end", None)
        if found is not None and found.link.pid == os.getpid():
            found.link.close(UNDOING if is_interrupted else None)
            self._all.pop(id(found.link), None)

    def close(self) -> None:
        """Close all links of this process. There will be no other ones."""
        self._is_closed = True
        for asker in list(self._connecting.values()):
            asker.abandon()
        for key, link in list(self._all.items()):
            if link.pid == os.getpid():
                link.is_alive = False
                link.release()
                link.close()
                self._all.pop(key, None)

    def __del__(
        self, getpid: Callable[[], int] = os.getpid, is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        # Nothing has the queue any more, so nothing has a lease of it.
        if not is_finalizing():
            for key, link in list(self._all.items()):
                if link.pid == getpid():
                    del self._all[key]
                    link.close_soon()
