"""One process's handle on a queue: how it is opened, and how it travels to other processes.

Everything that looks like a queue (``ShmQueue``, the adapters in ``shmqueue.compat``) holds one of these and adds how
items become bytes. It knows names, segments and engines, and nothing of items.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing.context
import multiprocessing.util
import os
import threading
import weakref
from multiprocessing import reduction
from typing import Any, NoReturn

from shmqueue import engine, reflog
from shmqueue.closing import (
    Closing,
    close_segment,
    give_up,
    let_go,
    not_given_up,
    open_handles,
    remove_unarrived_queues,
    tell_of_replaced,
)
from shmqueue.engine import Counters, Engine
from shmqueue.exceptions import ShmQueueClosedError, ShmQueueError, ShmQueueTypeError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import (
    KEEP,
    PRIVATE,
    Note,
    Segment,
    Shape,
    attach_segment,
    open_segment,
)
from shmqueue.segment import free_bytes as free_bytes_of_directory
from shmqueue.segment import total_bytes as total_bytes_of_directory
from shmqueue.shapes import require_shape, warn_of_another

__all__ = ["Handle", "Travel", "open_handle"]

Travel = tuple[str, str, bytes, Any, "Note | None"]
"""What another process needs to attach: name, directory, incarnation; a descriptor for a child that is being started,
or else the note in the segment that the queue is in transit."""


def open_handle(
    name: str,
    *,
    buffer_size: int | None = None,
    max_bytes: int | None = None,
    maxsize: int | None = None,
    threshold: int = 0,
    create: bool | None = None,
    keep: bool = False,
    private: bool = False,
    logger: logging.Logger | None = None,
    log_file: str | None = None,
) -> Handle:
    """Create the queue called ``name``, or attach to it; arguments as those of ``ShmQueue``.

    Args:
        threshold: a put blocks while this number of bytes is in the queue; 0, no limit.
        private: nobody else knows the name, so the queue can be swept as soon as no process has it open.
        log_file: where to log references; None, nowhere.

    Raises:
        ShmQueueError: what ``ShmQueue`` raises.
    """
    if not isinstance(keep, bool):
        raise ShmQueueTypeError(f"keep must be a bool, not {type(keep).__name__}")
    asked = require_shape(buffer_size, max_bytes, maxsize)
    flags = KEEP * keep | PRIVATE * private
    segment = open_segment(name, asked.shape(engine.chosen(), threshold), create, flags)
    try:
        engine.require_chosen(segment)
    except BaseException:
        segment.drops_items = False
        segment.close()
        raise
    handle = Handle(segment, logger, log_file)
    try:
        if not segment.created:
            warn_of_another(name, asked, segment.header.shape, handle.engine.maxsize())
        remove_unarrived_queues()
        if segment.replaced is not None:
            tell_of_replaced(name, segment.replaced)
    except BaseException:
        segment.drops_items = False
        handle.close()
        raise
    return handle


class Handle:
    """A handle on a segment and its records.

    It closes the segment when it cannot become one, when it is collected, and at the end of the process.
    """

    missing: Exception | None = None
    """Why the queue could not be opened; None, it could."""

    _last: tuple[Counters, int] | None = None  # figures and maxsize when it was closed

    def __init__(self, segment: Segment, logger: logging.Logger | None = None, log_file: str | None = None) -> None:
        try:
            self._growth = _GrowthLog(segment)
            self.engine: Engine = engine.open_engine(segment, self._growth)
        except BaseException:
            segment.drops_items = False
            segment.close()
            raise
        self.name, self.segment, self.shape = segment.name, segment, segment.header.shape
        self.log_file = log_file
        self._logger = logger
        self._closing = Closing()
        self._close_once = weakref.finalize(self, give_up, self._closing, self.engine, segment, log_file, logger)
        self._close_once.atexit = False  # see shmqueue.closing
        open_handles.add(self)
        not_given_up[self._closing] = segment, log_file, logger
        segment.used_by, segment.is_in_use = weakref.ref(self), True
        action = reflog.DebugRefLogAction.CREATE if segment.created else reflog.DebugRefLogAction.ATTACH
        if logger is not None:
            logger.debug("queue %r: %s, engine %s", self.name, action.value, self.shape.engine)
        if log_file is not None:
            reflog.append(log_file, action, self.name, len(segment.holders()))

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed yet."""
        return self._close_once.alive

    @property
    def keep(self) -> bool:
        """Whether the queue outlives its holders."""
        return self.segment.header.keep

    def require_open(self) -> None:
        """Raise ``ShmQueueNotInitializedError`` if it is closed."""
        if not self._close_once.alive:
            raise ShmQueueClosedError(f"queue {self.name!r} is closed")

    def counters(self) -> Counters:
        """The queue's figures."""
        return Counters(*self.engine.counters())

    def state(self) -> Counters:
        """The queue's figures; after ``close``, what they were then."""
        return self.counters() if self._last is None else self._last[0]

    def maxsize(self) -> int:
        """The queue's ``maxsize``; after ``close``, what it was then."""
        return self.engine.maxsize() if self._last is None else self._last[1]

    @property
    def initial_bytes(self) -> int:
        """Bytes that are always there for items."""
        return self.shape.initial or self.shape.capacity

    def why_full(self, items: int) -> str:
        """What to say when ``items`` items found no room."""
        what = "another item" if items == 1 else f"{items} items together"
        message = f"queue {self.name!r} has no room for {what}"
        if self._growth.error:
            message += f": it cannot grow ({os.strerror(self._growth.error)}), {_memory_left(self.segment.path)}"
        return message

    def close(self) -> None:
        """Close it; closing the last one frees the memory. Idempotent.

        If an exception interrupts it, most is done all the same, and another call does the rest.
        """
        try:
            if self._last is None and self._close_once.alive:
                self._last = self.counters(), self.engine.maxsize()
        except not_of_handler(Exception):
            pass  # it is corrupted, closed meanwhile, or there is no memory for it: its state is then lost
        finally:
            try:
                self._close_once()
            finally:
                if not self.segment.is_released:
                    self._close_rest()

    def _close_rest(self) -> None:
        if self._closing.thread is None:  # an exception came before the finalizer could do anything
            give_up(self._closing, self.engine, self.segment, None, None)
        elif self._closing.thread == threading.get_ident():  # a signal handler within it, which may not return
            close_segment(self.segment, at_exit=False)

    def travel(self) -> Travel:
        """What to pickle instead of it, for ``arrive``.

        A child that is being started receives the descriptor of the segment that has its lock: so the queue continues
        to exist if this process closes it before the child has opened it. Otherwise a note in the segment says that the
        queue is in transit, and it outlives its last holder for half a minute at most.
        """
        self.require_open()
        held = note = None
        if multiprocessing.context.get_spawning_popen() is not None and os.name == "posix":
            fd = self.segment.fileno_to_share()
            held = reduction.DupFd(fd) if fd >= 0 else None
        if held is None:
            note = self.segment.depart()
        return self.name, self.segment.path, self.segment.header.uuid, held, note

    @classmethod
    def arrive(cls, travel: Travel, log_file: str | None = None) -> Handle:
        """Attach to the very queue that was pickled; its engine is used, whatever the environment says here.

        A queue that cannot be opened here is no error yet: the thread that unpickles it, such as one of a ``Pool``, may
        not survive one. The handle that is returned then raises in every use of it.
        """
        name, path, incarnation, held, note = travel
        try:
            fd = held.detach() if held is not None else -1
            try:
                handle = cls(attach_segment(name, path, incarnation, fd), None, log_file)
                handle.segment.arrived(note)
                remove_unarrived_queues()
                return handle
            finally:
                if fd >= 0:
                    os.close(fd)
        except not_of_handler(ShmQueueError, OSError) as error:
            return _Unreachable(travel, error, log_file)

    def leave(self) -> None:
        """Give it up and keep the memory mapped, which ends with the process."""
        try:
            if self._close_once.detach() is not None:
                let_go(self.segment, self.log_file, self._logger, at_exit=True)
        finally:  # a daemon thread may be in the middle of closing it, and would not come to the end
            not_given_up.pop(self._closing, None)
            self.segment.close()


class _Unreachable(Handle):
    """Stands for a handle on a queue that was pickled and could not be opened here: every use of it raises why."""

    def __init__(self, travel: Travel, error: Exception, log_file: str | None) -> None:
        self.name, self.log_file = travel[0], log_file
        self.missing = copy.copy(error)  # without its traceback
        self._travel = (*travel[:3], None, travel[4])
        refusing: Any = _Refusing(self.missing)
        self.engine = self.segment = self.shape = refusing

    @property
    def is_open(self) -> bool:
        return False

    def require_open(self) -> None:
        self.engine.close()  # refuses, as all else

    def close(self) -> None:
        """Nothing is open."""

    def travel(self) -> Travel:
        return self._travel  # it may be found elsewhere


class _Refusing:
    """Stands for the parts of a handle that is none."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in Shape._fields:
            self._refuse()
        return self._refuse

    def _refuse(self, *arguments: object) -> NoReturn:
        raise copy.copy(self._why)


class _GrowthLog:
    """Remembers, and logs, that a queue cannot grow. It holds no handle, for the engine holds it."""

    def __init__(self, segment: Segment) -> None:
        self._name, self._path = segment.name, segment.path
        self.error = 0

    def __call__(self, error: int) -> None:
        self.error = error
        if error == 0:
            return
        logging.getLogger("shmqueue").warning(
            "queue %r cannot grow (%s): %s; puts block until items are taken or memory is freed "
            "(containers often have 64 MiB, which --shm-size changes)",
            self._name,
            os.strerror(error),
            _memory_left(self._path),
        )


def _memory_left(path: str) -> str:
    """How much memory the directory of a segment has, which need not be the one that the environment names now."""
    where = os.path.dirname(path)
    try:
        return f"{where} has {free_bytes_of_directory(where)} of {total_bytes_of_directory(where)} bytes free"
    except not_of_handler(OSError) as error:
        return f"{where}: {error.strerror}"
