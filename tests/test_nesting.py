"""Deeply nested items need no stack: a thread with a small one puts and takes them, or gets a clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import run_python

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

_PRELUDE = """
import sys, threading
import shmqueue
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as compat_multiprocessing, queue as compat_queue

def nested(kind, depth):
    item = kind(0)
    for _ in range(depth):
        item = kind(item)
    return item

KINDS = [lambda x: (x,), lambda x: [x], lambda x: {"k": x}, lambda x: (x, [x and None]), lambda x: {(1, ()): (x,)}]

def depth_of(item):
    depth = 0
    while isinstance(item, (tuple, list, dict)):
        item = next(iter(item.values())) if isinstance(item, dict) else item[0]
        depth += 1
    return depth

failed = []
def run(function):
    def guarded():
        try:
            function()
        except BaseException as error:
            failed.append(error)
            raise
    stack = 256 << 10
    if sys.maxsize < 1 << 32:
        stack *= 2  # the hash of a key of nested tuples takes 350 bytes of the interpreter's stack for each of them
    threading.stack_size(stack)
    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    assert not failed, failed

q = ShmQueue(sys.argv[1], max_bytes=1 << 26, allow_pickle=False)
"""


def test_nested_items_pass_through_a_thread_with_a_small_stack(engine: str, name: str) -> None:
    code = """
def pass_through():
    for kind in KINDS:
        for depth in (3, 7, 8, 9, 30, 33, 63, 100, 200, 500):
            item = nested(kind, depth)
            q.put(item)
            assert depth_of(q.get()) == depth_of(item), depth
            q.put_many([item])
            assert depth_of(q.get_many(1)[0]) == depth_of(item), depth

run(pass_through)
q.shutdown()
print("done")
"""
    assert run_python(_PRELUDE + code, name) == "done\n"


def test_so_they_do_with_pickle_and_through_the_adapters(engine: str, name: str) -> None:
    code = """
q.shutdown()
queues = [
    ShmQueue(sys.argv[1], max_bytes=1 << 26), compat_multiprocessing.Queue(), compat_multiprocessing.SimpleQueue(),
    compat_queue.Queue(), compat_queue.SimpleQueue(),
]

def pass_through():
    for q in queues:
        for kind in KINDS:
            for depth in (3, 8, 9, 30, 33):
                item = nested(kind, depth)
                q.put(item)
                assert depth_of(q.get()) == depth_of(item), depth

run(pass_through)
for q in queues:
    q.close() if hasattr(q, "close") else q.shutdown()
print("done")
"""
    assert run_python(_PRELUDE + code, name) == "done\n"


def test_records_made_to_crash_are_errors(engine: str, name: str) -> None:
    code = r"""
mark = b"\xc7\x00\xac"
def payloads():
    for depth in (8, 30, 500, 511, 512, 513, 1000, 1023, 1024, 1025, 5000, 100_000):
        yield 0, b"\x91" * depth + b"\x01"
        yield 0, b"\x81\x01" * depth + b"\x01"
        yield 0, b"\x91" * depth
        yield 0, b"\x81" * depth + b"\x01"
        tuples = (b"\x92" + mark) * depth + b"\x01"
        yield 2, tuples
        yield 2, b"\x81" + tuples + b"\x01"
        yield 2, b"\x82" + tuples + b"\x01" + tuples + b"\x01"
        yield 2, b"\x91" * depth + mark
        yield 2, (b"\x82" + mark) * depth
        yield 2, (b"\xdc\xff\xff" + mark) * depth + b"\x01"
        yield 2, b"\xd4\xac\x90" * depth
        yield 0, b"\xdd\xff\xff\xff\xff" * depth
        nested = b"\x90"
        for _ in range(min(depth, 2000)):
            body = b"\x91" + nested
            nested = b"\xc9" + len(body).to_bytes(4, "big") + b"\xac" + body
        yield 2, nested

def take_all():
    taken = refused = 0
    for method, payload in payloads():
        for take in (q.get, lambda: q.get_many(1)):
            q._engine.put(method, payload, True, None)
            try:
                take()
                taken += 1
            except shmqueue.ShmQueueDeserializationError:
                refused += 1
            assert q.empty()
    assert taken > 20 and refused > 100, (taken, refused)

run(take_all)
q.shutdown()
print("done")
"""
    assert run_python(_PRELUDE + code, name) == "done\n"


def test_a_record_that_promises_much_takes_no_memory_for_it(make: Make, engine: str) -> None:
    q = make(max_bytes=1 << 26)
    promise = (b"\xdd" + (1 << 20).to_bytes(4, "big")) * 200  # lists of a mebi of items in each other: 1.6 GiB
    q._engine.put(0, promise + bytes(1 << 20), True, None)
    with pytest.raises(shmqueue.ShmQueueDeserializationError):
        q.get()


@pytest.mark.parametrize("depth", [500, 1023, 1024, 1025, 1030, 3000])
@pytest.mark.parametrize("kind", [lambda x: (x,), lambda x: [x], lambda x: {"k": x}])
def test_an_item_too_deep_is_refused_by_put_or_arrives(
    make: Make, engine: str, kind: Callable[[Any], Any], depth: int
) -> None:
    item: Any = 0
    for _ in range(depth):
        item = kind(item)
    q = make(max_bytes=1 << 26, allow_pickle=False)
    if depth <= 1024:
        q.put(item)
        back = q.get()
        for _ in range(depth):
            back = back["k"] if isinstance(back, dict) else back[0]
        assert back == 0
    else:
        with pytest.raises(shmqueue.ShmQueueSerializationError, match=r"nested more than 1024 deep.* allow_pickle"):
            q.put(item)
    assert q.empty()
