"""Writing an item where it lies, when processes are stopped, forked, killed or replaced meanwhile."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from support import PATIENCE, python, undisturbed_seconds, wait_for_line, wait_until

import shmqueue
from shmqueue import ShmQueue, ShmQueueFull
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


OPEN = """
import sys, time
from shmqueue import ShmQueue
q = ShmQueue(sys.argv[1])
print("open", flush=True)
time.sleep(99)
"""
GET_LOCK = 512  # where layout.h has it


@pytest.mark.parametrize("is_passed", [False, True], ids=["ahead", "passed"])
def test_closing_beside_a_stopped_process_does_not_wait_and_the_room_comes_back(
    make: Make, name: str, native: None, is_passed: bool
) -> None:
    other, q = make(buffer_size=10_000), make()
    with python(OPEN, name) as stopped, open(path_of(name), "r+b") as file:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "open\n"
        entered = q.put_view(6000)
        entered.__enter__()
        other.put("behind")
        if is_passed:
            assert other.get(timeout=PATIENCE) == "behind"
        stopped.send_signal(signal.SIGSTOP)
        os.pwrite(file.fileno(), struct.pack("=I", stopped.pid), GET_LOCK)
        q.shutdown()
        with pytest.raises(shmqueue.ShmQueueNotInitializedError):  # after a second at most, though nobody unlocks
            entered.__exit__(None, None, None)
        os.pwrite(file.fileno(), struct.pack("=I", 0), GET_LOCK)
        del entered
        if not is_passed:
            assert other.get(timeout=PATIENCE) == "behind"
        other.put(bytes(6000), timeout=PATIENCE)
        assert other.get(timeout=PATIENCE) == bytes(6000)


def test_a_child_puts_nothing(make: Make) -> None:
    q = make()
    view = q.put_view(1)
    contents = view.__enter__()
    child = os.fork()
    if child == 0:
        try:
            view.__exit__(None, None, None)
        except shmqueue.ShmQueueError:
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    contents[:] = b"p"
    del contents
    view.__exit__(None, None, None)
    assert q.get(timeout=PATIENCE) == b"p"
    assert q.empty()


WRITER = """
import sys, shmqueue
with shmqueue.ShmQueue(sys.argv[1], create=False) as q:
    with q.put_view(3000) as view:
        view[:10] = b"x" * 10
        print("writing", flush=True)
        sys.stdin.read()
"""


def test_a_writer_that_is_killed_blocks_nobody(make: Make, name: str) -> None:
    q = make(buffer_size=4096)
    with python(WRITER, name) as writer:
        wait_for_line(writer, "writing")
        writer.send_signal(signal.SIGKILL)
        writer.wait(PATIENCE)
        began = undisturbed_seconds()
        q.put(bytes(3000), timeout=PATIENCE)
        assert undisturbed_seconds() - began < 2
        assert q.get(timeout=PATIENCE) == bytes(3000)
    q.task_done()
    q.join()
    assert q.buffer_occupancy() == 0


def test_after_a_writer_was_killed_a_put_that_does_not_wait_has_its_room(make: Make, name: str, engine: str) -> None:
    q = make(buffer_size=4096)
    with python(WRITER, name) as writer:
        wait_for_line(writer, "writing")
        if engine == "native":  # the portable one has no bytes in the queue until they are written
            with pytest.raises(ShmQueueFull):
                q.put_nowait(bytes(3000))
        writer.kill()
        writer.wait(PATIENCE)

        def is_put() -> bool:
            try:
                q.put_nowait(bytes(3000))
            except ShmQueueFull:
                return False
            return True

        wait_until(is_put, "the dead writer's room is free")
    assert q.get_nowait() == bytes(3000)


def take_for_dead(name: str) -> None:
    """Let others take the process for dead that writes the only item of a queue: a later one seems to have its id."""
    with open(path_of(name), "r+b", buffering=0) as file:
        at = file.read().index(struct.pack("=IB3xI", (1 << 32) - 2, 1, os.getpid()))
        (started,) = struct.unpack("=Q", os.pread(file.fileno(), 8, at + 16))
        os.pwrite(file.fileno(), struct.pack("=Q", started + 1), at + 16)


def test_bytes_that_others_have_by_now_are_not_written(make: Make, name: str, native: None) -> None:
    q, other = make(buffer_size=4096), make()
    view = q.put_view(100)
    view.__enter__()
    take_for_dead(name)
    with pytest.raises(shmqueue.ShmQueueEmpty):
        other.get(timeout=0.5)
    assert other.buffer_occupancy() == 0
    other.put(bytes(3800))
    other.get()
    other.put(bytes(1000))  # lies where the other item was to be written
    with pytest.raises(shmqueue.ShmQueueError, match="is over"):
        view.__exit__(None, None, None)
    assert other.get(timeout=PATIENCE) == bytes(1000)
    assert q.qsize() == 0


LOOP = """
import sys, zlib, os, random, shmqueue
draw = random.Random(int(sys.argv[2]))
with shmqueue.ShmQueue(sys.argv[1], create=False) as q:
    print("begun", flush=True)
    while True:
        body = os.urandom(draw.randrange(2000))
        with q.put_view(len(body) + 4) as view:
            view[4:] = body
            view[:4] = zlib.crc32(body).to_bytes(4, "big")
"""


def test_no_death_leaves_half_an_item(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 14)
    draw = random.Random(3)
    deadline = time.monotonic() + PATIENCE
    deaths, items = 0, 0
    while deaths < 15 and time.monotonic() < deadline:
        with python(LOOP, name, str(deaths)) as writer:
            wait_for_line(writer, "begun")
            for _ in range(draw.randrange(1, 400)):
                item = q.get(timeout=PATIENCE)
                assert zlib.crc32(item[4:]).to_bytes(4, "big") == item[:4]
                items += 1
            writer.send_signal(signal.SIGKILL)
            writer.wait(PATIENCE)
        deaths += 1
    while True:
        try:
            item = q.get(timeout=0.3)
        except shmqueue.ShmQueueEmpty:
            break
        assert zlib.crc32(item[4:]).to_bytes(4, "big") == item[:4]
    assert deaths > 3
    q.put(bytes((1 << 14) - 100), timeout=PATIENCE)
    q.get()
    assert q.buffer_occupancy() == 0


BEFORE_EXEC = """
import os, sys
from shmqueue import ShmQueue
q = ShmQueue(sys.argv[1], create=False)
with q.put_view(7) as view:
    view[:4] = b"HALF"
    print("writing", flush=True)
    sys.stdin.readline()
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
"""

AFTER_EXEC = """
import sys
from shmqueue import ShmQueue
with ShmQueue(sys.argv[1], create=False) as q:
    with q.put_view(3) as view:
        view[:] = b"new"
print("put", flush=True)
sys.stdin.readline()
"""


def test_another_program_in_the_same_process_ends_no_reservation_of_the_first_one(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 16)
    with python(BEFORE_EXEC, name, AFTER_EXEC) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "writing\n"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0)  # comes to what is being written, and passes it
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "put\n"
        assert q.get(timeout=PATIENCE) == b"new"
        assert q.buffer_occupancy() == 0  # what the program before had reserved is free
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=1)
    assert q.qsize() == 0
