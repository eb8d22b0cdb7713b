"""Clauses about items that are written and read in place, and what happens to them when a process is killed."""

from __future__ import annotations

from . import viewing
from .scene import Scene, decides, require
from .trial import NOTICED
from .workers import Worker

__all__: list[str] = []


def _begin_put(scene: Scene, key: str, worker: Worker, length: int) -> int:
    reply = require(scene, key, "put_view", worker.call, 0, viewing.begin_put, length)
    block = viewing.Viewed(*reply.value)
    scene.check(key, len(block.contents) == length, f"put_view({length}) has {len(block.contents)} bytes")
    scene.check(key, block.is_writable, "put_view() shows bytes that cannot be written")
    return block.number


def _begin_get(scene: Scene, key: str, worker: Worker, item: bytes) -> int:
    reply = require(scene, key, "get_view", worker.call, 0, viewing.begin_get)
    block = viewing.Viewed(*reply.value)
    scene.check(key, block.contents == item, f"get_view() shows {block.contents!r} instead of {item!r}")
    scene.check(key, not block.is_writable, "get_view() shows bytes that can be written")
    return block.number


def _write_and_end(scene: Scene, key: str, worker: Worker, number: int, data: bytes) -> None:
    require(scene, key, "a write", worker.call, 0, viewing.write, number, data)
    require(scene, key, "the end of a block", worker.call, 0, viewing.end, number)


def _gets(scene: Scene, key: str, worker: Worker, *items: object) -> None:
    """What is got is these, in order."""
    for item in items:
        reply = require(scene, key, f"a get of {item!r}", worker.call, 0, "get")
        scene.check(key, reply.value == item, f"got {reply} instead of {item!r}")


def _has_nothing(scene: Scene, key: str, worker: Worker, when: str) -> None:
    reply = worker.call(0, "get", block=True, timeout=NOTICED)
    scene.check(key, "Empty" in reply.errors, f"a get {when}: {reply}")


@decides("view-put")
def _put(scene: Scene) -> None:
    key = "view-put"
    with scene.queue() as queue, scene.team(queue, 3) as team:
        first, second, getter = team.workers
        one = _begin_put(scene, key, first, 5)
        two = _begin_put(scene, key, second, 3)
        _has_nothing(scene, key, getter, "of what is still being written")
        _write_and_end(scene, key, first, one, b"first")
        _gets(scene, key, getter, b"first")
        _write_and_end(scene, key, second, two, b"two")
        require(scene, key, "put", first.call, 0, "put", "later")
        _gets(scene, key, getter, b"two", "later")
        waiting = getter.start("thread", 0, "get", (), {})
        three = _begin_put(scene, key, first, 0)
        require(scene, key, "the end of a block", first.call, 0, viewing.end, three)
        reply = require(scene, key, "a get that waits for what is written", getter.answer, waiting)
        scene.check(key, reply.value == b"", f"got {reply} instead of {b''!r}")


@decides("view-dropped")
def _dropped(scene: Scene) -> None:
    key = "view-dropped"
    with scene.queue() as queue, scene.team(queue, 3) as team:
        writer, killed, getter = team.workers
        raising = _begin_put(scene, key, writer, 9)
        block = _begin_put(scene, key, killed, 9)
        require(scene, key, "a write", killed.call, 0, viewing.write, block, b"half")
        require(scene, key, "put", writer.call, 0, "put", "behind them")
        require(scene, key, "the end of a block that raises", writer.call, 0, viewing.end, raising, True)
        _gets(scene, key, getter, "behind them")
        if not scene.kill(killed):
            require(scene, key, "the end of a block that raises", killed.call, 0, viewing.end, block, True)
        _has_nothing(scene, key, getter, "of what was not written to its end")
        require(scene, key, "put", writer.call, 0, "put", "last")
        _gets(scene, key, getter, "last")
        for _ in range(2):
            require(scene, key, "task_done", getter.call, 0, "task_done")
        require(scene, key, "join() when all that was put is done", getter.call, 0, "join")


@decides("view-get")
def _get(scene: Scene) -> None:
    key = "view-get"
    with scene.queue() as queue, scene.team(queue, 3) as team:
        first, second, putter = team.workers
        for item in (b"a", b"b", b"c"):
            require(scene, key, "put", putter.call, 0, "put", item)
        a = _begin_get(scene, key, first, b"a")
        b = _begin_get(scene, key, second, b"b")
        require(scene, key, "the end of a block", first.call, 0, viewing.end, a)
        require(scene, key, "the end of a block that raises", second.call, 0, viewing.end, b, True)
        again = _begin_get(scene, key, first, b"b")
        if not scene.kill(first):
            require(scene, key, "the end of a block that raises", first.call, 0, viewing.end, again, True)
        _gets(scene, key, second, b"b", b"c")
        _has_nothing(scene, key, second, "when all was taken")
