"""Queues that a connection of ``shm://`` has open: closed once they are deleted, and never too many."""

from __future__ import annotations

import gc
import os
import socket
import sys

import pytest
from support import Call, asleep, run_python

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu.exceptions import ChannelError
from kombu_support import JOBS, Connect, publish, take

from shmqueue.compat import _kombu_messages

pytestmark = pytest.mark.usefixtures("engine")


def open_queues(connection: kombu.Connection) -> list[str]:
    """Of which this connection has the memory open."""
    return sorted(connection.transport.messages._open)


ANSWERS = """
import os, sys, time
import kombu, shmqueue.compat.kombu

def used():
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum("(deleted)" in line for line in maps)

answering = kombu.Connection("shm://")
producer = kombu.Producer(answering.channel())
everybody = kombu.Queue("everybody", kombu.Exchange("everybody", "fanout"))(answering.channel())
everybody.declare()
asking = kombu.Connection("shm://")
found = []
for number in range(200):
    with asking.channel() as channel:
        replies = kombu.Queue(f"reply-{number}", auto_delete=True)(channel)
        replies.declare()
        producer.publish("pong", routing_key=replies.name)
        replies.get().ack()
    if number % 50 == 49:
        found.append(used())
answering.close()
asking.close()
shmqueue.compat.kombu.remove()
print(*sorted(set(found)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="there is no /proc/self/maps")
def test_descriptors_and_mappings_do_not_grow_with_the_number_of_reply_queues() -> None:
    found = run_python(ANSWERS)
    assert found.count("(") == 1, found


def test_a_consumer_that_waits_closes_a_queue_that_another_process_has_deleted(connect: Connect) -> None:
    consuming, deleting = connect(), connect().channel()
    channel = consuming.channel()
    publish(channel, 1, queue=kombu.Queue("reply", routing_key="reply"))
    with kombu.Consumer(channel, [JOBS], callbacks=[print]):
        with pytest.raises(socket.timeout):
            consuming.drain_events(timeout=0.01)
        assert open_queues(consuming) == ["jobs", "reply"]
        deleting.queue_delete("reply")
        with pytest.raises(socket.timeout):
            consuming.drain_events(timeout=0.2)
        assert open_queues(consuming) == ["jobs"]


@pytest.mark.parametrize("how", ["delete", "end of the channel", "failed lookup"])
def test_a_connection_closes_the_queue_that_it_has_ended_itself(connect: Connect, how: str) -> None:
    connection = connect()
    channel = connection.channel()
    reply = kombu.Queue("reply", routing_key="reply", auto_delete=True)
    publish(channel, 1, queue=reply)
    assert open_queues(connection) == ["reply"]
    if how == "delete":
        channel.queue_delete("reply")
    elif how == "end of the channel":
        channel.close()
    else:
        connect().channel().queue_delete("reply")
        with pytest.raises(ChannelError, match="NOT_FOUND"):
            channel.queue_declare("another", passive=True)
    assert open_queues(connection) == []
    gc.collect()


@pytest.mark.parametrize("end", ["ack", "requeue", "reject"])
@pytest.mark.parametrize("by_another", [False, True])
def test_the_end_of_a_message_whose_queue_was_deleted_is_no_error(connect: Connect, end: str, by_another: bool) -> None:
    channel = connect().channel()
    publish(channel, "body")
    message = JOBS(channel).get()
    assert message is not None
    (connect().channel() if by_another else channel).queue_delete("jobs")
    assert JOBS(channel).get() is None
    getattr(message, end)()
    publish(channel, "new")
    assert take(channel) == "new"


def test_a_publish_that_waits_for_room_ends_when_the_queue_is_deleted(connect: Connect) -> None:
    publisher, other = connect(max_bytes=65536), connect().channel()
    channel = publisher.channel()
    publish(channel, b"x" * 40000)
    call = asleep(Call(publish, channel, b"y" * 40000))
    other.queue_delete("jobs")
    call.result()
    assert take(other) == b"y" * 40000


MANY = """
import os, resource, socket, kombu, shmqueue.compat.kombu
from shmqueue.compat import _kombu_messages
_kombu_messages._OPEN_MOST = 6
connection = kombu.Connection("shm://")
channel = connection.channel()
queues = [kombu.Queue(f"queue-{number}", routing_key=f"queue-{number}")(channel) for number in range(40)]
producer = kombu.Producer(channel)
got = []
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, used + 60))
producer.publish("leased", routing_key=queues[0].name, declare=[queues[0]])
leased = queues[0].get()
consumer = kombu.Consumer(channel, queues[1:3], callbacks=[lambda body, message: got.append(body) or message.ack()])
consumer.consume()
try:
    connection.drain_events(timeout=0.01)
except socket.timeout:
    pass
for _ in range(2):
    for queue in queues[3:]:
        producer.publish(queue.name, routing_key=queue.name, declare=[queue])
for queue in queues[3:]:
    for _ in range(2):
        message = queue.get()
        assert message.payload == queue.name
        message.ack()
leased.requeue()
again = queues[0].get()
assert again.payload == "leased" and again.headers["redelivered"]
again.ack()
producer.publish("consumed", routing_key=queues[2].name)
connection.drain_events(timeout=30)
print(*got)
connection.close()
shmqueue.compat.kombu.remove()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc/self/fd")
def test_a_process_uses_more_queues_than_it_may_have_descriptors() -> None:
    assert run_python(MANY).split() == ["consumed"]


@pytest.mark.parametrize("end", ["delete", "many others"])
def test_a_publish_that_waits_for_room_survives_that_another_thread_closes_the_queue(
    connect: Connect, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kombu_messages, "_OPEN_MOST", 3)
    connection = connect(max_bytes=65536)
    channel, other = connection.channel(), connection.channel()
    publish(channel, b"x" * 40000)
    call = asleep(Call(publish, channel, b"y" * 40000))
    if end == "delete":
        other.queue_delete("jobs")
    else:
        for number in range(5):
            publish(other, 1, queue=kombu.Queue(f"other-{number}", routing_key=f"other-{number}"))
        assert take(other) == b"x" * 40000
    call.result()
    assert take(other) == b"y" * 40000


def test_threads_of_one_connection_open_and_close_each_others_queues(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kombu_messages, "_OPEN_MOST", 4)
    connection = connect()
    names = [f"one-of-many-{number}" for number in range(8)]
    for name in names:
        publish(connection.channel(), 1, queue=kombu.Queue(name, routing_key=name))
    messages = connection.transport.messages

    def use(first: int) -> set[bool]:
        return {messages.exists(name) and messages.wishes([name]) != [] for name in (names[first:] + names) * 20}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        calls = [Call(use, first) for first in (0, 3, 5)]
        assert [call.result() for call in calls] == [{True}] * 3
    finally:
        sys.setswitchinterval(interval)
    assert len(open_queues(connection)) <= 4 + len(calls)  # each may just have opened one
