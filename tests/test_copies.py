"""Several copies of the package in one process: none gives back what another one has leased."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
from support import run_python

import shmqueue

TWO_COPIES = """
import sys
import shmqueue as first
name, directory, engine = sys.argv[1:]
a = first.ShmQueue(name)
a.put_many(range(3))
lease, writing = a.lease(), a.put_view(3)
view = writing.__enter__()
a.put(3)
for module in [module for module in sys.modules if module.partition(".")[0] == "shmqueue"]:
    del sys.modules[module]
sys.path.insert(0, directory)

import shmqueue as second
assert second.__file__.startswith(directory)
with second.ShmQueue(name) as b:
    if engine == "native":
        with open("/proc/self/maps") as maps:
            assert len({line.split()[-1] for line in maps if "/_core." in line}) == 2
    assert (a.statistics().leased, a.statistics().returned) == (1, 0)
    assert [b.get(block=False) for _ in range(3)] == [1, 2, 3]
    b.put(4)
    taken = b.lease(block=False)
    with first.ShmQueue(name):
        pass
    assert a.statistics().leased == 2
assert (a.statistics().leased, a.statistics().returned) == (1, 1)
assert lease.ack()
view[:] = b"abc"
view.release()
writing.__exit__(None, None, None)
assert sorted(map(str, [a.get(timeout=9), a.get(timeout=9)])) == ["4", "b'abc'"]
a.shutdown()
print("well")
"""


def test_a_second_copy_gives_back_nothing_of_the_first(name: str, tmp_path: Path, engine: str) -> None:
    if engine == "native" and platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc lets copies of a library share a variable")
    source = os.path.dirname(str(shmqueue.__file__))
    shutil.copytree(source, tmp_path / "shmqueue", ignore=shutil.ignore_patterns("__pycache__"))
    assert run_python(TWO_COPIES, name, tmp_path, engine) == "well\n"
