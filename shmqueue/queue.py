"""ShmQueue: objects in, objects out, between processes that share a name.

Here are the ways to open a queue and to end its use. ``queue_items`` has what items go through, ``queue_state`` what
the queue tells of itself, ``any_queue`` what it shares with the adapters. Beneath all of them is one ``Channel``.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import Any

from shmqueue import reflog, signals
from shmqueue.arguments import require_int
from shmqueue.attributes import readable_names
from shmqueue.channel import Channel
from shmqueue.exceptions import ShmQueueTypeError
from shmqueue.fast_paths import own_fast_paths
from shmqueue.generics import T
from shmqueue.handle import Handle, Travel, open_handle
from shmqueue.queue_items import QueueItems
from shmqueue.queue_state import QueueState, ShmRefDataSnapshot
from shmqueue.serialization import CustomDeserialize, CustomSerialize, Serializer
from shmqueue.statistics import Statistics

__all__ = ["ShmQueue", "ShmRefDataSnapshot", "Statistics"]


@own_fast_paths
class ShmQueue(QueueItems[T], QueueState):
    """A FIFO queue that any process of this user on this machine can open by its name.

    Creates the queue, or attaches to it when it exists. All methods may be called from several threads, and a handle
    that a forked child inherits works there.

    A queue is private to a user: another user who opens the same name has another queue. If the other one is root, the
    user who called sudo, or the real user of this process, and has that queue open, creating one logs a warning on the
    logger ``shmqueue``; of further users only now and then. Whose a queue is, and where, is decided when it is opened:
    a process that becomes another user goes on using it. What is not possible then raises ``ShmQueueRefusedError``,
    which names the queue's owner: to open it anew, and with the portable engine to use it in a child that is started
    afterwards.

    Args:
        queue_name: the name; letters, digits, ``.``, ``_``, ``-`` count one character, all others three per byte, 180
            at most.
        buffer_size: bytes for items, rounded up to a multiple of ``SYSTEM_PAGESIZE``: the queue has exactly this size,
            unless ``max_bytes`` lets it grow. An item takes 8 bytes and its serialized form. None, the queue starts
            with 64 KiB, grows as it needs to, and gives memory back when it runs empty, or with the next call if it
            gave some back less than 100 ms before.
        max_bytes: most bytes that the queue grows to, rounded up likewise; 0, all the memory that the file system of
            the segments has, which is also the limit when neither this nor ``buffer_size`` is given. Leased items that
            are in the way of others are moved to as much memory again.
        maxsize: most items in the queue; 0 or less, as many as fit. None is 0.
        create: True, the queue must not be in use yet; False, it must exist; None, either.
        keep: True, the queue and its items outlive its holders, until ``unlink()`` or ``shmqueue rm`` removes them (or
            the machine restarts, in /dev/shm). Otherwise the queue exists while at least one process has it open; when
            the last one closes it or exits, its items are dropped, which is logged (logger ``shmqueue``) and, before
            the interpreter's end, a ``ResourceWarning``. The items that killed processes leave are there for the next
            process that opens the queue. The process that creates the queue decides for all.
        allow_pickle: False refuses pickle in both directions, for queues whose users do not all trust each other.
        track_resources: accepted for compatibility and without effect: the kernel counts a segment's holders, so the
            resource tracker of ``multiprocessing``, which would free it under its users, is never told of it.
        logger: where to report what is not an error, at debug level.
        debug_ref_to_file_log: True appends a line of JSON for each create, attach and shutdown to a file in the
            temporary directory, a str names the file.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: an argument is unusable; the message names it.
        ShmQueueExistsError, ShmQueueNotFoundError: as ``create`` says.
        ShmQueueNoSpaceError: there is not enough shared memory left.
        ShmQueueRefusedError: something else is at the queue's path, or a queue of another engine or version.

    Warns:
        ShmQueueShapeWarning: the queue exists with another ``buffer_size``, ``max_bytes`` or ``maxsize`` than the one
            given. What its creator chose holds.

    ``for item in iter(q.get, sentinel)`` takes items until one equals the sentinel.
    """

    def __init__(
        self,
        queue_name: str,
        *,
        buffer_size: int | None = None,
        max_bytes: int | None = None,
        maxsize: int | None = None,
        create: bool | None = None,
        keep: bool = False,
        allow_pickle: bool = True,
        track_resources: bool = False,
        logger: logging.Logger | None = None,
        debug_ref_to_file_log: bool | str = False,
    ) -> None:
        handle = open_handle(
            queue_name,
            buffer_size=buffer_size,
            max_bytes=max_bytes,
            maxsize=maxsize,
            create=create,
            keep=keep,
            logger=logger,
            log_file=reflog.path_for(queue_name, debug_ref_to_file_log),
        )
        self._use(handle, Serializer(allow_pickle))

    def _use(self, handle: Handle, serializer: Serializer) -> None:
        self._handle, self._engine, self._segment = handle, handle.engine, handle.segment
        self._serializer = serializer
        self._start(Channel(handle, serializer))
        self._try_first(handle.engine, self._channel.load, None)  # until fileno(): leases that do not look cost less

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        """Put an item as the record that it is in another queue. False: this one does not take such records."""
        return self._channel.put_unchanged(method, payload, block, timeout)

    # ---- serialization of one's own ----

    def custom_serialize(self, callable_function: CustomSerialize) -> None:
        """Set the function that turns items into bytes for serialization methods from 1001 on.

        It is called with (method, item) and returns bytes.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_serialize takes a function of (method, item)")
        self._serializer.custom_serialize = callable_function

    def custom_deserialize(self, callable_function: CustomDeserialize) -> None:
        """Set the function that turns bytes back into items for serialization methods from 1001 on.

        It is called with (method, chunks), a list of bytes that belong together in this order, and returns the item.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_deserialize takes a function of (method, chunks)")
        self._serializer.custom_deserialize = callable_function

    # ---- the end ----

    def shutdown(self) -> None:
        """The same as ``close()``. To shut the queue down for all processes there is ``shutdown_all()``."""
        self.close()

    def shutdown_all(self, immediate: bool = False) -> None:
        """Shut the queue down for all processes, as ``queue.Queue.shutdown`` does since Python 3.13.

        Every put raises ``ShmQueueShutDown`` from now on; a get takes what is left and raises then, waiting ones too.
        No get waits for items that others have leased: one that comes back is for the next call.
        The handles stay open: this is about the queue, ``close`` about one handle.

        Args:
            immediate: also drop the items that are queued; they count as done.
        """
        self._channel.engine.shut_down(immediate)

    def unlink(self) -> None:
        """Remove the name now. Its holders go on using the queue; the next one to use the name makes a new queue."""
        self._handle.require_open()
        self._segment.unlink()

    @property
    def debug_ref_log_path(self) -> str | None:
        """Where ``debug_ref_to_file_log`` writes; None when it was not asked for."""
        return self._handle.log_file

    def set_console_handlers(self, register_atexit: bool = False) -> None:
        """Close this handle when SIGINT, SIGTERM or SIGHUP (console events on Windows) asks the process to end.

        The handlers that were there run afterwards, and the process ends as the signal says. The kernel frees what a
        killed process held in any case; this only does it at once.

        Args:
            register_atexit: also at the interpreter's exit; handles do that by themselves, so it changes nothing.
        """
        self._handle.require_open()
        signals.close_on_signals(self)

    def add_ref_manually(self, pid: int) -> None:
        """Does nothing: kept for programs that counted a process in by hand. The kernel counts the holders."""
        require_int("pid", pid, least=0)
        self._handle.require_open()

    def reduce_ref_counter(self) -> None:
        """Does nothing: kept for programs that counted a killed process out by hand. The kernel counts the holders."""
        self._handle.require_open()

    # ---- travelling ----

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (type(self), self._handle.travel(), self._serializer, self._handle.log_file)

    def __dir__(self) -> list[str]:
        return readable_names(self)

    def __repr__(self) -> str:
        if not self._handle.is_open:
            return f"<ShmQueue {self._channel.name!r}, {'closed' if self._handle.missing is None else 'vanished'}>"
        counters = self._handle.counters()
        size = self._handle.shape.capacity
        return f"<ShmQueue {self._channel.name!r}, {counters.qsize} items, {counters.occupancy} of {size} bytes>"


for _part in (QueueItems, QueueState):
    for _method in vars(_part).values():
        if isinstance(_method, FunctionType):
            _method.__qualname__ = f"ShmQueue.{_method.__name__}"  # as errors and help name it


def _arrive(
    queue_type: type[ShmQueue[Any]], travel: Travel, serializer: Serializer, log_file: str | None
) -> ShmQueue[Any]:
    """Attach to the very queue that was pickled."""
    queue = queue_type.__new__(queue_type)
    queue._use(Handle.arrive(travel, log_file), serializer)
    return queue
