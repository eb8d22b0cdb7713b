"""An item belongs to the queue until its lease is acknowledged."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import pydoc
import sys
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from support import PATIENCE, Call, asleep

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]


pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 16}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


def test_an_acknowledged_item_has_left_the_queue(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    assert (lease.item, lease.attempt, lease.is_held) == ("job", 1, True)
    assert q.qsize() == 0
    assert lease.ack()
    assert not lease.is_held
    assert q.empty()
    assert q.unfinished_tasks == 0


def test_a_block_acknowledges_at_its_end(q: ShmQueue) -> None:
    q.put("job")
    with q.lease() as lease:
        assert lease.item == "job"
        assert q.unfinished_tasks == 1
    assert q.unfinished_tasks == 0


def test_a_block_that_raises_gives_the_item_back(q: ShmQueue) -> None:
    q.put("job")
    with pytest.raises(ZeroDivisionError), q.lease():
        raise ZeroDivisionError
    assert q.qsize() == 1
    with q.lease() as again:
        assert (again.item, again.attempt) == ("job", 2)


def test_a_block_may_end_its_lease_itself(q: ShmQueue) -> None:
    q.put("job")
    with q.lease() as lease:
        lease.requeue()
    assert q.get() == "job"
    q.put("job")
    with q.lease() as lease:
        lease.ack()
    assert q.empty()


def test_an_item_given_back_comes_before_newer_ones_and_after_older_ones(q: ShmQueue) -> None:
    for number in range(6):
        q.put(number)
    leases = [q.lease() for _ in range(3)]
    for lease in reversed(leases):
        assert lease.requeue()
    assert [q.get() for _ in range(6)] == list(range(6))


@pytest.mark.parametrize("how", ["get", "get_many", "lease", "get_view"])
def test_whoever_takes_an_item_gets_one_that_was_given_back(q: ShmQueue, how: str) -> None:
    q.put(b"old")
    q.put(b"new")
    q.lease().requeue()
    if how == "get":
        assert q.get() == b"old"
    elif how == "get_many":
        assert q.get_many(2) in ([b"old"], [b"old", b"new"])
    elif how == "lease":
        assert q.lease().item == b"old"
    else:
        with q.get_view() as view:
            assert bytes(view) == b"old"


def test_a_lease_ends_once(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    assert lease.requeue()
    assert not lease.ack()
    assert not lease.requeue()
    again = q.lease()
    assert not lease.ack()
    assert again.ack()
    assert not again.ack()


def test_a_lease_that_is_collected_gives_the_item_back(q: ShmQueue) -> None:
    q.put("job")
    q.lease()
    gc.collect()
    assert q.get(block=False) == "job"


@pytest.mark.parametrize("item", [[], {"a": [1]}, [b"large" * 4_000], {1, 2}], ids=["list", "dict", "large", "pickled"])
def test_a_lease_in_a_cycle_is_collected(q: ShmQueue, item: Any) -> None:
    class Holder:
        lease: Any

    q.put(item)
    lease, holder = q.lease(), Holder()
    holder.lease = lease
    (lease.item.add if isinstance(item, set) else lease.item.update if isinstance(item, dict) else lease.item.append)(
        {"holder": holder} if isinstance(item, dict) else holder
    )
    gone = weakref.ref(lease)
    del lease, holder
    gc.collect()
    assert gone() is None
    assert q.get(block=False) == item


class OfLease:
    """Arrives as what the first lease in ``found`` has to do with."""

    found: ClassVar[list[Any]] = []

    def __init__(self, what: str) -> None:
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self.what,)


def arrive(what: str) -> Any:
    lease = OfLease.found[0]
    return lease if what == "lease" else getattr(lease, what)


@pytest.mark.parametrize("what", ["lease", "ack"])
def test_a_lease_that_only_its_item_refers_to_is_collected(q: ShmQueue, what: str) -> None:
    q.put(OfLease(what))
    lease = q.lease()
    OfLease.found.append(lease)
    try:
        assert lease.item is lease if what == "lease" else lease.item.__self__ is lease
    finally:
        OfLease.found.clear()
    gone = weakref.ref(lease)
    del lease
    gc.collect()
    assert gone() is None
    assert (q.qsize(), q.statistics().leased) == (1, 0)


def test_a_lease_that_was_never_asked_for_its_item_ends_too(q: ShmQueue) -> None:
    for item in (1, [b"large" * 4_000], {1, 2}):
        q.put(item)
        gone = weakref.ref(q.lease())
        assert gone() is None
        assert q.lease().ack()


@pytest.mark.parametrize(
    "item", [None, 7, "text", b"", b"b" * 70_000, [1, {"a": (2,)}], ["l" * 5_000], {1, 2}, 2**70, "\ud800"]
)
def test_an_item_is_loaded_once_and_stays_what_it_is(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 18)
    q.put(item)
    lease = q.lease()
    found = lease.item
    assert (type(found), found) == (type(item), item)
    assert lease.item is found
    assert lease.ack()
    assert lease.item is found


@pytest.mark.parametrize("item", [7, "text", [b"l" * 40_000], {1, 2}], ids=["int", "str", "large", "pickled"])
def test_leases_leave_no_reference_behind(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 18)

    def references() -> list[int]:
        gc.collect()
        return [sys.getrefcount(thing) for thing in (q, type(lease), shmqueue.Lease, None)]

    def use(count: int) -> None:
        for _ in range(count):
            q.put(item)
            one, other = q.lease(), None
            assert one.item == item
            one.requeue()
            other = q.lease()
            gone = weakref.ref(other)
            other.ack()
            del other
            assert gone() is None

    q.put(item)
    lease = q.lease()
    lease.ack()
    use(3)
    before = references()
    use(300)
    assert [abs(now - then) < 100 for now, then in zip(references(), before, strict=True)] == [True] * 4


@pytest.mark.parametrize("item", [1, {1, 2}], ids=["int", "pickled"])
def test_a_lease_is_of_the_public_class(q: ShmQueue, item: Any) -> None:
    q.put(item)
    lease = q.lease()
    assert isinstance(lease, shmqueue.Lease)
    assert repr(lease) == "<Lease, attempt 1, held>"
    for name in ("item", "attempt", "is_held", "ack", "requeue"):
        documented = inspect.getdoc(getattr(shmqueue.Lease, name))
        assert documented
        assert inspect.getdoc(getattr(type(lease), name)) == documented
    for name in ("ack", "requeue", "__enter__", "__exit__"):
        public = inspect.signature(getattr(shmqueue.Lease, name))
        assert list(inspect.signature(getattr(type(lease), name)).parameters) == list(public.parameters)
    assert "counts as ``task_done()``" in pydoc.render_doc(shmqueue.Lease, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert shmqueue.Lease[int].__origin__ is shmqueue.Lease  # type: ignore[attr-defined]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(lease, protocol)
    with pytest.raises(TypeError, match="or copied"):
        copy.copy(lease)
    with pytest.raises(AttributeError):
        lease.attempt = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        lease.item = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del lease.item
    assert lease.item == item
    lease.ack()
    assert repr(lease) == "<Lease, attempt 1, over>"


def test_qsize_counts_what_can_be_taken(q: ShmQueue) -> None:
    for number in range(4):
        q.put(number)
    first, second = q.lease(), q.lease()
    assert (q.qsize(), q.unfinished_tasks) == (2, 4)
    first.requeue()
    assert (q.qsize(), q.unfinished_tasks) == (3, 4)
    second.ack()
    assert (q.qsize(), q.unfinished_tasks) == (3, 3)


def test_acknowledging_counts_as_task_done(q: ShmQueue) -> None:
    for number in range(3):
        q.put(number)
    join = asleep(Call(q.join, PATIENCE))
    q.get()
    q.task_done()
    for _ in range(2):
        q.lease().ack()
    assert join.result() is True
    with pytest.raises(ValueError, match="too many"):
        q.task_done()


def test_statistics_tell_what_is_leased(q: ShmQueue) -> None:
    for number in range(5):
        q.put(number)
    q.get()
    q.lease().ack()
    kept, given_back = q.lease(), q.lease()
    given_back.requeue()
    q.lease().requeue()
    figures = q.statistics()
    assert (figures.puts, figures.gets, figures.leased, figures.returned, figures.redelivered) == (5, 3, 1, 1, 1)
    assert figures.oldest_lease > 0
    kept.ack()
    q.clear()
    figures = q.statistics()
    assert (figures.leased, figures.returned, figures.oldest_lease) == (0, 0, 0)


def test_maxsize_is_about_what_can_be_taken(make: Make) -> None:
    q = make(maxsize=2)
    q.put(1)
    q.put(2)
    lease = q.lease()
    q.put(3)
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(4, block=False)
    lease.requeue()
    assert [q.get() for _ in range(3)] == [1, 2, 3]


def test_maxsize_counts_what_was_given_back_after_the_last_look(make: Make) -> None:
    q = make(maxsize=3)
    for number in range(2):
        q.put(number)
    leases = [q.lease() for _ in range(2)]
    for number in range(2, 4):
        q.put(number, block=False)
    for lease in leases:
        lease.requeue()
    assert q.qsize() == 4
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(4, block=False)


def test_clear_drops_what_was_given_back_and_leaves_what_is_leased(q: ShmQueue) -> None:
    for number in range(3):
        q.put(number)
    leased, given_back = q.lease(), q.lease()
    given_back.requeue()
    q.clear()
    assert (q.qsize(), q.unfinished_tasks) == (0, 1)
    leased.requeue()
    assert q.get() == 0


def test_after_a_shutdown_leases_can_be_acknowledged(q: ShmQueue) -> None:
    q.put(1)
    q.put(2)
    lease = q.lease()
    q.shutdown_all(immediate=True)
    assert q.unfinished_tasks == 1
    assert lease.ack()
    assert q.join(PATIENCE)
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.lease()


def test_an_item_given_back_after_an_immediate_shutdown_is_dropped(q: ShmQueue) -> None:
    q.put(1)
    lease = q.lease()
    q.shutdown_all(immediate=True)
    assert lease.requeue()
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.get(block=False)
    assert q.unfinished_tasks == 0
    assert q.qsize() == 0


def test_an_item_given_back_after_a_plain_shutdown_can_be_taken(q: ShmQueue) -> None:
    q.put(1)
    lease = q.lease()
    q.shutdown_all()
    lease.requeue()
    assert q.get() == 1


def test_an_item_that_cannot_be_loaded_stays_leased(make: Make) -> None:
    q = make(allow_pickle=False)
    make().put({1, 2})
    lease = q.lease()
    with pytest.raises(shmqueue.ShmQueueDeserializationError):
        _ = lease.item
    assert lease.is_held
    lease.requeue()
    assert make().get() == {1, 2}


def test_without_an_item_it_is_empty(q: ShmQueue) -> None:
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.lease(block=False)
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.lease(timeout=0.01)
    with pytest.raises(shmqueue.ShmQueueValueError):
        q.lease(timeout=-1)


def test_a_blocked_lease_receives_an_item_that_is_given_back(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    waiting = asleep(Call(q.lease))
    lease.requeue()
    assert waiting.result().item == "job"


def test_a_thousand_and_twenty_four_items_can_be_leased(make: Make) -> None:
    q = make()
    for number in range(1025):
        q.put(number)
    leases = [q.lease() for _ in range(1024)]
    with pytest.raises(shmqueue.ShmQueueError, match="1024"):
        q.lease()
    assert q.get() == 1024
    for lease in leases[::2]:
        lease.ack()
    for lease in leases[1::2]:
        lease.requeue()
    assert q.get_many(1, timeout=0)[0] == 1
    assert sorted(q.get() for _ in range(511)) == list(range(3, 1024, 2))
    assert q.unfinished_tasks == 1025 - 512
