"""The tools of the checks in ``safety``, themselves."""

from __future__ import annotations

import pytest
from safety import busy
from support import run_python

IN_A_COLLECTION = """
import gc, os, sys, weakref
sys.path.insert(0, os.getcwd())
from safety.interruption_points import Interrupt

class Member:
    pass

def forget(reference):
    forgotten.append(reference)

def call():
    return [[], [], []]

gc.collect()
gc.freeze()  # so that a collection is short
forgotten = []
sys.unraisablehook = lambda raised: None
interrupted = 0
for allocations in range(30):  # until a collection, which so comes at each point of the call, and in between
    for point in range(12):
        member = Member()
        member.itself = member
        reference = weakref.ref(member, forget)
        injection = Interrupt(point, (0, 0, 0), ("<string>",))
        del member
        gc.set_threshold(gc.get_count()[0] + allocations)
        _, error = injection.run_plain(call)
        gc.set_threshold(0)
        gc.collect()
        interrupted += injection.is_reached and error is None
        del injection, error
print(interrupted > 0)
"""


def test_an_exception_in_a_callback_of_the_collector_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 uses a trace function that it has just freed, if nobody else refers to it."""
    monkeypatch.setenv("PYTHONMALLOC", "debug")  # which overwrites what is freed
    assert run_python(IN_A_COLLECTION) == "True\n"


def test_patience_grows_with_the_load_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "_CROWD", 1.0)
    assert busy.at_least(110.0) == 110.0
    monkeypatch.setattr(busy, "_CROWD", 10.0)
    assert busy.at_least(3.0) == 30.0
    assert busy.at_least(110.0) == 410.0
