"""Many threads on one handle where no GIL keeps them apart; each program runs in a free-threaded interpreter.

That is this one, or what the environment variable SHMQUEUE_TEST_FREE_THREADED names: one that has shmqueue installed.
"""

from __future__ import annotations

import os
import sys
import sysconfig

import pytest
from support import run_python

PYTHON = os.environ.get("SHMQUEUE_TEST_FREE_THREADED") or (
    sys.executable if sysconfig.get_config_var("Py_GIL_DISABLED") else None
)

pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(
        PYTHON is None, reason="this Python has a GIL, and SHMQUEUE_TEST_FREE_THREADED names none that has not"
    ),
]

PRELUDE = """
import gc, sys, threading, time
from shmqueue import ShmQueue, ShmQueueError, engine
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueNotInitializedError
assert engine.NAME == "native", engine.REASON

errors = []

def together(*functions):
    barrier = threading.Barrier(len(functions))
    def run(function):
        try:
            barrier.wait(60)
            function()
        except BaseException as error:
            errors.append(error)
            raise
    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(80)
        assert not thread.is_alive(), "a thread never ended"
    assert not errors, errors

def rounds(seconds=2.0, least=3):
    number, end = 0, time.monotonic() + seconds
    while number < least or time.monotonic() < end:
        yield number
        number += 1
"""

EPILOGUE = """
assert not sys._is_gil_enabled(), "something has switched the GIL on"
print("done")
"""


PATIENCE = 110.0  # seconds after which a program hangs: several busy threads on a busy machine take their time


def run(program: str) -> None:
    assert run_python(PRELUDE + program + EPILOGUE, executable=PYTHON or "", patience=PATIENCE) == "done\n"


def test_importing_everything_keeps_the_gil_off() -> None:
    run(
        """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import shmqueue.cli, shmqueue.compat.multiprocessing, shmqueue.compat.queue, shmqueue.conformance
"""
    )


@pytest.mark.parametrize("item", ["7", "[1, {'a': [2, 'b']}]", "'x' * 50_000", "{1, 2}"])
def test_closing_waits_for_puts_and_gets_of_other_threads(item: str) -> None:
    run(
        f"""
for number in rounds():
    q = ShmQueue("close", buffer_size=1 << 18)
    started = threading.Semaphore(0)

    def use(act):
        done = 0
        try:
            while True:
                act()
                done += 1
                if done == 3:
                    started.release()
        except ShmQueueNotInitializedError:
            if done < 3:
                started.release()

    def put():
        try:
            q.put({item}, timeout=0)
        except ShmQueueError as error:
            if isinstance(error, ShmQueueNotInitializedError):
                raise

    def put_fast():
        try:
            q.put({item}, False)
        except ShmQueueError as error:
            if isinstance(error, ShmQueueNotInitializedError):
                raise

    def get():
        try:
            assert q.get(False) == {item}
        except ShmQueueEmpty:
            pass

    def close():
        for _ in range(4):
            started.acquire(timeout=60)
        q.shutdown()

    together(lambda: use(put), lambda: use(put_fast), lambda: use(get), lambda: use(q.qsize), close)
"""
    )


def test_two_threads_close_at_once() -> None:
    run(
        """
for _ in rounds():
    q = ShmQueue("close")
    together(q.shutdown, lambda: q._engine.close(), lambda: q._engine.close())
"""
    )


@pytest.mark.parametrize("allow_pickle", [True, False])
@pytest.mark.parametrize("odd", ["0", "msgpack.ExtType(5, b'')"])
def test_a_list_and_a_dict_change_while_they_are_put(allow_pickle: bool, odd: str) -> None:
    """What arrives is what they were at one moment each: these are always as long as their first value says."""
    run(
        f"""
import msgpack
q = ShmQueue("change", buffer_size=1 << 20, allow_pickle={allow_pickle})
numbers = [[str(n) * 40, [n, (n, "t")]] for n in range(40)]
whole = dict.fromkeys(map(str, range(40)), 1)
item = [{odd}, numbers, whole]
over = threading.Event()

def change():
    while not over.is_set():
        for _ in range(20):
            numbers.pop()
            whole.popitem()
        for n in range(20, 40):
            numbers.append([str(n) * 40, [n, (n, "t")]])
            whole[str(n)] = 1
        numbers[0] = [str(0) * 40, [0, (0, "t")]]

def put():
    try:
        for _ in range(300):
            try:
                q.put(item)
            except ShmQueueError as error:
                assert "changed size during iteration" in str(error), error  # pickle says so
                continue
            first, seen, copied = q.get(timeout=60)
            assert first == {odd}
            assert 20 <= len(seen) <= 40, len(seen)
            assert all(text == str(n) * 40 and again == (n, "t") for text, (n, again) in seen), seen
            assert 20 <= len(copied) <= 40 and set(copied.values()) == {{1}}
    finally:
        over.set()

together(change, put, put)
q.shutdown()
"""
    )


@pytest.mark.parametrize(
    "item", ["[n, msgpack.ExtType(5, bytes([n % 100]))]", "[n, [[n]] * 2]", "[n, (n, {'k': bytearray(b'x' * 9)})]"]
)
def test_threads_do_not_meet_in_a_packer(item: str) -> None:
    run(
        f"""
import msgpack
q = ShmQueue("pack", allow_pickle=False)
taken = []

def make(n):
    return {item}

def put(first):
    for n in range(first, first + 400):
        q.put(make(n))

def get():
    for _ in range(400):
        taken.append(q.get(timeout=60))

together(lambda: put(0), lambda: put(1000), get, get)
q.shutdown()
wanted = [make(n) for first in (0, 1000) for n in range(first, first + 400)]
assert sorted(item[0] for item in taken) == [item[0] for item in wanted]
assert sorted(taken, key=lambda item: item[0]) == wanted
"""
    )


@pytest.mark.parametrize("queue", ["ShmQueue('fast')", "compat.Queue()", "compat.SimpleQueue()"])
def test_many_threads_put_and_get_on_the_fast_path(queue: str) -> None:
    run(
        f"""
import shmqueue.compat.queue as compat
q = {queue}
taken = []

def put(first):
    for n in range(first, first + 2000):
        q.put({{"number": n}})

def get():
    mine = [q.get()["number"] for _ in range(2000)]
    for n in range(4):
        of_one = [number for number in mine if number // 10_000 == n]
        assert of_one == sorted(of_one), "out of order"
    taken.extend(mine)

def collect():
    for _ in range(20):
        gc.collect()

together(*[lambda n=n: put(10_000 * n) for n in range(4)], *[get] * 4, collect)
getattr(q, "shutdown" if isinstance(q, ShmQueue) else "close")()
assert sorted(taken) == [10_000 * n + i for n in range(4) for i in range(2000)]
"""
    )


def test_a_queue_loses_its_ring_while_others_use_it() -> None:
    run(
        """
q = ShmQueue("ring")
ring = q._engine
over = threading.Event()

def swap():
    while not over.is_set():
        q._try_first(None, None, None)
        q._try_first(ring, q._serializer.load, None)

def use():
    try:
        for n in range(3000):
            q.put(n)
            q.get()
    finally:
        over.set()

together(swap, use, use)
q.shutdown()
"""
    )


def test_leases_and_views_in_many_threads() -> None:
    run(
        """
q = ShmQueue("lease", buffer_size=1 << 18)
MOST = 1200
finished = []

def put():
    for n in range(MOST):
        q.put(n.to_bytes(4, "big") * 20)

def work(number):
    while len(finished) < MOST:
        try:
            lease = q.lease(timeout=0.05)
        except ShmQueueEmpty:
            continue
        item = lease.item
        if lease.attempt == 1 and item[3] % 7 == number:
            if item[3] % 2:
                lease.requeue()
            del lease  # which gives it back, too
            continue
        lease.ack()
        finished.append(item)

def view():
    while len(finished) < MOST:
        try:
            with q.get_view(timeout=0.05) as view:
                item = bytes(view)
                kept = view[:4]
            finished.append(item)
            assert bytes(kept) == item[:4]
        except ShmQueueEmpty:
            pass

together(put, *[lambda n=n: work(n) for n in range(2)], view, view)
assert sorted(finished) == [n.to_bytes(4, "big") * 20 for n in range(MOST)], len(finished)
figures = q.statistics()
assert (figures.leased, figures.returned) == (0, 0), figures
q.join(timeout=60)
q.shutdown()
"""
    )


def test_leases_at_once_while_others_take_the_ring_away() -> None:
    run(
        """
q = ShmQueue("at once")
ring, load = q._engine, q._serializer.load
ITEMS = [7, "text", {"key": [1, {"key": 2}]}, (1, b"x"), {1, 2}, [{"key": n} for n in range(400)], b"x" * 40_000]
finished = []
over = threading.Event()

def put():
    for n in range(300):
        q.put((n, ITEMS[n % len(ITEMS)]))

def work():
    while len(finished) < 300:
        try:
            lease = q.lease(False)
        except ShmQueueEmpty:
            continue
        n, item = lease.item
        if lease.attempt == 1 and n % 5 == 0:
            del lease  # which gives it back
            continue
        assert item == ITEMS[n % len(ITEMS)] and lease.ack(), item
        finished.append(n)

def swap():
    while len(finished) < 300:
        q._try_first(None, None, None)
        q._try_first(ring, lambda method, payload: load(method, payload), None)

together(put, work, work, swap)
assert sorted(finished) == list(range(300)), len(finished)
assert q.statistics().leased == 0
q.shutdown()
"""
    )


def test_an_item_is_loaded_by_many_threads() -> None:
    run(
        """
q = ShmQueue("loaded")
for number in rounds():
    q.put([{"key": [number] * 50}, number] * 40 if number % 2 else {number, "pickled"})
    items = []
    with q.lease() as lease:
        together(*[lambda: items.append(lease.item)] * 4)
    assert len(items) == 4 and all(item is items[0] for item in items)
    assert not lease.is_held
q.shutdown()
"""
    )


def test_leases_while_the_queue_is_closed() -> None:
    run(
        """
for number in rounds():
    q = ShmQueue(f"closed {number}")
    for n in range(50):
        q.put({"key": n} if n % 2 else {n})

    def lease():
        try:
            while True:
                with q.lease(False) as lease:
                    lease.item
                q.put({"key": 1})
        except (ShmQueueNotInitializedError, ShmQueueEmpty):
            pass
        except ShmQueueError as error:
            assert "closed" in str(error) or "over" in str(error), error

    together(lease, lease, lease, lambda: (time.sleep(0.01), q.shutdown()))
"""
    )


def test_one_lease_is_ended_once_by_many_threads() -> None:
    run(
        """
q = ShmQueue("lease")
for n in range(300):
    q.put(n)
    lease = q.lease()
    ends = []

    def end(act):
        try:
            ends.append(act())
        except ShmQueueError:
            pass

    together(lambda: end(lease.ack), lambda: end(lease.requeue), lambda: end(lease.ack))
    assert q.statistics().leased == 0
    q.clear()
q.shutdown()
"""
    )


def test_closing_against_leases_and_views() -> None:
    run(
        """
for number in rounds():
    q = ShmQueue("close", buffer_size=1 << 18)
    other = ShmQueue("close")
    for n in range(400):
        q.put(bytes(600))
    started, is_closing = threading.Semaphore(0), threading.Event()

    def use(act):
        kept = []
        try:
            for n in range(400):
                kept.append(act())
                if n == 3:
                    started.release()
        except (ShmQueueNotInitializedError, ShmQueueEmpty):
            pass
        except (BufferError, RuntimeError):
            assert is_closing.is_set()
        started.release()
        for view in kept:
            assert view is None or not any(view), "the bytes of a view are gone"

    def lease():
        try:
            q.lease(False).ack()
        except ShmQueueNotInitializedError:
            raise
        except ShmQueueError:
            pass

    def view():
        with q.get_view(False) as view:
            return view[:100]

    def close():
        for _ in range(3):
            started.acquire(timeout=60)
        is_closing.set()
        q.shutdown()

    together(lambda: use(lease), lambda: use(lease), lambda: use(view), close)
    assert other.statistics().leased == 0
    other.clear()
    other.shutdown()
"""
    )
