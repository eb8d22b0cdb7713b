"""Brokers that are not there, do not answer, are killed or cut off: calls end in time, and what was put is not lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support import PATIENCE, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

from broker_servers import Proxy, Rabbit, Server, Servers, free_port, silence

import shmqueue


def test_a_broker_that_is_not_there_is_tried_as_often_as_the_policy_says() -> None:
    policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    url = f"redis://127.0.0.1:{free_port()}/0?queue=jobs"
    with shmqueue.connect(url, retry_policy=policy) as q, pytest.raises(shmqueue.ShmQueueBrokerError, match="3 times"):
        q.put(1)


def test_a_call_with_a_timeout_tries_until_it_is_over_and_no_longer() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0?queue=jobs"
    for policy in (None, {"interval_start": 60, "interval_max": 60}):
        with shmqueue.connect(url, retry_policy=policy) as q:
            for name, arguments in (("put", (1,)), ("lease", ())):
                began = time.monotonic()
                with pytest.raises(shmqueue.ShmQueueBrokerError):
                    getattr(q, name)(*arguments, timeout=0.7)
                assert 0.7 <= time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
def test_a_server_that_accepts_and_never_answers_is_given_up_in_time(scheme: str) -> None:
    with silence() as port:
        q: Any = shmqueue.connect(f"{scheme}://127.0.0.1:{port}/0?queue=jobs")
        began = time.monotonic()
        with pytest.raises(shmqueue.ShmQueueBrokerError, match="no answer within"):
            q.get(timeout=0.5)
        assert 2 <= time.monotonic() - began < PATIENCE
        q.close()


def test_a_server_that_stops_to_answer_is_given_up_and_used_again_later(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.of("redis")
    with shmqueue.connect(server.url(name), retry_policy={"max_retries": 0}) as q:
        q.put("first")
        monkeypatch.setattr("shmqueue.broker.answers.ANSWER", 1.0)
        monkeypatch.setattr("shmqueue.broker.links._FAREWELL", 1.0)
        with server.stopped():
            for call in (q.qsize, q.get_nowait, lambda: q.get(timeout=3)):
                with pytest.raises(shmqueue.ShmQueueBrokerError, match="no answer"):
                    call()
        q.put("last")
        wait_until(lambda: q.get(timeout=PATIENCE) == "last", "what was put after the pause arrives")
        lease = q.put("held") or q.lease(timeout=PATIENCE)
        with server.stopped():
            q.close()
        assert not lease.is_held


def test_a_killed_server_has_lost_nothing_that_a_put_has_returned_for(server: Server, name: str) -> None:
    with shmqueue.connect(server.url(name), retry_policy={"max_retries": None}) as q:
        q.put_many(["first", "second", "third"])
        assert q.get(timeout=PATIENCE) == "first"
        lease = q.lease(timeout=PATIENCE)
        assert lease.item == "second"
        server.write()  # of what is killed sooner RabbitMQ sometimes loses the queue, with its items
        server.kill()
        restart = threading.Thread(target=server.start)
        restart.start()
        q.put("fourth")  # waits for the server
        restart.join()
        found = set()
        while "second" not in found:  # Redis hands it out when the visibility timeout is over
            with q.lease(timeout=PATIENCE) as lease:
                found.add(lease.item)
        while not q.empty():
            found.add(q.get(timeout=PATIENCE))
        if isinstance(server, Rabbit):
            found.discard("first")  # it writes some time later what was taken
        assert found == {"second", "third", "fourth"}


def test_a_cut_connection_is_made_anew_and_loses_nothing(server: Server, name: str) -> None:
    proxy = Proxy(server.port)
    try:
        with shmqueue.connect(server.url(name, proxy.port)) as q:
            q.put_many(["first", "second"])
            lease = q.lease(timeout=PATIENCE)
            assert lease.item == "first"
            assert proxy.cut() > 0
            q.put("third")
            was_acknowledged = lease.ack()  # not at RabbitMQ, where a lease ends with its connection
            proxy.cut()
            wanted = {"second", "third"} | ({"first"} if not was_acknowledged else set())
            assert {q.get(timeout=PATIENCE) for _ in wanted} == wanted
            assert q.empty()
    finally:
        proxy.close()


def test_puts_during_which_the_connection_is_cut_are_all_there(server: Server, name: str) -> None:
    proxy = Proxy(server.port)
    policy = {"max_retries": None, "interval_start": 0.01, "interval_step": 0.01, "interval_max": 0.05}
    try:
        with shmqueue.connect(server.url(name, proxy.port), retry_policy=policy) as q:
            for number in range(60):
                cutter = threading.Thread(target=proxy.cut if number % 6 == 0 else bool)
                cutter.start()
                q.put(number)
                cutter.join()
        found = []
        with shmqueue.connect(server.url(name)) as q:
            while not q.empty():
                found.append(q.get(timeout=PATIENCE))
        assert set(found) == set(range(60))
        assert list(dict.fromkeys(found)) == list(range(60))  # in order, some perhaps twice
    finally:
        proxy.close()
