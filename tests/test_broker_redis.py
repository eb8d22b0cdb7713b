"""What is Redis's own: how it keeps leases and their timeouts, and what other programs do to its keys."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from support import PATIENCE, python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import redis
from broker_servers import ENDS_IN_THE_MIDDLE, Server, Servers, killed_holder

import shmqueue


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.of("redis")


IN_THE_MIDDLE = """
q = shmqueue.connect(url)
q.qsize()  # the connection is made
count()
assert q.lease(timeout=30).item == "item"
print("not reached" if left > 0 else "leased", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_a_lease_at_redis_that_ends_before_any_of_its_requests_or_answers_loses_nothing(
    how: str, server: Server, name: str
) -> None:
    ended: list[Any] = []
    with ExitStack() as stack:
        for step in range(1, 100):
            url = server.url(f"{name}-{step}")
            q: Any = stack.enter_context(shmqueue.connect(url))
            q.put("item")
            with python(ENDS_IN_THE_MIDDLE + IN_THE_MIDDLE, url, how, step) as process:
                output, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == -signal.SIGKILL, errors
            if output == "not reached\n":
                break
            assert output == ("" if how == "killed" else "leased\n")
            ended.append(q)
        assert len(ended) >= 2  # a request, and its answer
        for q in ended:
            assert q.lease(timeout=PATIENCE).item == "item"


def test_a_user_who_may_not_run_scripts_at_redis_can_lease(server: Server, name: str) -> None:
    with redis.Redis(port=server.port) as client:
        client.acl_setuser(
            "plain", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-@scripting"]
        )
    with shmqueue.connect(server.url(name).replace("redis://", "redis://plain:any@")) as q:
        q.put_many(["first", "second"])
        held = q.lease(timeout=PATIENCE)
        assert held.item == "first"
        with q.lease(timeout=PATIENCE) as lease:
            assert lease.item == "second"
        assert held.requeue()
        assert q.lease(timeout=PATIENCE).item == "first"


def test_what_a_killed_holder_had_comes_again_from_a_queue_that_is_never_empty(server: Server, name: str) -> None:
    url = server.url(name)
    with shmqueue.connect(url) as q:
        q.put("held")
        with killed_holder(url, "held 1"):
            assert q.empty()
        q.put_many(["other"] * 10)

        def next_item() -> object:
            q.put("other")
            return q.get(timeout=PATIENCE)

        wait_until(lambda: next_item() == "held", "the item comes again")


def test_the_visibility_timeout_of_a_queue_is_its_own(server: Server, name: str) -> None:
    quick = server.url(name)
    slow = server.url(f"{name}-slow").replace("visibility_timeout=2", "visibility_timeout=10000")
    with shmqueue.connect(slow) as q, shmqueue.connect(quick) as other:
        q.put("held")
        held = q.lease(timeout=PATIENCE)
        other.put("expires")
        expiring = other.lease(timeout=PATIENCE)
        again = other.lease(timeout=PATIENCE)  # so the timeouts of all that it looks at were looked at
        assert (again.item, again.attempt) == ("expires", 2)
        assert q.empty()
        assert held.ack()
        del expiring


def test_a_lease_begins_when_the_server_hands_it_out_and_not_when_it_was_asked_for(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_connected, may_ask, asks = threading.Event(), threading.Event(), threading.Event()
    run_script = redis.Redis.eval

    def tell_and_run(*arguments: Any, **options: Any) -> Any:
        asks.set()  # the consumer's time is among the arguments
        return run_script(*arguments, **options)

    def take() -> None:
        q.qsize()
        is_connected.set()
        assert may_ask.wait(PATIENCE)
        leases.append(q.lease(timeout=PATIENCE))

    with shmqueue.connect(server.url(name)) as q, redis.Redis(port=server.port) as client:
        monkeypatch.setattr(redis.Redis, "eval", tell_and_run)
        q.put("item")
        leases: list[Any] = []
        thread = threading.Thread(target=take)
        thread.start()
        assert is_connected.wait(PATIENCE)
        with server.stopped():
            may_ask.set()
            assert asks.wait(PATIENCE)
            continued = time.time()
        thread.join()
        ((_, taken),) = client.zrange(f"unacked_index-{name}", 0, -1, withscores=True)
        assert taken >= continued
        assert leases[0].item == "item"


RESTORER = """
import os, signal, sys, shmqueue
from shmqueue.broker.redis import _RestoreAtOnce
_RestoreAtOnce.restore_by_tag = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
shmqueue.connect(sys.argv[1]).lease(timeout=30)
"""


def test_a_process_killed_while_it_gives_back_what_others_had_does_not_keep_others_from_it(
    server: Server, name: str
) -> None:
    url = server.url(name)
    with shmqueue.connect(url) as q:
        q.put("held")
        with killed_holder(url, "held 1"):
            assert q.empty()
        with python(RESTORER, url) as restorer:
            assert restorer.wait(PATIENCE) == -signal.SIGKILL
        assert q.lease(timeout=PATIENCE).item == "held"
