"""kombu's transports: which one a URL names, how it is to behave, and how it fails."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import kombu
from kombu.exceptions import OperationalError
from kombu.transport import get_transport_cls

from shmqueue.arguments import require_span
from shmqueue.broker.redis import with_atomic_get
from shmqueue.broker.urls import BrokerUrl, shown
from shmqueue.exceptions import ShmQueueValueError
from shmqueue.interruptions import not_of_handler

__all__ = ["connection_to", "failures_of", "is_final", "transport_of"]

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A call that waits for a machine that is gone fails after a minute. RabbitMQ's client has such options of its own.

The last one (milliseconds) is for a request that was not even received.
"""
_RESTORE_LONGEST = 10.0  # seconds after which a client that restores messages counts as dead. kombu: 300


def transport_of(parts: BrokerUrl, options: dict[str, Any]) -> Any:
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
    except not_of_handler(ImportError, NameError, AttributeError) as error:  # of kombu's modules without their client
        raise ImportError(_without_client(where, error)) from error
    if not all(isinstance(error, type) for error in (*transport.connection_errors, *transport.channel_errors)):
        raise ImportError(_without_client(where, "the errors of its client are unknown"))  # the way of kombu's SLMQ
    if transport.driver_type == "redis":
        for key in ("unacked", "unacked_index", "unacked_mutex"):  # or else the shortest timeout of all queues holds
            options.setdefault(f"{key}_key", f"{key}-{parts.queue}")
        options.setdefault("unacked_mutex_expire", _RESTORE_LONGEST)
        options.setdefault("socket_keepalive", True)
        known = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
        options.setdefault("socket_keepalive_options", known)
    try:
        return connection_to(parts.url, options).transport
    except ImportError:
        raise
    except not_of_handler(Exception) as error:  # of whatever kind: it is kombu that looks at the rest of the URL
        raise ShmQueueValueError(f"kombu refuses url {where!r}, or the transport_options: {error!r}") from error


def connection_to(url: str, options: Mapping[str, Any]) -> Any:
    """A connection of kombu's, not connected yet.

    Args:
        url, options: for ``kombu.Connection``.
    """
    connection = kombu.Connection(url, transport_options=dict(options))
    transport = connection.get_transport_cls()
    if transport.driver_type == "redis":
        connection.transport_cls = with_atomic_get(transport)
    return connection


def _without_client(where: str, why: object) -> str:
    return f"kombu cannot use url {where!r}: {why}; kombu[redis], for instance, has what Redis needs"


def failures_of(transport: Any) -> tuple[type[BaseException], ...]:
    """What is raised when a broker cannot be reached, or refuses."""
    return (*transport.connection_errors, *transport.channel_errors, OperationalError, OSError)


def is_final(failure: BaseException) -> bool:
    """Whether it would be the same with every other try."""
    return any("Irrecoverable" in kind.__name__ or kind.__name__ == "AccessRefused" for kind in type(failure).__mro__)
