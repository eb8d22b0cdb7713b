"""What is done to each queue class: a consumer or a producer is killed, an item is put that cannot be."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import shutil
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .busy import at_least
from .side_by_side_peers import CAPACITY, Peer

__all__ = ["Aftermath", "Trials"]

ITEM = struct.Struct("<II24x")  # producer, number
LARGE = 200_000  # bytes: copying it takes much of the time of a put or a get
ITEMS_MAX = 1 << 20  # of one producer
LONGEST = at_least(60.0)  # seconds for everything that was put to be got
SETTLE = 0.05  # seconds that a consumer with nothing to do is left alone, to be wherever it waits
WORKERS = 2  # of each kind
ATTEMPTS = 50  # at stopping a process where others need it
STANDSTILL = 0.02  # seconds without progress that tell so

_STOP, _READY, _PUT, _SEEN, _GOT, _TWICE = (i * WORKERS * 2 for i in range(6))
_COUNTERS = 6 * WORKERS * 2


@dataclass
class Aftermath:
    """What became of a queue whose process was killed.

    ``went_on``: the others put and got items that were put afterwards. ``lost``, ``doubled``: items whose put had
    returned and that nobody got, items that came twice; None if that is unknown, because it did not go on.
    """

    went_on: bool
    lost: int | None = None
    doubled: int | None = None


class Board:
    """Shared by all processes of a trial: counters, and what each consumer got of each producer."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTERS * 8 + WORKERS * WORKERS * ITEMS_MAX)
        self.counters = memoryview(self._memory)[: _COUNTERS * 8].cast("Q")
        marks = memoryview(self._memory)[_COUNTERS * 8 :]
        self.marks = [
            [marks[(consumer * WORKERS + producer) * ITEMS_MAX :][:ITEMS_MAX] for producer in range(WORKERS)]
            for consumer in range(WORKERS)
        ]

    def got(self) -> int:
        return sum(self.counters[_GOT : _GOT + WORKERS])

    def lost(self) -> int:
        """Items whose put had returned, and that no consumer has."""
        lost = 0
        for producer in range(WORKERS):
            put = self.counters[_PUT + producer]
            taken = 0
            for consumer in range(WORKERS):
                taken |= int.from_bytes(self.marks[consumer][producer][1 : put + 1], "little")
            lost += put - taken.bit_count()
        return lost

    def has_all_come(self) -> bool:
        """Whether nothing more will come: of a single producer, the last item does so last."""
        put = self.counters[_PUT : _PUT + WORKERS]
        if put[1] == 0 and self.counters[_SEEN] == put[0]:
            return True
        return self.got() >= sum(put) - 1 and self.lost() == 0

    def doubled(self) -> int:
        doubled = sum(self.counters[_TWICE : _TWICE + WORKERS])
        for producer in range(WORKERS):
            first, second = (int.from_bytes(self.marks[consumer][producer], "little") for consumer in range(WORKERS))
            doubled += (first & second).bit_count()
        return doubled


# ---- what the processes do ----


def _produce(peer: Peer, queue: Any, board: Board, worker: int, padding: bytes) -> None:
    """Put numbered items until told to stop."""
    counters = board.counters
    put = peer.put_end(queue, worker)
    counters[_READY + worker] = 1
    number = 0
    while not counters[_STOP] and number < ITEMS_MAX - 1:
        number += 1
        put(ITEM.pack(worker, number) + padding)
        counters[_PUT + worker] = number
    peer.flush(queue, put)


def _produce_on_demand(peer: Peer, queue: Any, board: Board, worker: int, padding: bytes) -> None:
    """Put one item whenever told to, by the number that ``_STOP`` has come to."""
    counters = board.counters
    put = peer.put_end(queue, worker)
    counters[_READY + worker] = 1
    number = 0
    while True:
        while counters[_STOP] == number:
            time.sleep(0.001)
        number += 1
        put(ITEM.pack(worker, number))
        counters[_PUT + worker] = number


def _consume(peer: Peer, queue: Any, board: Board, worker: int) -> None:
    """Take items for ever; mark each."""
    counters, marks = board.counters, board.marks[worker]
    get = peer.get_end(queue, worker)
    counters[_READY + WORKERS + worker] = 1
    while True:
        item = get()
        producer, number = ITEM.unpack_from(item)
        if marks[producer][number]:
            counters[_TWICE + worker] += 1
        marks[producer][number] = 1
        counters[_SEEN + producer] = number
        counters[_GOT + worker] += 1


def _put_what_cannot_be(peer: Peer, queue: Any, board: Board, report: Any, item: Any) -> None:
    put = peer.put_end(queue, 0)
    try:
        put(item)
    except BaseException as error:
        report.send(f"raises {type(error).__name__}")
    else:
        report.send("returns")
    put(ITEM.pack(0, 1))
    peer.flush(queue, put)
    report.send("put the next one")


def _quietly(target: Callable[..., None], *arguments: Any) -> None:
    """Run in a group of its own, without a word: some print what they do not raise."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    target(*arguments)


# ---- the trials ----


class Trials:
    """Trials of one queue class. ``patience``: seconds without any progress after which a queue counts as stuck."""

    def __init__(self, peer: Peer, patience: float, seed: int) -> None:
        self._peer = peer
        self._patience = patience
        self._random = random.Random(seed)
        self._context: Any = multiprocessing.get_context("fork")

    @contextmanager
    def _set_up(self) -> Iterator[tuple[Any, Board, Callable[..., Any]]]:
        """A queue, a board, and what starts processes, which do not outlive the block."""
        processes: list[Any] = []
        directory = tempfile.mkdtemp(prefix="side-by-side-")

        def start(target: Callable[..., None], *arguments: Any) -> Any:
            process = self._context.Process(
                target=_quietly, args=(target, self._peer, queue, board, *arguments), daemon=True
            )
            process.start()
            processes.append(process)
            return process

        queue, board = self._peer.make(Path(directory)), Board()
        try:
            yield queue, board, start
        finally:
            for process in processes:
                process.kill()
                process.join()
            # some do not come back from this when a lock is kept
            ending = threading.Thread(target=self._peer.dispose, args=(queue,), daemon=True)
            ending.start()
            ending.join(self._patience)
            shutil.rmtree(directory, ignore_errors=True)

    def _wait(self, board: Board, condition: Callable[[], bool]) -> bool:
        """Until the condition holds.

        False: nobody got anything for as long as our patience lasts, or an item came twice, or there is no end to it.
        """
        got, since = board.got(), time.monotonic()
        end = since + LONGEST
        while not condition():
            now = time.monotonic()
            if board.got() != got:
                got, since = board.got(), now
            if now - since > self._patience or now > end or any(board.counters[_TWICE : _TWICE + WORKERS]):
                return False
            time.sleep(0.001)
        return True

    def _await_ready(self, board: Board, *workers: int) -> None:
        deadline = time.monotonic() + 60
        while not all(board.counters[_READY + worker] for worker in workers):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._peer.name}: a process did not begin")
            time.sleep(0.001)

    def kill_idle_consumer(self) -> Aftermath:
        """Two consumers wait, the first one is killed. ``lost``: the other one got nothing but the item after."""
        with self._set_up() as (_, board, start):
            start(_produce_on_demand, 0, b"")
            self._await_ready(board, 0)
            victim = start(_consume, 0)
            self._await_ready(board, WORKERS)
            time.sleep(SETTLE)
            start(_consume, 1)
            self._await_ready(board, WORKERS + 1)
            time.sleep(SETTLE)
            victim.kill()
            victim.join()
            board.counters[_STOP] = 1
            if self._wait(board, lambda: board.got() >= 1):
                return Aftermath(True, 0, board.doubled())
            board.counters[_STOP] = 2
            if self._wait(board, lambda: board.got() >= 1):
                return Aftermath(True, 1, board.doubled())
            return Aftermath(False)

    def _kill(self, victim: Any, board: Board, counter: int | None) -> None:
        """At a random moment; with a counter of somebody else's, at one at which that one cannot go on meanwhile."""
        time.sleep(self._random.uniform(0.02, 0.1))
        if counter is not None:
            for _ in range(ATTEMPTS):
                os.kill(victim.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, victim.pid, os.WSTOPPED)
                if not self._goes_on(board, counter):
                    break
                os.kill(victim.pid, signal.SIGCONT)
                time.sleep(self._random.uniform(0.0, 0.002))
        victim.kill()
        victim.join()

    def _goes_on(self, board: Board, counter: int) -> bool:
        before, deadline = board.counters[counter], time.monotonic() + STANDSTILL
        while board.counters[counter] == before:
            if time.monotonic() > deadline:
                return False
        return True

    def kill_nobody(self) -> Aftermath:
        """Two of each kind are busy, and come to their end."""
        producers = self._peer.producers
        with self._set_up() as (_, board, start):
            for worker in range(WORKERS):
                start(_consume, worker)
            processes = [start(_produce, worker, b"") for worker in range(producers)]
            self._await_ready(board, *range(producers), WORKERS, WORKERS + 1)
            time.sleep(SETTLE)
            board.counters[_STOP] = 1
            ended = self._wait(board, lambda: not any(process.is_alive() for process in processes))
            went_on = ended and self._wait(board, lambda: board.lost() == 0) and board.got() > 0
            return Aftermath(went_on, board.lost() if went_on else None, board.doubled())

    def kill_busy_consumer(self, worst: bool = False) -> Aftermath:
        """A producer and two consumers are busy, one of these is killed.

        ``worst``: with items that are large, when the other one cannot go on because of it.
        """
        padding = bytes(LARGE if worst else 0)
        with self._set_up() as (_, board, start):
            victim, _ = start(_consume, 0), start(_consume, 1)
            producer = start(_produce, 0, padding)
            self._await_ready(board, 0, WORKERS, WORKERS + 1)
            self._kill(victim, board, _GOT + 1 if worst else None)
            return self._follow(board, producer, lambda: start(_consume, 0))

    def kill_busy_producer(self, worst: bool = False) -> Aftermath:
        """Two producers and a consumer are busy, one of those is killed. ``worst``: as above."""
        padding = bytes(LARGE if worst else 0)
        with self._set_up() as (_, board, start):
            start(_consume, 0)
            producer, victim = start(_produce, 0, padding), start(_produce, 1, padding)
            self._await_ready(board, 0, 1, WORKERS)
            self._kill(victim, board, _PUT if worst else None)
            return self._follow(board, producer, lambda: start(_consume, 1))

    def _follow(self, board: Board, producer: Any, start_another_consumer: Callable[[], object]) -> Aftermath:
        """Whether what the surviving producer puts now comes; then, when all is quiet, what is missing."""
        counters = board.counters
        before = counters[_PUT]
        if not self._wait(board, lambda: counters[_SEEN] > before + 1):
            return Aftermath(False, doubled=board.doubled())
        counters[_STOP] = 1
        if not self._wait(board, lambda: not producer.is_alive()):
            return Aftermath(False)
        if not self._wait(board, board.has_all_come):
            got = board.got()
            start_another_consumer()
            self._wait(board, board.has_all_come)
            if board.got() > got:  # it was not lost: the one that stayed did not go on
                return Aftermath(False)
        return Aftermath(True, board.lost(), board.doubled())

    # ---- items ----

    def put_too_large(self) -> str:
        """An item that is larger than the queue, where that has a size."""
        if not self._peer.takes_any_size:
            return "-"
        return self._put(bytes(ITEM.pack(0, 2)) + bytes(2 * CAPACITY), "is delivered")

    def put_unpicklable(self) -> str:
        if not self._peer.takes_objects:
            return "-"
        return self._put(lambda: None, "is lost in silence")

    def _put(self, item: Any, else_what: str) -> str:
        """What comes of the item. ``else_what``: if the put returns, and the next item comes."""
        with self._set_up() as (_, board, start):
            start(_consume, 0)
            self._await_ready(board, WORKERS)
            ours, its = self._context.Pipe()
            start(_put_what_cannot_be, its, item)
            its.close()
            answer: str = ours.recv() if ours.poll(self._patience) else "blocks"
            if answer == "blocks":
                return answer
            came = self._wait(board, lambda: bool(board.marks[0][0][1]))
            if not came:
                return f"{answer}, and nothing comes any more"
            return else_what if answer == "returns" else answer
