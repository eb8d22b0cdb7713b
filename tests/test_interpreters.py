"""Several interpreters in one process, each with a GIL of its own, exchange items by name with the native engine."""

from __future__ import annotations

import sys

import pytest
from support import run_python

from shmqueue import ShmQueue

pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(
        sys.version_info < (3, 14),
        reason="before Python 3.14 the module for interpreters is private, and 3.12.1 and 3.13.0 crash with compiled "
        "modules in interpreters of their own, without this package too",
    ),
]

PRELUDE = """
import threading
from concurrent import interpreters

HEAD = '''
import warnings
warnings.simplefilter("error")
from shmqueue import ShmQueue, engine
assert engine.NAME == "native", engine.REASON
'''

def run_together(*codes):
    errors = []
    made = [interpreters.create() for _ in codes]

    def run_one(interpreter, code):
        try:
            interpreter.exec(HEAD + code)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run_one, args=pair) for pair in zip(made, codes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for interpreter in made:
        interpreter.close()
    assert not errors, errors
"""


PATIENCE = 110.0  # seconds after which a program hangs


def run(program: str) -> None:
    assert run_python(PRELUDE + program + '\nprint("done")', patience=PATIENCE) == "done\n"


def test_an_interpreter_of_its_own_uses_the_native_engine() -> None:
    run('run_together("with ShmQueue(\\"one\\") as q:\\n    q.put([1, (2,)])\\n    assert q.get() == [1, (2,)]")')


def test_it_opens_a_queue_of_the_main_interpreter() -> None:
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("main") as q:
    q.put("from main")
    run_together('''
with ShmQueue("main", create=False) as q:
    assert q.get(timeout=60) == "from main"
    q.put("back")
''')
    assert q.get(timeout=60) == "back"
"""
    )


@pytest.mark.parametrize(
    "item", ["i", "{'number': i, 'more': [i, None, (1.5, b'x')]}", "frozenset({i})", "str(i) * 9000"]
)
def test_two_interpreters_exchange_items(item: str) -> None:
    run(
        f"""
run_together('''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1000):
        q.put({item})
    done.get(timeout=60)
''', '''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1000):
        assert q.get(timeout=60) == {item}
    done.put(True)
''')
"""
    )


@pytest.mark.thorough
def test_two_interpreters_exchange_a_million_items_and_lose_none() -> None:
    run(
        """
run_together('''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1_000_000):
        q.put(i)
    done.get(timeout=60)
''', '''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1_000_000):
        assert q.get(timeout=60) == i
    assert q.empty()
    done.put(True)
''')
"""
    )


def test_the_interpreters_of_a_pool_lose_none() -> None:
    run(
        """
from concurrent.futures import InterpreterPoolExecutor
from shmqueue import ShmQueue

def put(first):
    from shmqueue import ShmQueue, engine
    assert engine.NAME == "native", engine.REASON
    with ShmQueue("pool", create=False) as q:
        for i in range(first, first + 1000):
            q.put(i)

with ShmQueue("pool") as q, InterpreterPoolExecutor(4) as pool:
    futures = [pool.submit(put, first) for first in range(0, 4000, 1000)]
    taken = [q.get(timeout=60) for _ in range(4000)]
    for first in range(0, 4000, 1000):
        of_one = [i for i in taken if first <= i < first + 1000]
        assert of_one == list(range(first, first + 1000)), first
    [future.result() for future in futures]
    assert q.empty()
"""
    )


def test_a_lease_that_an_interpreter_leaves_comes_again_in_another() -> None:
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("lease") as q:
    q.put("item")
    run_together('''
q = ShmQueue("lease")
lease = q.lease(timeout=60)
assert lease.item == "item"
''')
    with q.lease(timeout=60) as lease:
        assert (lease.item, lease.attempt) == ("item", 2)
"""
    )


def test_packing_that_the_engine_leaves_to_msgpack() -> None:
    """msgpack's compiled module may refuse to be imported there, and then its Python one serves."""
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("ext", allow_pickle=False) as q:
    run_together('''
import msgpack
with ShmQueue("ext", allow_pickle=False) as q:
    twice = [1]
    q.put([msgpack.ExtType(5, b"x"), [twice, (2,), twice], msgpack.Timestamp(1, 2)])
''')
    import msgpack
    assert q.get(timeout=60) == [msgpack.ExtType(5, b"x"), [[1], (2,), [1]], msgpack.Timestamp(1, 2)]
"""
    )


LEFT = """
import os

def left():
    with open("/proc/self/maps") as file:
        maps = [line for line in file if "shmqueue-" in line or "/dev/shm" in line]
    return len(os.listdir("/proc/self/fd")), len(maps), len(os.listdir("/proc/self/task"))

seen = []
for _ in range(4):
    interpreter = interpreters.create()
    interpreter.exec(HEAD + CODE)
    interpreter.close()
    seen.append(left())
assert seen[1:] == seen[:1] * 3, seen
"""


@pytest.mark.parametrize(
    "use",
    [
        "select.select([q], [], [], 0)",
        "q.put(1); select.select([q], [], []); lease = q.lease()",
        "q = Queue(); asyncio.run(wait(q))",
    ],
    ids=["select", "select and a lease", "asyncio"],
)
def test_an_interpreter_that_ends_with_its_queue_open_leaves_nothing_behind(use: str) -> None:
    code = f"""
import asyncio, select
from shmqueue.compat.asyncio import Queue

async def wait(q):
    try:
        await asyncio.wait_for(q.get(), 0.001)
    except asyncio.TimeoutError:
        pass

q = ShmQueue("left", keep=True)
{use}
"""
    run(f"CODE = {code!r}\n{LEFT}")
    ShmQueue("left").unlink()
