"""The same queue by a URL: in shared memory on this machine, or at a broker that several machines reach.

>>> import shmqueue
>>> with shmqueue.connect("shm://jobs") as q:
...     q.put({"hello": "world"})
...     q.get()
{'hello': 'world'}

Brokers are reached through kombu, which is imported when a URL asks for one (extra ``broker``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmqueue.broker.urls import SharedUrl, scheme_of
from shmqueue.exceptions import ShmQueueValueError

if TYPE_CHECKING:
    from shmqueue.broker.queue import BrokerQueue
    from shmqueue.queue import ShmQueue

__all__ = ["connect"]


def connect(
    url: str,
    *,
    allow_pickle: bool = False,
    retry_policy: Mapping[str, Any] | None = None,
    transport_options: Mapping[str, Any] | None = None,
) -> ShmQueue | BrokerQueue:
    """Open the queue that a URL names.

    ``shm://jobs`` is ``ShmQueue("jobs")``; its query may have ``buffer_size``, ``max_bytes``, ``maxsize`` and ``keep``.
    Of every other URL, ``redis://host:6379/0?queue=jobs`` or ``amqp://user:password@host//?queue=jobs``, the query has
    the name of the queue and perhaps ``visibility_timeout`` (seconds), and the rest is kombu's.

    Args:
        url: where the queue is.
        allow_pickle: True, items that msgpack does not keep are pickled, and pickled ones are loaded. A broker's other
            users can put what they like, so this is False by default, whatever the URL.
        retry_policy: how an operation is tried again after the broker went away; keys and meaning are those of kombu:
            ``max_retries`` (10; None for ever), ``interval_start`` (0), ``interval_step`` (0.2), ``interval_max`` (1;
            seconds). A call that has a timeout is tried again until that is over, unless ``max_retries`` is given. Not
            for shm://.
        transport_options: for ``kombu.Connection``. Not for shm://.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: an argument cannot be used; the message says which and why.
        ShmQueueUnsupportedError: the URL asks a broker for what only ``ShmQueue`` has.
        ImportError: kombu, or what it needs for this broker, is not installed.
        ShmQueueError: what ``ShmQueue`` raises. A broker is connected to with the first operation.
    """
    if scheme_of(url) == "shm":
        if retry_policy is not None or transport_options is not None:
            raise ShmQueueValueError("retry_policy and transport_options are for brokers, not for shm://")
        from shmqueue.queue import ShmQueue

        shared = SharedUrl.of(url)
        return ShmQueue(shared.name, allow_pickle=allow_pickle, **shared.arguments)
    from shmqueue.broker.queue import BrokerQueue

    return BrokerQueue(url, allow_pickle=allow_pickle, retry_policy=retry_policy, transport_options=transport_options)
