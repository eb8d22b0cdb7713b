"""What ``put`` and ``get`` of ``compat.asyncio.Queue`` return passes for a coroutine, whatever makes it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from asyncio_support import run_asyncio

from shmqueue import ShmQueueNotInitializedError
from shmqueue.compat.asyncio import Queue

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def q(name: str) -> Iterator[Queue[Any]]:
    with Queue(name=name) as opened:
        yield opened


def test_the_methods_pass_for_coroutine_functions(q: Queue[Any]) -> None:
    for method in (q.put, q.get, Queue.put, Queue.get):
        assert inspect.iscoroutinefunction(method)
        assert method.__doc__
        assert method.__module__ == "shmqueue.compat.asyncio"
    assert str(inspect.signature(q.put)) == "(item: 'T') -> 'None'"
    assert list(inspect.signature(Queue.get).parameters) == ["self"]
    assert (q.put.__name__, q.get.__qualname__) == ("put", "Queue.get")


def test_what_they_return_is_a_coroutine_to_whoever_asks_for_its_methods(q: Queue[Any]) -> None:
    coroutine = q.get()
    assert isinstance(coroutine, Coroutine)
    assert asyncio.iscoroutine(coroutine)
    assert inspect.isawaitable(coroutine)
    assert "Queue.get" in repr(coroutine)
    coroutine.close()
    with pytest.raises(RuntimeError, match="reuse"):
        coroutine.send(None)


def test_all_ways_to_run_a_coroutine_run_them(run: Callable[..., Any], q: Queue[Any]) -> None:
    async def main() -> None:
        await q.put(0)
        await asyncio.create_task(q.put(1))
        await asyncio.gather(q.put(2), q.put(item=3))
        await asyncio.wait_for(q.put(4), 30)
        await asyncio.ensure_future(q.put(5))
        assert await q.get() == 0
        assert await asyncio.create_task(q.get()) == 1
        assert [*await asyncio.gather(q.get(), q.get())] == [2, 3]
        assert await asyncio.wait_for(q.get(), 30) == 4
        assert await asyncio.shield(q.get()) == 5

    run(main)


def returned(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, with a pause or without."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value


def test_nothing_happens_before_it_is_awaited(q: Queue[Any]) -> None:
    putting = q.put(1)
    assert q.empty()
    assert returned(putting) is None
    getting = q.get()
    assert q.qsize() == 1
    assert returned(getting) == 1
    with pytest.raises(RuntimeError, match="reuse"):
        getting.send(None)


@pytest.mark.parametrize("item", [(1, 2), StopIteration(3), ("a",), None])
def test_an_item_that_is_a_tuple_or_an_exception_arrives_as_it_is(q: Queue[Any], item: Any) -> None:
    async def main() -> Any:
        await q.put(item)
        return await q.get()

    assert repr(run_asyncio(main)) == repr(item)


def test_one_that_is_never_awaited_says_so_and_has_done_nothing(q: Queue[Any]) -> None:
    with pytest.warns(RuntimeWarning, match="'Queue.put' was never awaited"):
        q.put(1)  # type: ignore[unused-coroutine]
    assert q.empty()
    with pytest.warns(RuntimeWarning, match="'Queue.lease' was never awaited"):
        q.lease()


def test_what_is_thrown_in_before_it_has_begun_is_raised(q: Queue[Any]) -> None:
    q.put_nowait(1)
    getting = q.get()
    with pytest.raises(ZeroDivisionError):
        getting.throw(ZeroDivisionError())
    with pytest.raises(RuntimeError, match="reuse"):
        getting.send(None)
    assert q.qsize() == 1


def test_one_that_waits_can_be_closed(q: Queue[Any]) -> None:
    async def main() -> None:
        getting = q.get()
        getting.send(None)
        getting.close()
        getting.close()
        await q.put(1)
        assert await q.get() == 1
        with pytest.raises(RuntimeError, match="reuse"):
            await getting

    run_asyncio(main)


def test_only_none_can_be_sent_into_one_that_has_not_begun(q: Queue[Any]) -> None:
    getting = q.get()
    with pytest.raises(TypeError, match="just-started"):
        getting.send(1)
    getting.close()


def test_wrong_arguments_are_refused_as_a_function_refuses_them(q: Queue[Any]) -> None:
    with pytest.raises(TypeError, match=r"get\(\) takes 1 positional argument but 2 were given"):
        q.get(1)  # type: ignore[call-arg, unused-coroutine]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'item'"):
        q.put()  # type: ignore[call-arg, unused-coroutine]


def test_a_subclass_overrides_them(name: str) -> None:
    class Doubling(Queue[int]):
        async def put(self, item: int) -> None:
            await super().put(2 * item)

        async def get(self) -> int:
            return await super().get() + 1

    async def main() -> int:
        with Doubling(name=name) as q:
            await q.put(4)
            return await q.get()

    assert run_asyncio(main) == 9


def test_what_cannot_be_put_and_a_closed_queue_raise_when_they_are_awaited(q: Queue[Any]) -> None:
    async def main() -> None:
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):  # the last one since Python 3.14
            await q.put(lambda: None)
        assert q.empty()
        q.close()
        with pytest.raises(ShmQueueNotInitializedError):
            await q.get()
        with pytest.raises(ShmQueueNotInitializedError):
            await q.put(1)

    run_asyncio(main)


def test_one_that_waits_in_a_cycle_is_collected(q: Queue[Any]) -> None:
    class Holder:
        coroutine: Any

    async def main() -> None:
        holder = Holder()
        holder.coroutine = q.put(holder)
        gone = weakref.ref(holder)
        del holder
        with pytest.warns(RuntimeWarning, match="never awaited"):
            gc.collect()
        assert gone() is None

    run_asyncio(main)


def test_a_step_within_a_step_is_refused_and_the_first_one_goes_on(q: Queue[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        create_future = loop.create_future
        refused: list[object] = []

        def step_again() -> asyncio.Future[Any]:
            for step in (lambda: coroutine.send(None), lambda: coroutine.throw(KeyError()), coroutine.close):
                with pytest.raises(ValueError, match="already executing") as error:
                    step()
                refused.append(error)
            return create_future()

        coroutine = q.get()
        loop.create_future = step_again  # type: ignore[method-assign]
        try:
            coroutine.send(None)
        finally:
            loop.create_future = create_future  # type: ignore[method-assign]
        assert len(refused) == 3
        q.put_nowait("item")
        with pytest.raises(StopIteration) as end:
            coroutine.send(None)
        assert end.value.value == "item"
        with pytest.raises(RuntimeError, match="already awaited"):
            coroutine.send(None)

    run_asyncio(main)
