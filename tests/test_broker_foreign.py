"""What other programs put into a queue's list at Redis and is no message: one clear error, and nothing else is lost."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, python

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import broker_servers
import redis
from kombu.message import Message

import shmqueue
from shmqueue.broker.bodies import CONTENT_TYPE, Bodies
from shmqueue.broker.queue import BrokerQueue
from shmqueue.serialization import Serializer

_MESSAGE = '{"properties": {"delivery_tag": "%s"%s}, "body": %s}'
FOREIGN: dict[str, str | bytes] = {
    "text": "no JSON",
    "empty": "",
    "binary": b"\xff\xfe\x00\r\n",
    "number": "17",
    "list": "[1]",
    "no_properties": "{}",
    "no_object": '{"properties": 5, "body": ""}',
    "no_tag": '{"properties": {}, "body": ""}',
    "number_as_tag": '{"properties": {"delivery_tag": 7}, "body": ""}',
    "binary_tag": _MESSAGE.encode() % (b"\xff", b"", b'""'),
    "no_body": '{"properties": {"delivery_tag": "tag-1"}}',
    "headers": '{"properties": {"delivery_tag": "tag-2"}, "body": "", "headers": [1]}',
    "delivery_info": _MESSAGE % ("tag-3", ', "delivery_info": 5', '""'),
    "number_as_body": _MESSAGE % ("tag-9", "", "5"),
    "list_as_body": _MESSAGE % ("tag-10", "", "[0, 0, 0, 0, 7]"),
    "true_as_body": _MESSAGE % ("tag-11", "", "true"),
    "null_as_body": _MESSAGE % ("tag-12", "", "null"),
    "encoding": _MESSAGE % ("tag-4", ', "body_encoding": "none"', '"text"'),
    "base64": _MESSAGE % ("tag-5", ', "body_encoding": "base64"', '"a"'),
    "hexadecimal_number": _MESSAGE % ("tag-6", "", "0x1F"),  # Redis takes it for JSON
    "unknown_type": _MESSAGE % ("tag-7", "", '{"__type__": "unknown", "__value__": 1}'),
    "deep": _MESSAGE % ("tag-8", "", "[" * 5000 + "]" * 5000),
}


@pytest.fixture
def server(servers: broker_servers.Servers) -> broker_servers.Server:
    return servers.of("redis")


@pytest.fixture
def client(server: broker_servers.Server) -> Iterator[Any]:
    """What puts them, and may not be mistaken for a queue of ours."""
    with redis.Redis(port=server.port) as opened:
        yield opened


@pytest.fixture(params=["", "plain"], ids=["scripts", "no_scripts"])
def q(request: pytest.FixtureRequest, server: broker_servers.Server, client: Any, name: str) -> Iterator[BrokerQueue]:
    """A queue, whose user may run scripts or may not."""
    url = server.url(name).replace("visibility_timeout=2", "visibility_timeout=10000")
    if request.param:
        commands = ["+@all", "-@scripting"]
        client.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=commands)
        url = url.replace("redis://", "redis://plain:any@")
    with shmqueue.connect(url) as opened:
        assert isinstance(opened, BrokerQueue)
        yield opened


def refusal(take: Callable[[], object]) -> shmqueue.ShmQueueDeserializationError:
    with pytest.raises(shmqueue.ShmQueueDeserializationError) as caught:
        take()
    return caught.value


def test_a_get_says_what_it_is_and_takes_it_out_of_the_way(q: BrokerQueue, client: Any, name: str) -> None:
    for kind, foreign in FOREIGN.items():
        for take in (lambda: q.get(timeout=PATIENCE), q.get_nowait):
            client.lpush(name, foreign)
            q.put(kind)
            assert f"queue {name!r} at redis://" in str(refusal(take)), kind
            assert q.get(timeout=PATIENCE) == kind
    assert q.empty()


def test_a_get_of_several_has_those_around_it(q: BrokerQueue, client: Any, name: str) -> None:
    q.put("first")
    client.lpush(name, "no JSON", "{}")
    q.put_many(["second", "third"])
    error = refusal(lambda: q.get_many(4, timeout=PATIENCE))
    assert error.items == ["first", "second"]
    assert "b'no JSON'" in str(error)
    assert q.get(timeout=PATIENCE) == "third"
    assert q.empty()


def test_a_lease_of_it_can_be_requeued_and_acknowledged(q: BrokerQueue, client: Any, name: str) -> None:
    for kind, foreign in FOREIGN.items():
        client.lpush(name, foreign)
        q.put(kind)
        lease = q.lease(timeout=PATIENCE)
        text = str(refusal(lambda lease=lease: lease.item))  # type: ignore[misc]
        assert f"queue {name!r} at redis://" in text, kind
        assert (lease.attempt, lease.is_held, lease.requeue()) == (1, True, True), kind
        with q.lease(timeout=PATIENCE) as other:
            assert other.item == kind
        again = q.lease(timeout=PATIENCE)
        assert str(refusal(lambda again=again: again.item)) == text  # type: ignore[misc]
        assert (again.attempt, again.ack()) == (2, True), kind
    assert q.empty()
    assert client.hlen(f"unacked-{name}") == 0


HOLDER = """
import sys, shmqueue
q = shmqueue.connect(sys.argv[1])
leases = [q.lease(timeout=30) for _ in range(int(sys.argv[2]))]
print("leased", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_holder_had_comes_again(server: broker_servers.Server, client: Any, name: str) -> None:
    client.lpush(name, *FOREIGN.values())
    with python(HOLDER, server.url(name), len(FOREIGN)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "leased\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with shmqueue.connect(server.url(name).replace("timeout=2", "timeout=0.001")) as q:
        for _ in FOREIGN:
            refusal(lambda: q.get(timeout=PATIENCE))
        assert q.empty()
    assert client.hlen(f"unacked-{name}") == 0


def test_what_an_interrupted_get_had_is_given_back(q: BrokerQueue, client: Any, name: str) -> None:
    client.lpush(name, "no JSON", "{}")
    q.put("next")
    q._give_back([q._wait(False, True, PATIENCE) for _ in range(3)])
    assert "b'no JSON'" in str(refusal(lambda: q.get(timeout=PATIENCE)))
    assert "b'{}'" in str(refusal(lambda: q.get(timeout=PATIENCE)))
    assert q.get(timeout=PATIENCE) == "next"


def test_it_keeps_the_priority_of_its_list(q: BrokerQueue, client: Any, name: str) -> None:
    q.put("first")
    client.lpush(f"{name}\x06\x169", "no JSON")
    with q.lease(timeout=PATIENCE) as lease:
        assert lease.item == "first"
    last = q.lease(timeout=PATIENCE)
    q.put("second")
    assert last.requeue()
    assert q.get(timeout=PATIENCE) == "second"
    assert "b'no JSON'" in str(refusal(lambda: q.get(timeout=PATIENCE)))


def test_another_consumer_may_take_it_while_it_is_looked_at(
    server: broker_servers.Server, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script = redis.Redis.eval
    looks: list[object] = []

    def run_and_take(*arguments: Any, **options: Any) -> Any:
        answer = run_script(*arguments, **options)
        if not looks:
            looks.append(client.rpop(name))
        return answer

    with shmqueue.connect(server.url(name)) as q:
        client.lpush(name, "no JSON", "{}")
        q.put("next")
        monkeypatch.setattr(redis.Redis, "eval", run_and_take)
        lease = q.lease(timeout=PATIENCE)
        assert looks == [b"no JSON"]
        assert "b'{}'" in str(refusal(lambda: lease.item))
        assert lease.ack()
        assert q.get(timeout=PATIENCE) == "next"


def test_what_is_no_record_among_what_is_leased_does_not_stay_in_the_way(
    server: broker_servers.Server, client: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.hset(f"unacked-{name}", "tag", "no record")
    client.zadd(f"unacked_index-{name}", {"tag": 1})
    with shmqueue.connect(server.url(name)) as q:
        q.put("item")
        assert isinstance(q, BrokerQueue)
        q._restored -= PATIENCE  # long enough ago to look once more
        assert q.get(timeout=PATIENCE) == "item"
    assert "tag cannot be given back" in caplog.text
    assert client.hgetall(f"unacked-{name}") == {b"tag": b"no record"}
    assert client.zcard(f"unacked_index-{name}") == 0


# ---- messages of kombu's form ----


def message(item: object, tag: str = "tag", **properties: Any) -> str:
    """A message of text, as another program may write it."""
    return json.dumps(
        {
            "body": item,
            "content-type": "text/plain",
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {"delivery_tag": tag, "delivery_info": {}, "priority": 0, **properties},
        }
    )


PRIORITIES: dict[str, Any] = {
    "infinity": float("inf"),
    "less": float("-inf"),
    "nan": float("nan"),
    "decimal": {"__type__": "decimal", "__value__": "Infinity"},
    "list": [1],
    "text": "high",
}


@pytest.mark.parametrize("kind", PRIORITIES)
def test_a_priority_that_is_none_counts_as_the_default_one(
    q: BrokerQueue, client: Any, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.lpush(name, message("odd", priority=PRIORITIES[kind]))
    q.put("next")
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.requeue()) == ("odd", True)
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == ["next", "odd"]
    client.lpush(name, message("put back", priority=PRIORITIES[kind]))
    q._give_back([q._wait(False, True, PATIENCE)])
    assert q.get(timeout=PATIENCE) == "put back"
    assert not caplog.records


def test_two_messages_with_one_tag_are_two(q: BrokerQueue, client: Any, name: str) -> None:
    client.lpush(name, message("first", "1"), message("second", "1"), message("third", "1"))
    first, second, third = (q.lease(timeout=PATIENCE) for _ in range(3))
    assert [first.item, second.item, third.item] == ["first", "second", "third"]
    assert client.hlen(f"unacked-{name}") == 3
    assert first.ack()
    assert second.requeue()
    q.close()  # gives back the third one
    assert client.hlen(f"unacked-{name}") == 0
    assert sorted(json.loads(each)["body"] for each in client.lrange(name, 0, -1)) == ["second", "third"]


def test_a_lease_whose_time_is_over_ends_none_of_a_message_with_its_tag(
    server: broker_servers.Server, client: Any, name: str
) -> None:
    with shmqueue.connect(server.url(name).replace("timeout=2", "timeout=10000")) as q:
        client.lpush(name, message("first", "1"))
        late = q.lease(timeout=PATIENCE)
        with shmqueue.connect(server.url(name).replace("timeout=2", "timeout=0.001")) as other:
            assert other.get(timeout=PATIENCE) == "first"
        client.lpush(name, message("second", "1"))
        lease = q.lease(timeout=PATIENCE)
        late.ack()
        assert client.hlen(f"unacked-{name}") == 1
        assert (lease.item, lease.ack()) == ("second", True)


OF_OURS = '{"content-type": "application/x-shmqueue", "properties": {"delivery_tag": "tag"}, "body": %s}'


@pytest.mark.parametrize("body", ["5", "[0, 0, 0, 0, 7]", "true", "null", "{}"])
def test_a_body_that_is_no_text_is_no_item(q: BrokerQueue, client: Any, name: str, body: str) -> None:
    client.lpush(name, OF_OURS % body)
    assert "its body is" in str(refusal(lambda: q.get(timeout=PATIENCE)))
    client.lpush(name, OF_OURS % body)
    with q.lease(timeout=PATIENCE) as lease:
        assert "its body is" in str(refusal(lambda: lease.item))


@pytest.mark.parametrize("body", [5, [0, 0, 0, 0, 7]])
def test_a_body_of_another_transport_that_is_no_bytes_is_no_item(body: object) -> None:
    bodies = Bodies(Serializer(allow_pickle=False), "any")
    assert "TypeError" in str(refusal(lambda: bodies.load(Message(body=body, content_type=CONTENT_TYPE))))


@pytest.mark.parametrize("encoding", [None, "utf-8", "base64"])
def test_items_of_a_queue_whose_bodies_are_not_encoded_are_its_own(
    server: broker_servers.Server, name: str, encoding: str | None
) -> None:
    with shmqueue.connect(server.url(name), transport_options={"body_encoding": encoding}) as q:
        q.put_many(["text", b"\xff"])
        assert q.get(timeout=PATIENCE) == "text"
        with q.lease(timeout=PATIENCE) as lease:
            assert lease.item == b"\xff"


def look_for_overdue(q: BrokerQueue) -> None:
    """Have the next call give back what was not acknowledged in time."""
    q._restored -= PATIENCE


RECORDS = {
    "priority": json.dumps([json.loads(message("odd", priority=float("inf"))), "", "%s"]),
    "routing_key": json.dumps([json.loads(message("odd")), "", {}]),
    "no_queue": json.dumps([json.loads(message("odd")), "", ""]),
    "exchange": json.dumps([json.loads(message("odd")), 5, "%s"]),
    "queue": '[no JSON,"",{}]',
    "list_of_another_type": json.dumps([json.loads(message("odd")), "", "unacked-%s"]),
}


def test_no_record_keeps_others_from_coming_again(
    server: broker_servers.Server, client: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with shmqueue.connect(server.url(name).replace("timeout=2", "timeout=10000")) as q:
        assert isinstance(q, BrokerQueue)
        q.put("item")
        lease = q.lease(timeout=PATIENCE)  # its record is the oldest, and comes last
        client.zadd(f"unacked_index-{name}", dict.fromkeys(client.hkeys(f"unacked-{name}"), 1))
        for number, (kind, record) in enumerate(RECORDS.items(), 2):
            client.hset(f"unacked-{name}", kind, record.replace("%s", name))
            client.zadd(f"unacked_index-{name}", {kind: number})
        look_for_overdue(q)
        assert {q.get(timeout=PATIENCE), q.get(timeout=PATIENCE)} == {"odd", "item"}
        assert q.empty()
        for kind in set(RECORDS) - {"priority"}:
            assert f"{kind} cannot be given back" in caplog.text
        assert "priority" not in caplog.text
        assert lease.item == "item"


def test_what_can_be_read_but_not_written_is_given_back_all_the_same(q: BrokerQueue, client: Any, name: str) -> None:
    # What Python's decoder takes is about as deep as what its encoder takes.
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
        deep = message("deep").replace('"headers": {}', '"headers": {"deep": %s}' % ("[" * depth + "]" * depth))
        client.lpush(name, deep)
        lease = q.lease(timeout=PATIENCE)
        assert lease.requeue(), depth
        assert q.lease(timeout=PATIENCE).ack(), depth
    assert q.empty()
    assert client.hlen(f"unacked-{name}") == 0
