"""How handles on queues are closed: by a call, when they are collected, and at the end of the process.

Items that are lost then are reported in the log, and as a warning. Nothing here needs the handle itself.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import sys
import threading
import traceback
import warnings
from typing import Protocol

from shmqueue import reflog
from shmqueue.engine import Engine
from shmqueue.segment import Replaced, Segment, remove_left_to_others, remove_unarrived
from shmqueue.shapes import callers_level
from shmqueue.threads import WeakRegistry, end_threads

__all__ = [
    "Closing",
    "close_segment",
    "give_up",
    "let_go",
    "not_given_up",
    "open_handles",
    "remove_unarrived_queues",
    "tell_of_replaced",
]


class Closing:
    """The thread that is closing a handle; None, there is none. It stands for the handle, and keeps none alive."""

    thread: int | None = None


def give_up(
    closing: Closing, the_engine: Engine, segment: Segment, log_file: str | None, logger: logging.Logger | None
) -> None:
    """Close a handle: the engine first, which unmaps, then the segment, whose last holder frees the memory."""
    closing.thread = threading.get_ident()
    try:
        segment.is_in_use = False
        the_engine.close()
    finally:
        try:
            let_go(segment, log_file, logger, at_exit=sys.is_finalizing())
        finally:
            closing.thread = None
            not_given_up.pop(closing, None)


def let_go(segment: Segment, log_file: str | None, logger: logging.Logger | None, at_exit: bool) -> None:
    try:
        if log_file is not None:
            reflog.append(log_file, reflog.DebugRefLogAction.SHUTDOWN, segment.name, max(0, len(segment.holders()) - 1))
        if logger is not None:
            logger.debug("queue %r: shutdown", segment.name)
    finally:
        close_segment(segment, at_exit)


def close_segment(segment: Segment, at_exit: bool) -> None:
    dropped = segment.close()
    if not segment.header.private:
        _tell_of_dropped(segment.name, dropped, at_exit)
    remove_unarrived_queues(at_exit)


def remove_unarrived_queues(at_exit: bool = False) -> None:
    """Remove what was kept for a pickled queue that never came; this process is its last holder, only later.

    Whatever is done just now has to do with another queue. So where warnings are errors, the log alone tells of it.
    """
    for name, dropped in remove_unarrived():
        try:
            _tell_of_dropped(name, dropped, at_exit)
        except ResourceWarning:
            pass


def _tell_of_dropped(name: str, dropped: int, at_exit: bool) -> None:
    if dropped:
        _tell(
            f"queue {name!r} was closed by its last holder with {_count(dropped)} in it, which "
            f"{'is' if dropped == 1 else 'are'} lost (keep=True keeps them)",
            at_exit,
        )


def tell_of_replaced(name: str, replaced: Replaced) -> None:
    if replaced.items != 0:
        _tell(
            f"queue {name!r} replaces a file that no process had open and that cannot be used: {replaced.why}; "
            f"{_count(replaced.items)} in it lost",
            False,
        )


def _count(items: int | None) -> str:
    return "an unknown number of items" if items is None else f"{items} item{'' if items == 1 else 's'}"


def _tell(what: str, at_exit: bool) -> None:
    """Say that items are lost: in the log, and as a warning unless the interpreter is at its end."""
    logging.getLogger("shmqueue").warning("%s", what)
    if not at_exit:
        warnings.warn(what, ResourceWarning, stacklevel=callers_level())


# ---- the end of the process ----


class Leaving(Protocol):
    """A handle."""

    def leave(self) -> None:
        """Close the segment, and keep the memory mapped, which ends with the process."""


open_handles: WeakRegistry[Leaving] = WeakRegistry()

not_given_up: dict[Closing, tuple[Segment, str | None, logging.Logger | None]] = {}
"""Of each handle that is open. One that is collected while atexit functions run is not finalized any more: those of
``weakref`` may be over, and then it finalizes nothing."""

_LAST = -sys.maxsize
"""Priority of a finalizer of ``multiprocessing`` that runs after all others, and after its children have ended."""


def _leave_all() -> None:
    """Close what is still open. Daemon threads may go on in a blocked call, to which nothing happens any more."""
    end_threads()
    interruption: BaseException | None = None
    for handle in open_handles:
        try:
            handle.leave()
        except Exception:
            traceback.print_exc()  # as multiprocessing does; the others are to be closed all the same
        except BaseException as error:
            interruption = error
    while not_given_up:  # of handles that were collected too late
        try:
            let_go(*not_given_up.popitem()[1], at_exit=True)
        except Exception:
            traceback.print_exc()  # as above
    remove_left_to_others()  # multiprocessing has ended the children by now, perhaps with a signal
    if interruption is not None:
        raise interruption


def _leave_at_exit(_: object = None) -> None:
    """Have all handles closed when this process ends.

    It is left to ``multiprocessing``, which ends its children and its own users of queues before, a ``Pool`` that was
    not closed for instance. Its child processes do not even run atexit.
    """
    multiprocessing.util.Finalize(None, _leave_all, exitpriority=_LAST)


_leave_at_exit()
multiprocessing.util.register_after_fork(open_handles, _leave_at_exit)  # its children forget finalizers at their start
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_at_exit)  # a finalizer runs only in the process that has made it
