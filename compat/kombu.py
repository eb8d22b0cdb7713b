"""``shm://``, a transport for kombu: Celery and other programs on one machine, without a broker.

>>> app = celery.Celery("app", broker="shm://")  # doctest: +SKIP

Celery finds the transport by itself if this package is installed. A program that uses kombu alone imports
``shmqueue.compat.kombu`` once. ``shm:///name``, or ``shm://name``, is a namespace of its own.

A message that was taken and not acknowledged is a lease: when the process that has it is killed, another one gets it
at once, with ``redelivered`` set. Exchanges, bindings and queues are those that all processes of the namespace have
declared; they and the messages stay until they are deleted (``remove``) or the machine restarts. Queues that are
declared with ``auto_delete`` or ``exclusive`` end with the last process that has declared or consumed them.

Options (``transport_options``):
    max_bytes: most bytes of each queue that this connection declares; by default all the memory there is.
    put_timeout: seconds that a publish waits for room at most, before it raises ``ShmQueueFull``; by default for ever.
    declare_timeout: seconds that a declaration (of a queue, an exchange or a binding, and its end) waits for that of
        another process at most, before it raises ``ShmQueueBrokerError``, which kombu and Celery retry; by default 10.
        It waits that long only if the other process was stopped (SIGSTOP, Ctrl-Z). Messages are published to queues
        that are declared, and consumed, meanwhile.

Any program of this user can put an item into a queue of the transport (``shmqueue put kombu.celery ...``). An item that
is no message of kombu's is logged as an error, with the queue's name and the beginning of the item, and acknowledged:
it is lost, and the messages behind it are delivered.
"""

from __future__ import annotations

import importlib.metadata
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, base, virtual

from shmqueue import clock
from shmqueue.arguments import require_int, require_span
from shmqueue.exceptions import (
    ShmQueueBrokerError,
    ShmQueueCorruptedError,
    ShmQueueError,
    ShmQueueFull,
    ShmQueueNotFoundError,
    ShmQueueNotInitializedError,
    ShmQueueValueError,
)

from ._kombu_channel import Channel
from ._kombu_doorbell import Doorbell
from ._kombu_messages import Messages
from ._kombu_topology import PATIENCE, Topology, namespace_of

__all__ = ["Channel", "Transport", "remove"]

_BATCH = 10  # messages that are delivered in a row before the event loop does something else

TRANSPORT_ALIASES.setdefault("shm", "shmqueue.compat.kombu:Transport")


class Transport(virtual.Transport):  # type: ignore[misc]
    """The transport; made by ``kombu.Connection("shm://")``."""

    Channel = Channel
    driver_type = "shm"
    driver_name = "shmqueue"
    default_port = 0
    polling_interval = None
    recoverable_connection_errors = base.Transport.connection_errors
    recoverable_channel_errors = (
        *base.Transport.channel_errors,
        ShmQueueBrokerError,  # what can be tried again on the same connection
        ShmQueueFull,
        ShmQueueNotFoundError,
    )
    connection_errors = (
        *base.Transport.connection_errors,
        ShmQueueBrokerError,  # a Celery worker connects again after one of these only
        ShmQueueCorruptedError,
        ShmQueueNotInitializedError,
    )
    channel_errors = (*base.Transport.channel_errors, ShmQueueError)
    implements = base.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"]), heartbeats=False
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self._loop: Any = None
        self._doorbell: Doorbell | None = None
        self._messages: Messages | None = None

    @property
    def messages(self) -> Messages:
        """The queues of this connection."""
        if self._messages is None:
            options = self.client.transport_options
            max_bytes, put_timeout = options.get("max_bytes"), options.get("put_timeout")
            if max_bytes is not None:
                max_bytes = require_int("max_bytes", max_bytes, least=1)
            if put_timeout is not None:
                put_timeout = require_span("put_timeout", put_timeout, is_zero_allowed=True)
            patience = require_span("declare_timeout", options.get("declare_timeout", PATIENCE), is_zero_allowed=True)
            topology = Topology(_namespace(self.client), max_bytes, patience)
            self._messages = Messages(topology, put_timeout, self._queues_in_use)
        return self._messages

    @property
    def doorbell(self) -> Doorbell:
        """What wakes this connection's consumers."""
        if self._doorbell is None:
            self._doorbell = Doorbell()
        return self._doorbell

    def driver_version(self) -> str:
        return importlib.metadata.version("shmqueue")

    def establish_connection(self) -> Any:
        self.messages.state()  # raises if it cannot be had
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        self._leave_loop()
        super().close_connection(connection)
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        if self._messages is not None:
            self._messages.close()
            self._messages = None

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver what there is, at most a few messages, waiting for the first.

        Raises:
            TimeoutError: there was none in time.
        """
        deadline = None if timeout is None else clock.monotonic() + timeout
        while not self._deliver_some():
            left = None if deadline is None else deadline - clock.monotonic()
            if not self.doorbell.wait(None if left is None else max(0.0, left)):
                raise TimeoutError

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver messages from an event loop of kombu."""
        self._leave_loop()
        self._loop = loop
        loop.add_reader(self.doorbell.fileno(), self._on_readable)
        self.doorbell.ring()

    def _on_readable(self) -> None:
        self._deliver_some()

    def _deliver_some(self) -> int:
        """Deliver what there is, and have the doorbell ring when there may be more. Returns how many it was."""
        doorbell = self.doorbell
        doorbell.quiet()
        held_up = self.messages.held_up
        wishes = [wish for channel in self.channels for wish in channel.wishes()]
        delivered = 0
        try:
            while delivered < _BATCH:
                round_of_channels = self._deliver_one_each()
                if not round_of_channels:
                    if self.messages.held_up == held_up:
                        doorbell.ring_for(wishes)
                    else:
                        doorbell.ring()  # it is something else that is to be waited for
                    return delivered
                delivered += round_of_channels
        except BaseException:
            doorbell.ring()  # a callback has raised: there may be more
            raise
        doorbell.ring()
        return delivered

    def _deliver_one_each(self) -> int:
        """Deliver one message of each channel that has one, and return how many it was. The newest channel comes first.

        Celery opens the channel of its control commands after that of its tasks, and a command to revoke a task that
        was sent before the task must not come after it.
        """
        delivered = 0
        for channel in reversed(list(self.channels)):
            try:
                channel.drain_events()
            except Empty:
                continue
            delivered += 1
        return delivered

    def _queues_in_use(self) -> set[str]:
        return {queue for channel in list(self.channels) for queue in channel.queues_in_use()}

    def _leave_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._doorbell is not None:
            loop.remove(self._doorbell.fileno())


def remove(namespace: str = "") -> None:
    """Remove all that was declared in a namespace, with all messages. The programs that use it must have ended."""
    Topology(namespace_of(namespace)).remove()


def _namespace(client: Any) -> str:
    path, host = (client.virtual_host or "").strip("/"), client.hostname or ""
    host = "" if host == "localhost" else host  # which is kombu's word for none
    if client.userid or client.password or client.port or (host and path):
        raise ShmQueueValueError("a shm:// URL for kombu is shm://, shm:///NAME or shm://NAME, without user and port")
    return namespace_of(host or path)
