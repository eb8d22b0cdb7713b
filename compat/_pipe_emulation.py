"""What programs are known to reach for inside a queue of ``multiprocessing``, where there is no pipe inside.

Most of it are the two ends of the pipe and their locks, for ``multiprocessing.pool``, ``concurrent.futures``, and
programs that wait for a queue among other things. An end is closed by itself: it says that this process will not use
it, and takes nothing from the other end or from the queue.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmqueue.any_queue import Iterated
from shmqueue.arguments import real_seconds
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueShutDown
from shmqueue.pickling import Payload
from shmqueue.segment import READER, WRITER
from shmqueue.threads import new_lock

from ._absent import Absent, refuse_hooks
from ._adapter import Adapter
from ._forking_pickler import SERIALIZER, pickle_forking
from ._pipe_channel import PipeChannel

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["PipeEmulation", "Reader", "Writer"]


class _End:
    """What both ends have of a ``multiprocessing.connection.Connection``."""

    readable = False
    writable = False
    role: int

    def __init__(self, channel: PipeChannel) -> None:
        self._channel = channel
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed in this process, by itself or with the queue."""
        return self._is_closed or not self._channel.handle.is_open

    def close(self) -> None:
        """Do not use this end in this process any more, by the queue's methods neither. Idempotent.

        When no process is left that could use it, calls at the other end do not block for ever: see ``_closed_ends``.

        Raises:
            NotImplementedError: they would, on this system.
        """
        if not self.closed:
            self._channel.close_end(self.role)
        self._is_closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_channel(self) -> PipeChannel:
        if self.closed:
            if self._channel.handle.missing is not None:
                self._channel.require_open()
            raise OSError("handle is closed")
        return self._channel


class Reader(_End):
    """The end from which items come."""

    readable = True
    role = READER

    def __init__(self, channel: PipeChannel) -> None:
        super().__init__(channel)
        self._reserving = 0  # the process in which poll takes the record that the next recv returns; 0, in none

    @property
    def reserves(self) -> bool:
        """Whether ``poll`` takes in this process what the next ``recv`` returns; not so in a forked child."""
        return self._reserving == os.getpid()

    def reserve(self) -> None:
        """Have ``poll`` take what the next ``recv`` returns, until ``give_back``."""
        self._reserving = os.getpid()

    def fileno(self) -> int:
        """A descriptor that is readable while the queue is not empty; made when it is first asked for."""
        return self._open_channel().fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to take, waiting ``timeout`` seconds for it at most, None for ever.

        While this process has the lock of the readers, no other process can take the item that made it return True.
        """
        channel = self._open_channel()
        if channel.has_reserved():
            return True
        seconds = None if timeout is None else max(0.0, real_seconds(timeout))
        if not self.reserves:
            return channel.wait_for_item(seconds)
        try:
            return channel.reserve(seconds is None or seconds > 0, seconds)
        except (ShmQueueShutDown, EOFError):
            return True  # recv does not wait: it raises
        except ShmQueueEmpty:
            return False  # another process has the lock

    def recv(self) -> Any:
        """Take the oldest item; wait for it."""
        return SERIALIZER.load(*self._record())

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Take the oldest item as the bytes of its pickle; wait for it.

        Raises:
            OSError: they are more than ``maxlength``; the item is consumed.
        """
        method, payload = self._record()
        message = payload if method == 1 else pickle_forking(SERIALIZER.load(method, payload))
        if maxlength is not None and len(message) > maxlength:
            raise OSError("bad message length")
        return message

    def give_back(self) -> None:
        """Stop reserving, and put what is reserved at the queue's end, without waiting for room."""
        self._reserving = 0
        self._channel.put_back()

    def _record(self) -> tuple[int, bytes]:
        channel = self._open_channel()
        record = channel.take_reserved()
        try:
            while record is None:
                record = channel.get_record(True, None)
        except ShmQueueShutDown as error:
            raise EOFError(str(error)) from error
        return record


class Writer(_End):
    """The end into which items go."""

    writable = True
    role = WRITER

    def send(self, obj: Any) -> None:
        """Put an item; wait for room."""
        self._put(*SERIALIZER.dump(obj))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Put the item whose pickle these bytes are; wait for room."""
        view = memoryview(buf).cast("B")
        end = len(view) if size is None else offset + size
        if not 0 <= offset <= end <= len(view):
            raise ValueError(f"offset {offset} and size {size} do not lie in a buffer of {len(view)} bytes")
        self._put(1, bytes(view[offset:end]))

    def _put(self, method: int, payload: Payload) -> None:
        self._open_channel().put_record(method, payload, True, None)


class ReadersLock:
    """The lock around the end from which items come, of this process only.

    A get needs no lock. A caller that takes this one wants ``poll`` and ``recv`` to go together, as ``Pool`` when it
    empties its queue of tasks while the workers go on: so ``poll`` takes the item that it reports.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._locks: dict[int, LockType] = {}  # by process id: a forked child has one of its own, which is free

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, as ``multiprocessing.Lock``."""
        taken = self._lock().acquire(block, -1 if timeout is None or not block else max(0.0, real_seconds(timeout)))
        if taken:
            self._reader.reserve()
        return taken

    def release(self) -> None:
        """Release the lock; what ``poll`` took and ``recv`` did not goes to the queue's end."""
        try:
            self._reader.give_back()
        finally:
            self._lock().release()

    def _lock(self) -> LockType:
        return self._locks.setdefault(os.getpid(), new_lock())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class WritersLock:
    """Stands for the lock around the end into which items go: a put is whole by itself, so there is nothing to hold."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Returns True."""
        return True

    def release(self) -> None:
        """Does nothing."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *exception: object) -> None:
        pass


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


class PipeEmulation(Adapter, Iterated):
    """The private parts of the standard queues that programs are known to use, made when they are asked for."""

    _channel: PipeChannel
    _codec = SERIALIZER
    _channel_type = PipeChannel

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_hooks(cls, _HOOKS, lambda base: base.__module__ == "multiprocessing.queues")

    _reader: Any = _Part(lambda queue: Reader(queue._channel))
    _writer: Any = _Part(lambda queue: Writer(queue._channel))
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
