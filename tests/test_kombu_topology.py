"""Exchanges, queues and bindings of ``shm://``: all processes see the same, also when one of them is killed."""

from __future__ import annotations

import signal

import pytest
from support import PATIENCE, python, wait_for_line, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
import kombu
from kombu.exceptions import ChannelError
from kombu_support import JOBS, Connect, publish, take

import shmqueue
from shmqueue import inspection
from shmqueue.compat._kombu_state import this_owner
from shmqueue.compat._kombu_topology import Topology, segment_name
from shmqueue.compat.kombu import remove

pytestmark = pytest.mark.usefixtures("engine")


def test_a_fanout_reaches_the_queues_of_other_processes(connect: Connect) -> None:
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
        wait_for_line(process, "ready")
        channel = connect().channel()
        mine = kombu.Queue("mine", everybody)
        publish(channel, "hello", queue=mine)
        wait_for_line(process, "hello")
        assert take(channel, mine) == "hello"
        assert process.wait(PATIENCE) == 0
    assert sorted(name for name, _, _ in channel.list_bindings()) == ["mine"]


def test_a_queue_of_a_killed_process_is_removed_before_it_gets_more(connect: Connect) -> None:
    code = """
import sys, kombu, shmqueue.compat.kombu
channel = kombu.Connection("shm://").channel()
kombu.Queue("other", kombu.Exchange("everybody", type="fanout"), auto_delete=True)(channel).declare()
print("ready", flush=True)
sys.stdin.read()
"""
    channel = connect().channel()
    with python(code) as process:
        wait_for_line(process, "ready")
        assert channel.list_bindings() == [("other", "everybody", "")]
        process.send_signal(signal.SIGKILL)
        process.wait()
    kombu.Producer(channel).publish("hello", exchange="everybody")
    assert channel.list_bindings() == []
    assert [info.name for info in inspection.list_queues()] == ["kombu"]
    kombu.Producer(channel).publish("late", routing_key="other")  # an answer to a process that is gone
    assert [info.name for info in inspection.list_queues()] == ["kombu"]


def test_a_deleted_queue_is_gone_for_all_and_a_new_one_begins_empty(connect: Connect) -> None:
    first, second = connect().channel(), connect().channel()
    publish(first, "old")
    publish(second, "old")
    JOBS(second).delete()
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        JOBS(first).queue_declare(passive=True)
    publish(first, "new")
    assert take(second) == "new"
    assert JOBS(second).get() is None


def test_memory_that_was_removed_by_hand_is_made_anew(connect: Connect) -> None:
    channel = connect().channel()
    publish(channel, "lost")
    inspection.remove_queue(segment_name("", "jobs", 0))
    other = connect().channel()
    publish(other, "new")
    assert take(channel) == "new"


def test_namespaces_know_nothing_of_each_other(connect: Connect) -> None:
    publish(connect("shm:///one").channel(), 1)
    publish(connect("shm:///two").channel(), 2)
    assert take(connect("shm:///two").channel()) == 2
    assert take(connect("shm://one").channel()) == 1


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


def test_the_lock_of_a_killed_process_is_free(connect: Connect) -> None:
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


def test_several_processes_declare_at_the_same_time(connect: Connect) -> None:
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


def test_an_exchange_of_a_type_that_shm_does_not_have_is_refused_when_it_is_declared(connect: Connect) -> None:
    channel = connect().channel()
    with pytest.raises(ChannelError, match="unknown exchange type 'headers'"):
        kombu.Exchange("h", "headers")(channel).declare()
    assert "h" not in channel.get_exchanges()


def test_a_change_that_fails_leaves_no_memory(connect: Connect) -> None:
    channel = connect().channel()
    JOBS(channel).declare()
    for name, arguments in (("\ud800", {}), ("unpackable", {"x": object()})):
        with pytest.raises(Exception, match=r"surrogates|object"):
            channel.queue_declare(name, arguments=arguments)
    assert sorted(info.name for info in inspection.list_queues()) == ["kombu", "kombu.jobs"]
    assert list(channel.connection.messages.state().queues) == ["jobs"]
