"""A queue at a broker, with the interface of ``ShmQueue``, through kombu."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from shmqueue import clock, threads

try:
    from shmqueue.broker.transports import failures_of, is_final, transport_of
except ImportError as missing:
    if missing.name != "kombu":
        raise
    raise ImportError("a queue at a broker needs kombu: pip install kombu, or 'kombu[redis]' for Redis") from missing
from shmqueue.arguments import require_int, require_seconds
from shmqueue.broker import answers
from shmqueue.broker.answers import attempt
from shmqueue.broker.bodies import CONTENT_TYPE, Bodies
from shmqueue.broker.leases import BrokerLease, Received
from shmqueue.broker.links import Link, Links
from shmqueue.broker.retries import RetryPolicy
from shmqueue.broker.urls import BrokerUrl, require_options, shown
from shmqueue.exceptions import (
    ShmQueueBrokerError,
    ShmQueueDeserializationError,
    ShmQueueEmpty,
    ShmQueueNotInitializedError,
    ShmQueueUnsupportedError,
    ShmQueueValueError,
)
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.messages import tell_items_put
from shmqueue.serialization import Serializer

__all__ = ["BrokerQueue"]

_T = TypeVar("_T")

_FIRST_PACE, _LONGEST_PACE = 0.001, 0.05  # seconds between two questions to the broker whether there is an item
_RESTORE_PACE = 1.0  # seconds between two looks for messages whose visibility timeout is over
_RESTORE_MOST = 100  # which are given back with one look: the call that does it has to wait
_GIVING_BACK = 5.0  # seconds that an interrupted get waits until what it has taken is given back
_ANSWER_LEAST = 2.0  # and one whose timeout is shorter: it is for items, and to connect takes a while


class BrokerQueue:
    """A queue at a broker, from ``connect(url)``: the interface of ``ShmQueue`` as far as brokers have it.

    All methods may be called from several threads and after a fork; each process and thread has a connection of its
    own. An operation that finds the broker gone is tried again, see ``connect``. A put whose answer was lost is done
    twice then.

    ``get`` acknowledges just before it returns: each item is delivered at most once, unless its acknowledgement was
    interrupted or the connection is lost right then, or the broker is killed before it has written that down. What a
    ``get`` or ``lease`` takes that raises, because its timeout was over or a signal handler has raised, is given back.
    At Redis ``get`` needs no acknowledgement, which would halve its speed; what it gives back comes again as soon as
    Redis answers, and is lost if this process ends before. ``lease`` acknowledges at the end: at least once. When a
    holder dies, RabbitMQ delivers the item again as soon as it sees the connection closed, Redis when the
    ``visibility_timeout`` is over.

    A call into which a signal handler raises raises that exception, and closes the connection of its thread, with which
    its leases end; it waits 0.5 s for that, and no longer for a silent broker. A ``get`` or ``get_many`` that has taken
    items waits up to 5 s more while it gives them back. A ``put`` that raises, for whatever reason, may have put its
    item.

    What another program puts into the queue's list at Redis may be no message of kombu's. A ``get`` of it consumes it
    and raises ``ShmQueueDeserializationError``; so does ``item`` of a lease, which can be acknowledged or requeued. If
    it comes again, it is in a message of content type ``application/x-shmqueue-foreign``, in hexadecimal.

    At Redis taking a lease and giving it back are one step each, by a script. For a user who may not run scripts, or
    not LINDEX, TIME and what kombu needs within them, kombu does it: a holder that is killed while it takes an item may
    lose it then, and much traffic on the queue may keep a requeue from its end.

    A call that waits for an item asks the broker again and again, up to 20 times a second. A broker that accepts a
    connection and does not answer counts as gone when the timeout of the call is over, after 2 seconds at the earliest;
    calls that do not block or take no timeout (``qsize``, ``clear``, the end of a lease) give it 5 seconds. A ``put``,
    ``get`` or ``lease`` without a timeout waits for its answer for ever. The connection of a call that has failed so is
    kept until the answer comes, which may bring an item. A thread has four such connections at most: then its next call
    waits until there are fewer, or fails when its time is over.

    Args:
        url, allow_pickle, retry_policy, transport_options: as for ``connect``, which says what is raised.
    """

    def __init__(
        self,
        url: str,
        *,
        allow_pickle: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._options = (url, allow_pickle, retry_policy, transport_options)
        self._policy = RetryPolicy.of(retry_policy)
        parts = BrokerUrl.of(url)
        self._url, self._name = parts.url, parts.queue
        options = {**parts.options, **require_options("transport_options", transport_options)}
        transport = transport_of(parts, options)
        self._has_costly_leases = transport.driver_type == "redis"  # two more conversations for each item
        self._bodies = Bodies(Serializer(allow_pickle), self._where())
        self._links = Links(self._url, self._name, options, failures_of(transport))
        self._is_closed = False
        self._restored = clock.monotonic()

    # ---- put and get ----

    def put(self, data: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end. Returns when the broker has it.

        Args:
            data: the item.
            block: whether to try again if the broker cannot be reached.
            timeout: seconds to try for, None as the retry policy says; ignored unless ``block``.

        Raises:
            ShmQueueBrokerError: the broker could not be reached.
            ShmQueueSerializationError: the item cannot be serialized.
        """
        body = self._bodies.dump(data)
        self._run(lambda link: self._publish(link, body), block, _deadline(block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item.

        Args:
            block: whether to wait for one.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueBrokerError: the broker could not be reached.
            ShmQueueDeserializationError: the item could not be loaded; it is consumed.
        """
        items, failed = self._get(1, block, timeout)
        if failed is not None:
            raise failed
        return items[0]

    def put_nowait(self, data: Any) -> None:
        """``put(data, block=False)``."""
        self.put(data, False)

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return self.get(False)

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Put several items one after the other. Other processes may put theirs in between.

        Raises:
            ShmQueueBrokerError, ShmQueueSerializationError: as ``put``. The first one has ``items_put``, how many were
                put; with the second it is none.
        """
        bodies = [self._bodies.dump(item) for item in items]
        deadline, put = _deadline(block, timeout), 0
        try:
            try:
                for body in bodies:
                    self._run(lambda link, body=body: self._publish(link, body), block, deadline)  # type: ignore[misc]
                    put += 1
            except BaseException as error:
                tell_items_put(error, put, len(bodies))
                raise
        except BaseException as error:
            if put:
                error.items_put = put  # type: ignore[attr-defined] # of a signal handler, see tell_items_put()
            raise

    def get_many(self, max_items: int, timeout: float | None = None) -> list[Any]:
        """Take up to ``max_items`` of the oldest items: what is there, waiting only for the first.

        Raises:
            ShmQueueEmpty, ShmQueueBrokerError: as ``get``, for the first.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could.
        """
        max_items = require_int("max_items", max_items, least=1)
        items, failed = self._get(max_items, True, timeout)
        if failed is not None:
            failed.items = items
            raise failed
        return items

    def lease(
        self,
        block: bool = True,
        timeout: float | None = None,
        *,
        max_attempts: int | None = None,
        dead_letter: Any = None,
    ) -> BrokerLease:
        """Take the oldest item so that it comes again if this process does not finish it, see ``ShmQueue.lease``.

        Raises:
            ShmQueueEmpty, ShmQueueBrokerError: as ``get``.
            ShmQueueUnsupportedError: ``max_attempts`` or ``dead_letter`` is given: brokers do not count in one way.
        """
        if max_attempts is not None or dead_letter is not None:
            self._refuse("max_attempts", "brokers do not count deliveries; configure a dead-letter exchange there")
        return self._wait(True, block, timeout)

    # ---- how it stands ----

    def qsize(self) -> int:
        """Items in the queue that are not leased, as the broker tells."""

        def ask(link: Link) -> int:
            # Not passively: to some transports a queue that is empty does not exist.
            declared = link.channel.queue_declare(queue=self._name, durable=True, exclusive=False, auto_delete=False)
            return int(declared.message_count)

        return self._run(ask, True, None, answers.ANSWER)

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self.qsize() == 0

    def clear(self) -> None:
        """Drop all items that are not leased."""
        self._run(lambda link: link.channel.queue_purge(self._name), True, None, answers.ANSWER)

    @property
    def identifier(self) -> str:
        """The queue's name."""
        return self._name

    # ---- the end ----

    def close(self) -> None:
        """Close the connections of this process. Idempotent; every other call then raises. Leases are given back."""
        self._is_closed = True
        self._links.close()

    shutdown = close

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._is_closed

    def __enter__(self) -> BrokerQueue:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what brokers do not have ----

    def join(self, timeout: float | None = None) -> bool:
        """Not available: no broker counts exactly what is finished, whichever process dies."""
        self._refuse("join()", "no broker counts what is unfinished")

    def task_done(self) -> None:
        """Not available, see ``join``."""
        self._refuse("task_done()", "no broker counts what is unfinished; lease() acknowledges")

    def full(self) -> bool:
        """Not available."""
        self._refuse("full()", "the broker's limits are its own")

    def put_view(self, length: int, block: bool = True, timeout: float | None = None) -> Any:
        """Not available: there is no shared memory."""
        self._refuse("put_view()", "there is no shared memory")

    def get_view(self, block: bool = True, timeout: float | None = None) -> Any:
        """Not available: there is no shared memory."""
        self._refuse("get_view()", "there is no shared memory")

    def shutdown_all(self, immediate: bool = False) -> None:
        """Not available."""
        self._refuse("shutdown_all()", "a broker cannot refuse puts to one queue")

    @property
    def maxsize(self) -> int:
        """Not available."""
        self._refuse("maxsize", "the broker's limits are its own")

    @property
    def unfinished_tasks(self) -> int:
        """Not available, see ``join``."""
        self._refuse("unfinished_tasks", "no broker counts what is unfinished")

    def _refuse(self, what: str, why: str) -> NoReturn:
        raise ShmQueueUnsupportedError(f"{what} cannot be had of queue {self._where()}: {why}")

    # ---- travelling ----

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self._options)

    def __repr__(self) -> str:
        return f"<BrokerQueue {self._where()}{', closed' if self._is_closed else ''}>"

    # ---- inside ----

    def _where(self) -> str:
        """What to call the queue; without the password."""
        return f"{self._name!r} at {shown(self._url)}"

    def _require_open(self) -> None:
        if self._is_closed:
            raise ShmQueueNotInitializedError(f"queue {self._name!r} is closed")

    def _run(
        self,
        how: Callable[[Link], _T],
        block: bool,
        deadline: float | None,
        patience: float | None = None,
        undo: Callable[[_T], object] | None = None,
    ) -> _T:
        """Do something with this thread's link; after a failure with a new one, as the retry policy says.

        Args:
            how: what to do.
            block: whether to try again.
            deadline: until when, by ``clock.monotonic``; None, as often as the policy says.
            patience: seconds that the broker has to answer each time; None, what is left, or for ever.
            undo: what to do with what ``how`` returns to nobody, see ``Asker.answer``.
        """
        failures = 0
        while True:
            self._require_open()
            try:
                return self._try(how, _sooner(deadline, patience if block else answers.ANSWER), undo)
            except self._links.errors as error:
                is_interrupted = is_of_handler(error)
                self._links.drop(is_interrupted)
                if is_interrupted:
                    raise
                self._require_open()
                failures += 1
                left = None if deadline is None else deadline - clock.monotonic()
                is_spent = self._policy.is_spent(failures, deadline is not None)
                if not block or is_final(error.__cause__ or error) or is_spent or (left is not None and left <= 0):
                    raise ShmQueueBrokerError(
                        f"queue {self._where()} failed {failures} times: {_told(error)}"
                    ) from error
            except BaseException:  # an interrupt perhaps: nobody knows how far the conversation was
                self._links.drop(True)
                raise
            pause = self._policy.pause(failures)
            threads.sleep(pause if left is None else min(pause, left))

    def _try(self, how: Callable[[Link], _T], deadline: float | None, undo: Callable[[_T], object] | None) -> _T:
        try:
            link = self._links.current(deadline)
        except self._links.errors:
            raise
        except ImportError:
            raise
        except not_of_handler(Exception) as error:
            # Of whatever kind: kombu and the clients look at most of their options only now.
            raise ShmQueueValueError(
                f"queue {self._where()} cannot be opened; see url and transport_options: {error!r}"
            ) from error

        def ask(link: Link) -> _T:
            if not link.is_alive:
                raise ConnectionError("the connection was closed meanwhile")
            return how(link)

        self._links.settle(link, deadline)
        return link.asker.answer(lambda: link.use(ask), deadline, undo)

    def _publish(self, link: Link, body: bytes) -> None:
        link.producer.publish(
            body,
            exchange="",
            routing_key=self._name,
            content_type=CONTENT_TYPE,
            content_encoding="binary",
            delivery_mode=2,
            retry=False,
        )

    def _get(
        self, most: int, block: bool, timeout: float | None
    ) -> tuple[list[Any], ShmQueueDeserializationError | None]:
        """Up to ``most`` items, and why one could not be loaded. If it raises, all that it has taken is given back."""
        taken: list[BrokerLease] = []
        items, failed = [], None
        try:
            taken.append(self._wait(False, block, timeout))
            while len(taken) < most:
                try:
                    taken.append(self._wait(False, False, None))
                except (ShmQueueEmpty, ShmQueueBrokerError):
                    break
            for one in taken:
                try:
                    items.append(one.item)
                except ShmQueueDeserializationError as error:
                    failed = failed or error
            for one in taken:
                one._acknowledge()
        except BaseException:
            if taken:
                attempt(lambda: self._give_back(taken), _GIVING_BACK)
            raise
        return items, failed

    def _wait(self, is_leased: bool, block: bool, timeout: float | None) -> BrokerLease:
        deadline, pace = _deadline(block, timeout), _FIRST_PACE
        while True:
            found = self._run(
                lambda link: self._take(link, is_leased),
                block,
                deadline,
                undo=lambda found: self._give_back([] if found is None else [found]),
            )
            if found is not None:
                return found
            left = 0.0 if not block else _LONGEST_PACE if deadline is None else deadline - clock.monotonic()
            if left <= 0:
                when = f" after {timeout} s" if block and timeout is not None else ""
                raise ShmQueueEmpty(f"queue {self._name!r} is empty{when}")
            threads.sleep(min(pace, left))
            pace = min(2 * pace, _LONGEST_PACE)

    def _take(self, link: Link, is_leased: bool) -> BrokerLease | None:
        self._restore(link)  # before others are taken: the queue may never be empty
        no_ack = self._has_costly_leases and not is_leased
        message = link.channel.basic_get(self._name, no_ack=no_ack)
        if message is not None:
            link.leases += not no_ack
            # What the transport for RabbitMQ returns is not a message of kombu's yet.
            message = getattr(link.channel, "message_to_python", _as_it_is)(message)
            return (Received if no_ack else BrokerLease)(self._links, link, self._bodies, message)
        return None

    def _give_back(self, taken: list[BrokerLease]) -> None:
        """Have the broker hand out again what was taken and has reached nobody. May take long; raises nothing."""
        received = [one._message for one in taken if isinstance(one, Received)]
        for one in taken:
            one._link.close()  # with it end its leases
        if received:
            try:
                # By another queue: this one's connection may be broken, and it may be closed.
                with _reopen(type(self), self._options) as q:
                    q._run(lambda link: link.put_back(received), True, None)
            except Exception as error:  # of whatever kind: kombu's or the broker's client's
                logging.getLogger("shmqueue").warning(
                    "%d items were taken from queue %s, have reached nobody and could not be put back: %r",
                    len(received),
                    self._where(),
                    error,
                )

    def _restore(self, link: Link) -> None:
        """Have the transports whose clients must do it look for messages that were not acknowledged in time."""
        now = clock.monotonic()
        if now - self._restored >= _RESTORE_PACE:
            self._restored = now
            restore = getattr(getattr(link.channel, "qos", None), "restore_visible", None)
            if restore is not None:
                restore(num=_RESTORE_MOST, interval=1)


def _as_it_is(message: Any) -> Any:
    return message


def _told(error: BaseException) -> str:
    """Its type and its text, which the ``repr`` of a client's errors may lack."""
    return repr(error) if not str(error) or str(error) in repr(error) else f"{error!r}: {error}"


def _deadline(block: bool, timeout: float | None) -> float | None:
    if timeout is None:
        return None
    seconds = require_seconds(timeout, block)
    return None if not block or seconds is None else clock.monotonic() + seconds


def _sooner(deadline: float | None, patience: float | None) -> float | None:
    """Until when to wait for one answer."""
    if patience is not None:
        return clock.monotonic() + patience
    return None if deadline is None else max(deadline, clock.monotonic() + _ANSWER_LEAST)


def _reopen(queue_type: type[BrokerQueue], options: tuple[Any, ...]) -> BrokerQueue:
    url, allow_pickle, retry_policy, transport_options = options
    return queue_type(url, allow_pickle=allow_pickle, retry_policy=retry_policy, transport_options=transport_options)
