"""gevent's monkey patching: our threads are the system's, so a descriptor tells of items as ever."""

from __future__ import annotations

import importlib.util

import pytest
from support import run_python

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed"),
]

ORDERS = {
    "patched before": "from gevent import monkey; monkey.patch_all()\nimport shmqueue.compat.multiprocessing as mp",
    "patched after": "import shmqueue.compat.multiprocessing as mp\nfrom gevent import monkey; monkey.patch_all()",
}

USE = """
import gevent, select, subprocess, sys
q = mp.SimpleQueue(name="over")
number = q._reader.fileno()
ticks = []

def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)

ticking = gevent.spawn(tick)
put = "from shmqueue.compat import multiprocessing as mp; mp.SimpleQueue(name='over').put('from another process')"
process = subprocess.Popen([sys.executable, "-c", put])
assert select.select([number], [], [], 30)[0] == [number]
assert q.get() == "from another process"
assert process.wait() == 0
assert len(ticks) > 1, "the other greenlet did not run meanwhile"
assert select.select([number], [], [], 0)[0] == []
q.put(1)
assert select.select([number], [], [], 30)[0] == [number]
q.get()
ticking.kill()
q.close()
"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_greenlet_waits_for_a_queue_while_others_run(order: str) -> None:
    run_python(ORDERS[order] + USE)


@pytest.mark.parametrize("order", ORDERS)
def test_greenlets_put_and_get(order: str) -> None:
    code = """
import gevent
q = mp.Queue()

def put(number):
    for _ in range(50):
        q.put(number)
        gevent.sleep(0)

def get():
    got = 0
    while got < 150:
        try:
            q.get_nowait()
            got += 1
        except Exception:
            gevent.sleep(0)
    return got

getting = gevent.spawn(get)
gevent.joinall([gevent.spawn(put, number) for number in range(3)], raise_error=True)
assert getting.get(timeout=30) == 150
q.close()
"""
    run_python(ORDERS[order] + code)
