"""Items as the bodies of a broker's messages, and what other programs put there."""

from __future__ import annotations

from typing import Any

from kombu.serialization import prepare_accept_content

from shmqueue.broker.foreign import FOREIGN
from shmqueue.exceptions import ShmQueueDeserializationError
from shmqueue.interruptions import not_of_handler
from shmqueue.serialization import Serializer

__all__ = ["CONTENT_TYPE", "Bodies"]

CONTENT_TYPE = "application/x-shmqueue"
_METHOD_BYTES = 4
_SHOWN_BYTES = 40
_OF_OTHERS = ["json", "msgpack", "text/plain"]
"""Content types that other programs may put, none of which can run anything."""


class Bodies:
    """Makes bodies of items, and items of messages.

    Args:
        serializer: of the items.
        where: what errors call the queue.
    """

    def __init__(self, serializer: Serializer, where: str) -> None:
        self._serializer, self._where = serializer, where

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
        kind = message.content_type
        try:
            if kind not in (CONTENT_TYPE, FOREIGN):
                message.accept = prepare_accept_content(_OF_OTHERS)
                return message.decode()
            body = bytes(memoryview(message.body))  # of a number bytes() makes as many zeros
            what = _told(message.headers, body) if kind == FOREIGN else ""
        except not_of_handler(Exception) as error:  # of whatever kind: the decoders are those of other packages
            raise ShmQueueDeserializationError(
                f"cannot load an item of queue {self._where}, of content type {kind!r}: {error!r}"
            ) from error
        if kind == FOREIGN:
            raise ShmQueueDeserializationError(
                f"cannot load what another program put into queue {self._where}, which is no message of kombu's: {what}"
            )
        return self._serializer.load(int.from_bytes(body[:_METHOD_BYTES], "little"), body[_METHOD_BYTES:])


def _told(headers: Any, body: bytes) -> str:
    """Why it is no message, and how it begins."""
    return f"{headers['reason']}; it begins with {bytes.fromhex(body[: 2 * _SHOWN_BYTES].decode())!r}"
