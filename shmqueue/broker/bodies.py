"""Items as the bodies of a broker's messages, and what other programs put there."""

from __future__ import annotations

from typing import Any

from kombu.serialization import prepare_accept_content

from shmqueue.exceptions import ShmQueueDeserializationError
from shmqueue.interruptions import not_of_handler
from shmqueue.serialization import Serializer

__all__ = ["CONTENT_TYPE", "Bodies"]

CONTENT_TYPE = "application/x-shmqueue"
_METHOD_BYTES = 4
_FOREIGN = ["json", "msgpack", "text/plain"]
"""Content types that other programs may put, none of which can run anything."""


class Bodies:
    """Makes bodies of items, and items of messages.

    Args:
        serializer: of the items.
    """

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer

    def dump(self, item: Any) -> bytes:
        """The body of an item.

        Raises:
            ShmQueueSerializationError: it cannot be serialized.
        """
        method, payload = self._serializer.dump(item)
        parts = payload if isinstance(payload, tuple) else (payload,)
        return b"".join((method.to_bytes(_METHOD_BYTES, "little"), *parts))

    def load(self, message: Any) -> Any:
        """The item in a message of kombu's.

        Raises:
            ShmQueueDeserializationError: it cannot be loaded.
        """
        if message.content_type == CONTENT_TYPE:
            body = bytes(message.body)
            return self._serializer.load(int.from_bytes(body[:_METHOD_BYTES], "little"), body[_METHOD_BYTES:])
        try:
            message.accept = prepare_accept_content(_FOREIGN)
            return message.decode()
        except not_of_handler(Exception) as error:  # of whatever kind: the decoders are those of other packages
            raise ShmQueueDeserializationError(
                f"cannot load an item of content type {message.content_type!r}: {error!r}"
            ) from error
