"""Clauses about leases that a fixed little program decides: what holders do, and what happens when they are killed."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from . import leasing
from .scene import Scene, decides, require
from .trial import NOTICED
from .workers import PATIENCE, Method, Reply, Worker

__all__: list[str] = []

_UNDISTURBED = 0.6  # seconds for which an idle holder keeps its item while another process waits for one


def _lease(scene: Scene, key: str, worker: Worker, item: object, attempt: int) -> int:
    """Lease what must be this item at this attempt; the lease's number at the worker."""
    reply = require(scene, key, "a lease", worker.call, 0, leasing.lease)
    return _is(scene, key, reply, item, attempt)


def _is(scene: Scene, key: str, reply: Reply, item: object, attempt: int) -> int:
    leased = leasing.Leased(*reply.value)
    scene.check(key, leased[1:] == (item, attempt), f"leased {reply} instead of {item!r} at attempt {attempt}")
    return leased.number


def _lease_again(scene: Scene, key: str, worker: Worker, item: object) -> int:
    """Lease what must be this item at its second attempt, when the death of its holder is noticed."""
    call = worker.start("here", 0, leasing.lease, (), {})
    what = "a lease of what a killed process had"
    reply = require(scene, key, what, worker.answer, call, timeout=PATIENCE + scene.profile.noticed)
    return _is(scene, key, reply, item, 2)


def _ack(scene: Scene, key: str, worker: Worker, number: int) -> None:
    reply = require(scene, key, "an ack", worker.call, 0, leasing.end, number, "ack")
    scene.check(key, leasing.Ended(*reply.value).first is True, f"an ack: {reply}")


def _is_drained(scene: Scene, key: str, worker: Worker) -> None:
    reply = worker.call(0, leasing.lease, block=True, timeout=NOTICED)
    scene.check(key, "Empty" in reply.errors, f"a lease when all is acknowledged: {reply}")


@decides("lease-killed")
def _killed(scene: Scene) -> None:
    key = "lease-killed"
    with scene.queue() as queue, scene.team(queue, 4) as team:
        first, second, third, putter = team.workers
        for number in range(7):
            require(scene, key, "put", putter.call, 0, "put", number)
        numbers = [_lease(scene, key, first, item, 1) for item in range(3)]
        _ack(scene, key, first, numbers[0])
        _ack(scene, key, first, numbers[1])
        _lease(scene, key, first, 3, 1)
        _lease(scene, key, first, 4, 1)
        scene.kill(first)
        _lease(scene, key, second, 2, 2)
        _lease(scene, key, third, 3, 2)
        _lease(scene, key, second, 4, 2)
        _lease(scene, key, second, 5, 1)
        scene.kill(second)
        for item, attempt in ((2, 3), (4, 3), (5, 2), (6, 1)):
            _ack(scene, key, third, _lease(scene, key, third, item, attempt))
        _is_drained(scene, key, third)
    _killed_while_others_wait(scene, key)


def _killed_while_others_wait(scene: Scene, key: str) -> None:
    with scene.queue() as queue, scene.team(queue, 4) as team:
        holder, *waiting, putter = team.workers
        for number in range(6):
            require(scene, key, "put", putter.call, 0, "put", number)
        numbers = [_lease(scene, key, holder, item, 1) for item in range(3)]
        _ack(scene, key, holder, numbers[0])
        _ack(scene, key, holder, numbers[1])
        for item in range(3, 6):  # so that the places of the older ones are free for the newer ones
            _lease(scene, key, holder, item, 1)
        calls = [worker.start("thread", 0, leasing.lease, (), {}) for worker in waiting]
        holder.kill()
        what = "a waiting lease, after the holder was killed"
        replies = [require(scene, key, what, worker.answer, call) for worker, call in zip(waiting, calls, strict=True)]
        got = sorted(leasing.Leased(*reply.value)[1:] for reply in replies)
        scene.check(key, got == [(2, 2), (3, 2)], f"two waiting leases got {got} instead of the oldest of a killed one")
        require(scene, key, "put", putter.call, 0, "put", 6)
        for item, attempt in ((4, 2), (5, 2), (6, 1)):
            _ack(scene, key, putter, _lease(scene, key, putter, item, attempt))
        _is_drained(scene, key, putter)


@decides("lease-again")
def _comes_again(scene: Scene) -> None:
    key = "lease-again"
    with scene.queue() as queue, scene.team(queue, 4) as team:
        holder, other, third, putter = team.workers
        for number in range(6):
            require(scene, key, "put", putter.call, 0, "put", number)
        numbers = [_lease(scene, key, holder, item, 1) for item in range(4)]
        _ack(scene, key, holder, numbers[0])
        reply = require(scene, key, "a requeue", holder.call, 0, leasing.end, numbers[1], "requeue")
        scene.check(key, leasing.Ended(*reply.value).first is True, f"a requeue: {reply}")
        came_before = {1: True, 4: False, 5: False}
        if scene.has_processes:
            holder.kill()
            came_before |= {2: True, 3: True}
        got: dict[object, bool] = {}
        deadline = time.monotonic() + PATIENCE + scene.profile.noticed
        while len(got) < len(came_before) and time.monotonic() < deadline:
            worker = (other, third)[len(got) % 2]
            reply = worker.call(0, leasing.lease, block=True, timeout=1)
            if not reply.errors:
                leased = leasing.Leased(*reply.value)
                scene.check(key, leased.item not in got, f"{leased.item!r} comes twice")
                got[leased.item] = leased.attempt > 1
                _ack(scene, key, worker, leased.number)
        scene.check(key, got == came_before, f"which items came again was {got} instead of {came_before}")
        _is_drained(scene, key, other)


@decides("lease-acked")
def _acknowledged(scene: Scene) -> None:
    key = "lease-acked"
    with scene.queue() as queue, scene.team(queue, 3) as team:
        holder, other, putter = team.workers
        for number in range(4):
            require(scene, key, "put", putter.call, 0, "put", number)
        numbers = [_lease(scene, key, holder, item, 1) for item in range(4)]
        for number in numbers if not scene.has_processes else (numbers[0], numbers[2], numbers[3]):
            _ack(scene, key, holder, number)
        scene.kill(putter)
        scene.kill(holder)
        if scene.has_processes:
            _ack(scene, key, other, _lease_again(scene, key, other, 1))
            scene.check(key, other.end(), "a process that has acknowledged what it leased does not end")
            team.replace(1)
        _is_drained(scene, key, team.workers[1])


@decides("lease-join")
def _joined(scene: Scene) -> None:
    key = "lease-join"
    with scene.queue() as queue, scene.team(queue, 4) as team:
        holder, other, joiner, putter = team.workers
        for number in range(4):
            require(scene, key, "put", putter.call, 0, "put", number)
        join = joiner.start("thread", 0, "join", (), {})

        def waits(why: str) -> None:
            reply = joiner.reply(join, 0.02)
            scene.check(key, reply is None, f"join() ends although {why}: {reply}")

        numbers = [_lease(scene, key, holder, item, 1) for item in range(2)]
        waits("nothing was acknowledged")
        _ack(scene, key, holder, numbers[0])
        scene.kill(holder)
        waits("a killed process had not acknowledged its item")
        if scene.has_processes:
            _ack(scene, key, other, _lease(scene, key, other, 1, 2))
        else:
            _ack(scene, key, holder, numbers[1])
        for item in (2, 3):
            waits(f"{item} was not acknowledged")
            if item == 2:
                reply = require(scene, key, "get", other.call, 0, "get")
                scene.check(key, reply.value == item, f"got {reply} instead of {item}")
                waits("task_done() was not called for an item that was got")
                require(scene, key, "task_done", other.call, 0, "task_done")
            else:
                _ack(scene, key, other, _lease(scene, key, other, item, 1))
        require(scene, key, "join() when all is acknowledged or done", joiner.answer, join)
        reply = other.call(0, "task_done")
        scene.check(key, "ValueError" in reply.errors, f"task_done() when all is done: {reply}")


def _blocks(queue: Any) -> list[str]:
    """What is wrong with blocks."""
    wrong = []
    queue.put("a")
    try:
        with queue.lease() as lease:
            if lease.item != "a":
                wrong.append(f"the first block has {lease.item!r}")
            raise KeyError("planned")
    except KeyError:
        pass
    else:
        wrong.append("a block's exception does not come out of it")
    for item, attempt, ends in (("a", 2, "itself"), ("b", 1, "ack"), ("c", 1, "requeue"), ("c", 2, "itself")):
        if attempt == 1:
            queue.put(item)
        with queue.lease() as lease:
            if (lease.item, lease.attempt) != (item, attempt):
                seen = f"{lease.item!r} at attempt {lease.attempt}"
                return [*wrong, f"a block has {seen} instead of {item!r} at attempt {attempt}"]
            if ends != "itself":
                getattr(lease, ends)()
    if not queue.empty():
        wrong.append(f"after the last block there is {queue.get()!r}")
    return wrong


@decides("lease-block")
def _block(scene: Scene) -> None:
    with scene.queue() as queue, scene.team(queue, 2) as team:
        reply = require(scene, "lease-block", "blocks", team.workers[0].run, 0, _blocks)
        scene.check("lease-block", reply.value == [], str(reply))
        scene.kill(team.workers[0])
        _is_drained(scene, "lease-block", team.workers[1])


@decides("lease-alone")
def _alone(scene: Scene) -> None:
    key = "lease-alone"
    with scene.queue() as queue, scene.team(queue, 3) as team:
        holder, other, putter = team.workers
        for number in range(2):
            require(scene, key, "put", putter.call, 0, "put", number)
        number = _lease(scene, key, holder, 0, 1)
        _lease(scene, key, other, 1, 1)

        def waits(how: Method, state: str) -> None:
            reply = other.call(0, how, block=True, timeout=_UNDISTURBED)
            scene.check(key, "Empty" in reply.errors, f"the item of {state} process goes to another one: {reply}")

        waits(leasing.lease, "an idle")
        if holder.pid is not None:
            os.kill(holder.pid, signal.SIGSTOP)
            try:
                waits("get", "a stopped")
            finally:
                os.kill(holder.pid, signal.SIGCONT)
        _ack(scene, key, holder, number)
