"""The two ends of a multiprocessing queue's pipe, for programs that reach for them, where there is no pipe.

``multiprocessing.pool`` and ``concurrent.futures`` do, and programs that wait for a queue among other things. An end
is closed by itself: it says that this process will not use it, and takes nothing from the other end or from the queue.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shmqueue.arguments import real_seconds
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueNotInitializedError, ShmQueueShutDown
from shmqueue.pickling import Payload
from shmqueue.segment import READER, WRITER
from shmqueue.threads import new_lock

from ._port import Port
from ._serialization import dump_forking, load_forking, pickle_forking

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["Reader", "ReadersLock", "Writer", "WritersLock"]


class _End:
    """What both ends have of a ``multiprocessing.connection.Connection``."""

    readable = False
    writable = False
    role: int

    def __init__(self, port: Port) -> None:
        self._port = port
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed in this process, by itself or with the queue."""
        return self._is_closed or not self._port.handle.is_open

    def close(self) -> None:
        """Do not use this end in this process any more, by the queue's methods neither. Idempotent.

        When no process is left that could use it, calls at the other end do not block for ever: see ``_closed_ends``.

        Raises:
            NotImplementedError: they would, on this system.
        """
        if not self.closed:
            self._port.close_end(self.role)
        self._is_closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_port(self) -> Port:
        if self.closed:
            if self._port.handle.missing is not None:
                self._port.require_open()
            raise OSError("handle is closed")
        return self._port


class Reader(_End):
    """The end from which items come."""

    readable = True
    role = READER

    def __init__(self, port: Port) -> None:
        super().__init__(port)
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
        return self._open_port().fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to take, waiting ``timeout`` seconds for it at most, None for ever.

        While this process has the lock of the readers, no other process can take the item that made it return True.
        """
        port = self._open_port()
        if port.has_reserved():
            return True
        seconds = None if timeout is None else max(0.0, real_seconds(timeout))
        if not self.reserves:
            return port.wait_for_item(seconds)
        try:
            return port.reserve(seconds is None or seconds > 0, seconds)
        except (ShmQueueShutDown, EOFError):
            return True  # recv does not wait: it raises
        except ShmQueueEmpty:
            return False  # another process has the lock

    def recv(self) -> Any:
        """Take the oldest item; wait for it."""
        return load_forking(*self._record())

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Take the oldest item as the bytes of its pickle; wait for it.

        Raises:
            OSError: they are more than ``maxlength``; the item is consumed.
        """
        method, payload = self._record()
        message = payload if method == 1 else pickle_forking(load_forking(method, payload))
        if maxlength is not None and len(message) > maxlength:
            raise OSError("bad message length")
        return message

    def give_back(self) -> None:
        """Stop reserving, and put what is reserved at the queue's end, without waiting for room: ``Port.put_back``."""
        self._reserving = 0
        self._port.put_back()

    def _record(self) -> tuple[int, bytes]:
        port = self._open_port()
        record = port.take_reserved()
        try:
            while record is None:
                record = port.get(True, None)
        except ShmQueueShutDown as error:
            raise EOFError(str(error)) from error
        except ShmQueueNotInitializedError:
            raise OSError("handle is closed") from None
        return record


class Writer(_End):
    """The end into which items go."""

    writable = True
    role = WRITER

    def send(self, obj: Any) -> None:
        """Put an item; wait for room."""
        self._put(*dump_forking(obj))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Put the item whose pickle these bytes are; wait for room."""
        view = memoryview(buf).cast("B")
        end = len(view) if size is None else offset + size
        if not 0 <= offset <= end <= len(view):
            raise ValueError(f"offset {offset} and size {size} do not lie in a buffer of {len(view)} bytes")
        self._put(1, bytes(view[offset:end]))

    def _put(self, method: int, payload: Payload) -> None:
        try:
            self._open_port().put(method, payload, True, None)
        except ShmQueueNotInitializedError:
            raise OSError("handle is closed") from None


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
