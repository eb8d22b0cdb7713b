"""Where the system denies futexes that are shared between processes (containers, sandboxes), calls wait by polling."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from safety import denied
from support import python

from shmqueue import ShmQueue

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(denied.why_not() is not None, reason=str(denied.why_not())),
]

Make = Callable[..., ShmQueue]

WAITS = """
import queue, sys, time
from safety.denied import deny_shared_futexes
from shmqueue import ShmQueue

def idle(call, *arguments, **options):
    began, computed = time.monotonic(), time.process_time()
    try:
        done = call(*arguments, **options) is not False
    except (queue.Empty, queue.Full):
        done = False
    assert not done, f"{call} did not wait"
    took = time.monotonic() - began
    assert took >= 0.25, f"{call} waits for {took} s of 0.25"
    assert time.process_time() - computed < 0.3 * took, f"{call} computes while it waits"

with ShmQueue(sys.argv[1]) as q:
    deny_shared_futexes(int(sys.argv[2]))
    q.put("item")  # of one, so it is full now
    idle(q.put, "item", timeout=0.25)
    idle(q.join, timeout=0.25)
    assert q.get() == "item"
    idle(q.get, timeout=0.25)
    print("waits", flush=True)
    assert q.get() == "from outside"
    print("got", flush=True)
    q.put("first")
    q.put("second")  # waits until the first one is taken
print("done", flush=True)
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_calls_wait_without_futexes_and_without_the_processor(make: Make, name: str, error: int) -> None:
    q = make(maxsize=1)
    with python(WAITS, name, error) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "waits\n", process.communicate()
        q.put("from outside")
        assert process.stdout.readline() == "got\n", process.communicate()
        assert q.get() == "first"
        assert q.get() == "second"
        out, errors = process.communicate()
        assert (out, errors, process.returncode) == ("done\n", "", 0)
