"""What counts as a size, a count, or a timeout: whatever says that it is such a number, on both engines."""

from __future__ import annotations

import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

import pytest
from support import Opener

import shmqueue
from shmqueue import ShmQueue

numpy: Any
try:
    import numpy
except ImportError:
    numpy = None

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]


class WholeNumber:
    """What numpy's integers are, where there is no numpy."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class RealNumber:
    def __init__(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        return float(self._value)


WHOLE: list[Callable[[int], Any]] = [WholeNumber]
REAL: list[Callable[[float], Any]] = [float, fractions.Fraction, decimal.Decimal, RealNumber]
if numpy is not None:
    WHOLE += [numpy.int64, numpy.uint16]
    REAL += [numpy.float64, numpy.float32]
NO_SIZES = [True, 4096.0, "4096", [4096]]
NO_TIMEOUTS = [True, False, "1", b"1", [1], 1j, object()]
if numpy is not None:
    NO_TIMEOUTS.append(numpy.bool_(True))


@pytest.mark.parametrize("number", WHOLE)
def test_sizes_and_counts_are_whole_numbers_of_any_type(make: Make, number: Callable[[int], Any]) -> None:
    q = make(buffer_size=number(8192), maxsize=number(2))
    assert (q.max_buffer_size(), type(q.max_buffer_size()), q.maxsize) == (8192, int, 2)
    q.put_many([1, 2])
    assert q.get_many(number(2), timeout=number(1)) == [1, 2]
    q.add_ref_manually(number(5))
    other = make(q.identifier + "-2", max_bytes=number(40000))
    assert other.max_buffer_size() == 40960
    q.put("item", serialization_method=number(1))
    assert q.get() == "item"


@pytest.mark.parametrize("argument", ["buffer_size", "max_bytes", "maxsize"])
@pytest.mark.parametrize("bad", NO_SIZES)
def test_what_is_no_whole_number_is_no_size(name: str, argument: str, bad: Any) -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match=f"^{argument} must be an int, not .*{type(bad).__name__}"):
        ShmQueue(name, **{argument: bad})


@pytest.mark.parametrize("bad", NO_SIZES)
def test_what_is_no_whole_number_is_no_count(make: Make, our_queues: Opener, bad: Any) -> None:
    for q in (make(), our_queues.Queue()):
        q.put("kept")
        with pytest.raises(shmqueue.ShmQueueTypeError, match=r"^max_items must be an int"):
            q.get_many(bad)
        assert q.get() == "kept"
    with pytest.raises(shmqueue.ShmQueueTypeError, match=r"^serialization_method must be an int"):
        make().put("item", serialization_method=bad)


def test_a_size_without_bounds_is_none(make: Make, our_queues: Opener) -> None:
    q = make(max_bytes=1 << 100, maxsize=1 << 100)
    q.put("item")
    assert q.get() == "item"
    adapter = our_queues.Queue(1 << 100)
    adapter.put("item")
    assert adapter.get() == "item"


def calls_with(q: Any, timeout: Any) -> list[Callable[[], Any]]:
    """Calls on a queue with ``maxsize=1`` and one item that may time out."""
    calls = [lambda: q.put(2, True, timeout)]
    if hasattr(q, "put_many"):
        calls.append(lambda: q.put_many([2], timeout=timeout))
    return calls


@pytest.mark.parametrize("number", REAL)
def test_every_real_number_is_a_timeout(
    make: Make, our_queues: Opener, our_mp: Opener, number: Callable[[float], Any]
) -> None:
    for q in (make(maxsize=1), our_queues.Queue(1), our_mp.Queue(1), our_mp.JoinableQueue(1)):
        q.put(1, True, number(1))
        for call in calls_with(q, number(0.0078125)):
            with pytest.raises(shmqueue.ShmQueueFull):
                call()
        assert q.get(True, number(1)) == 1
        empty: Callable[[], object]
        for empty in (lambda q=q: q.get(True, number(0.0078125)), lambda q=q: q.get_many(5, timeout=number(0))):
            with pytest.raises(shmqueue.ShmQueueEmpty):
                empty()
    q = make(maxsize=1)
    q.put(1)
    assert q.join(number(0)) is False
    assert our_mp.SimpleQueue()._reader.poll(number(0)) is False
    with pytest.raises(shmqueue.ShmQueueEmpty):
        our_queues.SimpleQueue().get(timeout=number(0))


@pytest.mark.parametrize("endless", [math.inf, 10**400, 1e300, fractions.Fraction(10**400), decimal.Decimal("1e400")])
def test_a_timeout_beyond_all_bounds_is_for_ever(make: Make, our_queues: Opener, our_mp: Opener, endless: Any) -> None:
    for q in (make(), our_queues.Queue(), our_queues.Queue(5), our_mp.Queue()):
        q.put("item", True, endless)
        assert q.get(True, endless) == "item"


@pytest.mark.parametrize("bad", NO_TIMEOUTS)
def test_what_is_no_real_number_is_no_timeout(make: Make, bad: Any) -> None:
    q = make(maxsize=1)
    q.put("kept")
    calls: list[Callable[[], object]] = [
        *calls_with(q, bad),
        lambda: q.get(timeout=bad),
        lambda: q.get_many(1, timeout=bad),
        lambda: q.join(bad),
    ]
    for call in calls:
        with pytest.raises(shmqueue.ShmQueueTypeError, match=r"^timeout must be a number of seconds or None, not "):
            call()
    assert q.get() == "kept"


@pytest.mark.parametrize("nan", [math.nan, decimal.Decimal("NaN"), RealNumber(math.nan)])
def test_nan_is_no_timeout(make: Make, our_queues: Opener, our_mp: Opener, nan: Any) -> None:
    for q in (make(maxsize=1), our_queues.Queue(1), our_mp.Queue(1)):
        q.put("kept")
        for call in (*calls_with(q, nan), lambda q=q: q.get(True, nan), lambda q=q: q.get_many(1, timeout=nan)):  # type: ignore[misc]
            with pytest.raises(ValueError, match=r"^timeout must be a number of seconds, not NaN$"):
                call()
        assert q.get(True, 1) == "kept"


def test_the_adapters_take_what_the_standard_queues_take(queues: Opener, mp: Opener) -> None:
    bounded, unbounded = queues.Queue(2.5), queues.Queue()
    bounded.put(1, timeout=True)
    unbounded.put(1, True, "an unbounded queue does not look at it")
    unbounded.put(2, True, math.nan)
    assert bounded.get(timeout=True) == unbounded.get(timeout=fractions.Fraction(1)) == 1
    q = mp.Queue(1)
    q.put(1, True, True)
    assert q.get(True, fractions.Fraction(30)) == 1


# ---- bytes that cannot be put as they are ----


def test_a_memoryview_with_gaps_says_so(make: Make) -> None:
    q = make()
    every_second = memoryview(bytes(range(100)))[::2]
    calls: list[Callable[[], object]] = [
        lambda: q.put(every_second),
        lambda: q.put_many([every_second]),
        lambda: q.put(every_second, serialization_method=1),
    ]
    for call in calls:
        with pytest.raises(
            shmqueue.ShmQueueSerializationError,
            match=r"^this memoryview is not contiguous \(shape \(50,\), strides \(2,\)\): put bytes\(view\) instead$",
        ):
            call()
    q.put(bytes(every_second))
    q.put(memoryview(b"abcd").cast("B", (2, 2)))
    assert q.get_many(5) == [bytes(range(0, 100, 2)), b"abcd"]
