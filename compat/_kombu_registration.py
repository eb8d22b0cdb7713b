"""What kombu loads by itself: the serializer ``shmqueue``, and with it the transport ``shm://``.

kombu has no entry points for transports, but some for serializers, which ``kombu.serialization`` loads. Every Celery
application imports that. The transport itself is loaded when it is used.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES

from shmqueue.serialization import Serializer

__all__ = ["CONTENT_TYPE", "decode", "encode", "serializer"]

CONTENT_TYPE = "application/x-shmqueue"
_METHOD_BYTES = 4
_serializer = Serializer(allow_pickle=False)


def encode(item: Any, rules: Serializer = _serializer) -> bytes:
    """An item as bytes that keep its types: the number of its record's method, then the record.

    Raises:
        ShmQueueSerializationError: it cannot be done by these rules.
    """
    method, payload = rules.dump(item)
    parts = payload if isinstance(payload, tuple) else (payload,)
    return b"".join((method.to_bytes(_METHOD_BYTES, "little"), *parts))


def decode(data: Any, rules: Serializer = _serializer) -> Any:
    """The item of what ``encode`` has returned.

    Raises:
        ShmQueueDeserializationError: it cannot be done by these rules.
    """
    data = bytes(data)
    return rules.load(int.from_bytes(data[:_METHOD_BYTES], "little"), data[_METHOD_BYTES:])


TRANSPORT_ALIASES.setdefault("shm", "shmqueue.compat.kombu:Transport")

serializer = (encode, decode, CONTENT_TYPE, "binary")
"""What ``kombu.serialization.register`` takes."""
