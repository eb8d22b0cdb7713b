"""``get`` and ``peek``: items printed as JSON, and taken only when they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from cli_support import COMMAND, HERE, error_of, holder, leave_orphan, output_of, path_is_held_by, run, started
from support import PATIENCE, Call, is_asleep, wait_until

from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

UNLOADABLE = 1234  # a serialization method that the command does not know


def put_unloadable(queue: ShmQueue) -> None:
    queue.custom_serialize(lambda method, data: data)
    queue.put(b"?", serialization_method=UNLOADABLE)


def items_of(queue: ShmQueue) -> list[object]:
    return queue.get_many(1000, timeout=0)


# ---- what is printed ----


def test_get_prints_a_line_of_json_for_each_item(make: Make, name: str) -> None:
    queue = make()
    for item in ({"a": [1, None, True]}, "\xe4\n", (1, 2.5), {1: 2}, b"raw", float("inf"), {3}, [{"k": b""}]):
        queue.put(item)
    assert json.loads(output_of("get", name)) == {"a": [1, None, True]}
    lines = output_of("get", name, "--count", "7").splitlines()
    assert [json.loads(line) for line in lines] == [
        "\xe4\n",
        [1, 2.5],
        {"repr": "{1: 2}"},
        {"repr": "b'raw'"},
        {"repr": "inf"},
        {"repr": "{3}"},
        {"repr": "[{'k': b''}]"},
    ]


def test_get_prints_long_lines_whole(make: Make, name: str) -> None:
    queue = make(buffer_size=1 << 22)
    items = ["x" * 1_000_000, "y" * 100_000, "z"]
    for item in items:
        queue.put(item)
    assert [json.loads(line) for line in output_of("get", name, "--count", "3").splitlines()] == items


def test_get_makes_the_queue_and_waits(name: str, make: Make) -> None:
    with started("get", name) as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        make(create=False).put("at last")
        assert process.communicate(timeout=PATIENCE) == ('"at last"\n', "")
        assert process.returncode == 0


def test_get_ends_with_1_when_no_item_came_in_time(name: str) -> None:
    assert error_of("get", name, "--timeout", "0.01", status=1) == f"Error: queue {name!r} is empty after 0.01 s\n"
    assert error_of("get", name, "--timeout", "0", status=1) == f"Error: queue {name!r} is empty after 0 s\n"
    done = run("get", name, "--timeout", "0.6", "--follow")
    assert (done.returncode, done.stdout) == (1, "")


def test_get_uses_the_engine_of_the_queue(name: str, make: Make, engine: str) -> None:
    make().put(7)
    other = "portable" if engine == "native" else "native"
    assert output_of("get", name, SHMQUEUE_ENGINE=other) == "7\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_get_follow_goes_on_until_it_is_told_to_end(name: str, make: Make, number: int, status: int) -> None:
    queue = make()
    with started("get", name, "--follow") as process:
        assert process.stdout is not None
        for item in range(3):
            queue.put(item)
            assert process.stdout.readline() == f"{item}\n"
        wait_until(lambda: is_asleep(process.pid), "it waits for the next item")
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
        assert process.stderr is not None
        assert process.stderr.read() == ""


# ---- no item is taken that is not printed ----


@pytest.mark.parametrize("options", [("--follow",), ("--count", "300")])
def test_a_reader_that_has_enough_leaves_the_rest_in_the_queue(name: str, make: Make, options: tuple[str, ...]) -> None:
    queue = make(buffer_size=1 << 16)
    queue.put_many(range(300))
    with started("get", name, *options) as process:
        assert process.stdout is not None
        with subprocess.Popen(["head", "-n", "2"], stdin=process.stdout, stdout=subprocess.PIPE) as head:
            process.stdout.close()  # head is the only reader
            output, _ = head.communicate(timeout=PATIENCE)
        assert output == b"0\n1\n"
        assert process.wait(PATIENCE) == 141
    # Where head was slow to close its end the next item was written and given back, to the end.
    assert sorted(items_of(queue)) == list(range(2, 300))  # type: ignore[type-var]


def test_nothing_more_is_taken_than_the_reader_has_read(name: str, make: Make) -> None:
    queue = make(buffer_size=1 << 16)
    queue.put_many(range(300))
    with started("get", name, "--follow") as process:
        wait_until(lambda: queue.qsize() < 300, "the first item is taken")
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"0\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
    assert sorted(items_of(queue)) == list(range(1, 300))  # type: ignore[type-var]


def test_an_item_that_nobody_has_read_goes_back(name: str, make: Make) -> None:
    queue = make()
    queue.put_many(["first", "second"])
    with started("get", name, "--follow") as process:
        wait_until(lambda: queue.qsize() == 1, "the first item is printed")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr is not None
        assert process.stderr.read() == f"the last item was not read: it is now at the end of queue {name!r}\n"
    assert queue.unfinished_tasks == 2
    assert items_of(queue) == ["second", "first"]


def test_an_item_that_cannot_go_back_is_told_on_standard_error(name: str, make: Make) -> None:
    queue = make(maxsize=1)
    queue.put("first")
    with started("get", name, "--follow") as process:
        queue.put("second", timeout=PATIENCE)  # as soon as the first is taken
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr is not None
        message = process.stderr.read()
    assert message == f'the last item was not read, and queue {name!r} does not take it back: "first"\n'
    assert items_of(queue) == ["second"]


def test_get_ends_when_the_reader_goes_while_it_waits(name: str, make: Make) -> None:
    make()
    with started("get", name) as process:
        wait_until(lambda: path_is_held_by(name, 2), "it has the queue open")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 141


def test_get_takes_nothing_when_nobody_reads(name: str, make: Make) -> None:
    queue = make()
    queue.put(1)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [*COMMAND, "get", name], cwd=HERE, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")
    assert items_of(queue) == [1]


def test_get_takes_nothing_when_standard_output_is_closed(name: str, make: Make) -> None:
    queue = make()
    queue.put(1)
    code = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND, "get", name],
        cwd=HERE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 3
    assert "standard output is closed" in done.stderr
    assert items_of(queue) == [1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_an_item_that_cannot_be_written_goes_back(name: str, make: Make) -> None:
    queue = make()
    queue.put(1)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "get", name], cwd=HERE, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert items_of(queue) == [1]


def test_several_that_follow_print_each_item_once(name: str, make: Make) -> None:
    queue = make(buffer_size=1 << 16)
    queue.put_many(range(200))
    with started("get", name, "--follow") as one, started("get", name, "--follow") as other:
        readers = [Call(process.communicate) for process in (one, other)]
        wait_until(queue.empty, "all items are taken")
        queue.shutdown_all()
        outputs = [reader.result()[0] for reader in readers]
        assert [one.wait(PATIENCE), other.wait(PATIENCE)] == [7, 7]
    assert sorted(int(line) for output in outputs for line in output.splitlines()) == list(range(200))


def test_get_leaves_the_other_items_of_killed_processes(name: str, make: Make) -> None:
    leave_orphan(name)
    done = run("get", name)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert done.stderr == f"no other process has queue {name!r} open: its 2 items stay until one opens it\n"
    assert items_of(make(create=False)) == [1, 2]


# ---- items that cannot be loaded ----


@pytest.mark.parametrize("options", [(), ("--follow",), ("--count", "2")])
def test_an_item_that_is_refused_stays_in_the_queue(name: str, make: Make, options: tuple[str, ...]) -> None:
    queue = make()
    queue.put({1, 2})
    queue.put("next")
    message = error_of("get", name, "--no-pickle", *options, status=6)
    assert message.startswith(f"Error: the oldest item stays in queue {name!r}: ")
    assert "pickle" in message
    assert "--skip" in message
    assert items_of(queue) == [{1, 2}, "next"]


def test_an_item_that_cannot_be_loaded_stays_in_the_queue(name: str, make: Make) -> None:
    queue = make()
    put_unloadable(queue)
    queue.put("next")
    assert f"serialization method {UNLOADABLE}" in error_of("get", name, status=6)
    assert f"serialization method {UNLOADABLE}" in error_of("peek", name, status=6)
    assert queue.qsize() == 2


def test_get_skip_drops_what_cannot_be_loaded_and_says_so(name: str, make: Make) -> None:
    queue = make()
    queue.put({1, 2})
    put_unloadable(queue)
    queue.put("next")
    done = run("get", name, "--no-pickle", "--skip")
    assert (done.returncode, done.stdout) == (0, '"next"\n')
    assert [line.startswith(f"dropped an item of queue {name!r}: ") for line in done.stderr.splitlines()] == [True] * 2
    assert queue.empty()


# ---- peek ----


def test_peek_prints_the_oldest_item_and_leaves_it(name: str, make: Make) -> None:
    queue = make()
    queue.put({"a": 1})
    queue.put(2)
    for _ in range(2):
        assert output_of("peek", name) == '{"a": 1}\n'
    assert items_of(queue) == [{"a": 1}, 2]


def test_peek_at_an_empty_queue_ends_with_1(name: str, make: Make) -> None:
    make()
    assert error_of("peek", name, status=1) == f"Error: queue {name!r} is empty\n"
    assert error_of("peek", name, "--timeout", "0.01", status=1) == f"Error: queue {name!r} is empty after 0.01 s\n"


def test_peek_waits_when_it_is_told_to(name: str, make: Make) -> None:
    queue = make()
    with started("peek", name, "--timeout", str(PATIENCE)) as process:
        wait_until(lambda: queue._handle.counters().getters_waiting, "it waits")
        assert segment.holders_of(segment.path_of(name)) == [os.getpid()]
        queue.put(1)
        assert process.communicate(timeout=PATIENCE) == ("1\n", "")
    assert queue.qsize() == 1


def test_peek_refuses_a_pickled_item_when_it_is_told_to(name: str, make: Make) -> None:
    make().put({1, 2})
    assert "pickle" in error_of("peek", name, "--no-pickle", status=6)
    assert output_of("peek", name) == '{"repr": "{1, 2}"}\n'


def test_peek_leaves_an_orphan_an_orphan(name: str, make: Make) -> None:
    leave_orphan(name)
    for _ in range(2):
        assert output_of("peek", name) == "0\n"
    assert make().qsize() == 3


# ---- clear ----


def test_clear_drops_all_items_and_says_how_many(name: str) -> None:
    with holder(name, 5) as process:
        assert output_of("clear", name) == "5\n"
        assert output_of("clear", name) == "0\n"
        assert segment.holders_of(segment.path_of(name)) == [process.pid]


def test_clear_empties_an_orphan(name: str, make: Make) -> None:
    leave_orphan(name)
    assert output_of("clear", name) == "3\n"
    assert make().empty()
