"""A process that is stopped or killed while it declares on ``shm://``: others wait for it for a limited time only."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import PATIENCE, python, undisturbed_seconds, wait_for_line, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu_support import JOBS, Connect, publish, take

import shmqueue
from shmqueue import ShmQueue, inspection
from shmqueue.compat._kombu_state import State
from shmqueue.compat._kombu_topology import Topology
from shmqueue.compat.kombu import remove

pytestmark = pytest.mark.usefixtures("engine")


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
        wait_for_line(process, "stops")
        wait_until(lambda: _is_stopped(process.pid), "the process has stopped")
        yield process


def _is_stopped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def test_messages_go_through_while_a_process_that_declares_is_stopped(connect: Connect, stopped: Any) -> None:
    began = undisturbed_seconds()
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
    assert undisturbed_seconds() - began < 5
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
        wait_for_line(process, "stops")
        wait_until(lambda: _is_stopped(process.pid), "the process has stopped")
        topology._lock = lambda fd, patience: None  # type: ignore[method-assign]  # it was declared just before that
        topology.change(bind)
        topology.close()
        publisher = connect()
        assert len(publisher.channel().list_bindings()) == 2
        began = undisturbed_seconds()
        kombu.Producer(publisher.channel()).publish("second", exchange="everybody")
        assert undisturbed_seconds() - began < 5
    assert [take(channel, mine), take(channel, mine)] == ["first", "second"]


def test_a_declaration_waits_for_a_stopped_process_for_a_limited_time(connect: Connect, stopped: Any) -> None:
    connection = connect(declare_timeout=0.2)
    channel = connection.channel()
    began, undisturbed = time.monotonic(), undisturbed_seconds()
    with pytest.raises(shmqueue.ShmQueueBrokerError, match=f"queue 'kombu'.* for 0.2 s.* {stopped.pid} ") as caught:
        kombu.Queue("another")(channel).declare()
    assert time.monotonic() - began >= 0.2
    assert undisturbed_seconds() - undisturbed < 5
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


def test_a_queue_of_a_process_that_was_killed_while_it_declared_it_is_removed_with_the_others(connect: Connect) -> None:
    with python(STOPPED, "before") as process:
        wait_for_line(process, "stops")
    ShmQueue("kombu-other.jobs", keep=True).close()
    ShmQueue("kombus", keep=True).close()
    assert "kombu.mine" in [info.name for info in inspection.list_queues()]
    remove()
    assert sorted(info.name for info in inspection.list_queues()) == ["kombu-other.jobs", "kombus"]
    for name in ("kombu-other.jobs", "kombus"):
        inspection.remove_queue(name)
