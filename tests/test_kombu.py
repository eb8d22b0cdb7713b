"""kombu on ``shm://``: how it is found, which messages arrive, and what is refused at once."""

from __future__ import annotations

import datetime
import socket
import time
from typing import Any

import pytest
from support import PATIENCE, run_python, undisturbed_seconds

pytest.importorskip("kombu", reason="kombu is not installed")
import kombu
from kombu_support import JOBS, Connect, publish, take

import shmqueue
from shmqueue import ShmQueue
from shmqueue.compat._kombu_topology import segment_name

pytestmark = pytest.mark.usefixtures("engine")


def test_every_program_that_imports_kombus_serializers_knows_the_transport() -> None:
    said = run_python(
        "import kombu.serialization, kombu, sys; print('shmqueue.compat.kombu' in sys.modules);"
        "print(kombu.Connection('shm://').transport_cls); print(kombu.serialization.dumps((1, b'x'), 'shmqueue')[2])"
    )
    assert said.startswith("False\n")
    assert said.splitlines()[1:] == ["shm", repr(b"\x02\0\0\0\x93\xc7\0\xac\x01\xc4\x01x")]


def test_nothing_imports_kombu_unless_it_is_asked_for() -> None:
    code = "import shmqueue, sys; shmqueue.connect('shm://x').close(); print('kombu' in sys.modules)"
    assert run_python(code) == "False\n"


def test_another_connection_takes_what_one_has_published(connect: Connect) -> None:
    publish(connect().channel(), {"a": 1}, "text", b"bytes")
    channel = connect().channel()
    assert [take(channel) for _ in range(3)] == [{"a": 1}, "text", b"bytes"]
    assert JOBS(channel).get() is None


def test_a_body_of_bytes_lies_in_shared_memory_as_it_is(connect: Connect) -> None:
    body = bytes(range(256)) * 10
    publish(connect().channel(), body, content_type="application/data", content_encoding="binary")
    with ShmQueue(segment_name("", "jobs", 0), create=False) as q, q.lease() as lease:
        assert lease.item[1]["body"] == body
        lease.requeue()


def test_headers_may_have_what_kombus_json_has(connect: Connect) -> None:
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    channel = connect().channel()
    publish(channel, b"\0\xff", headers={"when": when})
    message = JOBS(channel).get()
    assert message is not None
    assert (message.headers["when"], message.body) == (when, b"\0\xff")


def test_a_property_that_amqp_does_not_know_is_dropped(connect: Connect) -> None:
    channel = connect().channel()
    publish(channel, "body", correlation_id="7", reply_to="here", signal=object())
    message = JOBS(channel).get()
    assert message is not None
    found = message.properties
    assert (message.payload, found["correlation_id"], found["reply_to"]) == ("body", "7", "here")
    assert "signal" not in found


def test_the_more_urgent_message_comes_first_also_if_it_is_the_first_of_its_priority(
    connect: Connect,
) -> None:
    consumer = connect()
    got: list[Any] = []
    with kombu.Consumer(
        consumer.channel(),
        [JOBS],
        callbacks=[lambda body, message: (got.append(body), message.ack())],  # type: ignore[func-returns-value]
    ):
        with pytest.raises(socket.timeout):
            consumer.drain_events(timeout=0.01)  # it waits for no other priority
        publish(connect().channel(), "urgent", priority=9)
        consumer.drain_events(timeout=PATIENCE)
    assert got == ["urgent"]
    publish(connect().channel(), "low", priority=0)
    publish(connect().channel(), "high", priority=7)
    channel = consumer.channel()
    assert [take(channel), take(channel)] == ["high", "low"]


def test_a_message_whose_time_is_over_is_not_delivered(connect: Connect) -> None:
    channel = connect().channel()
    short = kombu.Queue("short", routing_key="short", message_ttl=0.001)
    publish(channel, "old", expiration=0.001)
    publish(channel, "old", queue=short, expiration=100)
    time.sleep(0.01)  # it is the time itself that is tested
    publish(channel, "new")
    assert take(channel) == "new"
    assert short(channel).get() is None


def test_a_publish_to_a_full_queue_raises_when_it_was_told_to(connect: Connect) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.01).channel()
    publish(channel, b"x" * 40000)
    with pytest.raises(shmqueue.ShmQueueFull, match=r"has no room .* after 0\.01 s"):
        publish(channel, b"x" * 40000)


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("shm:///a.b", {}, "letters, digits"),
        ("shm:///" + "x" * 200, {}, "1 to 180 characters"),
        ("shm://user@/jobs", {}, "without user and port"),
        ("shm://:secret@/jobs", {}, "without user and port"),
        ("shm://jobs:6379", {}, "without user and port"),
        ("shm://one/two", {}, "shm:///NAME or shm://NAME"),
        ("shm://", {"put_timeout": "x"}, "put_timeout must be a number"),
        ("shm://", {"put_timeout": -1}, "put_timeout must be a number"),
        ("shm://", {"put_timeout": float("nan")}, "put_timeout must be a number"),
        ("shm://", {"max_bytes": "x"}, "max_bytes must be an int"),
        ("shm://", {"max_bytes": 0}, "max_bytes must be at least 1"),
    ],
)
def test_a_url_or_an_option_that_means_nothing_is_not_tried_again(url: str, options: Any, why: str) -> None:
    with kombu.Connection(url, transport_options=options) as connection:
        for call in (connection.connect, connection.ensure_connection, lambda: connection.default_channel):
            began = undisturbed_seconds()
            with pytest.raises((shmqueue.ShmQueueValueError, shmqueue.ShmQueueTypeError), match=why) as caught:
                call()
            assert undisturbed_seconds() - began < 1
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("priority", ["high", "5", 1.5, True])
def test_a_priority_that_is_no_whole_number_is_refused(connect: Connect, priority: Any) -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match="priority must be an int"):
        publish(connect().channel(), 1, priority=priority)


def test_a_closed_channel_raises_what_kombu_tries_again(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    channel.close()
    with pytest.raises(connection.recoverable_connection_errors, match="closed"):
        kombu.Producer(channel).publish(1, routing_key="jobs")
