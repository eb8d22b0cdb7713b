"""Leases at brokers that are dropped anywhere, or ended while the broker is silent: nothing waits for ever."""

from __future__ import annotations

import gc
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support import PATIENCE, Call, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import kombu.message
from broker_servers import Server, Servers

import shmqueue
from shmqueue.broker.leases import BrokerLease
from shmqueue.broker.queue import BrokerQueue


@pytest.fixture
def redis(servers: Servers) -> Server:
    return servers.of("redis")


@pytest.fixture(params=["memory", "redis"])
def q(request: pytest.FixtureRequest, name: str) -> Iterator[BrokerQueue]:
    if request.param == "memory":
        url = f"memory://?queue={name}"
    else:
        # What is given back is not to be confused with what has come again because it took too long.
        url = request.getfixturevalue("redis").url(name).replace("visibility_timeout=2", "visibility_timeout=10000")
    with shmqueue.connect(url) as opened:
        assert isinstance(opened, BrokerQueue)
        yield opened


class Cycle:
    """Keeps itself, until it is collected."""

    def __init__(self, lease: BrokerLease) -> None:
        self.itself, self.lease = self, lease


# ---- dropped ----


def test_a_lease_may_be_collected_while_its_thread_holds_a_lock_of_the_transport(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[bool] = []
    with shmqueue.connect(f"memory://?queue={name}") as q:
        assert isinstance(q, BrokerQueue)
        q.put_many(range(2))
        real = queue.Queue._get

        def collect_and_get(self: Any) -> Any:
            assert self.mutex.locked()
            gc.collect()
            collected.append(True)
            return real(self)

        gc.disable()
        try:
            Cycle(q.lease(timeout=PATIENCE))
            monkeypatch.setattr(queue.Queue, "_get", collect_and_get)
            call = Call(q.get)
            assert call.result() == 1
        finally:
            gc.enable()
        assert collected
        assert q.get(timeout=PATIENCE) == 0


def test_the_destructor_of_a_lease_asks_the_broker_nothing(q: BrokerQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    asked: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(kombu.message.Message, "requeue", asked.append)
        del lease
        assert asked == []
    wait_until(lambda: q.qsize() == 1, "the item is in the queue again")  # without a GIL the destructor may run later
    assert q.get(timeout=PATIENCE) == "item"


@pytest.mark.parametrize("has_ended", [False, True], ids=["idle", "ended"])
def test_a_lease_of_another_thread_is_given_back_with_the_next_call(q: BrokerQueue, has_ended: bool) -> None:
    q.put("item")
    leases: list[BrokerLease] = []
    has_leased, may_end = threading.Event(), threading.Event()

    def lease() -> None:
        leases.append(q.lease(timeout=PATIENCE))
        has_leased.set()
        assert may_end.wait(PATIENCE)

    call = Call(lease)
    assert has_leased.wait(PATIENCE)
    link = leases[0]._link
    if has_ended:
        may_end.set()
        call.result()
        wait_until(lambda: link.is_left, "the thread has ended")
    leases.clear()
    assert q.get_nowait() == "item"
    if has_ended:
        wait_until(lambda: link.connection is None, "its connection is closed with its last lease")
    may_end.set()
    call.result()


def test_a_lease_that_was_dropped_is_given_back_by_close(q: BrokerQueue) -> None:
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    del lease
    q.close()
    with shmqueue.connect(q._options[0]) as other:
        assert other.get(timeout=PATIENCE) == "item"


@pytest.mark.parametrize("has_ended", [False, True], ids=["own", "ended"])
def test_a_lease_that_is_dropped_with_its_queue_is_given_back(q: BrokerQueue, has_ended: bool) -> None:
    q.put("item")
    leases: list[Any] = []

    def lease() -> None:
        leases.append(shmqueue.connect(q._options[0]).lease(timeout=PATIENCE))

    if has_ended:
        thread = threading.Thread(target=lease)
        thread.start()
        thread.join()
        wait_until(lambda: leases[0]._link.is_left, "the thread has ended")
    else:
        lease()
    leases.clear()
    assert q.get(timeout=PATIENCE) == "item"


# ---- ended while the broker is silent ----


@pytest.mark.parametrize("how", ["ack", "requeue"])
def test_the_end_of_a_lease_waits_for_a_silent_broker_only_so_long(
    redis: Server, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmqueue.broker.answers.ANSWER", 0.3)
    with shmqueue.connect(redis.url(name)) as q:
        q.put("item")
        lease = q.lease(timeout=PATIENCE)
        with redis.stopped():
            assert Call(getattr(lease, how)).result() is False  # of another thread than that of the connection
            assert not lease.is_held
            assert getattr(lease, how)() is False
        monkeypatch.undo()
        q.put("next")
        wait_until(lambda: q.get(timeout=PATIENCE) == "next", "the queue works")


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "other"])
def test_close_releases_what_waits_for_the_end_of_a_lease(
    redis: Server, name: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmqueue.broker.answers.ANSWER", 10 * PATIENCE)
    q = shmqueue.connect(redis.url(name))
    assert isinstance(q, BrokerQueue)
    q.put_many(range(2))
    leases: list[BrokerLease] = []
    has_leased, may_end = threading.Event(), threading.Event()

    def lease_and_end() -> bool:
        leases.extend(q.lease(timeout=PATIENCE) for _ in range(2))
        has_leased.set()
        assert may_end.wait(PATIENCE)
        return leases[0].ack() if is_own else False

    owner = Call(lease_and_end)
    assert has_leased.wait(PATIENCE)
    with redis.stopped():
        may_end.set()
        call = owner if is_own else Call(leases[0].ack)
        link = leases[0]._link
        wait_until(lambda: link.ending, "the acknowledgement is asked for")
        wait_until(call.is_asleep, "it waits")
        q.close()
        assert call.result() is False
        owner.result()
        began = time.monotonic()
        leases.clear()
        assert time.monotonic() - began < PATIENCE / 10  # the destructor of the other one has not waited


# ---- what is closed ----


def sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory itself
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {target for target in found if target.startswith("socket:")}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc/self/fd")
def test_a_closed_queue_with_a_lease_leaves_no_connection_to_the_collector(redis: Server, name: str) -> None:
    before = sockets()
    gc.disable()
    try:
        q = shmqueue.connect(redis.url(name))
        q.put_many(range(2))
        lease = q.lease(timeout=PATIENCE)
        assert sockets() - before
        q.close()
        wait_until(lambda: not sockets() - before, "no socket is left")
        assert not lease.is_held
    finally:
        gc.enable()
