"""The first document of the project promised these programs; each runs as it was written there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, python, run_python

pytestmark = pytest.mark.usefixtures("engine")

PRODUCER = """
import shmqueue

q = shmqueue.ShmQueue("my_queue", buffer_size=shmqueue.SYSTEM_PAGESIZE)
q.put({"hello": "world"})
q.put(b"raw bytes")
q.put(42)
"""

CONSUMER = """
import shmqueue

q = shmqueue.ShmQueue("my_queue")

item = q.get()  # blocks until data is available
print(item, q.get(), q.get())
try:
    item = q.get(block=False)  # raises ShmQueueEmpty if nothing there
except shmqueue.exceptions.ShmQueueEmpty:
    print("nothing there")
"""

NON_BLOCKING_AND_TIMEOUT = """
import shmqueue
q = shmqueue.ShmQueue("my_queue")
try:
    q.put("data", block=False)
except shmqueue.exceptions.ShmQueueFull:
    pass
item = q.get(block=True, timeout=2.0)
print(item)
try:
    q.get(block=True, timeout=0.1)  # raises ShmQueueEmpty after a while
except shmqueue.exceptions.ShmQueueEmpty:
    print("timeout")
"""

STATUS_AND_CLEANUP = """
import shmqueue
q = shmqueue.ShmQueue("my_queue")
q.put("x")
print(q.qsize(), q.empty(), q.full(), q.buffer_occupancy())
snap = q.snapshot()  # all fields in one lock acquisition (ShmRefDataSnapshot)
print(*snap)
q.shutdown()  # decrement ref count; last closer frees shared memory
"""

DEMO = """
import multiprocessing, shmqueue, time, os

QUEUE_NAME = "demo_queue"

def producer():
    q = shmqueue.ShmQueue(QUEUE_NAME)
    for i in range(10):
        q.put(i)
    q.shutdown()

def consumer():
    q = shmqueue.ShmQueue(QUEUE_NAME)
    received = []
    while len(received) < 10:
        try:
            received.append(q.get(block=True, timeout=5.0))
        except shmqueue.exceptions.ShmQueueEmpty:
            break
    print(received)
    q.shutdown()

if __name__ == "__main__":
    q_main = shmqueue.ShmQueue(QUEUE_NAME)  # keep shm alive for duration

    p = multiprocessing.Process(target=producer)
    c = multiprocessing.Process(target=consumer)
    p.start(); c.start()
    p.join(); c.join()

    q_main.shutdown()
"""

CONSOLE_HANDLERS = """
import shmqueue
q = shmqueue.ShmQueue("my_queue")
# Registers signal, atexit, and weakref handlers so shm is released on
# unexpected termination (SIGINT / SIGTERM / console close on Windows).
q.set_console_handlers(register_atexit=True)
q.put("never taken")
"""

PICKLE = """
import shmqueue
# Disable pickle:
q = shmqueue.ShmQueue("my_queue", allow_pickle=False)

# Explicit serialization method per put. If pickle is disabled, this will raise ShmQueueSerializationError:
try:
    q.put("test", serialization_method=shmqueue.SerializationMethods.PICKLE)
except shmqueue.exceptions.ShmQueueSerializationError as error:
    print("refused:", error)
print(q.qsize())
"""

CUSTOM = """
import struct, shmqueue
from shmqueue import SerializationMethods

MY_METHOD = SerializationMethods.FIRST_PUBLIC_NUMBER + 1

q = shmqueue.ShmQueue("my_queue", buffer_size=1000)

def my_serializer(method: int, data) -> bytes:
    if method == MY_METHOD:
        return struct.pack("I", data)
    raise NotImplementedError

def my_deserializer(method: int, chunks: list) -> int:
    if method == MY_METHOD:
        return struct.unpack("I", b"".join(chunks))[0]
    raise NotImplementedError

q.custom_serialize(my_serializer)
q.custom_deserialize(my_deserializer)

q.put(42, serialization_method=MY_METHOD)
assert q.get() == 42
"""

TRACKING = """
import shmqueue
q = shmqueue.ShmQueue("my_queue", track_resources=True)
q.put(1)
print(q.get())
"""


def test_producer_and_consumer_in_two_interpreters_started_from_a_shell(tmp_path: Path) -> None:
    (tmp_path / "producer.py").write_text(PRODUCER + "import time\nwhile q.qsize(): time.sleep(0.001)\n")
    (tmp_path / "consumer.py").write_text(CONSUMER)
    shell = f'"{sys.executable}" consumer.py & "{sys.executable}" producer.py && wait'
    ran = subprocess.run(
        ["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert ran.stdout.splitlines() == ["{'hello': 'world'} b'raw bytes' 42", "nothing there"], ran.stderr


def test_put_without_blocking_and_get_with_a_timeout() -> None:
    assert run_python(NON_BLOCKING_AND_TIMEOUT) == "data\ntimeout\n"


def test_status_and_cleanup(segment_directory: str) -> None:
    size = run_python("import shmqueue; print(shmqueue.ShmQueue('my_queue').max_buffer_size())").strip()
    assert run_python(STATUS_AND_CLEANUP) == f"1 False False 10\n1 10 0 {size} 1 1\n"
    assert os.listdir(segment_directory) == []


def test_the_program_with_multiprocessing(tmp_path: Path, segment_directory: str) -> None:
    (tmp_path / "demo.py").write_text(DEMO)
    ran = subprocess.run(
        [sys.executable, "demo.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert (ran.stdout, ran.stderr) == ("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n", "")
    assert os.listdir(segment_directory) == []


def test_console_handlers(segment_directory: str) -> None:
    run_python(CONSOLE_HANDLERS)
    assert os.listdir(segment_directory) == []


def test_allow_pickle_false() -> None:
    output = run_python(PICKLE)
    assert output.startswith("refused:")
    assert output.endswith("\n0\n")


def test_a_custom_serializer() -> None:
    run_python(CUSTOM)


def test_track_resources_raises_no_warning() -> None:
    with python(TRACKING) as process:
        assert process.communicate(timeout=PATIENCE) == ("1\n", "")
