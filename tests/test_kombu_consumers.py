"""Consumers of kombu on ``shm://``: what they have until they acknowledge it, and how they wait."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, python, run_python, wait_for_line

pytest.importorskip("kombu", reason="kombu is not installed")
import kombu
from kombu.asynchronous.hub import Hub
from kombu_support import JOBS, Connect, publish

from shmqueue.compat.kombu import remove

pytestmark = pytest.mark.usefixtures("engine")


CONSUMER = """
import sys, time, kombu, shmqueue.compat.kombu
channel = kombu.Connection("shm://").channel()
queue = kombu.Queue("jobs", routing_key="jobs")(channel)
queue.declare()
while (message := queue.get()) is None:
    time.sleep(0.001)
print(message.payload, message.delivery_info.get("redelivered"), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_consumer_has_not_acknowledged_comes_again_at_once(
    connect: Connect,
) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, "first", "second")
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append((body, message.delivery_info.get("redelivered"), message.headers.get("redelivered")))
        message.ack()

    with python(CONSUMER) as consumer:
        wait_for_line(consumer, "first None")
        with kombu.Consumer(channel, [JOBS], callbacks=[callback]):
            connection.drain_events(timeout=PATIENCE)
            assert got == [("second", None, None)]
            consumer.send_signal(signal.SIGKILL)
            connection.drain_events(timeout=PATIENCE)
    assert got[1:] == [("first", True, True)]


@pytest.mark.parametrize("how", ["close", "requeue", "recover"])
def test_what_is_given_back_comes_first_and_redelivered(connect: Connect, how: str) -> None:
    first, second = connect(), connect()
    channel = first.channel()
    publish(channel, 1, 2)
    message = JOBS(channel).get()
    assert message is not None
    if how == "close":
        first.close()
    elif how == "requeue":
        message.requeue()
    else:
        channel.basic_recover(requeue=True)
    again = JOBS(second.channel()).get()
    assert again is not None
    assert (again.payload, again.delivery_info["redelivered"]) == (1, True)


@pytest.mark.parametrize("how", ["close", "requeue"])
def test_a_consumer_that_waits_is_woken_for_what_another_one_gives_back(connect: Connect, how: str) -> None:
    other, connection = connect(), connect()
    channel = other.channel()
    publish(channel, "body")
    message = JOBS(channel).get()
    assert message is not None
    got: list[Any] = []
    with kombu.Consumer(connection.channel(), [JOBS], callbacks=[lambda body, message: got.append(body)]):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)
        helper = threading.Timer(0.05, other.close if how == "close" else message.requeue)
        helper.start()
        connection.drain_events(timeout=PATIENCE)
        helper.join()
    assert got == ["body"]


def test_a_consumer_that_waits_is_woken_for_the_first_message_of_a_priority_and_of_a_queue_made_anew(
    connect: Connect,
) -> None:
    connection, publisher = connect(), connect().channel()
    got: list[Any] = []

    def empty_and_make_anew() -> None:
        JOBS(publisher).delete()
        publish(publisher, "anew")

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with kombu.Consumer(connection.channel(), [JOBS], callbacks=[take]):
        for act in (lambda: publish(publisher, "urgent", priority=9), empty_and_make_anew):
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.2)
            helper = threading.Timer(0.05, act)
            helper.start()
            connection.drain_events(timeout=PATIENCE)
            helper.join()
    assert got == ["urgent", "anew"]


def test_a_consumer_is_handed_no_more_than_its_prefetch_count_until_it_acknowledges(
    connect: Connect,
) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, *range(5))
    got: list[Any] = []
    consumer = kombu.Consumer(channel, [JOBS], callbacks=[lambda body, message: got.append(message)], prefetch_count=2)
    with consumer:
        connection.drain_events(timeout=PATIENCE)
        assert len(got) == 2
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.01)
        helper = threading.Timer(0.05, got[0].ack)  # while the next call waits
        helper.start()
        connection.drain_events(timeout=PATIENCE)
        helper.join()
        assert [message.payload for message in got] == [0, 1, 2]


def test_channels_take_turns_and_the_newest_one_comes_first(connect: Connect) -> None:
    connection = connect()
    got: list[Any] = []
    names = "tasks", "control"
    queues = [kombu.Queue(name, routing_key=name) for name in names]

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    consumers = [kombu.Consumer(connection.channel(), [queue], callbacks=[take]) for queue in queues]
    publisher = connect().channel()
    for queue, name in zip(queues, names, strict=True):
        publish(publisher, *[f"{name} {number}" for number in range(3)], queue=queue)
    with consumers[0], consumers[1]:
        while len(got) < 6:
            connection.drain_events(timeout=PATIENCE)
    assert got == [f"{name} {number}" for number in range(3) for name in ("control", "tasks")]


def test_a_forked_childs_end_gives_back_nothing(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, "mine")
    message = JOBS(channel).get()
    assert message is not None
    child = os.fork()
    if child == 0:
        try:
            connection.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert JOBS(connect().channel()).get() is None
    message.ack()
    assert JOBS(channel)(channel).queue_declare(passive=True).message_count == 0


def test_an_event_loop_delivers_without_asking_again_and_again(connect: Connect) -> None:
    connection, hub = connect(), Hub()
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    try:
        with kombu.Consumer(connection.channel(), [JOBS], callbacks=[callback]):
            connection.register_with_event_loop(hub)
            publisher = threading.Timer(0.05, lambda: publish(connect().channel(), *range(25)))
            publisher.start()
            rounds, deadline = 0, time.monotonic() + PATIENCE
            while len(got) < 25 and time.monotonic() < deadline:
                hub.run_once()
                rounds += 1
            publisher.join()
        assert got == list(range(25))
        assert rounds < 200
    finally:
        connection.close()
        hub.close()


@pytest.mark.parametrize("has_leased", [False, True])
def test_a_consumer_that_waits_uses_no_processor_to_speak_of(connect: Connect, has_leased: bool) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, "kept")
    message = JOBS(channel).get()
    assert message is not None
    if not has_leased:
        message.ack()
    with kombu.Consumer(channel, [JOBS], callbacks=[print]):
        began = time.process_time()
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=1)
        assert time.process_time() - began < 0.2


IDLE = """
import os, socket, threading, kombu, shmqueue.compat.kombu
connection = kombu.Connection("shm://")
everybody = kombu.Exchange("all", "fanout")
queues = [kombu.Queue("jobs", routing_key="jobs"), kombu.Queue("mine", everybody, auto_delete=True)]
def wait(seconds):
    try:
        connection.drain_events(timeout=seconds)
    except socket.timeout:
        pass
def sleeps():
    found = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with open(f"/proc/self/task/{thread}/status") as file:
            found[thread] = next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
    return found.pop(threading.get_native_id()), sum(found.values())
with kombu.Consumer(connection.channel(), queues, callbacks=[print]):
    wait(0.5)
    before = sleeps()
    wait(3)
    after = sleeps()
print(*(b - a for a, b in zip(before, after)))
connection.close()
"""


def test_a_consumer_that_waits_sleeps_until_there_is_something(engine: str) -> None:
    """With the portable engine, whose queues are polled, it is woken every 100 ms.

    A thread beside it looks every 100 ms whether a process was killed before it woke others or acknowledged.
    """
    consumer, thread = map(int, run_python(IDLE).split())
    remove()
    assert consumer <= {"native": 5, "portable": 60}[engine]
    assert thread <= {"native": 60, "portable": 900}[engine]


def test_a_consumer_sleeps_while_as_many_messages_as_can_be_are_leased(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, connection = connect().channel(), connect()
    publish(other, *range(1027))
    theirs = JOBS(other).get()
    assert theirs is not None
    got: list[Any] = []
    with kombu.Consumer(connection.channel(), [JOBS], callbacks=[lambda body, message: got.append(message)]):
        while len(got) < 1023:
            connection.drain_events(timeout=PATIENCE)
        looks: list[int] = []
        look = connection.transport._deliver_some

        def counted_look() -> Any:
            looks.append(1)
            return look()

        monkeypatch.setattr(connection.transport, "_deliver_some", counted_look)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=1)
        assert len(looks) < 30
        for ack in (got[7].ack, theirs.ack):  # of this consumer and of another one
            helper = threading.Timer(0.05, ack)
            helper.start()
            connection.drain_events(timeout=PATIENCE)
            helper.join()
        assert [message.payload for message in got] == list(range(1, 1026))


def test_a_signal_handler_that_raises_leaves_the_doorbell_to_other_threads() -> None:
    code = """
from support import interruptions, others_can
from shmqueue.compat._kombu_doorbell import Doorbell

bell = Doorbell()

def ring_and_quiet():
    bell.ring()
    bell.quiet()

for number in interruptions(ring_and_quiet, 50):
    assert others_can(bell.ring), number
"""
    run_python(code)


def test_a_priority_that_comes_up_while_a_consumer_notes_what_to_wait_for_is_waited_for(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, connection = connect(), connect()
    channel = connection.channel()
    JOBS(channel).declare()
    messages, topology = connection.transport.messages, other.transport.messages.topology
    find, noted = messages._opened, threading.Event()

    def find_and_add(name: str) -> Any:
        found = find(name)
        if sys._getframe(1).f_code.co_name == "wishes" and not noted.is_set():
            topology.change(lambda state: topology.add_level(state, "jobs", 5))  # as a publisher does first
            noted.set()
        return found

    monkeypatch.setattr(messages, "_opened", find_and_add)
    with kombu.Consumer(channel, [JOBS], callbacks=[lambda body, message: message.ack()]):
        connection.transport.doorbell.ring()
        consuming = Call(connection.drain_events, timeout=PATIENCE)
        assert noted.wait(PATIENCE)
        asleep(consuming)
        publish(other.channel(), "second", priority=5)
        consuming.result()
