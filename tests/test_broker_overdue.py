"""A broker that is silent for long, and asked again and again: no heap of threads and connections, nothing is lost."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from support import PATIENCE, python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

from broker_servers import Server, silence

import shmqueue
from shmqueue import clock
from shmqueue.broker.answers import Asker
from shmqueue.broker.links import _MOST_OVERDUE
from shmqueue.broker.queue import BrokerQueue

Open = Callable[[], BrokerQueue]


@pytest.fixture
def opened(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the queue; a call that does not wait fails after 0.2 s."""
    monkeypatch.setattr("shmqueue.broker.answers.ANSWER", 0.2)
    queues = []

    def open_it() -> BrokerQueue:
        q = shmqueue.connect(server.url(name), retry_policy={"max_retries": 0})
        assert isinstance(q, BrokerQueue)
        queues.append(q)
        return q

    yield open_it
    for q in queues:
        q.close()


def asking() -> int:
    """How many threads wait for a broker."""
    return sum(thread.name == "shmqueue-broker" for thread in threading.enumerate())


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(shmqueue.ShmQueueBrokerError) as caught:
        call()
    return str(caught.value)


def test_few_calls_wait_however_often_a_silent_broker_is_asked_and_no_item_is_lost(
    server: Server, opened: Open
) -> None:
    q = opened()
    q.put_many(range(3))
    before = asking()
    with server.stopped():
        descriptors = len(os.listdir("/proc/self/fd"))
        refusals = [refusal(q.get_nowait) for _ in range(2 * _MOST_OVERDUE)]
        # On a busy machine a call may have ended before its thread makes its connection, of two descriptors.
        assert len(os.listdir("/proc/self/fd")) - descriptors <= 2 * _MOST_OVERDUE
        assert asking() - before <= _MOST_OVERDUE
    assert all("no answer within" in text for text in refusals[:_MOST_OVERDUE])
    assert all(f"no answer to {_MOST_OVERDUE} earlier calls" in text for text in refusals[_MOST_OVERDUE:])
    wait_until(lambda: asking() <= 1, "the threads have ended but that of the connection in use")
    got: set[object] = set()
    while got != {0, 1, 2}:
        got.add(q.get(timeout=PATIENCE))


def test_another_thread_and_a_forked_child_ask_for_themselves(server: Server, opened: Open) -> None:
    q = opened()
    q.put("item")
    with server.stopped():
        for _ in range(_MOST_OVERDUE):
            refusal(q.get_nowait)
        assert "earlier calls" in refusal(q.get_nowait)
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(refusal(q.get_nowait)))
        thread.start()
        thread.join()
        assert "no answer within" in texts[0]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if "no answer within" in refusal(q.get_nowait) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_a_call_with_a_timeout_goes_on_when_earlier_ones_have_their_answer(server: Server, opened: Open) -> None:
    q = opened()
    q.put("item")
    got: list[object] = []

    def ask() -> None:
        for _ in range(_MOST_OVERDUE):
            refusal(q.qsize)
        refused.set()
        got.append(q.get(timeout=PATIENCE))

    refused = threading.Event()
    thread = threading.Thread(target=ask)
    with server.stopped():
        thread.start()
        assert refused.wait(PATIENCE)
    thread.join()
    assert got == ["item"]


LEAVER = """
import sys, shmqueue
q = shmqueue.connect(sys.argv[1])
q.put("item")
if sys.argv[2] != "idle":
    lease = q.lease(timeout=30)
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "dropped":
    del lease
"""


@pytest.mark.parametrize("having", ["idle", "held", "dropped"])
def test_a_program_ends_while_the_broker_is_silent(having: str, server: Server, name: str) -> None:
    with python(LEAVER, server.url(name), having) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        with server.stopped():
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(PATIENCE) == 0
    with shmqueue.connect(server.url(name)) as q:
        assert q.get(timeout=PATIENCE) == "item"


def test_an_acknowledgement_that_the_broker_may_not_have_is_not_called_one(server: Server, opened: Open) -> None:
    q = opened()
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    with server.stopped():
        assert not lease.ack()


def test_what_waits_for_a_connection_ends_when_the_queue_is_closed() -> None:
    refused: list[type[BaseException]] = []

    def ask() -> None:
        try:
            q.get(timeout=10 * PATIENCE)
        except shmqueue.ShmQueueNotInitializedError as error:
            refused.append(type(error))

    with silence() as port:
        q = shmqueue.connect(f"redis://127.0.0.1:{port}/0?queue=jobs")
        assert isinstance(q, BrokerQueue)
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: asking() > 0, "the thread waits for a connection")
        q.close()
        thread.join()
    assert len(refused) == 1


def test_who_is_about_to_ask_when_the_queue_is_closed_does_not_wait() -> None:
    """The moments right before the thread of the test above waits; a failure is a time-out."""
    deadline, never = clock.monotonic() + 10 * PATIENCE, threading.Event()
    asker = Asker()
    asker.abandon()
    with pytest.raises(TimeoutError):
        asker.answer(never.wait, deadline)
    never.set()
    asker.close()
    with silence() as port:
        q = shmqueue.connect(f"redis://127.0.0.1:{port}/0?queue=jobs")
        assert isinstance(q, BrokerQueue)
        q._links.close()
        with pytest.raises(ConnectionError, match="closed meanwhile"):
            q._links.current(deadline)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such options for a connection")
def test_a_connection_finds_out_when_the_other_machine_is_gone(opened: Open) -> None:
    def watch(link: object) -> tuple[int, int, int]:
        found = socket.socket(fileno=os.dup(link_socket(link)))
        with found:
            return (
                found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )

    is_on, idle, unanswered = opened()._run(watch, True, None)
    assert is_on
    assert idle <= 60  # the system's is two hours
    assert 0 < unanswered <= 60_000  # 0 is the system's: about 15 minutes


def link_socket(link: object) -> int:
    """The descriptor of a link's only socket."""
    channel = link.channel  # type: ignore[attr-defined]
    if hasattr(channel, "client"):  # Redis
        connection = channel.client.connection_pool.get_connection()
        try:
            return int(connection._sock.fileno())
        finally:
            channel.client.connection_pool.release(connection)
    return int(channel.connection.transport.sock.fileno())
