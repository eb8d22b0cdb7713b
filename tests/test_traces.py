"""Reading what the kernel says of other processes: which of them map a file, and which have it locked."""

from __future__ import annotations

import io
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmqueue.segment import adoption, holders


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    number = os.open(tmp_path / "shmqueue-0-jobs", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(number, 4096)
    yield number
    os.close(number)


class TestWhoMapsAFile:
    def test_a_thread_uses_the_file_that_its_process_maps(self, fd: int) -> None:
        me = threading.get_native_id()
        assert not adoption._uses(me, fd)
        with mmap.mmap(fd, 4096):
            assert adoption._uses(me, fd)
        assert not adoption._uses(me, fd)

    @pytest.mark.parametrize(
        ("device", "inode", "path", "is_it"),
        [
            ("same", "same", "/any/where", True),
            ("ff:ff", "same", "/other/file", False),
            ("ff:ff", "same", "/lower/shmqueue-0-jobs", True),  # overlayfs shows the device below
            ("same", "1", "/any/where/shmqueue-0-jobs", False),
        ],
    )
    def test_a_mapping_is_known_by_more_than_its_inode(
        self, fd: int, monkeypatch: pytest.MonkeyPatch, device: str, inode: str, path: str, is_it: bool
    ) -> None:
        status = os.fstat(fd)
        own = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        line = (
            f"7f0000000000-7f0000001000 rw-s 00000000 {own if device == 'same' else device} "
            f"{status.st_ino if inode == 'same' else inode}    {path}\n"
        )
        real = open

        def show(name: str, *arguments: Any, **options: Any) -> Any:
            return io.StringIO(line) if name == "/proc/7/maps" else real(name, *arguments, **options)

        monkeypatch.setattr(adoption, "open", show, raising=False)
        assert adoption._uses(7, fd) is is_it

    def test_a_thread_that_has_ended_uses_nothing(self, fd: int) -> None:
        assert not adoption._uses(1 << 30, fd)


class TestWhoHasAFileLocked:
    """By /proc/locks, of which only a page is of one moment."""

    FILE = "00:1b:2002"

    def line(self, pid: int, file: str = FILE) -> str:
        return f"1: FLOCK  ADVISORY  READ {pid} {file} 0 EOF\n"

    def pids(self, monkeypatch: pytest.MonkeyPatch, *tables: str, whole: bool = False) -> tuple[list[int], int]:
        """The holders by these looks at the table, the last one again and again; and how many looks there were."""
        looks = 0

        def read() -> tuple[str, bool]:
            nonlocal looks
            looks += 1
            return tables[min(looks, len(tables)) - 1], whole

        monkeypatch.setattr(holders, "_read_lock_table", read)
        return [pid for _, pid, _ in holders._locks_on(0, 0x1B, 2002)], looks

    def test_a_table_of_one_moment_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.pids(monkeypatch, self.line(7), whole=True) == ([7], 1)

    def test_the_locks_of_others_may_come_and_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = [self.line(7) + self.line(look, "00:1b:1") for look in range(9)]
        assert self.pids(monkeypatch, *tables) == ([7], 2)

    def test_a_lock_that_one_look_has_missed_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.pids(monkeypatch, self.line(7), self.line(7) + self.line(8)) == ([7, 8], 3)

    def test_looks_that_never_agree_end_with_the_longest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = [self.line(7), self.line(7) * 2] * 20
        assert self.pids(monkeypatch, *tables) == ([7, 7], holders._LOOKS)
