"""``python -m safety.byte_flips SEED SECONDS ENGINE``: wrong bytes in the file of a queue that Python has in use.

Each trial fills a queue, changes some bytes of its file, then calls everything that there is, on the handle from before
and on one from afterwards. What comes is a valid result or an error of this package, at once and in little memory.

Fails if: a call on wrong bytes returns what it cannot have got, raises anything but an error of this package, takes too
long or too much memory.
"""

from __future__ import annotations

import collections
import faulthandler
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .busy import at_least

TIMEOUT = 0.002  # seconds that a call may wait for what does not come
LATE = at_least(5.0)  # seconds: so late no call comes back, however busy the machine is
HANGING = 30.0
MEMORY = 1 << 30  # bytes of addresses beyond those at the start

HEADER, STATE, LEASES, DATA = range(120), range(128, 1280), range(3072, 3264), range(4096, 8192)
LOCKS = {"native": (range(256, 260), range(512, 516)), "portable": ()}
"""Left alone: a word that names a living thread is a lock that is taken, and a call without a timeout rightly waits."""


def main(seed: int, seconds: float, engine: str) -> int:
    directory = tempfile.mkdtemp(prefix="flips-", dir=os.environ.get("SHMQUEUE_DIR"))
    os.environ |= {"SHMQUEUE_DIR": directory, "SHMQUEUE_ENGINE": engine}
    _limit_memory()
    counts: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    try:
        while counts["trials"] == 0 or (time.monotonic() < end and not counts["faults"]):
            number = counts["trials"]
            faulthandler.dump_traceback_later(HANGING, exit=True)
            _Trial(f"{seed}/{number}", engine, counts).run()
            counts["trials"] += 1
            faulthandler.cancel_dump_traceback_later()
    finally:
        shutil.rmtree(directory)
    for what, count in counts.items():
        print(f"{what}: {count}")
    return 1 if counts["faults"] else 0


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class _Trial:
    def __init__(self, seed: str, engine: str, counts: collections.Counter[str]) -> None:
        self._seed, self._engine, self._counts = seed, engine, counts
        self._random = random.Random(seed)
        self._leases: list[Any] = []

    def run(self) -> None:
        import shmqueue  # after the environment has its variables
        from shmqueue import segment

        draw = self._random
        size, most = draw.choice([(1, None), (20000, None), (1, 1 << 20), (8192, 1 << 18)])
        name = "flips"
        queue = shmqueue.ShmQueue(name, buffer_size=size, max_bytes=most, allow_pickle=False)
        handles = [queue]
        try:
            for _ in range(draw.randrange(12)):
                queue.put(self._item(), timeout=TIMEOUT)
            for _ in range(draw.randrange(4)):
                if not queue.empty():
                    queue.get(timeout=TIMEOUT)
            for _ in range(draw.randrange(4)):
                if not queue.empty():
                    self._leases.append(queue.lease(timeout=TIMEOUT))
            if self._leases and draw.random() < 0.5:
                self._leases.pop().requeue()
            self._flip(segment.path_of(name))
            self._call(lambda: handles.append(shmqueue.ShmQueue(name, create=False, allow_pickle=False)))
            for _ in range(12):
                self._call(self._choose(draw.choice(handles)))
        finally:
            for handle in handles:
                self._call(handle.shutdown)
            for left in Path(os.environ["SHMQUEUE_DIR"]).iterdir():
                left.unlink()

    def _item(self) -> object:
        return self._random.choice([1, "text", b"x" * self._random.randrange(300), [1, 2.5, None], {"a": (1, 2)}])

    def _flip(self, path: str) -> None:
        """Change a byte, or a word, or some."""
        draw = self._random
        where = draw.choices([HEADER, STATE, LEASES, DATA, self._behind(path)], [1, 6, 2, 3, 4])[0]
        with open(path, "r+b", buffering=0) as file:
            for _ in range(draw.choice([1, 1, 1, 2, 8])):
                width = draw.choice([1, 4, 8])
                offset = draw.choice(where) // width * width
                if any(byte in lock for lock in LOCKS[self._engine] for byte in range(offset, offset + width)):
                    continue
                file.seek(offset)
                old = int.from_bytes(file.read(width), sys.byteorder)
                mask = (1 << 8 * width) - 1
                wrong = [draw.getrandbits(64), old ^ 1 << draw.randrange(64), old + draw.choice([-8, -1, 1, 8, 4096])]
                file.seek(offset)
                file.write((draw.choice(wrong) & mask).to_bytes(width, sys.byteorder))
                self._counts["corruptions"] += 1

    def _behind(self, path: str) -> range:
        """The begin of the lease tables, or of what lies behind them: one of the last pages that have memory."""
        with open(path, "rb") as file:
            start, end = os.SEEK_SET, 0
            pieces = [range(4096, 8192)]
            while True:
                try:
                    start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                except OSError:  # there is no more
                    break
                pieces += [range(at, at + 160) for at in range(max(start, 4096), end, 4096)]
        return self._random.choice(pieces)

    def _choose(self, q: Any) -> Callable[[], object]:
        draw = self._random
        calls: list[Callable[[], object]] = [
            lambda: q.put(self._item(), timeout=TIMEOUT),
            lambda: q.put_many([self._item() for _ in range(3)], timeout=TIMEOUT),
            lambda: q.get(timeout=TIMEOUT),
            lambda: q.get(timeout=TIMEOUT),
            lambda: q.get_many(4, timeout=TIMEOUT),
            lambda: self._leases.append(q.lease(timeout=TIMEOUT)),
            lambda: self._leases.append(q.lease(timeout=TIMEOUT)),
            lambda: self._end_one(draw.random() < 0.5),
            lambda: self._end_one(draw.random() < 0.5),
            lambda: self._view(q),
            lambda: q.join(timeout=TIMEOUT),
            lambda: self._expect_number(q.qsize()),
            lambda: self._expect_number(q.buffer_occupancy()),
            lambda: self._expect_number(q.unfinished_tasks),
            lambda: q.put_nowait(self._item()),
            q.get_nowait,
            q.empty,
            q.full,
            q.task_done,
            q.clear,
            q.statistics,
            q.snapshot,
            lambda: repr(q),
            lambda: q.shutdown_all(immediate=draw.random() < 0.5),
        ]
        return draw.choice(calls)

    def _end_one(self, requeue: bool) -> None:
        if self._leases:
            lease = self._leases.pop(self._random.randrange(len(self._leases)))
            self._expect_number(lease.attempt)
            (lease.requeue if requeue else lease.ack)()

    def _view(self, q: Any) -> None:
        with q.get_view(timeout=TIMEOUT) as view:
            bytes(view)

    def _expect_number(self, number: object) -> None:
        if not isinstance(number, int) or number < 0:
            self._fault(f"a figure of {number!r}")

    def _call(self, call: Callable[[], object]) -> None:
        import shmqueue

        start = time.monotonic()
        try:
            call()
        except shmqueue.ShmQueueError as error:
            self._counts[type(error).__name__] += 1
        except Exception as error:
            self._fault(f"{type(error).__name__}: {error}")
        if time.monotonic() - start > LATE:
            self._fault(f"a call took {time.monotonic() - start:.1f} seconds")
        self._counts["calls"] += 1

    def _fault(self, what: str) -> None:
        self._counts["faults"] += 1
        print(f"fault: trial {self._seed}: {what}", flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
