"""kombu on ``shm://`` where something is wrong: deleted queues, items of others, a stopped process, full memory."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, python, run_python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu.exceptions import ChannelError
from kombu_support import JOBS, Connect, publish, take

import shmqueue
from shmqueue import ShmQueue, inspection
from shmqueue.compat import _kombu_messages
from shmqueue.compat._kombu_topology import State, Topology, segment_name
from shmqueue.compat.kombu import remove

pytestmark = pytest.mark.usefixtures("engine")


def open_queues(connection: kombu.Connection) -> list[str]:
    """Of which this connection has the memory open."""
    return sorted(connection.transport.messages._open)


# ---- queues that are gone ----

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


# ---- many queues ----

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


# ---- a subscriber that is stopped ----

EVENTS = kombu.Queue("events", kombu.Exchange("everybody", "fanout"), message_ttl=0.1)


def test_a_publish_without_room_drops_messages_whose_time_is_over(connect: Connect) -> None:
    """As when the subscriber is stopped and takes none."""
    publisher = connect(max_bytes=65536, put_timeout=PATIENCE)
    channel = publisher.channel()
    for number in range(200):  # each waits until the time of those before it is over, no longer
        publish(channel, f"{number:1000}", queue=EVENTS)
    time.sleep(0.2)  # the time of all that are there is over
    publish(channel, "x" * 40000, queue=EVENTS, expiration=PATIENCE)
    assert EVENTS(channel).queue_declare(passive=True).message_count == 1


def test_a_message_that_is_worth_something_is_not_dropped_and_not_leased_for_room(connect: Connect) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.05).channel()
    publish(channel, "first" + "x" * 20000, expiration=3600)
    publish(channel, "second" + "x" * 20000, expiration=0.001)
    publish(channel, "third" + "x" * 20000)
    time.sleep(0.002)  # the time of the second one is over, which is not at the head
    with pytest.raises(shmqueue.ShmQueueFull, match=r"after 0.05 s"):
        publish(channel, "fourth" + "x" * 20000)
    message = JOBS(channel).get()
    assert message is not None
    assert message.payload[:5] == "first"
    assert "redelivered" not in message.headers
    message.ack()
    assert take(channel)[:5] == "third"


def test_a_requeued_message_whose_time_is_over_holds_up_no_publish(connect: Connect) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.05).channel()
    publish(channel, "first" + "x" * 40000, expiration=0.05)
    message = JOBS(channel).get()
    assert message is not None
    publish(channel, "second" + "x" * 40000, expiration=0.05)
    message.requeue()
    time.sleep(0.05)  # the time of both is over: nothing but time ends it
    publish(channel, "third" + "x" * 40000)
    assert JOBS(channel).queue_declare(passive=True).message_count == 1
    assert take(channel)[:5] == "third"


# ---- items that are none of kombu's messages ----

MESSAGE = {"body": "x", "headers": {}, "properties": {"delivery_info": {}}}

FOREIGN: list[Any] = [
    {"width": 640},
    5,
    None,
    "text",
    '{"width": 640}',
    "[0, ",
    b"\xff" * 1000,
    (0.0, "text"),
    ("never", MESSAGE),
    (0.0, {}),
    (0.0, {**MESSAGE, "properties": None}),
    (0.0, {**MESSAGE, "properties": {}}),
    (0.0, {**MESSAGE, "headers": None}),
    (0.0, {**MESSAGE, "properties": {"delivery_info": {}, "body_encoding": "rot13"}}),
    (0.0, MESSAGE, 1),
    {1, 2},  # which needs pickle
    '{"__type__": "decimal", "__value__": "none"}',
]


@pytest.mark.parametrize("item", FOREIGN, ids=lambda item: f"{item!r:.30}")
@pytest.mark.parametrize("consumes", [False, True])
def test_an_item_of_another_program_is_logged_once_and_holds_up_nothing(
    connect: Connect, caplog: pytest.LogCaptureFixture, item: Any, consumes: bool
) -> None:
    connection = connect()
    channel = connection.channel()
    JOBS(channel).declare()
    with ShmQueue(segment_name("", "jobs", 0)) as q:
        q.put(item)
    publish(channel, "good")
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with caplog.at_level(logging.ERROR, "shmqueue"):
        if consumes:
            with kombu.Consumer(channel, [JOBS], callbacks=[callback]):
                connection.drain_events(timeout=PATIENCE)
        else:
            got.append(take(channel))
    assert got == ["good"]
    assert JOBS(channel).get() is None
    assert JOBS(channel)(channel).queue_declare(passive=True).message_count == 0
    (record,) = caplog.records
    assert "queue 'kombu.jobs'" in record.getMessage()
    assert len(record.getMessage()) < 500
    if isinstance(item, dict):
        assert "{'width': 640}" in record.getMessage()


# ---- a process that was stopped while it declares ----

STOPPED = """
import os, signal, sys
from shmqueue.compat._kombu_topology import Topology

def stop(*arguments):
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return True

topology = Topology("")
def declare(state):
    topology.declare(state, "mine", {}, None)
    if sys.argv[1] == "before":
        stop()
    return True
if sys.argv[1] == "after":
    settle = topology._settle
    calls = []
    def stop_and_settle():
        calls.append(1)
        if len(calls) == 2:
            stop()
        settle()
    topology._settle = stop_and_settle
topology.change(declare)
print("goes on", flush=True)
"""


@pytest.fixture(params=["before", "after"])
def stopped(request: pytest.FixtureRequest, connect: Connect) -> Iterator[Any]:
    """A process that stopped before, or after, it put what is declared now. The queue ``jobs`` is declared."""
    JOBS(connect().channel()).declare()
    with python(STOPPED, request.param) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stops\n"
        wait_until(lambda: _is_stopped(process.pid), "the process has stopped")
        yield process


def _is_stopped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def test_messages_go_through_while_a_process_that_declares_is_stopped(connect: Connect, stopped: Any) -> None:
    began = time.monotonic()
    consuming, publisher = connect(), connect().channel()
    channel = consuming.channel()
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with kombu.Consumer(channel, [JOBS], callbacks=[callback]):
        for number in range(20):
            publish(publisher, number)
            consuming.drain_events(timeout=PATIENCE)
    publish(publisher, "last")
    assert take(channel) == "last"
    assert got == list(range(20))
    assert time.monotonic() - began < 5
    assert "mine" not in consuming.transport.messages.state().queues


def test_a_fanout_to_a_queue_of_an_ended_process_does_not_wait_for_a_stopped_one(connect: Connect) -> None:
    everybody = kombu.Exchange("everybody", type="fanout")
    channel = connect().channel()
    mine = kombu.Queue("mine", everybody)
    publish(channel, "first", queue=mine)
    topology = Topology("")
    ended = 1 << 22, 1, "there"

    def bind(state: State) -> bool:
        return topology.declare(state, "its", {}, ended) and state.bind("everybody", ("", "its", {}))

    with python(STOPPED, "before") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stops\n"
        wait_until(lambda: _is_stopped(process.pid), "the process has stopped")
        topology._lock = lambda fd, patience: None  # type: ignore[method-assign]  # it was declared just before that
        topology.change(bind)
        topology.close()
        publisher = connect()
        assert len(publisher.channel().list_bindings()) == 2
        began = time.monotonic()
        kombu.Producer(publisher.channel()).publish("second", exchange="everybody")
        assert time.monotonic() - began < 5
    assert [take(channel, mine), take(channel, mine)] == ["first", "second"]


def test_a_declaration_waits_for_a_stopped_process_for_a_limited_time(connect: Connect, stopped: Any) -> None:
    connection = connect(declare_timeout=0.2)
    channel = connection.channel()
    began = time.monotonic()
    with pytest.raises(shmqueue.ShmQueueBrokerError, match=f"queue 'kombu'.* for 0.2 s.* {stopped.pid} ") as caught:
        kombu.Queue("another")(channel).declare()
    assert 0.2 <= time.monotonic() - began < 5
    assert isinstance(caught.value, connection.connection_errors)
    assert isinstance(caught.value, connection.recoverable_channel_errors)
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdout.readline() == "goes on\n"
    kombu.Queue("another")(channel).declare()
    assert {"jobs", "mine", "another"} <= set(connection.transport.messages.state().queues)


def test_the_change_of_a_process_that_stopped_and_is_then_killed_is_finished_or_never_was(
    connect: Connect, stopped: Any
) -> None:
    connection = connect()
    connection.connect()
    state = connection.transport.messages.state
    assert "mine" not in state().queues
    stopped.kill()
    stopped.wait()
    assert ("mine" in state().queues) == (stopped.args[-1] == "after")
    kombu.Queue("mine")(connection.channel()).declare()
    assert "mine" in state().queues


def test_kombu_tries_a_declaration_again_until_the_stopped_process_goes_on(connect: Connect, stopped: Any) -> None:
    connection = connect(declare_timeout=0.05)
    helper = threading.Timer(0.5, stopped.send_signal, [signal.SIGCONT])
    helper.start()
    kombu.Producer(connection).publish(
        "body",
        routing_key="another",
        declare=[kombu.Queue("another", routing_key="another")],
        retry=True,
        retry_policy={"max_retries": 1000, "interval_start": 0.02, "interval_step": 0},
    )
    helper.join()
    assert take(connect().channel(), kombu.Queue("another")) == "body"


def test_a_change_that_fails_leaves_no_memory(connect: Connect) -> None:
    channel = connect().channel()
    JOBS(channel).declare()
    for name, arguments in (("\ud800", {}), ("unpackable", {"x": object()})):
        with pytest.raises(Exception, match=r"surrogates|object"):
            channel.queue_declare(name, arguments=arguments)
    assert sorted(info.name for info in inspection.list_queues()) == ["kombu", "kombu.jobs"]
    assert list(channel.connection.messages.state().queues) == ["jobs"]


def test_a_queue_of_a_process_that_was_killed_while_it_declared_it_is_removed_with_the_others(connect: Connect) -> None:
    with python(STOPPED, "before") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stops\n"
    ShmQueue("kombu-other.jobs", keep=True).close()
    ShmQueue("kombus", keep=True).close()
    assert "kombu.mine" in [info.name for info in inspection.list_queues()]
    remove()
    assert sorted(info.name for info in inspection.list_queues()) == ["kombu-other.jobs", "kombus"]
    for name in ("kombu-other.jobs", "kombus"):
        inspection.remove_queue(name)


def test_a_closed_channel_raises_what_kombu_tries_again(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    channel.close()
    with pytest.raises(connection.recoverable_connection_errors, match="closed"):
        kombu.Producer(channel).publish(1, routing_key="jobs")


def test_an_exchange_of_a_type_that_shm_does_not_have_is_refused_when_it_is_declared(connect: Connect) -> None:
    channel = connect().channel()
    with pytest.raises(ChannelError, match="unknown exchange type 'headers'"):
        kombu.Exchange("h", "headers")(channel).declare()
    assert "h" not in channel.get_exchanges()


# ---- full memory ----

FULL = """
import os, sys, kombu, shmqueue.compat.kombu
from shmqueue import ShmQueueFull, ShmQueueNoSpaceError
connection = kombu.Connection("shm://", transport_options={"put_timeout": 0.05, "declare_timeout": 0.2})
channel = connection.channel()
for name in "ab":
    kombu.Queue(name)(channel).declare()
producer = kombu.Producer(channel)
sent = {"a": 0, "b": 0}
for size in (50000, 5000, 500, 50):
    for name in sent:
        try:
            while True:
                producer.publish(b"x" * size, routing_key=name, content_encoding="binary", content_type="x/y")
                sent[name] += 1
        except ShmQueueFull:
            pass
status = os.statvfs(os.environ["SHMQUEUE_DIR"])
assert status.f_bavail == 0, status
try:
    for number in range(1000):
        kombu.Queue(f"another{number}", kombu.Exchange("x"), "x" * 1000)(channel).declare()
    print("declared")
except (ShmQueueFull, ShmQueueNoSpaceError):
    print("refused")
taker = kombu.Connection("shm://").channel()
for name, count in sent.items():
    held = []
    for _ in range(count):
        message = taker.basic_get(name)
        if message is None:  # no memory for more leases than these
            assert len(held) >= 60, len(held)
            held.pop(0).ack()
            message = taker.basic_get(name)
        held.append(message)
    for message in held:
        message.ack()
    print(taker.basic_get(name))
"""


def test_messages_that_have_used_up_all_memory_can_be_taken(engine: str, tmp_path: Path) -> None:
    if engine == "portable":
        pytest.skip("the portable engine copies what it leases, which needs memory")
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    place = tmp_path / "mounted"
    place.mkdir()
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    script = f'mount -t tmpfs -o size=2m tmpfs {place} && echo mounted; exec "$@"'
    ran = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", sys.executable, "-c", FULL],
        cwd=os.path.dirname(__file__),
        env={**os.environ, "SHMQUEUE_DIR": str(place)},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    if not ran.stdout.startswith("mounted\n"):
        pytest.skip(f"no mounts of one's own here: {ran.stderr.strip()}")
    assert ran.stdout == "mounted\nrefused\nNone\nNone\n", ran.stderr
