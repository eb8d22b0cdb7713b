"""The messages of one priority of a queue, and the records that they are.

A record that is none of this transport's messages is logged and acknowledged: what is behind it comes.

This module knows nothing of kombu's classes, except how kombu writes as JSON what msgpack cannot keep.
"""

from __future__ import annotations

import logging
import reprlib
from typing import Any

from kombu.utils.json import dumps as dump_json
from kombu.utils.json import loads as load_json

from shmqueue import clock
from shmqueue.exceptions import ShmQueueDeserializationError, ShmQueueEmpty, ShmQueueSerializationError
from shmqueue.handle import Handle
from shmqueue.interruptions import is_of_handler
from shmqueue.items import items_of
from shmqueue.leases import Lease, take_lease
from shmqueue.serialization import Serializer

__all__ = ["NO_LIMIT", "Level"]

NO_LIMIT = 0.0
"""The deadline of a message that is never too old."""

_SHOWN_MOST = 200  # characters of an item in the log
_serializer = Serializer(allow_pickle=False)


class Level:
    """The messages of one priority."""

    def __init__(self, handle: Handle) -> None:
        self.handle, self.engine = handle, handle.engine
        self._put_item = items_of(handle.engine).put_item

    def put(self, message: Any, deadline: float, timeout: float) -> bool:
        """False: there was no room within ``timeout`` seconds, or until another message may be dropped.

        Messages whose time is over make room for new ones: their consumer may be stopped.
        """
        if self._put(message, deadline, 0.0):
            return True
        expiry = self._drop_expired()
        if expiry is not None:
            timeout = min(timeout, max(0.0, expiry - clock.monotonic()))
        return self._put(message, deadline, timeout)

    def _put(self, message: Any, deadline: float, timeout: float) -> bool:
        put = self._put_item((deadline, message), True, timeout, False)
        return bool(self.engine.put(*_dump((deadline, message)), True, timeout) if put is None else put)

    def _drop_expired(self) -> float | None:
        """Drop the oldest messages while their time is over.

        Others are not even leased for a moment: they keep their place, and are not delivered as redelivered.

        Returns:
            When the time of the one that is the oldest now is over; None, never, or there is none.
        """
        while True:
            try:
                found = self.engine.peek(False, None)
            except ShmQueueEmpty:
                return None  # another process has the lock of the queue: the put waits for it, too
            if found is None:
                return None
            number, method, payload = found
            message = _message_of(_load(method, payload))
            if message is None or message[0] == NO_LIMIT:
                return None
            if clock.monotonic() < message[0]:
                return message[0]
            if self.engine.take(number):
                self.engine.task_done()  # as its acknowledgement would

    def lease(self) -> tuple[Lease[Any], Any] | None:
        """The oldest message that is not too old, and its lease."""
        while True:
            lease = take_lease(self.engine, False, None, _load)
            if lease is None:
                return None
            found = _message_of(lease.item)
            if found is None:
                logging.getLogger("shmqueue").error(
                    "queue %r: an item is no message of kombu on shm://; it is dropped: %s",
                    self.handle.name,
                    _beginning(lease.item),
                )
            else:
                deadline, message = found
                if deadline == NO_LIMIT or clock.monotonic() < deadline:
                    return lease, message
            lease.ack()


class _Foreign:
    """A record that cannot be loaded: what the log says of it."""

    def __init__(self, error: Exception, payload: bytes) -> None:
        self._text = f"{bytes(payload[:_SHOWN_MOST])!r} ({error})"

    def __repr__(self) -> str:
        return self._text


def _load(method: int, payload: bytes) -> Any:
    try:
        return _serializer.load(method, payload)
    except ShmQueueDeserializationError as error:
        return _Foreign(error, payload)


def _message_of(item: Any) -> tuple[float, dict[str, Any]] | None:
    """When its time is over, and the message; None: any program can put an item there, and this one is no message."""
    if isinstance(item, str):
        try:
            item = load_json(item)
        except Exception as error:  # anything: which decoders kombu has, programs decide
            if isinstance(error, MemoryError) or is_of_handler(error):
                raise
            return None
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        return None
    deadline, message = item
    if not isinstance(deadline, (int, float)) or not isinstance(message, dict):
        return None
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return None
    if not isinstance(properties.get("delivery_info"), dict) or properties.get("body_encoding") is not None:
        return None
    return deadline, message


class _Beginning(reprlib.Repr):
    """The beginning of any item, without a copy of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _SHOWN_MOST

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[:_SHOWN_MOST])

    repr_bytearray = repr_bytes


def _beginning(item: Any) -> str:
    return _Beginning().repr(item)[:_SHOWN_MOST]


def _dump(item: Any) -> tuple[int, Any]:
    """A message that is more than msgpack keeps, as a record; kombu has its own ways for dates and the like."""
    try:
        return _serializer.dump_rest(item)
    except ShmQueueSerializationError:
        return _serializer.dump(dump_json(item))
