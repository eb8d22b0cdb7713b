"""The processes of the life cycle storm: each opens one name again and again, uses it a little, and closes it.

What they do is written down line by line, each with the time, in a file for each worker that its death cannot change.
"""

from __future__ import annotations

import os
import random
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from shmqueue import ShmQueue, ShmQueueEmpty, ShmQueueExistsError, ShmQueueFull, ShmQueueNotFoundError
from shmqueue.segment import path_of, read_header
from shmqueue.segment.locks import same_file

NAME = "storm"


@dataclass(frozen=True)
class Job:
    number: int
    diary: Path
    parent: int
    seed: str


def work(job: Job) -> None:
    """Until it is killed."""
    try:
        worker = Worker(job)
        while os.getppid() == job.parent:
            worker.session()
            if worker.random.random() < 0.3:
                time.sleep(worker.random.random() * 0.002)  # so that now and then nobody has it open
    except BaseException:
        job.diary.with_suffix(".fault").write_text(traceback.format_exc())
        os._exit(1)


class Worker:
    """One that comes and goes."""

    def __init__(self, job: Job) -> None:
        self.number = job.number
        self.random = random.Random(job.seed)
        self.path = path_of(NAME)
        self._diary = os.open(job.diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._items = 0

    def write(self, *words: object) -> None:
        os.write(self._diary, " ".join(map(str, (time.monotonic_ns(), *words))).encode() + b"\n")

    def session(self) -> None:
        create = self.random.choice([None, None, None, None, True, False])
        most = self.random.choice([None, None, 1 << 20])
        self.write("open", create)
        try:
            queue = ShmQueue(NAME, max_bytes=most, create=create)
        except ShmQueueExistsError:
            if create is not True:
                raise
            self.write("exists")
            return
        except ShmQueueNotFoundError:
            if create is not False:
                raise
            self.write("missing")
            return
        self.write("held", queue._segment.header.uuid.hex(), "created" if queue._segment.created else "found")
        for _ in range(self.random.choice([0, 0, 0, 1, 2, 5])):
            self.random.choice([self.put, self.put, self.get, self.look])(queue)
        while queue.qsize():  # so that what this worker has put was taken, by whomever, when it closes
            self.get(queue)
        self.look(queue)
        self.write("close")
        queue.shutdown()
        self.write("closed")

    def put(self, queue: ShmQueue) -> None:
        self.write("putting", self._items)
        try:
            queue.put_nowait((self.number, self._items))
        except ShmQueueFull:
            self.write("full")
        else:
            self.write("put", self._items)
            self._items += 1

    def get(self, queue: ShmQueue) -> None:
        self.write("getting")
        try:
            producer, number = queue.get_nowait()
        except ShmQueueEmpty:
            self.write("empty")
        else:
            self.write("got", producer, number)

    def look(self, queue: ShmQueue) -> None:
        """While somebody holds a queue its name leads to it."""
        if not same_file(queue._segment.fileno(), self.path):
            raise AssertionError("a queue that is held has lost its name")
        if read_header(self.path).uuid != queue._segment.header.uuid:
            raise AssertionError("while a queue is held its name leads to another one")
