"""kombu's Redis transports, with a ``basic_get`` that takes a message and records it as unacknowledged at once.

kombu's own takes it, and records it then: a consumer that is killed in between, or whose connection is cut, loses it.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

from kombu.transport.virtual.base import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from shmqueue.interruptions import is_of_handler, not_of_handler

__all__ = ["with_atomic_get"]

_ANSWER = 2.0  # seconds that the server has for each request of the last ones

_TAKE = """
for number = 3, #KEYS do
    local message = redis.call('LINDEX', KEYS[number], -1)
    if message then
        local is_known, properties = pcall(function() return cjson.decode(message).properties end)
        local tag = is_known and type(properties) == 'table' and properties.delivery_tag
        local info = tag and properties.delivery_info
        local is_recorded = type(tag) == 'string' and type(info) == 'table'
        if is_recorded then
            local where = cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key or '')
            local now = redis.call('TIME')
            local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
            redis.call('ZADD', KEYS[1], math.max(tonumber(ARGV[1]), seconds), tag)
            redis.call('HSET', KEYS[2], tag, '[' .. message .. ',' .. where .. ']')
        end
        redis.call('RPOP', KEYS[number])
        return {message, is_recorded and 1 or 0}
    end
end
return false
"""
"""Takes the oldest message of the first list of KEYS[3...] that has one. It is recorded as kombu's QoS records it: when
it was taken (seconds since the epoch, by the later of the server's clock and ARGV[1], the consumer's: a request may
have waited) in KEYS[1], and what it was in KEYS[2]. The removal comes last: at the memory's limit Redis refuses the
other two.

Returns the message, and 1, or 0 if it is not one of kombu's and was only removed.
"""


class _AtomicGet:
    """For a subclass of a Redis channel of kombu's."""

    def basic_get(self: Any, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """A message, or None. Without ``no_ack`` it is delivered again if it is not acknowledged."""
        if no_ack:  # removed, and that is all
            return super().basic_get(queue, no_ack=True, **options)  # type: ignore[misc]
        with self.conn_or_acquire() as client:
            keys = [self.unacked_index_key, self.unacked_key]
            keys += [self._q_for_pri(queue, priority) for priority in self.priority_steps]
            prefix = getattr(client, "global_keyprefix", "")  # the client does not add it to a script's keys
            try:
                taken = client.eval(_TAKE, len(keys), *(f"{prefix}{key}" for key in keys), time.time())
            except Exception as error:
                if is_of_handler(error) or not _is_without_scripts(error):
                    raise
                return super().basic_get(queue, **options)  # type: ignore[misc]
        if not taken:
            return None
        found, is_recorded = taken
        message = self.Message(loads(bytes_to_str(found)), channel=self)
        if is_recorded:
            QoS.append(self.qos, message, message.delivery_tag)  # what that of Redis does when it has recorded it
        else:
            self.qos.append(message, message.delivery_tag)
        return message


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
            logging.getLogger("shmqueue").warning("unacknowledged items come again later, at the timeout: %r", error)


def _is_without_scripts(error: Exception) -> bool:
    """Whether the server has none, or this user may not run any."""
    return type(error).__name__ == "NoPermissionError" or "unknown command" in str(error)


@functools.cache
def with_atomic_get(transport: type[Any]) -> type[Any]:
    """A subclass of one of kombu's transports for Redis."""
    qos = type("QoS", (_RestoreInTime, transport.Channel.QoS), {})
    channel = type("Channel", (_AtomicGet, transport.Channel), {"QoS": qos})
    return type(transport.__name__, (transport,), {"Channel": channel})
