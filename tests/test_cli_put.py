"""``put``: values from the command line or from standard input, into a queue."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest
from cli_support import error_of, leave_orphan, output_of, path_is_held_by, run, started, usage_error_of
from support import PATIENCE, wait_until

from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


def test_put_puts_json_values(make: Make, name: str) -> None:
    queue = make(buffer_size=4096)
    assert output_of("put", name, '{"width": 640}', "[1, null]", '"text"', "-1", "2.5") == ""
    assert queue.get_many(10, timeout=0) == [{"width": 640}, [1, None], "text", -1, 2.5]


@pytest.mark.parametrize("value", ["{", "text", "1 2", "", "NaN"])
def test_put_puts_nothing_if_one_value_is_no_json(make: Make, name: str, value: str) -> None:
    queue = make()
    assert f"not a JSON value: {value!r}" in error_of("put", name, "1", value, status=64)
    assert queue.empty()


def test_put_puts_texts_and_bytes(make: Make, name: str) -> None:
    queue = make()
    output_of("put", name, "--text", "1", "schl\xe4nge", "")
    output_of("put", name, "--bytes", "1", "\xe4", os.fsdecode(b"\xff"))
    assert queue.get_many(10, timeout=0) == ["1", "schl\xe4nge", "", b"1", "\xe4".encode(), b"\xff"]
    assert "use --bytes" in error_of("put", name, "--text", os.fsdecode(b"\xff"), status=64)


def test_put_takes_an_item_from_each_line_of_standard_input(make: Make, name: str) -> None:
    queue = make(buffer_size=1 << 16)
    output_of("put", name, "-", stdin='1\n{"a": "\xe4"}\n\n[2]')
    output_of("put", name, "-", "--text", stdin="one\n\n two \r\n")
    output_of("put", name, "-", "--bytes", stdin="raw\n")
    assert queue.get_many(10, timeout=0) == [1, {"a": "\xe4"}, [2], "one", "", " two ", b"raw"]


def test_put_puts_each_line_as_it_comes(make: Make, name: str) -> None:
    queue = make()
    with started("put", name, "-") as process:
        assert process.stdin is not None
        for number in range(3):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert queue.get(timeout=PATIENCE) == number
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_put_says_which_line_is_no_item_and_keeps_what_came_before(make: Make, name: str) -> None:
    queue = make()
    message = error_of("put", name, "-", stdin="1\n\n2\n{\n4\n", status=6)
    assert message.startswith("Error: line 4: not a JSON value: '{'")
    assert message.endswith("; 2 items were put before\n")
    assert queue.get_many(10, timeout=0) == [1, 2]


def test_put_ends_with_2_when_no_room_came_in_time(make: Make, name: str) -> None:
    queue = make(maxsize=2)
    queue.put(0)
    assert "has no room" in error_of("put", name, "1", "2", "--timeout", "0", status=2)
    assert "has no room" in error_of("put", name, "1", "2", "--timeout", "0.01", status=2)
    assert queue.qsize() == 1
    assert "; 1 items were put before" in error_of("put", name, "-", "--timeout", "0.01", stdin="1\n2\n", status=2)
    assert queue.get_many(10, timeout=0) == [0, 1]


def test_put_makes_no_queue_unless_it_is_told_to(name: str, segment_directory: str) -> None:
    message = error_of("put", name, "1", status=4)
    assert message.startswith(f"Error: there is no queue called {name!r}: ")
    assert "--wait" in message
    assert "--keep" in message
    assert os.listdir(segment_directory) == []


def test_put_adds_to_an_orphan_and_says_so(name: str, make: Make) -> None:
    leave_orphan(name)
    done = run("put", name, "9")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no other process has queue {name!r} open: its 4 items stay until one opens it\n"
    assert make(create=False).get_many(10, timeout=0) == [0, 1, 2, 9]


def test_put_wait_makes_the_queue_and_holds_it_until_it_is_empty(name: str, make: Make) -> None:
    with started("put", name, "1", "2", "--wait", "--buffer-size", "5000") as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        queue = make(create=False)
        assert queue.max_buffer_size() == 8192
        assert queue.get(timeout=PATIENCE) == 1
        assert process.poll() is None
        assert queue.get(timeout=PATIENCE) == 2
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("size", "bytes_of_it"),
    [("8192", 8192), ("64k", 1 << 16), ("1M", 1 << 20), ("1.5MiB", 3 << 19), ("2KB", 4096), ("16b", 4096)],
)
def test_sizes_are_written_as_people_write_them(name: str, make: Make, size: str, bytes_of_it: int) -> None:
    with started("put", name, "1", "--wait", "--buffer-size", size) as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        queue = make(create=False)
        assert queue.max_buffer_size() == bytes_of_it
        queue.get(timeout=PATIENCE)
        assert process.wait(PATIENCE) == 0


def test_a_queue_that_grows_can_be_asked_for(name: str, make: Make) -> None:
    with started("put", name, "1", "--wait", "--buffer-size", "4k", "--max-bytes", "1M") as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        queue = make(create=False)
        assert queue.max_buffer_size() == 1 << 20
        queue.get(timeout=PATIENCE)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("size", ["", "k", "1x", "-1", "1e9", "1 M B", "99999999999T"])
def test_what_is_no_size_is_refused(size: str) -> None:
    assert "--buffer-size" in usage_error_of("put", "x", "1", "--buffer-size", size)


def test_put_of_an_item_that_can_never_fit_ends_with_6(make: Make, name: str) -> None:
    queue = make(buffer_size=4096)
    assert "can never fit" in error_of("put", name, json.dumps("x" * 5000), status=6)
    assert "can never fit" in error_of("put", name, "-", stdin="1\n" + json.dumps("x" * 5000), status=6)
    assert queue.get_many(10, timeout=0) == [1]


def test_put_that_waits_for_room_ends_by_a_signal(make: Make, name: str) -> None:
    queue = make(maxsize=1)
    queue.put(0)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        with started("put", name, "1") as process:
            wait_until(lambda: queue._handle.counters().putters_waiting, "it waits for room")
            process.send_signal(number)
            assert process.wait(PATIENCE) == status
            assert process.stderr is not None
            assert process.stderr.read() == ""
        queue.get()
        queue.put(0)
    assert queue.qsize() == 1


def test_put_uses_the_engine_of_the_queue(name: str, make: Make, engine: str) -> None:
    queue = make()
    other = "portable" if engine == "native" else "native"
    done = run("put", name, "7", SHMQUEUE_ENGINE=other)
    assert (done.returncode, done.stderr) == (0, "")
    assert queue.get(timeout=PATIENCE) == 7
