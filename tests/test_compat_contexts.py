"""Which contexts and modules make our stand-ins for ``multiprocessing``'s queues, and what else is in them.

Fixtures as in ``test_compat_multiprocessing.py``.

Fails if: a program finds something else in our module or its contexts than in the original.
"""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.queues
from typing import Any

import pytest
from support import START_METHODS, Opener, run_python


def test_queues_are_made_by_contexts(context: Opener) -> None:
    for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
        make = getattr(context.source, kind)
        assert make.__self__ is context.source
        q = getattr(context, kind)()
        assert isinstance(q, getattr(multiprocessing.queues, kind))
        q.put(kind)
        assert q.get() == kind


def test_queues_are_made_by_the_module(mp: Opener) -> None:
    assert isinstance(mp.source.Queue.__self__, multiprocessing.context.BaseContext)
    assert isinstance(mp.Queue(), multiprocessing.queues.Queue)
    assert isinstance(mp.JoinableQueue(2), multiprocessing.queues.JoinableQueue)
    assert isinstance(mp.SimpleQueue(), multiprocessing.queues.SimpleQueue)
    assert type(mp.source.get_context().Queue()) is type(mp.Queue())


def test_contexts_are_what_they_are_in_the_standard_library(context: Opener) -> None:
    method = context.source.get_start_method()
    original = multiprocessing.get_context(method)
    assert isinstance(context.source, type(original))
    assert context.Process is original.Process
    assert context.get_context() is context.source
    other = "spawn" if method == "fork" else "fork"
    assert context.get_context(other).get_start_method() == other
    with pytest.raises(ValueError, match="cannot find context"):
        context.get_context("no such method")


def test_the_module_has_everything_that_the_original_exports(our_mp: Opener) -> None:
    module = our_mp.source
    assert set(multiprocessing.__all__) <= set(module.__all__)
    for name in multiprocessing.__all__:
        if name not in ("Queue", "JoinableQueue", "SimpleQueue", "get_context", "reducer"):
            ours, original = getattr(module, name), getattr(multiprocessing, name)
            assert ours is original or (inspect.ismethod(original) and inspect.ismethod(ours)), name
    for name in ("connection", "pool", "managers", "queues", "shared_memory", "synchronize", "util"):
        assert getattr(module, name) is getattr(multiprocessing, name, None)
    with pytest.raises(AttributeError):
        module.no_such_thing  # noqa: B018
    assert [our_mp.of(method).get_start_method() for method in START_METHODS] == START_METHODS
    assert module.get_all_start_methods() == multiprocessing.get_all_start_methods()


@pytest.mark.parametrize("method", START_METHODS)
def test_set_start_method_applies_to_both_modules(engine: str, method: str) -> None:
    code = """
import sys, multiprocessing
from shmqueue.compat import multiprocessing as mp
mp.set_start_method(sys.argv[1])
print(multiprocessing.get_start_method(), mp.get_start_method(), mp.get_context().get_start_method())
print(isinstance(mp.get_context(), type(multiprocessing.get_context(sys.argv[1]))))
print(isinstance(mp.Queue(), multiprocessing.queues.Queue), type(mp.Queue()) is type(multiprocessing.Queue()))
try:
    mp.set_start_method("fork")
except RuntimeError as error:
    print(error)
mp.set_start_method("spawn", force=True)
print(multiprocessing.get_start_method())
"""
    lines = run_python(code, method).splitlines()
    assert lines == [f"{method} {method} {method}", "True", "True False", "context has already been set", "spawn"]


def test_a_subclass_of_the_original_stays_as_it_was(our_mp: Opener) -> None:
    class Loud(multiprocessing.queues.Queue):  # type: ignore[type-arg]
        def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
            super().put(f"{obj}!", block, timeout)

    q = Loud(ctx=our_mp.source.get_context())
    try:
        q.put("hello")
        assert q.get() == "hello!"
    finally:
        q.close()
        q.join_thread()


def test_the_class_takes_what_the_original_takes(our_mp: Opener) -> None:
    cls = type(our_mp.Queue())
    q = cls(3, ctx=multiprocessing.get_context())
    try:
        assert q._maxsize == 3
        q.put(1)
        assert q.get() == 1
        assert q._closed is False
    finally:
        q.close()
    assert q._closed is True
