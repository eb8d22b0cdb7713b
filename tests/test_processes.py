"""Several processes on one queue: unrelated ones, children of every start method, killed and interrupted ones."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    PATIENCE,
    answer,
    cpu_seconds,
    from_bytes,
    is_asleep,
    python,
    run_python,
    to_bytes,
    wait_for_parent,
    wait_until,
)

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

PRODUCE = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
for number in range(int(sys.argv[2])):
    q.put([sys.argv[3], number])
"""

CONSUME = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
for item in iter(q.get, None):
    print(*item)
"""


def test_unrelated_interpreters_share_a_queue_by_its_name(make: Make, name: str) -> None:
    count = 3000
    make(buffer_size=1 << 16)
    with python(CONSUME, name) as consumer, python(PRODUCE, name, count, "a") as one:
        with python(PRODUCE, name, count, "b") as two:
            for producer in (one, two):
                assert producer.wait(PATIENCE) == 0
        make().put(None)
        lines = consumer.communicate(timeout=PATIENCE)[0].splitlines()
    for producer_name in "ab":
        numbers = [int(number) for who, number in map(str.split, lines) if who == producer_name]
        assert numbers == list(range(count))


def test_two_consumers_get_each_item_once_and_in_order(make: Make, name: str) -> None:
    count = 3000
    q = make(buffer_size=1 << 16)
    with python(CONSUME, name) as one, python(CONSUME, name) as two:
        for number in range(count):
            q.put(["x", number])
        q.put_many([None, None])
        seen = []
        for consumer in (one, two):
            numbers = [int(line.split()[1]) for line in consumer.communicate(timeout=PATIENCE)[0].splitlines()]
            assert numbers == sorted(numbers)
            seen += numbers
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_queue_is_passed_to_children_of_every_start_method(make: Make, name: str, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    questions, answers = make(name + "-q"), make(name + "-a")
    child = context.Process(target=answer, args=(questions, answers))
    child.start()
    try:
        for number in range(100):
            questions.put(number)
            assert answers.get(timeout=PATIENCE) == (number, number * 2)
        questions.put(None)
        child.join(PATIENCE)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_that_outlives_its_parents_handle_frees_the_memory(
    name: str, method: str, segment_directory: str
) -> None:
    q = ShmQueue(name)
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=wait_for_parent, args=(q,))
    child.start()
    try:
        assert q.get(timeout=PATIENCE) == "up"
        q.shutdown()
        with ShmQueue(name, create=False) as again:
            again.put("go")
        child.join(PATIENCE)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    assert os.listdir(segment_directory) == []


def test_a_queue_travels_through_another_queue(make: Make, name: str) -> None:
    carrier, cargo = make(name + "-carrier"), make(name + "-cargo")
    carrier.put({"reply to": cargo})
    received = carrier.get()["reply to"]
    try:
        received.put("hello")
        assert cargo.get() == "hello"
    finally:
        received.shutdown()


def test_a_pickled_queue_means_the_same_incarnation(name: str) -> None:
    with ShmQueue(name) as q:
        pickled = pickle.dumps(q)
        q.unlink()
    with pytest.raises(shmqueue.ShmQueueNotFoundError, match=f"queue '{name}' vanished"):
        pickle.loads(pickled).get()
    with ShmQueue(name), pytest.raises(shmqueue.ShmQueueNotFoundError, match="another queue has its name"):
        pickle.loads(pickled).get()


def test_a_pickled_queue_keeps_its_ways(make: Make) -> None:
    q = make(allow_pickle=False)
    q.custom_serialize(to_bytes)
    q.custom_deserialize(from_bytes)
    copy = pickle.loads(pickle.dumps(q))
    try:
        copy.put("text", serialization_method=1001)
        assert copy.get() == "text"
        with pytest.raises(shmqueue.ShmQueueSerializationError):
            copy.put({1})
    finally:
        copy.shutdown()


def test_a_producer_that_ends_at_once_loses_nothing(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 16)
    run_python(PRODUCE, name, 1000, "x")
    assert [q.get(block=False)[1] for _ in range(1000)] == list(range(1000))


def test_a_blocked_get_in_another_process_is_woken(make: Make, name: str) -> None:
    q = make()
    with python(CONSUME, name) as consumer:
        wait_until(lambda: q.refs == 2 and is_asleep(consumer.pid), "the consumer sleeps")
        q.put_many([("x", 1), None])
        assert consumer.communicate(timeout=PATIENCE)[0] == "x 1\n"


def test_join_waits_for_task_done_in_other_processes(make: Make, name: str) -> None:
    q = make()
    q.put_many(range(50))
    code = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
for _ in range(25):
    q.get()
    q.task_done()
"""
    with python(code, name), python(code, name):
        assert q.join(timeout=PATIENCE)
    assert q.unfinished_tasks == 0


@pytest.mark.parametrize(
    "call", ["q.get()", "q.get(timeout=1000)", "[q.put(b'x' * 1000) for _ in range(9)]", "q.join()"]
)
def test_ctrl_c_ends_a_blocked_call_at_once_and_leaves_the_queue_untouched(make: Make, name: str, call: str) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    code = f"""
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
if "join" in {call!r}:
    q.put("unfinished")
print("up", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", q.qsize())
"""
    with python(code, name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: is_asleep(process.pid), "the call blocks")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert output.startswith("interrupted"), errors
    assert q.qsize() == int(output.split()[1])
    q.clear()
    q.put("fine")
    assert q.get() == "fine"


def test_a_signal_handler_may_use_the_queue_it_interrupted(make: Make, name: str) -> None:
    make()
    code = """
import signal, sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
signal.signal(signal.SIGUSR1, lambda *_: q.put("from the handler"))
print("up", flush=True)
print(q.get())
"""
    with python(code, name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: is_asleep(process.pid), "get blocks")
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=PATIENCE)[0] == "from the handler\n"


def test_a_put_in_a_handler_that_interrupted_a_put_does_not_deadlock(make: Make, name: str) -> None:
    code = """
import random, signal, sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1], buffer_size=1 << 22)
handled = 0
def handler(*_):
    global handled
    q.put("handler")
    handled += 1
    if handled < 200:  # the next one when this one is over, else a slow machine would nest them without end
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.0005))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0003)
put = 0
while handled < 200:
    q.put(put)
    put += 1
    if q.full():
        q.clear()
print(q.statistics().puts == put + handled)
"""
    assert run_python(code, name) == "True\n"


def test_a_blocked_get_uses_no_measurable_cpu(name: str, engine: str) -> None:
    if engine == "portable":
        pytest.skip("the portable engine polls")
    with python("import sys, shmqueue; shmqueue.ShmQueue(sys.argv[1]).get()", name) as process:
        wait_until(lambda: segment_is_there(name) and is_asleep(process.pid), "get blocks")
        before = cpu_seconds(process.pid)
        time.sleep(3)  # the span that is measured
        assert cpu_seconds(process.pid) - before <= 0.02
        process.send_signal(signal.SIGKILL)
        process.wait()
    shmqueue.segment.sweep_orphans()


def segment_is_there(name: str) -> bool:
    return os.path.exists(shmqueue.segment.path_of(name))


def test_a_fork_while_another_thread_is_putting(make: Make) -> None:
    q = make(buffer_size=1 << 16, maxsize=100)
    stop = threading.Event()
    put: list[int] = []

    def produce() -> None:
        while not stop.is_set():
            try:
                q.put(len(put), timeout=0.01)
            except shmqueue.ShmQueueFull:
                continue
            put.append(len(put))

    thread = threading.Thread(target=produce)
    thread.start()
    got = []
    try:
        for round_number in range(50):
            pid = os.fork()
            if pid == 0:
                try:
                    q.put(-round_number - 1)
                    q.get(timeout=PATIENCE)
                    q.put(-1000)
                    os._exit(0)
                finally:
                    os._exit(1)
            while True:
                got.append(q.get(timeout=PATIENCE))
                if got[-1] == -1000:
                    break
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    numbers = [item for item in got if item >= 0]
    assert numbers == sorted(numbers)


LOOP = {
    "put": "while True: q.put(b'x' * 50)",
    "put_many": "while True: q.put_many([b'x' * 50] * 20)",
    "get": "while True: q.get()",
    "get_many": "while True: q.get_many(20)",
    "clear": "while True: q.clear()",
}


@pytest.mark.thorough
@pytest.mark.parametrize("victim", LOOP)
def test_a_kill_at_any_moment_wedges_and_breaks_nothing(make: Make, name: str, victim: str) -> None:
    q = make(buffer_size=1 << 16)
    chance = random.Random(victim)
    helper = LOOP["get" if victim.startswith("put") else "put"]
    start = "import sys, shmqueue; q = shmqueue.ShmQueue(sys.argv[1]); print('up', flush=True)\n"
    with python(start + helper, name):
        for _ in range(15):
            with python(start + LOOP[victim], name) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.uniform(0, 0.02))  # the moment of death is what varies
                process.kill()
                process.wait()
            wait_until(lambda: survivors_work(q, victim), "the others go on")
    q.clear()
    q.put("sound")
    assert q.get() == "sound"
    assert q.buffer_occupancy() == 0


def survivors_work(q: ShmQueue, victim: str) -> bool:
    """With the victim dead, the other side drains the ring, or fills it up."""
    return q.empty() if victim.startswith("put") else q.buffer_occupancy() > q.max_buffer_size() - 100


def test_a_stopped_peer_does_not_hold_up_timeouts(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 16)
    code = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
print("up", flush=True)
while True:
    q.put(1)
    q.get()
"""
    with python(code, name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(20):
            process.send_signal(signal.SIGSTOP)
            start = time.monotonic()
            try:
                q.put(2, timeout=0.05)
                q.get(timeout=0.05)
            except (shmqueue.ShmQueueFull, shmqueue.ShmQueueEmpty):
                assert time.monotonic() - start >= 0.05
            process.send_signal(signal.SIGCONT)


def other_interpreters() -> list[str]:
    """Python interpreters of other versions on this machine that have shmqueue."""
    candidates = os.environ.get("SHMQUEUE_TEST_PYTHONS", "").split(os.pathsep)
    commands = sorted({entry for folder in os.get_exec_path() if os.path.isdir(folder) for entry in os.listdir(folder)})
    candidates += [
        path
        for command in commands
        if re.fullmatch(r"python3\.\d+t?", command) and (path := shutil.which(command)) is not None
    ]
    found = []
    for candidate in filter(None, candidates):
        probe = "import sys, shmqueue; print(sys.version_info[:2])"
        ran = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, cwd="/", check=False)
        if ran.returncode == 0 and ran.stdout.strip() != str(sys.version_info[:2]):
            found.append(candidate)
    return found


def test_interpreters_of_different_versions_exchange_items(make: Make, name: str) -> None:
    others = other_interpreters()
    if not others:
        pytest.skip("no other Python version with shmqueue here; name some in SHMQUEUE_TEST_PYTHONS")
    code = """
import sys, shmqueue
there, back = shmqueue.ShmQueue(sys.argv[1]), shmqueue.ShmQueue(sys.argv[2])
for item in iter(there.get, None):
    back.put(item)
"""
    items = [1, "ü", b"\0", (1, (2,)), {"a": [1.5, None]}, {1, 2}, 1 << 100, {3: 4}]
    for executable in others:
        there, back = make(name + "-there"), make(name + "-back")
        with python(code, name + "-there", name + "-back", executable=executable) as process:
            for item in items:
                there.put(item)
                assert back.get(timeout=PATIENCE) == item
            there.put(None)
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors
