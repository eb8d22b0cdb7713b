"""What the commands tell of leased items, and do beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from cli_support import error_of, json_of, output_of
from support import python, wait_for_line

from shmqueue import ShmQueue, inspection
from shmqueue.cli.inspection import list_queues, look_at
from shmqueue.cli.top import Rates

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

LEASE_AND_DIE = """
import os, signal, sys, shmqueue
queue = shmqueue.ShmQueue(sys.argv[1])
for item in range(int(sys.argv[2])):
    queue.put(item)
leases = [queue.lease() for _ in range(int(sys.argv[3]))]
print("leased", flush=True)
sys.stdin.read()
"""


def leave_leased(name: str, put: int, leased: int) -> None:
    """A process puts items, leases the oldest and is killed."""
    with python(LEASE_AND_DIE, name, put, leased) as process:
        wait_for_line(process, "leased")
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def orphan(name: str) -> str:
    """The name of a queue whose only holder was killed with two of its four items leased."""
    leave_leased(name, put=4, leased=2)
    return name


# ---- leases of processes that live ----


@pytest.fixture
def q(make: Make) -> ShmQueue:
    """A queue of which one item was acknowledged, one given back; that one and another are leased, one more given
    back, and one never taken."""
    q = make()
    for item in range(5):
        q.put(item)
    q.lease().ack()
    q.lease().requeue()
    return q


def test_ls_stat_and_top_tell_what_is_leased(q: ShmQueue, name: str) -> None:
    leases = [q.lease() for _ in range(3)]
    leases[1].requeue()
    (row,) = json_of("ls")
    stat = json_of("stat", name)
    (live,) = json_of("top", "--interval", "0.01")
    figures = stat["statistics"]
    for told in row, {**stat, **figures}, live:
        assert (told["items"], told["leased"], told["returned"]) == (2, 2, 1)
        assert (told["redelivered"], told["acknowledged"]) == (1, 1)
        assert told["oldest_lease"] >= 0
    assert stat["unfinished_tasks"] == 4
    assert (figures["puts"], figures["gets"], figures["dropped"]) == (5, q.statistics().gets, 0)
    assert q.statistics().acknowledged == 1
    for lease in leases:
        lease.ack()


def test_the_oldest_lease_ages(q: ShmQueue, name: str) -> None:
    with q.lease():
        before = look_at(name).oldest_lease
        assert 0 < before < look_at(name).oldest_lease
    assert look_at(name).oldest_lease == 0


def test_the_tables_have_a_column_for_leased_items(q: ShmQueue, name: str) -> None:
    with q.lease():
        for command in ("ls",), ("top", name, "--count", "1", "--interval", "0.01"):
            header, line = output_of(*command).splitlines()
            assert header.split()[1:3] == ["ITEMS", "LEASED"]
            assert line.split()[1:3] == ["3", "1"]
        assert "oldest lease" in output_of("stat", name)


def test_commands_leave_alone_what_is_leased(q: ShmQueue, name: str) -> None:
    leases = [q.lease() for _ in range(2)]
    assert output_of("peek", name) == "3\n"
    assert output_of("get", name) == "3\n"
    assert output_of("clear", name) == "1\n"
    assert "empty" in error_of("peek", name, status=1)
    assert all(lease.ack() for lease in leases)
    assert q.unfinished_tasks == 1  # of the one that get took


def test_commands_take_first_what_was_given_back(q: ShmQueue, name: str) -> None:
    leases = [q.lease() for _ in range(4)]
    leases[2].requeue()
    assert output_of("peek", name) == "3\n"
    assert output_of("get", name) == "3\n"


# ---- leases of processes that were killed ----


def test_what_the_dead_had_leased_counts_as_items(orphan: str) -> None:
    for _ in range(2):  # and looking changes nothing
        (listed,) = list_queues(all_users=False)
        look = look_at(orphan)
        for told in listed.as_json(), look.as_json(), Rates(look, None, None).as_json():
            assert (told["items"], told["leased"], told["orphan"]) == (4, 0, True)
        assert look.oldest_lease == 0
        info = inspection.look_at(orphan)
        assert (info.items, info.leased) == (4, 0)
    assert f"removed {orphan} (4 items" in output_of("rm", "--orphans")


def test_an_orphan_keeps_what_was_leased(orphan: str, make: Make) -> None:
    assert make(create=False).get_many(1, timeout=0) == [0]
    assert [make().get(block=False) for _ in range(3)] == [1, 2, 3]


def test_commands_take_what_the_dead_had_leased(name: str) -> None:
    leave_leased(name, put=2, leased=2)
    assert output_of("peek", name) == "0\n"
    assert output_of("get", name, "--timeout", "0", "--count", "2") == "0\n1\n"


def test_clear_drops_what_the_dead_had_leased(orphan: str) -> None:
    assert output_of("clear", orphan) == "4\n"
    assert look_at(orphan).items == 0
    inspection.remove_queue(orphan)


def test_a_dead_consumer_of_a_queue_that_lives_has_nothing_leased(make: Make, name: str) -> None:
    q = make()
    leave_leased(name, put=3, leased=1)
    with q.lease(timeout=0) as lease:
        assert lease.item == 0
        q.put("more")
        leave_leased(name, put=0, leased=1)
        (listed,) = list_queues(all_users=False)
        assert (listed.info.items, listed.info.leased, listed.info.holders) == (3, 1, [os.getpid()])
        assert look_at(name).items == 3
