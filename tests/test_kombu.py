"""kombu on ``shm://``: what several processes see of each other, and what is left when one of them is killed."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, python, run_python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu.asynchronous.hub import Hub
from kombu.exceptions import ChannelError

import shmqueue
from shmqueue import ShmQueue, inspection
from shmqueue.compat._kombu_topology import Topology, segment_name, this_owner
from shmqueue.compat.kombu import remove

pytestmark = pytest.mark.usefixtures("engine")

JOBS = kombu.Queue("jobs", routing_key="jobs")

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


@pytest.fixture
def connect() -> Iterator[Callable[..., kombu.Connection]]:
    """Makes connections; at the end all are closed, and everything that was declared is removed."""
    opened: list[kombu.Connection] = []

    def open_connection(url: str = "shm://", **options: Any) -> kombu.Connection:
        connection = kombu.Connection(url, transport_options=options)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()
    for namespace in {"", *(connection.virtual_host.strip("/") for connection in opened)}:
        remove(namespace)


def publish(channel: Any, *bodies: Any, queue: kombu.Queue = JOBS, **options: Any) -> None:
    producer = kombu.Producer(channel)
    for body in bodies:
        producer.publish(
            body, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], retry=False, **options
        )


def take(channel: Any, queue: kombu.Queue = JOBS) -> Any:
    message = queue(channel).get()
    assert message is not None
    message.ack()
    return message.payload


# ---- how it is found ----


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


# ---- messages ----


def test_another_connection_takes_what_one_has_published(connect: Callable[..., kombu.Connection]) -> None:
    publish(connect().channel(), {"a": 1}, "text", b"bytes")
    channel = connect().channel()
    assert [take(channel) for _ in range(3)] == [{"a": 1}, "text", b"bytes"]
    assert JOBS(channel).get() is None


def test_a_body_of_bytes_lies_in_shared_memory_as_it_is(connect: Callable[..., kombu.Connection]) -> None:
    body = bytes(range(256)) * 10
    publish(connect().channel(), body, content_type="application/data", content_encoding="binary")
    with ShmQueue(segment_name("", "jobs", 0), create=False) as q, q.lease() as lease:
        assert lease.item[1]["body"] == body
        lease.requeue()


def test_headers_may_have_what_kombus_json_has(connect: Callable[..., kombu.Connection]) -> None:
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    channel = connect().channel()
    publish(channel, b"\0\xff", headers={"when": when})
    message = JOBS(channel).get()
    assert message is not None
    assert (message.headers["when"], message.body) == (when, b"\0\xff")


def test_a_property_that_amqp_does_not_know_is_dropped(connect: Callable[..., kombu.Connection]) -> None:
    channel = connect().channel()
    publish(channel, "body", correlation_id="7", reply_to="here", signal=object())
    message = JOBS(channel).get()
    assert message is not None
    found = message.properties
    assert (message.payload, found["correlation_id"], found["reply_to"]) == ("body", "7", "here")
    assert "signal" not in found


def test_the_more_urgent_message_comes_first_also_if_it_is_the_first_of_its_priority(
    connect: Callable[..., kombu.Connection],
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


def test_a_message_whose_time_is_over_is_not_delivered(connect: Callable[..., kombu.Connection]) -> None:
    channel = connect().channel()
    short = kombu.Queue("short", routing_key="short", message_ttl=0.001)
    publish(channel, "old", expiration=0.001)
    publish(channel, "old", queue=short, expiration=100)
    time.sleep(0.01)  # it is the time itself that is tested
    publish(channel, "new")
    assert take(channel) == "new"
    assert short(channel).get() is None


def test_a_publish_to_a_full_queue_raises_when_it_was_told_to(connect: Callable[..., kombu.Connection]) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.01).channel()
    publish(channel, b"x" * 40000)
    with pytest.raises(shmqueue.ShmQueueFull, match=r"has no room .* after 0\.01 s"):
        publish(channel, b"x" * 40000)


# ---- acknowledgements ----


def test_what_a_killed_consumer_has_not_acknowledged_comes_again_at_once(
    connect: Callable[..., kombu.Connection],
) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, "first", "second")
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append((body, message.delivery_info.get("redelivered"), message.headers.get("redelivered")))
        message.ack()

    with python(CONSUMER) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "first None\n"
        with kombu.Consumer(channel, [JOBS], callbacks=[callback]):
            connection.drain_events(timeout=PATIENCE)
            assert got == [("second", None, None)]
            consumer.send_signal(signal.SIGKILL)
            connection.drain_events(timeout=PATIENCE)
    assert got[1:] == [("first", True, True)]


@pytest.mark.parametrize("how", ["close", "requeue", "recover"])
def test_what_is_given_back_comes_first_and_redelivered(connect: Callable[..., kombu.Connection], how: str) -> None:
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
def test_a_consumer_that_waits_is_woken_for_what_another_one_gives_back(
    connect: Callable[..., kombu.Connection], how: str
) -> None:
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
    connect: Callable[..., kombu.Connection],
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
    connect: Callable[..., kombu.Connection],
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


def test_channels_take_turns_and_the_newest_one_comes_first(connect: Callable[..., kombu.Connection]) -> None:
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


def test_a_forked_childs_end_gives_back_nothing(connect: Callable[..., kombu.Connection]) -> None:
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


def test_an_event_loop_delivers_without_asking_again_and_again(connect: Callable[..., kombu.Connection]) -> None:
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


# ---- what was declared is what all processes see ----


def test_a_fanout_reaches_the_queues_of_other_processes(connect: Callable[..., kombu.Connection]) -> None:
    everybody = kombu.Exchange("everybody", type="fanout")
    code = """
import kombu, shmqueue.compat.kombu
connection = kombu.Connection("shm://")
channel = connection.channel()
queue = kombu.Queue("other", kombu.Exchange("everybody", type="fanout"), auto_delete=True)
def callback(body, message):
    message.ack()
    print(body, flush=True)
with kombu.Consumer(channel, [queue], callbacks=[callback]):
    print("ready", flush=True)
    connection.drain_events(timeout=30)
connection.close()
"""
    with python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        channel = connect().channel()
        mine = kombu.Queue("mine", everybody)
        publish(channel, "hello", queue=mine)
        assert process.stdout.readline() == "hello\n"
        assert take(channel, mine) == "hello"
        assert process.wait(PATIENCE) == 0
    assert sorted(name for name, _, _ in channel.list_bindings()) == ["mine"]


def test_a_queue_of_a_killed_process_is_removed_before_it_gets_more(connect: Callable[..., kombu.Connection]) -> None:
    code = """
import sys, kombu, shmqueue.compat.kombu
channel = kombu.Connection("shm://").channel()
kombu.Queue("other", kombu.Exchange("everybody", type="fanout"), auto_delete=True)(channel).declare()
print("ready", flush=True)
sys.stdin.read()
"""
    channel = connect().channel()
    with python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert channel.list_bindings() == [("other", "everybody", "")]
        process.send_signal(signal.SIGKILL)
        process.wait()
    kombu.Producer(channel).publish("hello", exchange="everybody")
    assert channel.list_bindings() == []
    assert [info.name for info in inspection.list_queues()] == ["kombu"]
    kombu.Producer(channel).publish("late", routing_key="other")  # an answer to a process that is gone
    assert [info.name for info in inspection.list_queues()] == ["kombu"]


def test_a_deleted_queue_is_gone_for_all_and_a_new_one_begins_empty(connect: Callable[..., kombu.Connection]) -> None:
    first, second = connect().channel(), connect().channel()
    publish(first, "old")
    publish(second, "old")
    JOBS(second).delete()
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        JOBS(first).queue_declare(passive=True)
    publish(first, "new")
    assert take(second) == "new"
    assert JOBS(second).get() is None


def test_memory_that_was_removed_by_hand_is_made_anew(connect: Callable[..., kombu.Connection]) -> None:
    channel = connect().channel()
    publish(channel, "lost")
    inspection.remove_queue(segment_name("", "jobs", 0))
    other = connect().channel()
    publish(other, "new")
    assert take(channel) == "new"


def test_namespaces_know_nothing_of_each_other(connect: Callable[..., kombu.Connection]) -> None:
    publish(connect("shm:///one").channel(), 1)
    publish(connect("shm:///two").channel(), 2)
    assert take(connect("shm:///two").channel()) == 2
    assert take(connect("shm://one").channel()) == 1


# ---- what is refused, at once ----


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
            began = time.monotonic()
            with pytest.raises((shmqueue.ShmQueueValueError, shmqueue.ShmQueueTypeError), match=why) as caught:
                call()
            assert time.monotonic() - began < 1
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("priority", ["high", "5", 1.5, True])
def test_a_priority_that_is_no_whole_number_is_refused(connect: Callable[..., kombu.Connection], priority: Any) -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match="priority must be an int"):
        publish(connect().channel(), 1, priority=priority)


# ---- a process that is killed while it changes what is declared ----


def test_a_change_that_was_put_and_not_finished_is_finished_by_the_next_reader() -> None:
    one, other = Topology(""), Topology("")
    one.change(lambda state: one.declare(state, "jobs", {}, None))
    assert list(other.current().queues) == ["jobs"]
    state = one.current()
    state.exchanges["made"] = "direct", True, False, {}
    one.engine.put(*state.pack(), True, None)  # here it is killed
    one.close()
    assert (list(other.current().exchanges), other.engine.qsize()) == (["made"], 1)
    other.close()
    remove()


def test_memory_that_a_killed_process_was_about_to_free_is_freed_with_the_next_change(segment_directory: str) -> None:
    topology = Topology("")
    topology.change(lambda state: topology.declare(state, "jobs", {}, None))
    topology._free = lambda name, levels: None  # type: ignore[method-assign]  # here it is killed
    state = topology.current()
    state.drop_queue("jobs")
    topology._write(state)
    del topology._free
    assert inspection.look_at(segment_name("", "jobs", 0)).keep
    topology.change(lambda state: False)
    with pytest.raises(shmqueue.ShmQueueNotFoundError):
        inspection.look_at(segment_name("", "jobs", 0))
    topology.close()
    remove()


def test_the_lock_of_a_killed_process_is_free(connect: Callable[..., kombu.Connection]) -> None:
    code = """
import os, signal
from shmqueue.compat._kombu_topology import Topology
Topology("").change(lambda state: os.kill(os.getpid(), signal.SIGKILL))
"""
    with python(code) as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL
    publish(connect().channel(), 1)


def test_an_owner_that_has_ended_owns_nothing() -> None:
    topology = Topology("")
    topology.change(lambda state: topology.declare(state, "mine", {}, this_owner("here")))
    topology.change(lambda state: topology.declare(state, "its", {}, (1 << 22, 1, "there")))
    topology.change(lambda state: False)
    assert (list(topology.current().queues), topology.current().gone) == (["mine"], ["its"])
    topology.close()
    remove()


def test_several_processes_declare_at_the_same_time(connect: Callable[..., kombu.Connection]) -> None:
    code = """
import sys, kombu, shmqueue.compat.kombu
channel = kombu.Connection("shm://").channel()
sys.stdin.readline()
for number in range(20):
    kombu.Queue(f"{sys.argv[1]}.{number}", kombu.Exchange("all", "fanout"))(channel).declare()
"""
    with python(code, "a") as one, python(code, "b") as other:
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [one.wait(PATIENCE), other.wait(PATIENCE)] == [0, 0]
    channel = connect().channel()
    wanted = {f"{letter}.{number}" for letter in "ab" for number in range(20)}
    assert {queue for queue, _, _ in channel.list_bindings()} == wanted
    wait_until(lambda: len(inspection.list_queues()) == 41, "every queue has its memory")


@pytest.mark.parametrize("has_leased", [False, True])
def test_a_consumer_that_waits_uses_no_processor_to_speak_of(
    connect: Callable[..., kombu.Connection], has_leased: bool
) -> None:
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
    connect: Callable[..., kombu.Connection], monkeypatch: pytest.MonkeyPatch
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
import signal, threading
from shmqueue.compat._kombu_doorbell import Doorbell

class Interruption(Exception):
    pass

def interrupt(*_):
    raise Interruption

bell = Doorbell()
signal.signal(signal.SIGALRM, interrupt)
for number in range(50):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            bell.ring()
            bell.quiet()
    except Interruption:
        thread = threading.Thread(target=bell.ring, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), number
"""
    run_python(code)


def test_a_priority_that_comes_up_while_a_consumer_notes_what_to_wait_for_is_waited_for(
    connect: Callable[..., kombu.Connection], monkeypatch: pytest.MonkeyPatch
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
