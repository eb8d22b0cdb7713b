"""The same queue by a URL: in shared memory on this machine, or at a broker that several machines reach.

>>> import shmqueue
>>> with shmqueue.connect("shm://jobs") as q:
...     q.put({"hello": "world"})
...     q.get()
{'hello': 'world'}

Brokers are reached through kombu, which is imported when a URL asks for one (extra ``broker``).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmqueue.exceptions import ShmQueueValueError

if TYPE_CHECKING:
    from shmqueue.broker.queue import BrokerQueue
    from shmqueue.queue import ShmQueue

__all__ = ["connect"]

_SIZES = ("buffer_size", "max_bytes", "maxsize")
_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


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
            ``max_retries`` (None for ever), ``interval_start``, ``interval_step``, ``interval_max`` (seconds). Not for
            shm://.
        transport_options: for ``kombu.Connection``. Not for shm://.

    Raises:
        ShmQueueValueError: the URL cannot be used; the message says why.
        ImportError: kombu, or what it needs for this broker, is not installed.
        ShmQueueError: what ``ShmQueue`` raises. A broker is connected to with the first operation.
    """
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "shm":
        if retry_policy or transport_options:
            raise ShmQueueValueError("retry_policy and transport_options are for brokers, not for shm://")
        return _open_shared(parts, query, allow_pickle)
    from shmqueue.broker.queue import BrokerQueue

    return BrokerQueue(url, allow_pickle=allow_pickle, retry_policy=retry_policy, transport_options=transport_options)


def _open_shared(parts: urllib.parse.SplitResult, query: dict[str, str], allow_pickle: bool) -> ShmQueue:
    from shmqueue.queue import ShmQueue

    name = urllib.parse.unquote(parts.netloc)
    if not name or parts.path not in ("", "/"):
        raise ShmQueueValueError(f"a shm:// URL for connect() is shm://NAME, not {parts.geturl()!r}")
    options: dict[str, Any] = {}
    for key, text in query.items():
        if key in _SIZES:
            options[key] = _whole_number(key, text)
        elif key == "keep" and text.lower() in _BOOLS:
            options[key] = _BOOLS[text.lower()]
        else:
            raise ShmQueueValueError(
                f"{key}={text} means nothing in a shm:// URL: it takes {', '.join(_SIZES)} and keep=1"
            )
    return ShmQueue(name, allow_pickle=allow_pickle, **options)


def _whole_number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ShmQueueValueError(f"{key} must be a whole number, not {text!r}") from None
