"""Threads that share a connection of ``shm://``: none loses the messages, or the queue, that another one has."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, Call

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu_support import JOBS, Connect, publish, take

from shmqueue.compat import _kombu_level, _kombu_messages

pytestmark = pytest.mark.usefixtures("engine")

OTHER = kombu.Queue("other", routing_key="other")


class Pause:
    """A place where the first other thread that comes there waits until it may go on."""

    def __init__(self) -> None:
        self._owner = threading.current_thread()
        self._is_reached, self._may_go_on = threading.Event(), threading.Event()

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the place behind its last step."""

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if threading.current_thread() is not self._owner and not self._is_reached.is_set():
                self._is_reached.set()
                assert self._may_go_on.wait(PATIENCE)
            return result

        return call

    def reached_by(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Call:
        """A call, as soon as it waits at the place."""
        call = Call(function, *arguments, **options)
        assert self._is_reached.wait(PATIENCE)
        return call

    def end(self) -> None:
        """Let the thread go on."""
        self._may_go_on.set()


@pytest.fixture
def pause() -> Iterator[Pause]:
    place = Pause()
    yield place
    place.end()


def get(channel: Any, queue: kombu.Queue = JOBS) -> Any:
    message = queue(channel).get()
    assert message is not None
    return message


def assert_acknowledged_for_good(message: Any, channel: Any) -> None:
    message.ack()
    again = JOBS(channel).get()
    assert again is None, again.payload


def test_two_threads_that_see_a_new_priority_lease_from_the_same_handle(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    channel, messages = connection.channel(), connection.transport.messages
    publish(channel, "low")
    publish(connect().channel(), "high", priority=5)
    monkeypatch.setattr(messages.topology, "open", pause.after(messages.topology.open))
    call = pause.reached_by(messages.size, "jobs")
    high = get(channel)
    assert high.payload == "high"
    pause.end()
    assert call.result() == 1
    low = get(channel)
    assert low.payload == "low"
    low.ack()
    assert_acknowledged_for_good(high, channel)


def test_a_thread_with_an_older_state_closes_no_queue_of_a_newer_one(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    channel, messages = connection.channel(), connection.transport.messages
    OTHER(connect().channel()).declare()
    monkeypatch.setattr(messages.topology, "current", pause.after(messages.topology.current))
    call = pause.reached_by(messages.exists, "other")
    publish(channel, "body")
    message = get(channel)
    pause.end()
    assert call.result()
    assert_acknowledged_for_good(message, channel)


def test_a_thread_that_reads_the_state_slowly_does_not_undo_a_newer_one(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    channel, messages = connection.channel(), connection.transport.messages
    OTHER(connect().channel()).declare()
    monkeypatch.setattr(messages.topology, "_read", pause.after(messages.topology._read))
    call = pause.reached_by(messages.exists, "jobs")
    publish(channel, "body")
    message = get(channel)
    pause.end()
    assert call.result(), "the state of now"
    assert_acknowledged_for_good(message, channel)


@pytest.mark.parametrize("by_another", [False, True])
def test_the_handle_of_a_deleted_queue_is_not_kept_for_a_new_one(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch, by_another: bool
) -> None:
    connection, other = connect(), connect().channel()
    channel, messages = connection.channel(), connection.transport.messages
    JOBS(other).declare()
    monkeypatch.setattr(_kombu_messages._Open, "__init__", pause.after(_kombu_messages._Open.__init__))
    call = pause.reached_by(publish, connection.channel(), "first")
    deleting = other if by_another else channel
    deleting.queue_delete("jobs")
    deleting._messages.declare("jobs", {}, None)
    messages.state()
    pause.end()
    call.result()
    publish(channel, "second")
    assert [take(other), take(other)] == ["first", "second"]


@pytest.mark.parametrize(
    ("method", "end", "expected"),
    [
        ("basic_get", "delete", None),
        ("_size", "delete", 0),
        ("_purge", "delete", 0),
        ("_size", "many others", 1),
        ("_purge", "many others", 1),
    ],
)
def test_a_queue_that_another_thread_closes_is_looked_for_once_more(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch, method: str, end: str, expected: Any
) -> None:
    monkeypatch.setattr(_kombu_messages, "_OPEN_MOST", 1)
    connection = connect()
    channel, messages = connection.channel(), connection.transport.messages
    publish(channel, "body")
    monkeypatch.setattr(messages, "_opened", pause.after(messages._opened))
    call = pause.reached_by(getattr(connection.channel(), method), "jobs")
    if end == "delete":
        channel.queue_delete("jobs")
    else:
        publish(channel, "body", queue=OTHER)
    assert "jobs" not in messages._open
    pause.end()
    assert call.result() == expected


@pytest.mark.parametrize("step", ["leased", "handed out"])
def test_a_queue_of_which_a_message_is_being_handed_out_stays_open(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(_kombu_messages, "_OPEN_MOST", 1)
    connection = connect()
    channel, getting = connection.channel(), connection.channel()
    publish(channel, "body")
    if step == "leased":
        monkeypatch.setattr(_kombu_level.Level, "lease", pause.after(_kombu_level.Level.lease))
    else:

        class Leases(dict[Any, Any]):
            pop = pause.after(dict.pop)

        getting.leases = Leases()
    call = pause.reached_by(get, getting)
    publish(channel, "body", queue=OTHER)
    pause.end()
    assert_acknowledged_for_good(call.result(), channel)


def test_a_queue_that_is_leased_from_while_another_thread_looks_for_idle_ones_stays_open(
    connect: Connect, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kombu_messages, "_OPEN_MOST", 1)
    connection = connect()
    channel, messages = connection.channel(), connection.transport.messages
    publish(channel, "body")
    monkeypatch.setattr(messages, "_in_use", pause.after(messages._in_use))
    call = pause.reached_by(publish, connection.channel(), "body", queue=OTHER)
    getting = Call(get, channel)
    getting.join(0.5)  # until it has the message, or as long as it has to wait for the other thread
    pause.end()
    call.result()
    assert_acknowledged_for_good(getting.result(), channel)


def test_threads_that_share_a_connection_get_each_message_once(connect: Connect) -> None:
    connection, publisher = connect(), connect().channel()
    connection.connect()
    names = [f"jobs-{number}" for number in range(12)]
    priorities = range(6)
    got: list[tuple[str, int]] = []
    redelivered: list[Any] = []
    done = threading.Event()

    def consume(channel: Any) -> None:
        for name in names:
            queue = kombu.Queue(name, routing_key=name)(channel)
            held: list[Any] = []
            while len({priority for of, priority in list(got) if of == name}) < len(priorities) and not done.is_set():
                message = queue.get()
                if message is not None:
                    got.append(tuple(message.payload))
                    redelivered.extend([message.payload] if message.delivery_info.get("redelivered") else [])
                if held:
                    held.pop().ack()  # it was leased while others look for what is new
                if message is not None:
                    held.append(message)
            for message in held:
                message.ack()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        calls = [Call(consume, channel) for channel in [connection.channel() for _ in range(3)]]
        for name in names:
            for priority in priorities:
                publish(publisher, (name, priority), queue=kombu.Queue(name, routing_key=name), priority=priority)
        for call in calls:
            call.result()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert redelivered == []
    assert sorted(got) == [(name, priority) for name in sorted(names) for priority in priorities]
