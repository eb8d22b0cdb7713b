"""What programs are known to reach for inside a queue of ``multiprocessing``, where it is another queue inside."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._absent import Absent, refuse_hooks
from ._ends import Reader, ReadersLock, Writer, WritersLock
from ._port import Synchronous

__all__ = ["Parts"]


class _Part:
    """An attribute that is made when it is first asked for."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, queue: Any, owner: type) -> Any:
        return self if queue is None else queue.__dict__.setdefault(self._name, self._make(queue))


def _no_pipe(instead: str) -> Absent:
    return Absent(f"the queue is in shared memory and has no pipe; use {instead}")


_HOOKS = {
    "_on_queue_feeder_error": "an item that cannot be pickled raises in put()",
    **dict.fromkeys(
        ("_feed", "_start_thread"), "put() itself puts the item; override put() to change items on their way"
    ),
    **dict.fromkeys(("_reset", "_after_fork"), "there is nothing to renew after a fork; use os.register_at_fork()"),
}


class Parts(Synchronous):
    """The private parts of the standard queues that programs are known to use, made when they are asked for."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_hooks(cls, _HOOKS, lambda base: base.__module__ == "multiprocessing.queues")

    _reader: Any = _Part(lambda queue: Reader(queue._port))
    _writer: Any = _Part(lambda queue: Writer(queue._port))
    _rlock: Any = _Part(lambda queue: ReadersLock(queue._reader))
    _wlock: Any = _Part(lambda queue: WritersLock())

    if not TYPE_CHECKING:  # to a type checker these do not exist
        _poll = _no_pipe("empty() or _reader.poll()")
        _recv_bytes = _no_pipe("_reader.recv_bytes()")
        _send_bytes = _no_pipe("_writer.send_bytes()")
        _sem = _no_pipe("full() and qsize()")
        _unfinished_tasks = _no_pipe("task_done() and join()")
        _cond = _no_pipe("join()")
        _buffer = _no_pipe("qsize(): each item is in the queue when put() returns")
        _notempty = _no_pipe("get()")
        _thread = _no_pipe("put(): it needs no thread")
        _jointhread = _no_pipe("join_thread()")
        _joincancelled = _no_pipe("cancel_join_thread()")
        _close = _no_pipe("close()")
        _ignore_epipe = _no_pipe("put(): there is no pipe that breaks")
        _opid = _no_pipe("os.getpid()")

    if not TYPE_CHECKING:  # which knows their parameter
        __class_getitem__ = classmethod(types.GenericAlias)
