"""The clauses of a queue's contract, and what is raised when one is broken.

A clause has a number, a key by which the checks name it, and a sentence. Which of them hold for a kind of queue, and in
which form, is said in ``shmqueue.conformance.profiles``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .timeline import Bar

__all__ = ["CLAUSES", "Broken", "Clause", "clause"]


class Clause(NamedTuple):
    """One promise of a queue."""

    number: int
    key: str
    sentence: str


_SENTENCES = {
    "same": "what is got equals what was put and has the same type, all the way down",
    "fifo": "items come out in the order in which they went in, and none is left out",
    "once": "an item comes out once, and nothing comes out that was not put",
    "prompt": "an operation that need not wait does not wait",
    "kept": "an item that was put stays until it is got",
    "copy": "changing an object after it was put changes nothing for the getter",
    "unbounded": "without a maxsize a put never waits, however much is queued",
    "empty-raises": "a get that may not wait raises Empty when there is nothing",
    "full-raises": "a put that may not wait raises Full when there is no room",
    "get-timeout": "a get with a timeout raises Empty, and not before the time is over",
    "put-timeout": "a put with a timeout raises Full, and not before the time is over",
    "get-negative": "a get with a negative timeout does what the standard queue does",
    "put-negative": "a put with a negative timeout does what the standard queue does",
    "no-block": "block=False ignores the timeout",
    "keywords": "the arguments have the standard queue's names",
    "qsize": "qsize() is the number of items, while no call puts or gets",
    "empty": "empty() tells whether there are none, while no call puts or gets",
    "full": "full() tells whether maxsize items are queued",
    "get-waits": "a get on an empty queue waits",
    "get-woken": "a waiting get takes the next item that is put, by whichever process",
    "put-waits": "a put on a full queue waits",
    "put-woken": "a waiting put goes on when an item is taken, by whichever process",
    "unfinished": "task_done() is counted for all processes together, and once too often is a ValueError",
    "join": "join() waits until every item is done, and no longer",
    "shut-put": "after shutdown() every put raises ShutDown, a waiting one too",
    "shut-get": "after shutdown() gets take what is left and raise ShutDown then, waiting ones too",
    "shut-now": "shutdown(immediate=True) drops what is queued, which counts as done",
    "close": "close() is for one process: there put and get raise the standard error, others go on",
    "close-twice": "closing twice is harmless",
    "join-thread": "join_thread() before close() raises, after it returns; cancel_join_thread() is there",
    "argument": "a queue is passed to a process as an argument of Process",
    "inherited": "a forked child uses the queue of its parent",
    "pickled": "a queue is sent to a process that runs already, through another queue or a pipe",
    "named": "a process that knows only the name attaches to the queue",
    "exit": "a process that ends right after a put loses nothing and does not hang",
    "ended": "a process that has ended leaves the others undisturbed",
    "killed-idle": "a process killed while it does nothing leaves the others undisturbed",
    "killed-waiting": "a process killed while it waits in a get leaves the others undisturbed",
    "killed-busy": "processes killed at any moment cost at most the operation under way",
    "unpicklable-told": "putting an object that cannot be pickled raises in the put",
    "unpicklable-harmless": "and costs nothing else",
    "large": "an item of several MiB goes through",
    "too-large": "an item that can never fit raises at once",
    "linear": "operations of many processes at once are as if each had happened at one moment",
    "lease-as-get": "lease() waits, takes and raises as get() does",
    "lease-acked": "an acknowledged item is never delivered again, whichever process ends or is killed afterwards",
    "lease-requeued": "a requeued item comes before newer ones, the oldest first",
    "lease-killed": "the items of a killed holder each go to one other process, before newer ones",
    "lease-alone": "no item is leased to two living processes at once",
    "lease-attempt": "attempt counts how often an item was handed out: 2 after one requeue or one death",
    "lease-ends": "a lease ends once: after ack() or requeue() both return False and do nothing",
    "lease-block": "a with block acknowledges at its end, and requeues if it raises",
    "lease-join": "join() returns exactly when every item is acknowledged or done, whichever process is killed",
    "lease-qsize": "qsize(), empty(), full() and maxsize count what can be taken, not what is leased",
    "lease-linear": "with leases of many processes, killed at any moment, no item is lost, doubled or out of order",
    "view-put": "what is written in a put_view() block comes once, as bytes, when the block has ended and not before",
    "view-dropped": "of a put_view() block that raises, or in which its process is killed, nothing comes",
    "view-get": "a get_view() block takes the oldest item at its end; it comes again if the block raises or is killed",
    "lease-again": "what is requeued, or was leased by a killed process, comes again once, in whatever order",
}

CLAUSES: dict[str, Clause] = {
    key: Clause(number, key, sentence) for number, (key, sentence) in enumerate(_SENTENCES.items(), start=1)
}
"""All clauses by key."""


def clause(key: str) -> Clause:
    """The clause called ``key``.

    Raises:
        KeyError: there is none.
    """
    return CLAUSES[key]


class Broken(AssertionError):
    """A clause does not hold.

    Args:
        key: which one.
        what: what was seen, and what should have been.
        program: the steps that led to it, in order.
        history: the operations that led to it, those that violate the clause marked.
    """

    def __init__(self, key: str, what: str, program: Sequence[str] = (), history: Sequence[Bar] = ()) -> None:
        super().__init__(key, what)
        self.clause = clause(key)
        self.what = what
        self.program = list(program)
        self.history = list(history)

    def __str__(self) -> str:
        steps = "".join(f"\n    {step}" for step in self.program)
        return f"clause {self.clause.number} ({self.clause.sentence}) is broken: {self.what}{steps}"
