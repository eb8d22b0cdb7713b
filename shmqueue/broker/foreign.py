"""Messages in a list at Redis, and what other programs put there that is none: it is kept as a message that says so."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from kombu.utils.uuid import uuid

from shmqueue.interruptions import is_of_handler

__all__ = [
    "FOREIGN",
    "ForeignError",
    "Record",
    "payload_of",
    "redelivered",
    "refusing",
    "why_foreign",
    "wrapped",
]

FOREIGN = "application/x-shmqueue-foreign"
"""The content type of what is no message: the body is its bytes in hexadecimal, the header ``reason`` says why."""
_TAG = re.compile("[ -~]*")  # or else it is perhaps another one to the script that takes messages
_BETWEEN = b',"",'  # the message and its queue in a record; within JSON's strings the quotation marks are escaped


class ForeignError(ValueError):
    """Something is no message; the text says why. Not a KeyError, for kombu a failure of the connection to Redis."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what kombu and its decoders raise about what is no message, of whatever kind, into a ForeignError."""
    try:
        yield
    except Exception as error:
        if is_of_handler(error) or isinstance(error, (ForeignError, MemoryError)):
            raise
        raise ForeignError(f"{error!r:.200}") from error


def payload_of(found: bytes) -> dict[str, Any]:
    """What kombu makes a message of.

    Raises:
        ForeignError: it cannot be one.
    """
    with refusing():
        return _checked(loads(bytes_to_str(found)))


def _checked(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict) or not isinstance(properties := payload.get("properties"), dict):
        raise ForeignError("it is no JSON object with properties")
    if "body" not in payload:
        raise ForeignError("it has no body")
    if not isinstance(payload["body"], (str, bytes)):  # bytes, if the transport option body_encoding is None
        raise ForeignError(f"its body is {payload['body']!r:.40}")
    if not _is_priority(properties.get("priority")):
        del properties["priority"]  # kombu fails at it when it gives the message back
    tag = properties.get("delivery_tag")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise ForeignError(f"its delivery tag is {tag!r:.40}")
    for where, key in ((payload, "headers"), (properties, "delivery_info")):
        where[key] = where.get(key) or {}  # kombu loses what has null there when it gives it back
        if not isinstance(where[key], dict):
            raise ForeignError(f"its {key} is no JSON object")
    return payload


def _is_priority(value: Any) -> bool:
    """Whether kombu makes a priority of it: the default one, if need be."""
    return value is None or isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))


def why_foreign(found: bytes) -> ForeignError:
    """Why it is no message."""
    try:
        payload_of(found)
    except ForeignError as error:
        return error
    return ForeignError("Redis cannot read it as JSON")


def wrapped(found: bytes, why: ForeignError, tag: str, queue: str, priority: int) -> dict[str, Any]:
    """The payload of a message that has what is none.

    Args:
        found: that.
        why: the reason.
        tag: the delivery tag.
        queue, priority: of the list that it was in.
    """
    return {
        "body": found.hex(),
        "content-type": FOREIGN,
        "content-encoding": "utf-8",
        "headers": {"reason": str(why)},
        "properties": {
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_mode": 2,
            "priority": priority,
        },
    }


def redelivered(payload: dict[str, Any]) -> str:
    """The message with this payload, delivered again. Its new tag keeps it from whatever has the old one.

    Raises:
        ForeignError: kombu's encoder fails at it.
    """
    properties = payload["properties"]
    again = {
        **payload,
        "headers": {**payload["headers"], "redelivered": True},
        "properties": {
            **properties,
            "delivery_tag": uuid(),
            "delivery_info": {**properties["delivery_info"], "redelivered": True},
        },
    }
    with refusing():
        return str(dumps(again))


class Record(NamedTuple):
    """What is recorded of a message that is not acknowledged."""

    payload: dict[str, Any]
    again: str
    """The message, ``redelivered``."""
    exchange: str
    routing_key: str

    @classmethod
    def of(cls, record: bytes) -> Record:
        """The record in these bytes.

        Raises:
            ForeignError: it is none, neither kombu's nor one of a message that only the script could read.
        """
        found, _, queue = record[1:-1].rpartition(_BETWEEN)
        with refusing():
            try:
                payload, exchange, routing_key = loads(bytes_to_str(record))
                parts = cls(payload, redelivered(_checked(payload)), exchange, routing_key)
            except Exception as error:  # of whatever kind: kombu's decoders
                if is_of_handler(error) or not queue:
                    raise
                name = loads(bytes_to_str(queue))
                payload = wrapped(found, ForeignError(f"{error!r:.200}"), uuid(), name, 0)
                parts = cls(payload, redelivered(payload), "", name)
        if not isinstance(parts.exchange, str) or not isinstance(parts.routing_key, str):
            raise ForeignError("its exchange or its routing key is no text")
        if not parts.exchange and not parts.routing_key:
            raise ForeignError("it has no queue")
        return parts
