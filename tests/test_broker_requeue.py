"""Items that are given back at Redis: each comes again once, in its place, whatever other consumers do meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from support import PATIENCE, Call, python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import broker_servers
import kombu
import redis
from redis.connection import Connection

import shmqueue
from shmqueue.broker.queue import BrokerQueue


@pytest.fixture
def server(servers: broker_servers.Servers) -> broker_servers.Server:
    return servers.of("redis")


@pytest.fixture
def client(server: broker_servers.Server) -> Iterator[Any]:
    """A client of the server, to look into what is there, and to act as other consumers do."""
    with redis.Redis(port=server.port) as opened:
        yield opened


Open = Callable[..., BrokerQueue]


@pytest.fixture
def connected(server: broker_servers.Server, name: str) -> Iterator[Open]:
    """Opens the queue, by default with a visibility timeout that is not over before the test is."""
    with ExitStack() as stack:

        def open_it(seconds: float = 10_000, user: str = "") -> BrokerQueue:
            url = server.url(name).replace("visibility_timeout=2", f"visibility_timeout={seconds}")
            if user:
                url = url.replace("redis://", f"redis://{user}:any@")
            q = stack.enter_context(shmqueue.connect(url))
            assert isinstance(q, BrokerQueue)
            return q

        yield open_it


def unacknowledged(client: Any, name: str) -> tuple[int, int]:
    """How many messages are leased, by both accounts of them."""
    return client.hlen(f"unacked-{name}"), client.zcard(f"unacked_index-{name}")


def end_their_time(client: Any, name: str) -> None:
    """Have all messages of now be leased for too long, and none that is leased later."""
    for tag in client.zrange(f"unacked_index-{name}", 0, -1):
        client.zadd(f"unacked_index-{name}", {tag: 1})


def all_of(q: BrokerQueue, count: int) -> list[Any]:
    """The items of the queue, of which there must be so many."""
    wait_until(lambda: q.qsize() == count, f"there are {count} items")
    return [q.get(timeout=PATIENCE) for _ in range(count)]


# ---- other consumers ----


@contextmanager
def traffic(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another consumer leases and acknowledges before each request to Redis."""
    real, is_other = Connection.send_packed_command, threading.local()

    def send(connection: Any, *arguments: Any, **options: Any) -> Any:
        if not getattr(is_other, "has_sent", False):
            is_other.has_sent = True
            client.hset(f"unacked-{name}", "another", "[]")
            client.hdel(f"unacked-{name}", "another")
            is_other.has_sent = False
        return real(connection, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "send_packed_command", send)
        yield


def requeue(q: BrokerQueue, lease: Any) -> None:
    assert lease.requeue()


def close(q: BrokerQueue, lease: Any) -> None:
    q.close()


def abandon(q: BrokerQueue, lease: Any) -> None:
    q._give_back([lease])


@pytest.mark.parametrize("give_back", [requeue, close, abandon])
def test_much_traffic_on_a_queue_keeps_no_item_from_coming_again(
    connected: Open, client: Any, name: str, give_back: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, other = connected(), connected()
    q.put_many(["leased", "next"])
    lease = q.lease(timeout=PATIENCE) if give_back is not abandon else q._wait(False, True, PATIENCE)
    with traffic(client, name, monkeypatch):
        give_back(q, lease)
        assert all_of(other, 2) == (["next", "leased"] if give_back is requeue else ["leased", "next"])
    assert unacknowledged(client, name) == (0, 0)


def test_much_traffic_keeps_no_item_whose_time_is_over_from_coming_again(
    connected: Open, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, other = connected(), connected(seconds=0.001)
    q.put("leased")
    lease = q.lease(timeout=PATIENCE)
    with traffic(client, name, monkeypatch):
        assert Call(other.get, timeout=PATIENCE / 2).result() == "leased"
    assert lease.item == "leased"


def test_a_requeue_whose_answer_is_lost_takes_the_item_from_nobody_who_has_it_then(
    connected: Open, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, other = connected(), connected()
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    other.qsize()  # its connection is made
    leases: list[Any] = []
    real, link = Connection.read_response, lease._link

    def read(connection: Any, *arguments: Any, **options: Any) -> Any:
        answer = real(connection, *arguments, **options)
        is_first = not leases and connection in link.channel.pool._in_use_connections
        if is_first and client.llen(name):  # it has been given back
            leases.append(None)
            leases.append(other.lease(timeout=PATIENCE))
            raise redis.ConnectionError("cut")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "read_response", read)
        lease.requeue()
        assert leases[1].item == "item"
    q.close()
    assert other.qsize() == 0
    assert unacknowledged(client, name) == (1, 1)
    assert leases[1].ack()
    assert unacknowledged(client, name) == (0, 0)


def test_a_holder_whose_time_is_over_ends_the_lease_of_nobody_else(connected: Open, client: Any, name: str) -> None:
    q, other = connected(), connected()
    q.put("item")
    late = q.lease(timeout=PATIENCE)
    end_their_time(client, name)
    again = other.lease(timeout=PATIENCE)
    assert (again.item, again.attempt) == ("item", 2)
    assert late.ack() is False
    assert unacknowledged(client, name) == (1, 1)
    assert again.ack()


def test_a_holder_whose_time_is_over_is_told(connected: Open, client: Any, name: str, user: str) -> None:
    q, other = connected(user=user), connected()
    q.put_many(["requeued", "acknowledged"])
    late = [q.lease(timeout=PATIENCE) for _ in range(2)]
    end_their_time(client, name)
    again = [other.lease(timeout=PATIENCE) for _ in range(2)]
    assert late[0].requeue() is False
    assert late[1].ack() is False
    assert not late[0].is_held
    assert not late[1].is_held
    assert q.qsize() == 0
    assert [lease.ack() for lease in again] == [True, True]
    assert unacknowledged(client, name) == (0, 0)


# ---- death, and cut connections ----


def test_a_request_that_the_client_sends_again_takes_nothing_else(
    connected: Open, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = connected()
    real = redis.Redis.eval

    def run_twice(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        return real(*arguments, **options)

    q.put_many(["first", "second"])
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "eval", run_twice)
        lease = q.lease(timeout=PATIENCE)
    assert lease.item == "first"
    assert unacknowledged(client, name) == (1, 1)
    assert lease.requeue()
    assert all_of(q, 2) == ["second", "first"]


GIVING_BACK = """
q = shmqueue.connect(url)
lease = q.lease(timeout=30)
count()
lease.requeue()
print("not reached" if left > 0 else "ended", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_a_requeue_that_ends_before_any_of_its_requests_or_answers_loses_and_doubles_nothing(
    how: str, server: broker_servers.Server, client: Any, name: str
) -> None:
    ended: list[tuple[str, Any]] = []
    with ExitStack() as stack:
        for step in range(1, 100):
            url = server.url(f"{name}-{step}")
            q: Any = stack.enter_context(shmqueue.connect(url))
            q.put("item")
            with python(broker_servers.ENDS_IN_THE_MIDDLE + GIVING_BACK, url, how, step) as process:
                output, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == -signal.SIGKILL, errors
            if output == "not reached\n":
                break
            assert output == ("" if how == "killed" else "ended\n")
            ended.append((f"{name}-{step}", q))
        assert len(ended) == 2  # a request, and its answer
        for its_name, q in ended:
            lease = q.lease(timeout=PATIENCE)
            assert (lease.item, lease.attempt) == ("item", 2)
            assert lease.ack()
            assert q.empty()
            assert unacknowledged(client, its_name) == (0, 0)


@pytest.fixture
def full_memory(client: Any) -> Iterator[Callable[[], None]]:
    """Has Redis refuse what needs memory."""
    yield lambda: client.config_set("maxmemory", 1)
    client.config_set("maxmemory", 0)


def test_what_cannot_be_given_back_for_lack_of_memory_comes_again_later(
    connected: Open, client: Any, name: str, full_memory: Callable[[], None]
) -> None:
    q, other = connected(), connected(seconds=0.001)
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    full_memory()
    assert lease.requeue() is False
    wait_until(lambda: lease._link.connection is None, "its connection is closed")
    assert unacknowledged(client, name) == (1, 1)
    client.config_set("maxmemory", 0)
    assert other.get(timeout=PATIENCE) == "item"
    assert other.qsize() == 0


# ---- where it comes again ----

LACKS = {"scripts": ["-@scripting"], "lindex": ["-lindex"], "time": ["-time"], "evalsha": ["-evalsha"]}


@pytest.fixture(params=["", *LACKS])
def user(request: pytest.FixtureRequest, client: Any) -> str:
    """The name of a user who may do everything, or lacks something."""
    lacking: str = request.param
    if lacking:
        commands = ["+@all", *LACKS[lacking]]
        client.acl_setuser(lacking, enabled=True, nopass=True, keys=["*"], channels=["*"], commands=commands)
    return lacking


def test_what_is_given_back_keeps_its_priority(
    connected: Open, server: broker_servers.Server, client: Any, name: str, user: str
) -> None:
    q = connected(user=user)
    with kombu.Connection(server.url(name).split("?")[0]) as connection:
        producer = kombu.Producer(connection.channel())
        for item, priority in (("low", 9), ("first", 0), ("second", 0)):  # in Redis the lowest number comes first
            producer.publish(item, routing_key=name, priority=priority)
    first = q.lease(timeout=PATIENCE)
    assert first.item == "first"
    assert first.requeue()  # behind the others of its priority
    for wanted in ("second", "first"):
        lease = q.lease(timeout=PATIENCE)
        assert lease.item == wanted
        assert lease.ack()
    low = q.lease(timeout=PATIENCE)
    assert (low.item, low.attempt) == ("low", 1)
    q.put("new")
    assert low.requeue()
    q._give_back([q._wait(False, True, PATIENCE)])
    assert all_of(q, 2) == ["new", "low"]
    assert unacknowledged(client, name) == (0, 0)


def test_what_a_user_of_few_rights_had_too_long_comes_again(connected: Open, user: str) -> None:
    q, other = connected(user=user), connected(seconds=0.001, user=user)
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    other.qsize()
    other._restored -= PATIENCE  # long enough ago to look once more
    assert other.get_nowait() == "item"
    assert lease.item == "item"


def test_what_came_from_an_exchange_comes_again_in_this_queue_only(
    connected: Open, server: broker_servers.Server, client: Any, name: str, user: str
) -> None:
    q = connected(user=user)
    with kombu.Connection(server.url(name).split("?")[0]) as connection:
        channel = connection.channel()
        exchange = kombu.Exchange(f"{name}-exchange", "direct")
        for queue in (name, f"{name}-twin"):
            kombu.Queue(queue, exchange, routing_key="both").bind(channel).declare()
        kombu.Producer(channel).publish("item", exchange=exchange, routing_key="both")
    for attempt in (1, 2):
        lease = q.lease(timeout=PATIENCE)
        assert (lease.item, lease.attempt) == ("item", attempt)
        assert lease.requeue()
        client.delete(f"_kombu.binding.{exchange.name}")  # it cannot even be found the second time
    assert all_of(q, 1) == ["item"]
    assert client.llen(f"{name}-twin") == 1
