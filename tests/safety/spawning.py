"""A child process is started with a queue among its arguments while descriptors are short.

Fails if: a child that could start has no queue, or one that could not leaves the parent's queue unusable.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
from typing import Any

from shmqueue import ShmQueue, ShmQueueError

from .limited_resources import Descriptors
from .trials import PATIENCE, Notes

__all__ = ["ANSWER", "start_children"]

ANSWER = "the child has the queue"


def answer(queue: ShmQueue) -> None:
    queue.put(ANSWER)


def start_children(notes: Notes, degrees: range, start_method: str) -> None:
    """One for each degree of the shortage, and one when there is none any more, which must have the queue."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a child that the shortage ends says so
    shortage = Descriptors()
    context: Any = multiprocessing.get_context(start_method)
    with ShmQueue("inherited") as queue:
        for degree in degrees:
            shortage.begin(degree)
            process = context.Process(target=answer, args=(queue,), daemon=True)
            try:
                with shortage.felt():
                    process.start()
            except OSError as error:
                is_clear = error.errno == errno.EMFILE or isinstance(error, ShmQueueError)
                notes.require(is_clear, f"{degree} descriptors left: {error!r}")
                notes.count("children that could not be started")
            else:
                _judge(notes, queue, process, may_fail=True)  # it has the same limit, and may not come so far
            notes.require(queue.empty(), "there is an item too many")
            relieved = context.Process(target=answer, args=(queue,), daemon=True)
            relieved.start()
            _judge(notes, queue, relieved, may_fail=False)
        notes.require(queue.refs == 1, f"{queue.refs} handles are left")


def _judge(notes: Notes, queue: ShmQueue, process: Any, may_fail: bool) -> None:
    process.join(PATIENCE)
    notes.require(process.exitcode in ({0, 1} if may_fail else {0}), f"a child ended with {process.exitcode}")
    if process.exitcode == 0:
        notes.require(queue.get(False) == ANSWER, "the child put something else")
        notes.count("children that had the queue")
