"""Connections of kombu on ``shm://``, and one queue to publish to and to take from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu

from shmqueue.compat.kombu import remove

JOBS = kombu.Queue("jobs", routing_key="jobs")


Connect = Callable[..., kombu.Connection]


@contextmanager
def connections() -> Iterator[Connect]:
    """Makes connections; at the end all are closed, and everything that was declared is removed."""
    opened: list[kombu.Connection] = []

    def open_connection(url: str = "shm://", **options: Any) -> kombu.Connection:
        connection = kombu.Connection(url, transport_options=options)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()
    for namespace in {"", *(connection.virtual_host.strip("/") for connection in opened)}:
        remove(namespace)


def publish(channel: Any, *bodies: Any, queue: kombu.Queue = JOBS, **options: Any) -> None:
    producer = kombu.Producer(channel)
    for body in bodies:
        producer.publish(
            body, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], retry=False, **options
        )


def take(channel: Any, queue: kombu.Queue = JOBS) -> Any:
    message = queue(channel).get()
    assert message is not None
    message.ack()
    return message.payload
