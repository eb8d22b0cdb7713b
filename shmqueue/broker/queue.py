"""A queue at a broker, with the interface of ``ShmQueue``, through kombu."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeVar

try:
    import kombu
except ImportError as missing:
    raise ImportError("a queue at a broker needs kombu: pip install kombu, or 'kombu[redis]' for Redis") from missing
from kombu.exceptions import OperationalError
from kombu.transport import get_transport_cls

from shmqueue import clock, threads
from shmqueue.arguments import require_int, require_seconds, require_span
from shmqueue.broker.answers import Asker, attempt
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
from shmqueue.interruptions import is_of_handler
from shmqueue.leases import Lease
from shmqueue.messages import tell_items_put
from shmqueue.serialization import Serializer

__all__ = ["BrokerLease", "BrokerQueue"]

_T = TypeVar("_T")

_CONTENT_TYPE = "application/x-shmqueue"
_METHOD_BYTES = 4
_FOREIGN = ["json", "msgpack", "text/plain"]
"""Content types that other programs may put, none of which can run anything."""

_FIRST_PACE, _LONGEST_PACE = 0.001, 0.05  # seconds between two questions to the broker whether there is an item
_RESTORE_PACE = 1.0  # seconds between two looks for messages whose visibility timeout is over
_RESTORE_LONGEST = 10.0  # after which a process that does so counts as dead: until then no other one does. kombu: 300
_ANSWER = 5.0  # seconds that a broker has to answer a call that takes no timeout, or does not block
_GIVING_BACK = 5.0  # seconds that an interrupted get waits until what it has taken is given back
_ANSWER_LEAST = 2.0  # and one whose timeout is shorter: it is for items, and to connect takes a while


class BrokerLease(Lease[Any]):
    """An item that the broker keeps until it is acknowledged, or until the connection or this process ends.

    If it is dropped without ``ack`` or ``requeue``, the item is requeued with the next call on its queue in this
    process, or when that is closed.
    """

    __slots__ = ("__weakref__", "_item", "_link", "_message", "_queue")

    def __init__(self, queue: BrokerQueue, link: Link, message: Any) -> None:
        self._queue, self._link, self._message = queue, link, message
        self._item: Any = _UNLOADED

    @property
    def item(self) -> Any:
        if self._item is _UNLOADED:
            self._item = self._queue._load(self._message)
        return self._item

    @property
    def attempt(self) -> int:
        """1, or 2 and more if it was delivered before. Only RabbitMQ's quorum queues count; others say just that."""
        headers, info = self._message.headers or {}, self._message.delivery_info or {}
        counted = headers.get("x-delivery-count")
        if counted is not None:
            return 1 + int(counted)
        return 2 if info.get("redelivered") or headers.get("redelivered") else 1

    @property
    def is_held(self) -> bool:
        return not self._message.acknowledged and self._link.is_alive

    def ack(self) -> bool:
        """Acknowledge. False: the lease was over, the connection was lost, or the broker did not answer for 5 seconds.

        Then the item may come again: it does not if only the broker's answer was lost. If the call is interrupted,
        this holds as well.
        """
        return self._end(self._message.ack)

    def requeue(self) -> bool:
        """Give the item back: the next one that is delivered at RabbitMQ, behind all others at Redis.

        False: the lease was over, the connection was lost, with which it ends, or the broker did not answer for 5
        seconds: then, and if the call is interrupted, the connection is closed.
        """
        return self._end(self._message.requeue)

    def _acknowledge(self) -> bool:
        """``ack`` by this thread, and without a limit: what has interrupted it has interrupted the acknowledgement."""
        try:
            return self._link.use(self._ending(self._message.ack))
        except self._queue._errors as error:  # that of a lease that was dropped
            if is_of_handler(error):
                raise
            return False

    def _end(self, how: Callable[[], object]) -> bool:
        if not self.is_held:
            return False
        link, end = self._link, self._ending(how)
        is_own = self._queue._links.is_current(link)
        asker = link.asker if is_own else Asker()
        try:
            link.ending[id(asker)] = asker
            return asker.answer(lambda: link.use(end), clock.monotonic() + _ANSWER)
        except BaseException as error:
            link.close_soon()
            if isinstance(error, self._queue._errors) and not is_of_handler(error):
                return False
            raise
        finally:
            link.ending.pop(id(asker), None)
            if not is_own:
                asker.close()

    def _ending(self, how: Callable[[], object]) -> Callable[[Link], bool]:
        def end(link: Link) -> bool:
            if not self.is_held:
                return False
            try:
                how()
            except BaseException as error:  # nobody knows how far the conversation was
                link.close()
                if isinstance(error, self._queue._errors) and not is_of_handler(error):
                    return False
                raise
            link.leases -= 1
            if link.is_left:
                link.leave()
            return True

        return end

    def __del__(self) -> None:
        # It may run anywhere, also while this thread holds locks of kombu's: nothing here takes one, or waits.
        message = getattr(self, "_message", None)
        if message is not None and not message.acknowledged:
            self._link.dropped.append(message)


class _Received(BrokerLease):
    """An item that the broker has forgotten: it comes again only if it is put back."""

    __slots__ = ()

    def ack(self) -> bool:
        return True

    _acknowledge = ack

    def __del__(self) -> None:
        pass


_UNLOADED: Any = object()


class BrokerQueue:
    """A queue at a broker, from ``connect(url)``: the interface of ``ShmQueue`` as far as brokers have it.

    All methods may be called from several threads and after a fork; each process and thread has a connection of its
    own. An operation that finds the broker gone is tried again, see ``connect``. A put whose answer was lost is done
    twice then.

    ``get`` acknowledges just before it returns: each item is delivered at most once, unless its acknowledgement was
    interrupted, or the broker itself is killed before it has written that down. What a ``get`` or ``lease`` takes that
    raises, because its timeout was over or a signal handler has raised, is given back. At Redis ``get`` needs no
    acknowledgement, which would halve its speed; what it gives back comes again as soon as Redis answers, and is lost
    if this process ends before. ``lease`` acknowledges at the end: at least once. When a holder dies, RabbitMQ delivers
    the item again as soon as it sees the connection closed, Redis when the ``visibility_timeout`` is over. kombu takes
    an item from Redis in two steps: if the connection is lost, or the consumer dies, in between, it is gone.

    A call into which a signal handler raises raises that exception, and closes the connection of its thread, with which
    its leases end. A ``put`` that raises, for whatever reason, may have put its item.

    A call that waits for an item asks the broker again and again, up to 20 times a second. A broker that accepts a
    connection and does not answer counts as gone when the timeout of the call is over, after 2 seconds at the earliest;
    calls that do not block or take no timeout (``qsize``, ``clear``, the end of a lease) give it 5 seconds. A ``put``,
    ``get`` or ``lease`` without a timeout waits for its answer for ever.

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
        transport = _transport(parts, options)
        self._has_costly_leases = transport.driver_type == "redis"  # two more conversations for each item
        self._errors: tuple[type[BaseException], ...] = (
            *transport.connection_errors,
            *transport.channel_errors,
            OperationalError,
            OSError,
        )
        self._final_errors = tuple(
            error for error in self._errors if "Irrecoverable" in error.__name__ or error.__name__ == "AccessRefused"
        )
        self._serializer = Serializer(allow_pickle)
        self._links = Links(self._url, self._name, options)
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
        body = self._dump(data)
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
        bodies = [self._dump(item) for item in items]
        deadline, put = _deadline(block, timeout), 0
        try:
            for body in bodies:
                self._run(lambda link, body=body: self._publish(link, body), block, deadline)  # type: ignore[misc]
                put += 1
        except BaseException as error:
            tell_items_put(error, put, len(bodies))
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

        return self._run(ask, True, None, _ANSWER)

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self.qsize() == 0

    def clear(self) -> None:
        """Drop all items that are not leased."""
        self._run(lambda link: link.channel.queue_purge(self._name), True, None, _ANSWER)

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
                return self._try(how, _sooner(deadline, patience if block else _ANSWER), undo)
            except self._errors as error:
                self._links.drop()
                if is_of_handler(error):
                    raise
                self._require_open()
                failures += 1
                left = None if deadline is None else deadline - clock.monotonic()
                is_final = isinstance(error.__cause__ or error, self._final_errors)
                is_spent = self._policy.is_spent(failures, deadline is not None)
                if not block or is_final or is_spent or (left is not None and left <= 0):
                    raise ShmQueueBrokerError(f"queue {self._where()} failed {failures} times: {error!r}") from error
            except BaseException:  # an interrupt perhaps: nobody knows how far the conversation was
                self._links.drop()
                raise
            pause = self._policy.pause(failures)
            threads.sleep(pause if left is None else min(pause, left))

    def _try(self, how: Callable[[Link], _T], deadline: float | None, undo: Callable[[_T], object] | None) -> _T:
        try:
            link = self._links.current(deadline)
        except self._errors:
            raise
        except ImportError:
            raise
        except Exception as error:  # of whatever kind: kombu and the clients look at most of their options only now
            if is_of_handler(error):
                raise
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
            content_type=_CONTENT_TYPE,
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
        no_ack = self._has_costly_leases and not is_leased
        message = link.channel.basic_get(self._name, no_ack=no_ack)
        if message is not None:
            link.leases += not no_ack
            # What the transport for RabbitMQ returns is not a message of kombu's yet.
            message = getattr(link.channel, "message_to_python", _as_it_is)(message)
            return (_Received if no_ack else BrokerLease)(self, link, message)
        self._restore(link)
        return None

    def _give_back(self, taken: list[BrokerLease]) -> None:
        """Have the broker hand out again what was taken and has reached nobody. May take long; raises nothing."""
        received = [one._message for one in taken if isinstance(one, _Received)]
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
                restore(interval=1)

    def _dump(self, item: Any) -> bytes:
        method, payload = self._serializer.dump(item)
        parts = payload if isinstance(payload, tuple) else (payload,)
        return b"".join((method.to_bytes(_METHOD_BYTES, "little"), *parts))

    def _load(self, message: Any) -> Any:
        if message.content_type == _CONTENT_TYPE:
            body = bytes(message.body)
            return self._serializer.load(int.from_bytes(body[:_METHOD_BYTES], "little"), body[_METHOD_BYTES:])
        try:
            message.accept = kombu.serialization.prepare_accept_content(_FOREIGN)
            return message.decode()
        except Exception as error:  # of whatever kind: the decoders are those of other packages
            if is_of_handler(error):
                raise
            raise ShmQueueDeserializationError(
                f"cannot load an item of content type {message.content_type!r}: {error!r}"
            ) from error


def _as_it_is(message: Any) -> Any:
    return message


def _transport(parts: BrokerUrl, options: dict[str, Any]) -> Any:
    """kombu's transport for a URL, made and not connected.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: there is none, or it refuses the URL or the options.
        ImportError: what the transport needs is not installed.
    """
    where = shown(parts.url)
    if "visibility_timeout" in options:
        options["visibility_timeout"] = require_span("visibility_timeout", options["visibility_timeout"])
    if parts.transport == "sentinel" and not options.get("master_name"):
        raise ShmQueueValueError(f"url {where!r} needs transport_options={{'master_name': ...}}")
    try:
        transport = get_transport_cls(parts.transport)
    except KeyError as error:
        raise ShmQueueValueError(f"kombu has no transport for url {where!r}: {error}") from None
    except (ImportError, NameError, AttributeError) as error:  # what kombu's modules raise without their client
        if is_of_handler(error):
            raise
        raise ImportError(_without_client(where, error)) from error
    if not all(isinstance(error, type) for error in (*transport.connection_errors, *transport.channel_errors)):
        raise ImportError(_without_client(where, "the errors of its client are unknown"))  # the way of kombu's SLMQ
    if transport.driver_type == "redis":
        options.setdefault("unacked_mutex_expire", _RESTORE_LONGEST)
    try:
        return kombu.Connection(parts.url, transport_options=options).transport
    except ImportError:
        raise
    except Exception as error:  # of whatever kind: it is kombu that looks at the rest of the URL
        if is_of_handler(error):
            raise
        raise ShmQueueValueError(f"kombu refuses url {where!r}, or the transport_options: {error!r}") from error


def _without_client(where: str, why: object) -> str:
    return f"kombu cannot use url {where!r}: {why}; kombu[redis], for instance, has what Redis needs"


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
