"""Three programs that use three interfaces share one queue by its name."""

from __future__ import annotations

import collections
import contextlib
import enum
import queue
from collections.abc import Callable
from typing import Any

import children
import pytest
from support import PATIENCE, Opener, run_python

from shmqueue import ShmQueueShapeWarning


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**64), 2**200, 1.5, -0.0, float("inf"), "", "text", "\ud800", b"", b"bytes",
    (), (1,), (1, (2, [3, (4,)])), [], [1, (2,)], {}, {"a": (1,)}, {1: 2, (3,): [4]}, {1, 2}, frozenset({3}), 1j,
    range(3), Colour.RED, Point(1, 2), collections.OrderedDict(a=1), collections.Counter("aab"), Ellipsis, int,
    children.Order(1, {"x": [2]}),
]  # fmt: skip


def openers(name: str) -> dict[str, Callable[[], Any]]:
    import shmqueue.compat.multiprocessing as compat_mp
    import shmqueue.compat.queue as compat_queue
    from shmqueue import ShmQueue

    return {
        "ShmQueue": lambda: ShmQueue(name, max_bytes=0),
        "queue": lambda: compat_queue.Queue(name=name),
        "multiprocessing": lambda: compat_mp.Queue(name=name),
    }


@pytest.mark.parametrize("putter", ["ShmQueue", "queue", "multiprocessing"])
@pytest.mark.parametrize("getter", ["ShmQueue", "queue", "multiprocessing"])
def test_three_interfaces_share_one_queue_and_keep_every_type(engine: str, name: str, putter: str, getter: str) -> None:
    of_name = openers(name)
    with contextlib.ExitStack() as stack:
        source, target = of_name[putter](), of_name[getter]()
        for q in (source, target):
            stack.callback(getattr(q, "shutdown" if type(q).__name__ == "ShmQueue" else "close"))
        values = [*VALUES, *([] if putter == "ShmQueue" else [bytearray(b"xyz")])]
        for value in values:
            source.put(value)
        for value in values:
            received = target.get(timeout=PATIENCE)
            assert repr(received) == repr(value)
            assert type(received) is type(value)
            assert received == value
        assert source.empty()
        source.put_many(values)
        received = target.get_many(len(values))
        assert received == values
        assert list(map(type, received)) == list(map(type, values))


def test_three_programs_share_one_queue(engine: str, name: str) -> None:
    code = "import sys\n{}\nq.put(('from', sys.argv[2], {{1: 2}}))\nprint(q.get(timeout=30))"
    openings = {
        "multiprocessing": "from shmqueue.compat.multiprocessing import Queue\nq = Queue(name=sys.argv[1])",
        "ShmQueue": "from shmqueue import ShmQueue\nq = ShmQueue(sys.argv[1])",
    }
    from shmqueue.compat.queue import Queue

    q: Queue[Any] = Queue(name=name)
    try:
        q.put("start")
        last: Any = "start"
        for who, opening in openings.items():
            assert run_python(code.format(opening), name, who) == f"{last}\n"
            last = ("from", who, {1: 2})
        assert q.get() == last
        assert q.qsize() == 0
    finally:
        q.close()


def test_a_name_keeps_the_sizes_of_the_first(our_mp: Opener, name: str) -> None:
    first = our_mp.Queue(2, name=name)
    with pytest.warns(ShmQueueShapeWarning, match="exists with maxsize=2, which holds: maxsize=5"):
        second = our_mp.JoinableQueue(5, name=name)
    second.put(1)
    second.put(2)
    with pytest.raises(queue.Full):
        first.put_nowait(3)
    assert first._maxsize == second._maxsize == 2


def test_unnamed_queues_are_private(our_mp: Opener) -> None:
    one, other = our_mp.Queue(), our_mp.Queue()
    one.put(1)
    assert other.empty()
