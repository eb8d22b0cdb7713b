"""Channels of the transport shm://: AMQP's exchanges, queues and acknowledgements, on leases and a shared state."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

from amqp.basic_message import Message as AmqpMessage
from amqp.exceptions import RecoverableConnectionError
from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.transport.virtual.base import NOT_EQUIVALENT_FMT, NotEquivalentError
from kombu.utils.uuid import uuid

from shmqueue import clock
from shmqueue.exceptions import ShmQueueBrokerError, ShmQueueError, ShmQueueNotInitializedError
from shmqueue.leases import Lease

from ._kombu_doorbell import Wish
from ._kombu_messages import level_of
from ._kombu_state import State, has_ownerless, this_owner

__all__ = ["Channel"]

_LOOK_AT_OWNERS = 1.0  # seconds between two looks whether the owners of automatically deleted queues live
_PROPERTIES = frozenset(name for name, _ in AmqpMessage.PROPERTIES)
_tags = itertools.count(1)

Callback = Callable[[Any], Any]


class QoS(virtual.QoS):  # type: ignore[misc]
    """The messages of a channel that were not acknowledged yet. Any thread may acknowledge one."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        # Without super(): the base restores messages by putting them once more when the process ends. Ours are leases.
        self.channel = channel
        self.prefetch_count = prefetch_count or 0
        self._taken: dict[Any, tuple[Lease[Any], str, Any]] = {}

    def can_consume(self) -> bool:
        return not self.prefetch_count or len(self._taken) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        return max(self.prefetch_count - len(self._taken), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: Any) -> None:
        found = self.channel.leases.get(delivery_tag)
        if found is not None:
            self._taken[delivery_tag] = *found, message
            self.channel.leases.pop(delivery_tag, None)  # after that: it is in one of them at any time

    def get(self, delivery_tag: Any) -> Any:
        return self._taken[delivery_tag][2]

    def queues(self) -> set[str]:
        """Of which there are messages that were not acknowledged."""
        return {queue for _, queue, _ in list(self._taken.values())}

    def ack(self, delivery_tag: Any) -> None:
        self._end(delivery_tag, requeue=False)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        self._end(delivery_tag, requeue)

    def restore_unacked(self) -> list[Any]:
        for tag in list(self._taken):
            self._end(tag, requeue=True)
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self.restore_unacked()

    def _end(self, delivery_tag: Any, requeue: bool) -> None:
        was_full = not self.can_consume() or self.channel.is_held_up
        found = self._taken.pop(delivery_tag, None)
        if found is not None:
            _end_lease(found[0], requeue)
        if was_full:
            self.channel.wake()


def _end_lease(lease: Lease[Any], requeue: bool) -> None:
    """Acknowledge a message or give it back, unless it was deleted with its queue."""
    try:
        (lease.requeue if requeue else lease.ack)()
    except ShmQueueNotInitializedError:
        pass  # its queue was closed here because it is no longer declared


class Channel(virtual.Channel):  # type: ignore[misc]
    """A channel. Everything that was declared is what all processes of the namespace have declared."""

    QoS = QoS
    supports_fanout = True
    body_encoding = None
    do_restore = False
    closed: bool

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._qos = self.QoS(self)  # now: kombu makes it when it is first asked for, and of two threads each makes one
        self._pid = os.getpid()
        self._token = uuid()
        self._owned: set[str] = set()
        self._callbacks: dict[str, dict[str, Callback]] = {}
        self._turns: deque[str] = deque()
        self._looked_at_owners = 0.0
        self.leases: dict[Any, tuple[Lease[Any], str]] = {}
        """Of messages that are on their way to a callback, and their queues."""

    # ---- messages ----

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Any:
        """Without the properties that AMQP does not know: RabbitMQ's client drops them, too, whatever they are."""
        known = {name: value for name, value in (properties or {}).items() if name in _PROPERTIES}
        return super().prepare_message(body, priority, content_type, content_encoding, headers, known)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        properties = message["properties"]
        expiration = properties.get("expiration")
        seconds = None if expiration is None else int(expiration) / 1000
        self._messages.put(queue, message, level_of(properties.get("priority")), seconds)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
        for _, _, queue in self.get_table(exchange):
            self._put(queue, message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        tag = next(_tags)

        def keep(lease: Lease[Any]) -> None:
            self.leases[tag] = lease, queue

        found = self._messages.lease(queue, keep)
        if found is None:
            raise Empty
        lease, message = found
        properties = message["properties"]
        properties["delivery_tag"] = tag
        if lease.attempt > 1:
            properties["delivery_info"]["redelivered"] = True
            message["headers"]["redelivered"] = True
        return message

    def _next_delivery_tag(self) -> int:
        return 0  # a message gets one when it is delivered

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        try:
            message = self.Message(self._get(queue), channel=self)
        except Empty:
            return None
        self._hand_out(message, no_ack)
        return message

    def basic_consume(self, queue: str, no_ack: bool, callback: Callback, consumer_tag: str, **kwargs: Any) -> None:
        def deliver(raw_message: Any) -> Any:
            message = self.Message(raw_message, channel=self)
            self._hand_out(message, no_ack)
            return callback(message)

        self._tag_to_queue[consumer_tag] = queue
        self._consumers.add(consumer_tag)
        self._callbacks.setdefault(queue, {})[consumer_tag] = deliver
        if queue not in self._turns:
            self._turns.append(queue)
        self._active_queues.append(queue)
        self.connection._callbacks[queue] = deliver
        self._own(queue)
        self.wake()

    def basic_cancel(self, consumer_tag: str) -> None:
        if consumer_tag not in self._consumers:
            return
        self._consumers.remove(consumer_tag)
        queue = self._tag_to_queue.pop(consumer_tag)
        self._active_queues.remove(queue)
        callbacks = self._callbacks[queue]
        del callbacks[consumer_tag]
        if callbacks:
            self.connection._callbacks[queue] = next(iter(callbacks.values()))
        else:
            del self._callbacks[queue]
            self._turns.remove(queue)
            self.connection._callbacks.pop(queue, None)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.qos.prefetch_count = prefetch_count
        self.wake()

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        """Deliver one message, of the queues in turn.

        Raises:
            queue.Empty: there is none, or as many as may be are not acknowledged.
        """
        if not self._consumers or not self.qos.can_consume():
            raise Empty
        turns = self._turns
        for queue in list(turns):
            turns.rotate(-1)
            try:
                raw_message = self._get(queue)
            except Empty:
                continue
            callbacks = self._callbacks[queue]
            tag = next(iter(callbacks))
            deliver = callbacks[tag] = callbacks.pop(tag)  # several consumers of one queue take turns
            deliver(raw_message)
            return
        raise Empty

    def wishes(self) -> list[Wish]:
        """What to wait for before ``drain_events`` is tried again."""
        if not self._consumers or not self.qos.can_consume():
            return []
        wishes: list[Wish] = self._messages.wishes(self._turns)
        return wishes

    def queues_in_use(self) -> set[str]:
        """Those that are consumed, or of which there are messages that were not acknowledged."""
        on_their_way = [queue for _, queue in list(self.leases.values())]  # before those to which they may move
        queues: set[str] = self.qos.queues()
        return queues.union(on_their_way, list(self._turns))

    @property
    def is_held_up(self) -> bool:
        """Whether messages wait until another one is acknowledged."""
        return self.connection is not None and bool(self._messages.held_up)

    def wake(self) -> None:
        """Have messages looked for once more; from any thread."""
        if self.connection is not None:
            self.connection.doorbell.ring()

    def _hand_out(self, message: Any, no_ack: bool) -> None:
        if no_ack:
            self.leases.pop(message.delivery_tag)[0].ack()
        else:
            self.qos.append(message, message.delivery_tag)

    # ---- queues ----

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        queue = queue or f"amq.gen-{uuid()}"
        if not passive:
            is_temporary = kwargs.get("auto_delete") or kwargs.get("exclusive")
            owner = this_owner(self._token) if is_temporary else None
            self._messages.declare(queue, _plain(kwargs.get("arguments")), owner)
            if owner is not None:
                self._owned.add(queue)
        elif not self._messages.exists(queue):
            raise self._not_found("queue", queue, "Channel.queue_declare")
        return queue_declare_ok_t(queue, self._size(queue), 0)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        if if_empty and self._size(queue):
            return
        self._owned.discard(queue)
        self._messages.delete(queue)

    def _size(self, queue: str) -> int:
        size: int = self._messages.size(queue)
        return size

    def _purge(self, queue: str) -> int:
        dropped: int = self._messages.clear(queue)
        return dropped

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._messages.declare(queue, {}, None)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        exists: bool = self._messages.exists(queue)
        return exists

    def _own(self, queue: str) -> None:
        """Keep an automatically deleted queue while this channel is open."""
        described = self._state.queues.get(queue)
        if described is not None and described.owners is not None and queue not in self._owned:
            self._messages.declare(queue, {}, this_owner(self._token))
            self._owned.add(queue)

    def _disown(self) -> None:
        owned, self._owned = self._owned, set()
        if owned:
            self._change(lambda state: state.disown(owned, this_owner(self._token)))

    # ---- exchanges ----

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        type = type or "direct"
        name, described = exchange or f"amq.{type}", (type, bool(durable), bool(auto_delete), _plain(arguments))

        def is_declared(state: State) -> bool:
            found = state.exchanges.get(name)
            if found not in (None, described):
                raise NotEquivalentError(NOT_EQUIVALENT_FMT.format(name, self._host))
            return found is not None

        if not passive:
            if type not in self.exchange_types:
                reply = f"COMMAND_INVALID - unknown exchange type {type!r}; shm:// has {', '.join(self.exchange_types)}"
                raise ChannelError(reply, (40, 10), "Channel.exchange_declare", "503")
            self._change(lambda state: state.add_exchange(name, described), unless=is_declared)
        elif not is_declared(self._state):
            raise self._not_found("exchange", name, "Channel.exchange_declare")

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self._change(lambda state: state.drop_exchange(exchange))

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        source, binding = exchange or "amq.direct", (routing_key or "", queue, _plain(arguments))
        self._change(lambda state: state.bind(source, binding), unless=lambda state: state.is_bound(source, binding))

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._change(lambda state: state.unbind(exchange or "amq.direct", routing_key or "", queue))

    def get_exchanges(self) -> list[str]:
        return list(self._state.exchanges)

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        prepare = self.typeof(exchange).prepare_bind
        return [prepare(queue, exchange, key, arguments) for key, queue, arguments in self._bindings(exchange)]

    def _bindings(self, exchange: str) -> list[tuple[str, str, dict[str, Any]]]:
        """The bindings of an exchange. Queues whose processes were killed are removed before they get more messages."""
        bindings: list[tuple[str, str, dict[str, Any]]] = self._state.bindings.get(exchange, [])
        now = clock.monotonic()
        if bindings and now - self._looked_at_owners > _LOOK_AT_OWNERS:
            self._looked_at_owners = now
            if has_ownerless(self._state, [queue for _, queue, _ in bindings]):
                try:
                    self._messages.change(lambda state: False, 0.0)  # a change removes them
                except ShmQueueBrokerError:
                    pass  # another process changes something: what they get meanwhile is freed with them
                bindings = self._state.bindings.get(exchange, [])
        return bindings

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        found = self._state.exchanges.get(exchange)
        return self.exchange_types[default if found is None else found[0]]

    def list_bindings(self) -> list[tuple[str, str, str]]:
        found = self._state.bindings
        return [(queue, exchange, key) for exchange in found for key, queue, _ in found[exchange]]

    # ---- the end ----

    def close(self) -> None:
        """Close the channel: cancel its consumers, and give back what was not acknowledged."""
        if self.closed:
            return
        if os.getpid() != self._pid:  # what it has belongs to the parent
            self.closed = True
            return
        for lease, _ in list(self.leases.values()):
            _end_lease(lease, requeue=True)
        self.leases.clear()
        try:
            self._disown()
        except ShmQueueError:
            pass  # of what was removed or closed already: those who come next see that this process has none of it
        super().close()

    def _change(self, how: Callable[[State], bool], unless: Callable[[State], bool] = lambda state: False) -> None:
        """Change what is declared, unless it is so already, which is looked at before and after the lock is taken."""
        if not unless(self._state):
            self._messages.change(lambda state: not unless(state) and how(state))

    @property
    def _messages(self) -> Any:
        if self.connection is None:  # kombu uses a closed channel after it has connected again within a call
            raise RecoverableConnectionError("the channel is closed")
        return self.connection.messages

    @property
    def _state(self) -> State:
        state: State = self._messages.state()
        return state

    @property
    def _host(self) -> str:
        return self.connection.client.virtual_host or "/"

    def _not_found(self, what: str, name: str, method: str) -> ChannelError:
        return ChannelError(f"NOT_FOUND - no {what} {name!r} in vhost {self._host!r}", (50, 10), method, "404")


def _plain(arguments: dict[str, Any] | None) -> dict[str, Any]:
    return dict(arguments or {})
