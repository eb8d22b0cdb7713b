"""Clauses that a fixed little program decides: how processes come to a queue, and how they leave it."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
import time
from typing import Any

from . import leasing_scenarios, view_scenarios  # noqa: F401  (they register their own)
from .scene import SCENARIOS, Scene, decides, require
from .values import is_same
from .workers import PATIENCE

__all__ = ["SCENARIOS", "Scene"]

_LARGE = 8 << 20  # bytes
_CHANGES = 300


# ---- how processes come to a queue ----


@decides("argument")
def _argument(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 2) as team:
        for number in range(3):
            require(scene, "argument", "put", team.workers[0].call, 0, "put", number)
            reply = require(scene, "argument", "get in another process", team.workers[1].call, 0, "get")
            scene.check("argument", reply.value == number, f"got {reply} instead of {number}")


_inherited: Any = None


def _put_into_inherited() -> None:
    _inherited.put("from the child")


@decides("inherited")
def _inherit(scene: Scene) -> None:
    global _inherited
    with scene.queue() as queue:
        _inherited = queue
        child = multiprocessing.get_context("fork").Process(target=_put_into_inherited)
        child.start()
        try:
            child.join(PATIENCE)
            scene.check("inherited", child.exitcode == 0, f"the child's exit code is {child.exitcode}")
            with scene.team(queue, 1) as team:
                reply = require(scene, "inherited", "get", team.workers[0].call, 0, "get")
            scene.check("inherited", reply.value == "from the child", f"got {reply}")
        finally:
            _inherited = None
            child.kill()
            child.join()


@decides("pickled")
def _pickled(scene: Scene) -> None:
    with scene.queue() as carrier, scene.queue() as cargo, scene.team(carrier, 1) as team:
        cargo.put("through a pipe")
        data = pickle.dumps(cargo)
        require(scene, "pickled", "unpickle in another process", team.workers[0].replace, 0, "unpickle", data)
        reply = require(scene, "pickled", "get", team.workers[0].call, 0, "get")
        scene.check("pickled", reply.value == "through a pipe", f"got {reply}")
        carrier.put({"the queue": cargo})
        cargo.put("through a queue")
        there = carrier.get()["the queue"]
        scene.check("pickled", there.get() == "through a queue", "a queue that came through a queue is another one")
        scene.target.dispose(scene.profile, there)


@decides("named")
def _named(scene: Scene) -> None:
    name = f"conformance-named-{multiprocessing.current_process().pid}-{time.monotonic_ns()}"
    with scene.queue(3, name) as queue, scene.queue() as other, scene.team(other, 1) as team:
        queue.put("known by name")
        arguments = (scene.target.make, scene.profile, 3, name)
        require(scene, "named", "attach in another process", team.workers[0].replace, 0, "make", *arguments)
        reply = require(scene, "named", "get", team.workers[0].call, 0, "get")
        scene.check("named", reply.value == "known by name", f"got {reply}")


# ---- items ----


@decides("copy")
def _copied(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 1) as team:
        for number in range(_CHANGES):
            item = [number] * 50
            queue.put(item)
            item.clear()
            reply = require(scene, "copy", "get", team.workers[0].call, 0, "get")
            scene.check("copy", len(reply.value) == 50, f"cleared after the put, the list arrives as {reply}")


def _put_many(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(number)


def _get_many(queue: Any, count: int) -> int:
    return sum(queue.get() == number for number in range(count))


@decides("unbounded")
def _unbounded(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 2) as team:
        producer, consumer = team.workers
        many = scene.profile.many
        put = require(scene, "unbounded", f"{many} puts", producer.run, 0, _put_many, many, timeout=60)
        got = require(scene, "unbounded", f"{many} gets", consumer.run, 0, _get_many, many, timeout=60)
        scene.check("unbounded", got.value == many, f"of {many} items {got.value} came as they were put ({put})")


def _put_large(queue: Any) -> None:
    queue.put(bytes(range(256)) * (_LARGE // 256))


@decides("large")
def _large(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 2) as team:
        number = team.workers[0].start("loader", 0, "run", (_put_large,), {})
        reply = require(scene, "large", f"get of {_LARGE} bytes", team.workers[1].call, 0, "get")
        same = is_same(reply.value, bytes(range(256)) * (_LARGE // 256))
        scene.check("large", same, f"{_LARGE} bytes did not come as they were put")
        team.workers[0].answer(number)


@decides("too-large")
def _too_large(scene: Scene) -> None:
    queue = scene.target.factory()(f"conformance-{time.monotonic_ns()}", buffer_size=4096)
    try:
        queue.put(bytes(8192))
        scene.check("too-large", False, "8192 bytes went into 4096")
    except ValueError:
        scene.check("too-large", True, "")
    finally:
        scene.target.dispose(scene.profile, queue)


def _put_what_cannot_be_pickled(queue: Any) -> str:
    errors, sys.stderr = sys.stderr, io.StringIO()
    try:
        queue.put(lambda: None)
        time.sleep(0.3)  # a feeder thread that complains does it now
        return "no error"
    except Exception as error:
        return f"error {error!r}"
    finally:
        sys.stderr = errors


@decides("unpicklable-told")
def _unpicklable_told(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 1) as team:
        reply = team.workers[0].run(0, _put_what_cannot_be_pickled)
        scene.check("unpicklable-told", str(reply.value).startswith("error"), "put(lambda: None) raises nothing")


@decides("unpicklable-harmless")
def _unpicklable_harmless(scene: Scene) -> None:
    with scene.queue(1) as queue, scene.team(queue, 2) as team:
        team.workers[0].run(0, _put_what_cannot_be_pickled)
        for worker in team.workers:
            what = "after an object that cannot be pickled, a put"
            require(scene, "unpicklable-harmless", what, worker.call, 0, "put", "good")
            reply = require(scene, "unpicklable-harmless", "a get then", team.workers[1].call, 0, "get")
            scene.check("unpicklable-harmless", reply.value == "good", f"got {reply}")


# ---- how processes leave it ----


def _join_thread(queue: Any) -> list[str]:
    seen = []
    queue.cancel_join_thread()
    try:
        queue.join_thread()
        seen.append("join_thread() before close() raises nothing")
    except AssertionError:
        pass
    queue.close()
    queue.join_thread()
    return seen


@decides("join-thread")
def _join(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 1) as team:
        reply = require(scene, "join-thread", "close and join_thread", team.workers[0].run, 0, _join_thread)
        scene.check("join-thread", reply.value == [], str(reply))


def _put_and_end(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(number)


@decides("exit")
def _exit(scene: Scene) -> None:
    count = 200
    context = scene.target.context()
    assert context is not None
    with scene.queue() as queue, scene.team(queue, 1) as team:
        call = team.workers[0].start("loader", 0, "run", (_get_many, count), {})
        child = context.Process(target=_put_and_end, args=(queue, count))
        child.start()
        try:
            child.join(2 * PATIENCE)
            scene.check("exit", child.exitcode == 0, f"after its last put, the process's exit code is {child.exitcode}")
            reply = require(scene, "exit", "the gets", team.workers[0].answer, call)
            scene.check("exit", reply.value == count, f"of {count} items put, {reply.value} came in order")
        finally:
            child.kill()
            child.join()


@decides("killed-waiting")
def _killed_waiting(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 3) as team:
        for number in range(4):
            victim = team.add()
            victim.start("here", 0, "get", (), {})
            _wait_until_asleep(victim.pid)
            other = team.workers[1].start("thread", 0, "get", (), {})
            _wait_until_asleep(team.workers[1].pid)
            victim.kill()
            require(scene, "killed-waiting", "a put", team.workers[2].call, 0, "put", number)
            what = "a get, after another process was killed while it waited in one"
            reply = require(scene, "killed-waiting", what, team.workers[1].answer, other)
            scene.check("killed-waiting", reply.value == number, f"{what}: {reply}")


def _wait_until_asleep(pid: int | None) -> None:
    """Wait until a process waits for something, as the kernel sees it; where it cannot be asked, for a moment."""
    deadline = time.monotonic() + 0.2
    calm = 0
    while time.monotonic() < deadline and calm < 5:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                calm = calm + 1 if file.read().rpartition(")")[2].split()[0] == "S" else 0
        except OSError:
            pass
        time.sleep(0.01)
