"""``ls``, ``stat`` and ``rm``: which queues there are, and removing them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from cli_support import error_of, holder, json_of, leave_orphan, output_of, run
from support import overwrite

from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def orphan(name: str, engine: str) -> str:
    """The name of a queue whose only holder was killed with three items in it."""
    leave_orphan(name)
    return name


# ---- ls ----


def test_ls_shows_figures_and_the_holders_and_is_none_of_them(name: str, engine: str) -> None:
    with holder(name, 5) as process:
        (row,) = json_of("ls")
        assert row["name"] == name
        assert row["holders"] == [process.pid]
        assert (row["items"], row["occupancy"], row["buffer_size"]) == (5, 5 * 9, 8192)
        assert (row["engine"], row["problem"], row["orphan"], row["keep"]) == (engine, None, False, False)
        assert row["age"] >= 0
        assert row["memory"] > 0
        table = output_of("ls").splitlines()
        assert table[0].split() == ["NAME", "ITEMS", "LEASED", "BYTES", "MEMORY", "AGE", "ENGINE", "HOLDERS"]
        assert table[1].split()[:4] == [name, "5", "0", "45"]
        assert table[1].split()[-2:] == [engine, str(process.pid)]
        assert segment.holders_of(segment.path_of(name)) == [process.pid]


def test_ls_without_queues() -> None:
    assert json_of("ls") == []
    assert output_of("ls") == "no queues\n"


def test_ls_shows_each_handle_of_each_process(make: Make, name: str) -> None:
    make()
    make()
    with holder(name) as process:
        (row,) = json_of("ls")
        assert row["holders"] == sorted([os.getpid(), os.getpid(), process.pid])


def test_ls_shows_orphans_with_their_items_and_leaves_them(orphan: str, make: Make) -> None:
    for _ in range(2):
        (row,) = json_of("ls")
        assert (row["name"], row["items"], row["holders"], row["orphan"]) == (orphan, 3, [], True)
        assert "none (orphan)" in output_of("ls")
    assert make(create=False).get_many(10, timeout=0) == [0, 1, 2]


def test_ls_shows_which_queues_are_kept(name: str) -> None:
    with ShmQueue(name, keep=True) as queue:
        queue.put(1)
    (row,) = json_of("ls")
    assert (row["items"], row["holders"], row["orphan"], row["keep"]) == (1, [], False, True)
    assert "none (kept)" in output_of("ls")
    assert not row["is_shutdown"]
    with ShmQueue(name, create=False) as q:
        q.shutdown_all()
    assert "none (kept); shut down" in output_of("ls")
    (row,) = json_of("ls")
    assert row["is_shutdown"]
    output_of("rm", name)


def test_ls_lists_queues_of_both_engines(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "native")
    make(name + "-1").put("x")
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    make(name + "-2").put("x")
    assert [(row["engine"], row["items"]) for row in json_of("ls")] == [("native", 1), ("portable", 1)]


def test_ls_says_of_a_file_that_is_no_segment_why_and_lists_the_rest(make: Make, name: str) -> None:
    make()
    foreign = segment.path_of(name + "-foreign")
    with open(foreign, "wb") as file:
        file.write(b"?" * 8192)
    os.chmod(foreign, 0o600)
    try:
        good, bad = json_of("ls")
        assert (good["name"], good["problem"]) == (name, None)
        assert (bad["name"], bad["items"]) == (name + "-foreign", None)
        assert "not a shmqueue segment" in bad["problem"]
        assert f"{name}-foreign: it is not a shmqueue segment" in output_of("ls")
    finally:
        os.unlink(foreign)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_ls_all_users_lists_the_queues_of_others(make: Make, name: str) -> None:
    make()
    path = segment.path_of(name)
    prefix = f"shmqueue-{os.geteuid()}-"
    other = os.path.join(os.path.dirname(path), os.path.basename(path).replace(prefix, "shmqueue-12345-", 1))
    os.link(path, other)
    os.unlink(path)
    os.chown(other, 12345, 12345)
    try:
        assert json_of("ls") == []
        (row,) = json_of("ls", "--all-users")
        assert (row["name"], row["user"]) == (name, 12345)
        assert "12345" in row["problem"]
        assert output_of("ls", "--all-users").split()[:2] == ["NAME", "USER"]
    finally:
        os.unlink(other)


# ---- stat ----


def test_stat_shows_everything(name: str, engine: str) -> None:
    with holder(name, 4) as process:
        figures = json_of("stat", name)
        assert figures["path"] == segment.path_of(name)
        assert figures["holders"] == [process.pid]
        assert (figures["items"], figures["occupancy"], figures["unfinished_tasks"]) == (4, 36, 4)
        assert (figures["buffer_size"], figures["maxsize"], figures["engine"]) == (8192, 50, engine)
        assert (figures["put_pos"], figures["get_pos"], figures["same_lap"]) == (36, 0, 1)
        assert (figures["keep"], figures["orphan"]) == (False, False)
        assert figures["statistics"]["puts"] == figures["statistics"]["high_water"] == 4
        text = output_of("stat", name)
        for shown in (name, str(process.pid), segment.path_of(name), "8192", "high water"):
            assert shown in text


def test_stat_leaves_an_orphan_as_it_is(orphan: str, make: Make) -> None:
    for _ in range(2):
        figures = json_of("stat", orphan)
        assert (figures["items"], figures["holders"], figures["orphan"]) == (3, [], True)
    assert "none (orphan)" in output_of("stat", orphan)
    assert make(create=False).qsize() == 3


def test_stat_shows_that_a_queue_is_kept(name: str) -> None:
    with ShmQueue(name, keep=True):
        assert json_of("stat", name)["keep"] is True
    assert "none (kept)" in output_of("stat", name)
    output_of("rm", name)


# ---- rm ----


def test_rm_takes_the_name_away_and_the_holders_go_on(name: str, make: Make) -> None:
    old = make()
    old.put("old")
    assert output_of("rm", name) == ""
    new = make(create=True)
    assert new.empty()
    assert old.get(timeout=10) == "old"


def test_rm_removes_a_corrupted_segment(name: str, make: Make) -> None:
    make()
    overwrite(segment.path_of(name), 0, b"damaged!")
    assert "wrong magic" in error_of("stat", name, status=5)
    output_of("rm", name)
    assert json_of("ls") == []


def test_rm_goes_on_after_a_name_that_is_not_there(name: str, make: Make) -> None:
    make()
    assert error_of("rm", name + "-none", name, status=4) == f"Error: there is no queue called {name + '-none'!r}\n"
    assert json_of("ls") == []
    done = run("rm", "none-1", "none-2")
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 2)


def test_rm_refuses_what_is_no_regular_file(name: str, segment_directory: str) -> None:
    target, link = os.path.join(segment_directory, "precious"), segment.path_of(name)
    with open(target, "w"):
        pass
    os.symlink(target, link)
    try:
        assert "not a regular file" in error_of("rm", name, status=5)
        assert os.path.islink(link)
    finally:
        os.unlink(link)
        os.unlink(target)


def test_rm_leaves_nothing_of_an_orphan(orphan: str, segment_directory: str) -> None:
    output_of("rm", orphan)
    assert os.listdir(segment_directory) == []


def test_rm_orphans_removes_what_no_process_has_open_and_nothing_else(name: str, segment_directory: str) -> None:
    held, kept, lost = name + "-held", name + "-kept", name + "-lost"
    with ShmQueue(kept, keep=True) as queue:
        queue.put(1)
    leave_orphan(lost)
    with holder(held, 2):
        assert output_of("rm", "--orphans").startswith(f"removed {lost} (3 items, ")
        assert [row["name"] for row in json_of("ls")] == [held, kept]
        assert output_of("rm", "--orphans") == "no orphans\n"
    output_of("rm", kept)
    assert os.listdir(segment_directory) == []


def test_a_queue_put_with_keep_stays_until_it_is_removed(name: str, segment_directory: str) -> None:
    output_of("put", name, "1", "2", "--keep")
    output_of("put", name, "3")
    assert [output_of("get", name) for _ in range(2)] == ["1\n", "2\n"]
    assert (json_of("stat", name)["items"], json_of("stat", name)["keep"]) == (1, True)
    assert json.loads(output_of("get", name)) == 3
    assert json_of("stat", name)["items"] == 0
    output_of("rm", name)
    assert os.listdir(segment_directory) == []


def test_put_keep_refuses_a_queue_that_was_made_without(name: str, make: Make) -> None:
    queue = make()
    assert "without --keep" in error_of("put", name, "1", "--keep", status=3)
    assert queue.empty()
