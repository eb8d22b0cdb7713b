"""Puts and gets that the native engine does without calling a Python function, and how little that may be noticed."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import pydoc
import queue as standard_queue
import sys
import types
import typing
import unittest.mock
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from children import is_readable
from hypothesis import example, given
from hypothesis import strategies as st

import shmqueue
from shmqueue import ShmQueue
from shmqueue.compat import _queues
from shmqueue.compat import asyncio as compat_asyncio
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue

pytestmark = pytest.mark.usefixtures("native")

ADAPTERS: list[Callable[[], Any]] = [
    compat_multiprocessing.Queue,
    compat_multiprocessing.JoinableQueue,
    compat_multiprocessing.SimpleQueue,
    compat_queue.Queue,
    compat_queue.SimpleQueue,
]


def close(q: Any) -> None:
    (q.shutdown if isinstance(q, ShmQueue) else q.close)()


@pytest.fixture(params=[lambda: ShmQueue("fast", buffer_size=1 << 16), *ADAPTERS])
def q(request: pytest.FixtureRequest) -> Any:
    opened = request.param()
    yield opened
    close(opened)


def functions_called(call: Callable[[], Any]) -> list[str]:
    called: list[types.CodeType] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code)

    gc.disable()  # a collection has callbacks, hypothesis's for one
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    # Before it, the finalizer may run of what another thread has dropped: without a GIL that is left to this thread.
    own = called.index(call.__code__)
    return [code.co_name for code in called[own + 1 :]]


@pytest.mark.parametrize(
    "item", [None, True, 7, -(2**63), 2**64 - 1, 0.5, "text", b"bytes", [1, [2]], {"a": {"b": 1}}, (), (1, ("b",))]
)
def test_no_python_function_runs(q: Any, item: Any) -> None:
    assert functions_called(lambda: q.put(item)) == []
    got: list[Any] = []
    assert functions_called(lambda: got.append(q.get())) == []
    assert got == [item]
    assert type(got[0]) is type(item)


def test_no_python_function_runs_while_a_descriptor_stays_as_it_is(q: Any) -> None:
    def calls_none(call: Callable[[], Any]) -> bool:
        """Mostly: the thread that keeps the descriptor true may look at it during a call, which then looks, too."""
        return [functions_called(call) for _ in range(20)].count([]) > 10

    q.fileno()
    q.put("first")
    q.put("second")
    assert calls_none(lambda: q.put("third"))
    assert calls_none(lambda: q.put("more"))
    got: list[Any] = []
    assert calls_none(lambda: got.append(q.get()))
    if hasattr(q, "lease"):
        leases: list[Any] = []
        for _ in range(5):
            q.put("leased")
        assert calls_none(lambda: leases.append(q.lease()))
        assert calls_none(lambda: leases.pop().ack())
    while not q.empty():
        assert is_readable(q)
        q.get()
    assert not is_readable(q)
    assert "look" in functions_called(lambda: q.put("first again"))
    assert is_readable(q)


def test_no_python_function_runs_where_nothing_waits() -> None:
    got: list[Any] = []
    with compat_asyncio.Queue[Any]() as q:
        assert functions_called(lambda: q.put_nowait({"a": [1, "b"]})) == []
        assert functions_called(lambda: got.append(q.get_nowait())) == []
        with pytest.raises(compat_asyncio.QueueEmpty):
            q.get_nowait()
    assert got == [{"a": [1, "b"]}]


LEASE = "(self, /, block=True, timeout=None, *, max_attempts=None, dead_letter=None)"
SIGNATURES: list[tuple[Any, dict[str, str]]] = [
    (
        ShmQueue,
        {
            "put": "(self, /, data, block=True, timeout=None, serialization_method=0)",
            "get": "(self, /, block=True, timeout=None)",
            "lease": LEASE,
        },
    ),
    (
        compat_queue.Queue,
        {
            "put": "(self, /, item, block=True, timeout=None)",
            "get": "(self, /, block=True, timeout=None)",
            "lease": LEASE,
        },
    ),
    (compat_queue.SimpleQueue, {"put": "(self, /, item, block=True, timeout=None)"}),
    (
        _queues.Queue,
        {
            "put": "(self, /, obj, block=True, timeout=None)",
            "get": "(self, /, block=True, timeout=None)",
            "lease": LEASE,
        },
    ),
    (_queues.SimpleQueue, {"put": "(self, /, obj)", "get": "(self, /)"}),
    (compat_asyncio.Queue, {"put_nowait": "(self, /, item)", "get_nowait": "(self, /)"}),
]
METHODS = [
    pytest.param(queue, method, signature, id=f"{queue.__module__}.{queue.__name__}.{method}")
    for queue, methods in SIGNATURES
    for method, signature in methods.items()
]


def function_of(queue: Any, method: str) -> Any:
    return getattr(queue, "_slow_" + method.removesuffix("_nowait"))


@pytest.mark.parametrize(("queue", "method", "signature"), METHODS)
def test_they_are_ordinary_built_in_methods(queue: Any, method: str, signature: str) -> None:
    found, slow = getattr(queue, method), function_of(queue, method)
    assert type(found) is types.MethodDescriptorType
    assert found.__name__ == method
    assert found.__qualname__ == f"{queue.__name__}.{method}"
    assert found.__objclass__ in queue.__mro__
    assert str(inspect.signature(found)) == signature
    assert list(inspect.signature(found).parameters) == list(inspect.signature(slow).parameters)
    assert inspect.isroutine(found)
    assert typing.get_type_hints(found) == {}
    assert pickle.loads(pickle.dumps(found)) is found
    assert copy.deepcopy(found) is found


@pytest.mark.parametrize(("queue", "method", "signature"), METHODS)
def test_what_help_says_of_them(queue: Any, method: str, signature: str) -> None:
    found = getattr(queue, method)
    documented = inspect.getdoc(function_of(queue, method))
    assert documented
    assert inspect.getdoc(found) == documented
    text = pydoc.plaintext.document(found, method)  # type: ignore[attr-defined]
    assert text.startswith(method + signature)
    first = documented.splitlines()[0]
    assert first in text
    assert f" {method}{signature}\n" in pydoc.render_doc(queue, renderer=pydoc.plaintext)  # type: ignore[attr-defined]


def test_a_bound_one_looks_like_a_method_and_can_be_pickled(q: Any) -> None:
    assert inspect.isbuiltin(q.put)
    owner: Any = q.put.__self__
    assert owner is q
    assert q.put == q.put
    assert "self" not in inspect.signature(q.put).parameters
    other = pickle.loads(pickle.dumps(q.get))
    q.put(1)
    assert other() == 1
    close(other.__self__)


def test_a_mock_takes_their_place(q: Any) -> None:
    """As that of any built-in method: mock does not know its parameters."""
    for method in ("put", "get"):
        with unittest.mock.patch.object(type(q), method, autospec=True) as mock:
            getattr(q, method)("argument")
            mock.assert_called_once_with("argument")
    q.put("item")
    assert q.get() == "item"
    mocked = unittest.mock.create_autospec(type(q), instance=True)
    mocked.put("item")
    mocked.put.assert_called_once_with("item")
    assert isinstance(mocked, type(q))


def test_a_subclass_may_have_slots(name: str) -> None:
    class Slotted(ShmQueue):
        __slots__ = ("note",)
        note: str

    with Slotted(name) as q:
        q.note = "note"
        q.put(1)
        assert (q.get(), q.note) == (1, "note")
        q.put(2)
        assert q.lease().item == 2


def test_an_unbound_one_takes_the_queue(q: Any) -> None:
    type(q).put(q, 1)
    assert type(q).get(q) == 1
    assert [*map(functools.partial(type(q).put, q), range(3))] == [None] * 3
    assert [q.get() for _ in range(3)] == [0, 1, 2]


def test_a_queue_in_a_cycle_is_collected(name: str) -> None:
    q = ShmQueue(name)
    q.custom_serialize(lambda method, item, held=q: repr(held).encode())  # type: ignore[misc]
    gone = weakref.ref(q)
    del q
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("arguments", [(), (True,), (False, None)])
def test_no_python_function_leases(arguments: tuple[Any, ...], name: str) -> None:
    for q in (ShmQueue(name), compat_queue.Queue(), compat_multiprocessing.Queue()):
        q.put({"a": 1})
        leases: list[Any] = []
        assert functions_called(lambda lease=q.lease, add=leases.append: add(lease(*arguments))) == []  # type: ignore[misc]
        assert leases[0].item == {"a": 1}
        acknowledged: list[bool] = []
        assert functions_called(lambda ack=leases[0].ack, add=acknowledged.append: add(ack())) == []  # type: ignore[misc]
        assert acknowledged == [True]
        close(q)


def test_what_a_subclass_defines_comes_first(name: str) -> None:
    class Counting(ShmQueue):
        puts = 0

        def put(self, *args: Any, **keywords: Any) -> None:
            self.puts += 1
            super().put(*args, **keywords)

        def get(self, *args: Any, **keywords: Any) -> Any:
            return ["got", super().get(*args, **keywords)]

    with Counting(name) as q:
        q.put(1)
        q.put_nowait(2)
        assert q.puts == 2
        assert [q.get(), q.get_nowait()] == [["got", 1], ["got", 2]]


def test_a_class_is_not_kept_by_its_methods() -> None:
    class Passing(ShmQueue):
        pass

    with Passing("passing") as q:
        q.put(1)
        q.get()
    gone = weakref.ref(Passing)
    del q, Passing
    gc.collect()
    assert gone() is None


def test_a_queue_ends_with_its_last_reference(name: str) -> None:
    q = ShmQueue(name)
    q.put(1)
    gone = weakref.ref(q)
    del q
    assert gone() is None
    with pytest.raises(shmqueue.ShmQueueNotFoundError):
        ShmQueue(name, create=False)


@pytest.mark.parametrize("queue", [ShmQueue, compat_queue.Queue, compat_multiprocessing.SimpleQueue])
def test_what_is_no_queue_is_refused(queue: Any) -> None:
    if not isinstance(queue, type):
        queue = type(queue())
    for stranger in (object(), 5, queue.__new__(queue)):  # the last one was never opened
        error = AttributeError if isinstance(stranger, queue) else TypeError
        with pytest.raises(error):
            queue.put(stranger, 1)
        with pytest.raises(error):
            queue.get(stranger)
    with pytest.raises(TypeError):
        queue.put()
    with pytest.raises(TypeError):
        queue.get()


def test_all_ways_to_call_them(name: str) -> None:
    with ShmQueue(name) as q:
        put: Callable[[], object]
        for put in (
            lambda: q.put(1),
            lambda: q.put(1, True),
            lambda: q.put(1, False),
            lambda: q.put(1, 1),  # type: ignore[arg-type]
            lambda: q.put(1, True, None),
            lambda: q.put(1, True, 5),
            lambda: q.put(1, block=False),
            lambda: q.put(data=1),
            lambda: q.put(1, False, None, 1),
            lambda: ShmQueue.put(q, 1),
        ):
            put()
        get: Callable[[], object]
        for get in (
            lambda: q.get(),
            lambda: q.get(True),
            lambda: q.get(False),
            lambda: q.get(0),  # type: ignore[arg-type]
            lambda: q.get(True, None),
            lambda: q.get(True, 5),
            lambda: q.get(False, -1),
            lambda: q.get(timeout=1),
            lambda: q.get_nowait(),
            lambda: ShmQueue.get(q),
        ):
            assert get() == 1
        with pytest.raises(TypeError):
            q.put(1, True, None, 0, 0)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            q.get(True, None, 0)  # type: ignore[call-arg]
        with pytest.raises(shmqueue.ShmQueueValueError):
            q.put(1, True, -1)
        assert q.empty()


def test_simple_queues_take_no_more_than_the_standard_one() -> None:
    q = compat_multiprocessing.SimpleQueue()
    with pytest.raises(TypeError):
        q.put(1, True)  # type: ignore[call-arg]
    q.put(1)
    with pytest.raises(TypeError):
        q.get(True)  # type: ignore[call-arg]
    assert q.get() == 1
    q.close()


def test_full_empty_and_closed(name: str) -> None:
    q = ShmQueue(name, maxsize=1)
    q.put(1)
    with pytest.raises(standard_queue.Full):
        q.put(2, False)
    assert q.get() == 1
    with pytest.raises(standard_queue.Empty):
        q.get(False)
    q.shutdown()
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        q.put(1)
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        q.get()


def test_nothing_is_kept_or_lost_of_an_item(q: Any) -> None:
    text, number = "a text that is nobody else's", 2**62 + 11
    item = {"text": text, "number": number}
    before = sys.getrefcount(item), sys.getrefcount(text), sys.getrefcount(number)
    for _ in range(50):
        q.put(item)
        got = q.get()
        assert got == item
        assert got is not item
    assert (sys.getrefcount(item), sys.getrefcount(text), sys.getrefcount(number)) == before
    assert sys.getrefcount(got) == 2


# ---- what adapters hand to msgpack comes back as from pickle ----


def structure(item: Any) -> Any:
    """An item with numbers in the place of its lists and dicts, which say where the same one stands again."""
    numbers: dict[int, int] = {}

    def of(part: Any) -> Any:
        if not isinstance(part, (list, dict, tuple)):
            return type(part), repr(part)
        if id(part) in numbers:
            return numbers[id(part)]
        numbers[id(part)] = len(numbers)
        parts = [pair for entry in part.items() for pair in entry] if isinstance(part, dict) else part
        return type(part), [of(inner) for inner in parts]

    return of(item)


INNER = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(), st.text(max_size=9), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.integers(-300, 300), st.binary(max_size=2)), inner, max_size=5
        ),
        st.tuples(inner, inner),
    ),
    max_leaves=20,
)
SHARED = st.one_of(
    INNER,
    INNER.map(lambda part: [part, part]),
    INNER.map(lambda part: {"once": part, "again": [part]}),
    st.lists(st.just(list[Any]()), max_size=20).map(lambda parts: [list(part) for part in parts]),
)
SELF: list[Any] = []
SELF.append(SELF)
ONE: list[Any] = []


@given(item=SHARED)
@example(item=SELF)
@example(item=[ONE] * 3)
@example(item=[[] for _ in range(15)])
@example(item=[[] for _ in range(16)])
@example(item={"a": ONE, "b": {"c": ONE}})
@example(item="\ud800")
@example(item=["\ud800"])
@example(item=[2**64])
@example(item={-(2**63): 2**64 - 1})
@example(item=[[[[[[[[[1]]]]]]]]])
@example(item=["x" * 1000, "y" * 30])
@example(item=list(range(65)))
def test_an_adapter_gives_what_pickle_gives(item: Any) -> None:
    due = structure(pickle.loads(pickle.dumps(item)))
    for make in (compat_queue.Queue, compat_multiprocessing.Queue):
        adapter = make()
        try:
            adapter.put(item)
            adapter.put_many([item, item])
            assert [structure(adapter.get()) for _ in range(3)] == [due] * 3
        finally:
            adapter.close()
