"""Keys of dicts that arrive are not kept: some Pythons never free a string that was interned."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from shmqueue import ShmQueue, plain, plain_unpacking
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue

Make = Callable[..., ShmQueue]

KEYS = 20_000


def blocks_left_by(call: Callable[[], Any]) -> int:
    """How many blocks of memory are allocated after a call that were not before."""
    gc.collect()
    before = sys.getallocatedblocks()
    call()
    gc.collect()
    return sys.getallocatedblocks() - before


@pytest.mark.parametrize("make_queue", [None, compat_multiprocessing.Queue, compat_queue.Queue])
def test_memory_of_keys_is_freed(make: Make, engine: str, make_queue: Callable[[], Any] | None) -> None:
    q = make(max_bytes=1 << 26) if make_queue is None else make_queue()
    keys = KEYS if engine == "native" else KEYS // 5  # it is slow

    def exchange(prefix: str) -> None:
        for i in range(keys):
            q.put({f"{prefix}-{i}": i})
            q.get()
        q.put({f"{prefix}-large-{i}": i for i in range(keys)})
        q.get()
        q.put({f"{prefix}-tuple-{i}": (i,) for i in range(keys)})
        q.get()

    exchange("first")
    assert blocks_left_by(lambda: exchange("second")) < keys / 4
    if make_queue is not None:
        q.close()


@pytest.mark.parametrize("count", [1, 50, 5000])
def test_a_key_that_arrives_is_not_interned(make: Make, native: None, count: int) -> None:
    q = make(max_bytes=1 << 26)
    for value in (1, (1,)):
        q.put({f"key-{count}-{i}-{value!r}": value for i in range(count)})
        for key in q.get():
            assert sys.intern(str(key.encode(), "ascii")) is not key


def test_keys_that_come_again_are_the_same_string(make: Make, native: None) -> None:
    q = make()
    q.put([{"name": 1}, {"name": 2}])
    q.put({"name": 3})
    (first, second), third = q.get(), q.get()
    assert next(iter(first)) is next(iter(second)) is next(iter(third))


@pytest.mark.parametrize(
    "item",
    [
        *(None, True, False, 0, 127, 128, 255, 256, 65535, 65536, 2**32, 2**64 - 1, -1, -32, -33, -129, -(2**63), 1.5),
        *("", "ü", "x" * 31, "x" * 32, "x" * 256, "x" * 65536, b"", b"x" * 256, b"x" * 65536),
        *([], [[]], list(range(15)), list(range(16)), list(range(70_000))),
        *({}, {"a": {1: [2]}}, {i: i for i in range(99)}),
        *((), ((),), (1, [2, (3,)]), {(1, (2,)): (3,)}, [(), ()]),
    ],
)  # fmt: skip
def test_the_unpacker_for_such_pythons_gives_the_same(item: Any) -> None:
    method, payload = plain.pack(item)
    back = plain_unpacking._unpack_here(payload, has_tuples=method == 2)
    assert repr(back) == repr(item)
    assert repr(plain_unpacking.UNPACKERS[method](payload)) == repr(item)
    for end in range(0, len(payload), max(1, len(payload) // 50)):
        with pytest.raises(ValueError, match="incomplete"):
            plain_unpacking._unpack_here(payload[:end], has_tuples=method == 2)
    with pytest.raises(ValueError, match="more in the payload"):
        plain_unpacking._unpack_here(payload + b"\x01", has_tuples=method == 2)
