"""kombu's Redis transports, with steps that take a message, and give it back, each at once.

kombu's ``basic_get`` takes a message, and records it as unacknowledged then: a consumer that is killed in between, or
whose connection is cut, loses it. Users who may not run scripts, or not the commands in them, have kombu's way.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

from kombu.transport.virtual.base import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

from shmqueue.broker.foreign import (
    ForeignError,
    Record,
    payload_of,
    redelivered,
    refusing,
    why_foreign,
    wrapped,
)
from shmqueue.interruptions import is_of_handler, not_of_handler

__all__ = ["with_atomic_get"]

_logger = logging.getLogger("shmqueue")
_ANSWER = 2.0  # seconds that the server has for each request of the last ones

_TAKE = """
local taken = redis.call('HGET', KEYS[2], ARGV[3])
if taken then
    return {string.sub(taken, 2, -string.len(ARGV[2]) - 6)}
end
for number = 3, #KEYS do
    local message = redis.call('LINDEX', KEYS[number], -1)
    if message then
        local is_known, properties = pcall(function() return cjson.decode(message).properties end)
        local tag = is_known and type(properties) == 'table' and properties.delivery_tag
        local recorded = message
        if type(tag) ~= 'string' or string.find(tag, '[^ -~]') then
            if message ~= ARGV[4] then
                return {message, number - 3}
            end
            recorded = ARGV[5]
        end
        local now = redis.call('TIME')
        local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
        redis.call('ZADD', KEYS[1], math.max(tonumber(ARGV[1]), seconds), ARGV[3])
        redis.call('HSET', KEYS[2], ARGV[3], '[' .. recorded .. ',"",' .. ARGV[2] .. ']')
        redis.call('RPOP', KEYS[number])
        return {recorded}
    end
end
return false
"""
"""Takes the oldest message of the first list of KEYS[3...] that has one. It is recorded as kombu's QoS records it: when
it was taken (seconds since the epoch, by the later of the server's clock and ARGV[1], the consumer's: a request may
have waited) in KEYS[1], and what it was, with the exchange "" and the queue ARGV[2] (in JSON), in KEYS[2]. So it comes
again there, wherever else kombu's exchanges would send it. The removal comes last: at the memory's limit Redis refuses
the other two.

It is recorded under the tag ARGV[3], which is new: what other programs put may have the same tag as another message. A
request that the client sends again, because it has got no answer, has the same one, and takes nothing else.

Returns the message. If it is none of kombu's: that and the number of its list, and takes nothing, unless it is ARGV[4].
Then ARGV[5] is recorded and returned in its place.
"""

_RESTORE = """
if redis.call('HGET', KEYS[2], ARGV[1]) then
    for number = 3, #KEYS do
        redis.call(ARGV[2], KEYS[number], ARGV[3])
    end
end
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
"""Puts the message ARGV[3] into the lists KEYS[3...], by ARGV[2]: LPUSH (behind all others) or RPUSH. It does so if the
delivery tag ARGV[1] is among what is unacknowledged (KEYS[1] and KEYS[2]), and removes that. The removal comes last: at
the memory's limit Redis refuses the other one. Returns how many it has removed.
"""


class _AtomicGet:
    """For a subclass of a Redis channel of kombu's."""

    def basic_get(self: Any, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """A message, or None. Without ``no_ack`` it is delivered again if it is not acknowledged."""
        with self.conn_or_acquire() as client:
            try:
                return self._remove(client, queue) if no_ack else self._take(client, queue)
            except Exception as error:
                if is_of_handler(error) or no_ack or not _is_without_scripts(error):
                    raise
            message = self._remove(client, queue)
        if message is not None:
            message.delivery_tag = uuid()  # another may have the same one
            self.qos.append(message, message.delivery_tag)
        return message

    def _take(self: Any, client: Any, queue: str) -> Any:
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps]
        tag = uuid()
        foreign: tuple[Any, ...] = ()
        while True:
            keys = _prefixed(client, self.unacked_index_key, self.unacked_key, *lists)
            taken = client.eval(_TAKE, len(keys), *keys, time.time(), dumps(queue), tag, *foreign)
            if not taken:
                return None
            found, *numbers = taken
            if not numbers:
                break
            payload = wrapped(found, why_foreign(found), tag, queue, self.priority_steps[numbers[0]])
            foreign = found, dumps(payload)
        message = self._message(found, queue)
        message.delivery_tag = tag
        QoS.append(self.qos, message, message.delivery_tag)  # what that of Redis does when it has recorded it
        return message

    def _remove(self: Any, client: Any, queue: str) -> Any:
        for priority in self.priority_steps:
            found = client.rpop(self._q_for_pri(queue, priority))
            if found is not None:
                return self._message(found, queue, priority)
        return None

    def _message(self: Any, found: bytes, queue: str, priority: int = 0) -> Any:
        """The message; or one that says that it is none."""
        try:
            payload = payload_of(found)
            with refusing():
                message = self.Message(payload, channel=self)
        except ForeignError as error:
            message = self.Message(wrapped(found, error, uuid(), queue, priority), channel=self)
        # Where it comes again.
        message.delivery_info = {**message.delivery_info, "exchange": "", "routing_key": queue}
        return message

    def put_back(self: Any, queue: str, messages: list[Any]) -> None:
        """Have messages that were removed handed out next, in their order: all of them or, if it fails, none.

        What kombu's encoder cannot write again is lost.
        """
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for message in reversed(messages):
                try:
                    pipe.rpush(self._list(queue, message._raw), redelivered(message._raw))
                except ForeignError as error:
                    _logger.warning("an item of queue %s cannot be put back: %s", queue, error)
            pipe.execute()

    def _list(self: Any, queue: str, payload: dict[str, Any]) -> str:
        with refusing():
            return self._q_for_pri(queue, self._get_message_priority(payload, reverse=False))  # type: ignore[no-any-return]


class _RestoreAtOnce:
    """For a subclass of the QoS of a Redis channel of kombu's.

    kombu gives back a message in a transaction that it begins again whenever another consumer takes, acknowledges or
    gives back one of the same queue meanwhile: under much traffic for ever.
    """

    was_held = True
    """Whether what was acknowledged or given back last was unacknowledged until then."""

    def ack(self: Any, delivery_tag: Any) -> None:
        """Acknowledge what has this delivery tag."""
        self.was_held = bool(self._remove_from_indices(delivery_tag).execute()[-1])
        QoS.ack(self, delivery_tag)

    def restore_by_tag(self: Any, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Have what has this delivery tag delivered again, before all others; with ``leftmost`` behind them."""
        tag = bytes_to_str(tag)
        self.was_held = False
        with self.channel.conn_or_acquire(client) as client:
            try:
                text, lists = self._unacknowledged(client, tag)
            except ForeignError as error:
                client.zrem(self.unacked_index_key, tag)  # or else every look finds it
                _logger.warning("%s %s cannot be given back: %s", self.unacked_key, tag, error)
                return
            keys = _prefixed(client, self.unacked_index_key, self.unacked_key, *lists)
            try:
                restored = client.eval(_RESTORE, len(keys), *keys, tag, "LPUSH" if leftmost else "RPUSH", text)
            except Exception as error:
                if is_of_handler(error) or not _is_without_scripts(error):
                    if "WRONGTYPE" not in str(error) or tag in self._delivered:
                        raise
                    # One record of another program's, which stays in case that list is one later.
                    _logger.warning("%s %s cannot be given back: %s", self.unacked_key, tag, error)
                    return
                restored = self._restore_plainly(client, tag, text, lists, leftmost)
            self.was_held = bool(restored)

    def _restore_plainly(self: Any, client: Any, tag: str, text: str, lists: list[str], is_leftmost: bool) -> Any:
        """``_RESTORE`` as a transaction of kombu's kind."""

        def restore(pipe: Any) -> bool:
            is_there = pipe.hget(self.unacked_key, tag) is not None
            pipe.multi()
            for name in lists if is_there else ():
                (pipe.lpush if is_leftmost else pipe.rpush)(name, text)
            self._remove_from_indices(tag, pipe)
            return is_there

        return client.transaction(restore, self.unacked_key, value_from_callable=True)

    def _unacknowledged(self: Any, client: Any, tag: str) -> tuple[str, list[str]]:
        """What has this tag, ``redelivered``, and the lists in which it comes again; none, if nothing has it."""
        message = self._delivered.get(tag)
        if message is not None:
            try:
                queue = message.delivery_info["routing_key"]
                return redelivered(message._raw), [self.channel._list(queue, message._raw)]
            except ForeignError:
                pass  # the record has its bytes
        if not (record := client.hget(self.unacked_key, tag)):
            return "", []
        payload, text, exchange, routing_key = Record.of(record)
        queues = self.channel._lookup(exchange, routing_key) or [routing_key]
        return text, [self.channel._list(queue, payload) for queue in queues]

    def restore_visible(self: Any, *arguments: Any, **options: Any) -> None:
        """Give back what was not acknowledged in time."""
        try:
            super().restore_visible(*arguments, **options)  # type: ignore[misc]
        except Exception as error:
            if is_of_handler(error) or not _is_without_scripts(error):
                raise
            # A script releases the lock with which kombu does it; that ends by itself.


class _RestoreInTime:
    """For a subclass of the QoS of a Redis channel of kombu's.

    At the end of a channel, and of the interpreter, kombu gives back what is unacknowledged, and waits for a silent
    server for ever. What is not given back in time comes again when the visibility timeout is over.
    """

    def restore_unacked_once(self: Any, stderr: Any = None) -> None:
        try:
            pools = filter(None, (self.channel._pool, self.channel._async_pool)) if self._delivered else ()
            for pool in pools:
                pool.connection_kwargs["socket_timeout"] = _ANSWER  # of those to come
                for connection in [*pool._available_connections, *pool._in_use_connections]:
                    connection.socket_timeout = _ANSWER  # as soon as it connects again
                    connection.retry.update_retries(0)
                    connection.disconnect()
            super().restore_unacked_once(stderr)  # type: ignore[misc]
        except not_of_handler(Exception) as error:  # of whatever kind: the client's
            _logger.warning("unacknowledged items come again later, at the timeout: %r", error)


def _prefixed(client: Any, *keys: str) -> list[str]:
    """The keys of a script, to which the client does not add its prefix."""
    prefix = getattr(client, "global_keyprefix", "")
    return [f"{prefix}{key}" for key in keys]


def _is_without_scripts(error: Exception) -> bool:
    """Whether the server has none, or this user may not run any, or not all commands in it."""
    text = str(error)
    return (
        type(error).__name__ == "NoPermissionError"
        or "unknown command" in text
        or "The user executing the script can't run" in text
    )


@functools.cache
def with_atomic_get(transport: type[Any]) -> type[Any]:
    """A subclass of one of kombu's transports for Redis."""
    qos = type("QoS", (_RestoreInTime, _RestoreAtOnce, transport.Channel.QoS), {})
    channel = type("Channel", (_AtomicGet, transport.Channel), {"QoS": qos})
    return type(transport.__name__, (transport,), {"Channel": channel})
