"""The stand-ins' classes are generic, while a program runs and for type checkers."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Opener
from typing_support import install, mypy


def test_the_class_is_generic_when_it_runs(our_queues: Opener) -> None:
    for cls in (our_queues.source.Queue, our_queues.source.SimpleQueue):
        assert typing.get_args(cls[int]) == (int,)
        assert typing.get_origin(cls[int]) is cls
        assert typing.get_type_hints(make_annotated(cls))["q"] == cls[int]

    class Numbers(our_queues.source.Queue[int]):  # type: ignore[misc, name-defined]
        """A class of one's own."""

    q = Numbers()
    try:
        q.put(1)
        assert q.get() == 1
    finally:
        q.close()


def make_annotated(cls: Any) -> Callable[..., None]:
    def takes(q: Any) -> None: ...

    takes.__annotations__["q"] = cls[int]
    return takes


def test_the_class_type_checks_as_generic(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    program = """
from shmqueue.compat.queue import Queue, SimpleQueue
q: Queue[int] = Queue(3)
q.put(1)
number: int = q.get()
simple: SimpleQueue[str] = SimpleQueue()
text: str = simple.get_nowait()
"""
    mistakes = """
q.put("text")
text = q.get()
simple.put(1)
"""
    (tmp_path / "right.py").write_text(program)
    (tmp_path / "wrong.py").write_text(program + mistakes)
    install(tmp_path)
    lines = [line for line in mypy(tmp_path, "right.py", "wrong.py").splitlines() if ": error:" in line]
    first = program.count("\n") + 1
    wrong_lines = {line.split(":")[1] for line in lines if line.startswith("wrong.py:")}
    assert not [line for line in lines if line.startswith("right.py:")], lines
    assert wrong_lines == {str(first + offset) for offset in (1, 2, 3)}, lines


@pytest.mark.skipif(sys.version_info < (3, 12), reason="multiprocessing.queues.Queue is generic since Python 3.12")
def test_the_class_is_generic(mp: Opener) -> None:
    assert type(mp.Queue())[int].__args__ == (int,)
