"""The compiled module as Python has it: nothing of it stays when nothing uses it any more."""

from __future__ import annotations

import importlib.util

import pytest
from support import run_python

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("shmqueue.engine.native._core") is None, reason="the native engine is not built"
)

IMPORTED_ANEW = """if True:
    import gc, importlib.util, os, weakref
    from shmqueue import Lease, ShmQueue
    from shmqueue.engine.native import _core
    from shmqueue.segment import path_of

    def import_anew():
        spec = importlib.util.spec_from_file_location(_core.__name__, _core.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    q = ShmQueue("q-%d" % os.getpid(), buffer_size=1 << 16)
    path = path_of(q.identifier)
    for number in range(12):
        core = import_anew()
        core.lease_types(Lease)
        file = os.open(path, os.O_RDWR)
        ring = core.Ring(file, os.fstat(file).st_size, "q", print, path)
        os.close(file)
        leases = []
        for item in ([number], 7, "y" * 5000):
            q.put(item)
            leases.append(ring.lease(False, None, lambda method, payload: payload, None))
            assert leases[-1].ack()
        if number % 2:
            leases[0].item.append(leases)
            leases[0].item.append(core)
        if number % 3:
            core.lease_types(Lease)  # while leases of the types before live
        gone = [weakref.ref(thing) for thing in (core, core.Ring, core.Record, type(leases[0]))]
        del core, ring, leases
        gc.collect()
        gc.collect()
        assert [thing() for thing in gone] == [None] * 4, number
    print("done")
"""


def test_a_module_that_nothing_uses_any_more_is_collected() -> None:
    assert run_python(IMPORTED_ANEW) == "done\n"
