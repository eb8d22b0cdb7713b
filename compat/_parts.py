"""What programs are known to reach for inside a queue of ``multiprocessing``, where it is another queue inside."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmqueue.handle import Travel

from ._ends import Reader, ReadersLock, Writer, WritersLock
from ._port import Port, arrive

__all__ = ["Parts"]


class Parts:
    """The private parts of the standard queues that programs are known to use, made when they are asked for."""

    _port: Port

    if TYPE_CHECKING:
        _reader: Any
        _writer: Any
        _rlock: Any
        _wlock: Any
    else:

        def __getattr__(self, attribute: str) -> Any:
            if attribute in _PARTS:
                return self.__dict__.setdefault(attribute, _PARTS[attribute](self))
            message = f"{type(self).__name__!r} object has no attribute {attribute!r}"
            if attribute in _INSTEAD:
                message += f": the queue is in shared memory and has no pipe; use {_INSTEAD[attribute]}"
            raise AttributeError(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (type(self), self._port.travel())

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self._port.name!r}>"

    __class_getitem__: Any = classmethod(types.GenericAlias)


def _arrive(queue_type: type[Parts], travel: Travel) -> Parts:
    queue = queue_type.__new__(queue_type)
    queue._port = arrive(travel)
    return queue


_PARTS: dict[str, Callable[[Parts], Any]] = {
    "_reader": lambda queue: Reader(queue._port),
    "_writer": lambda queue: Writer(queue._port),
    "_rlock": lambda queue: ReadersLock(queue._reader),
    "_wlock": lambda queue: WritersLock(),
}

_INSTEAD = {
    "_poll": "empty() or _reader.poll()",
    "_recv_bytes": "_reader.recv_bytes()",
    "_send_bytes": "_writer.send_bytes()",
    "_sem": "full() and qsize()",
    "_unfinished_tasks": "task_done() and join()",
    "_cond": "join()",
    "_buffer": "qsize(): each item is in the queue when put() returns",
    "_notempty": "get()",
    "_thread": "put(): it needs no thread",
    "_jointhread": "join_thread()",
    "_joincancelled": "cancel_join_thread()",
    "_close": "close()",
    "_ignore_epipe": "put(): there is no pipe that breaks",
    "_opid": "os.getpid()",
}
