"""What a signal handler raises while queues are opened, closed, looked at and removed reaches the caller as it is.

Once the caller has closed what it has, no descriptor is left, nor a file that belongs to no name in use; on Python 3.10
one may be.
"""

from __future__ import annotations

import functools
import gc
import glob
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handler_support import at_call, raised_by_a_handler

import shmqueue
import shmqueue.compat
from shmqueue import ShmQueue, closing, inspection
from shmqueue.compat._kombu_doorbell import Doorbell
from shmqueue.engine.portable_lock import Owner, _Spare
from shmqueue.handle import Handle
from shmqueue.segment import lifecycle, probe_directory, removal, roles, transit
from shmqueue.segment.handle import Segment
from shmqueue.segment.naming import path_of
from shmqueue.segment.sidecar import open_sidecar, sidecar_of

_FILES = {
    file
    for package in (shmqueue, shmqueue.compat)
    for file in glob.glob(os.path.join(os.path.dirname(str(package.__file__)), "**", "*.py"), recursive=True)
    if os.path.basename(os.path.dirname(file)) not in ("broker", "cli", "bench")
}


class Anything(
    FileNotFoundError,
    FileExistsError,
    BlockingIOError,
    PermissionError,
    ProcessLookupError,
    ChildProcessError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    RuntimeError,
):
    """An exception that nearly every ``except`` clause catches."""

    def __str__(self) -> str:
        return str(self.args[0])


class Stage:
    """Queues for one attempt at something, which are closed after it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._count = 0
        self.opened: list[Any] = []

    def new_name(self) -> str:
        self._count += 1
        return f"test-{self._count}"

    def open(self, name: str | None = None, **options: Any) -> ShmQueue:
        queue = ShmQueue(name or self.new_name(), **options)
        self.opened.append(queue)
        return queue

    def clear(self) -> None:
        self.close()
        for file in os.listdir(self._directory):
            os.unlink(os.path.join(self._directory, file))

    def close(self) -> None:
        while self.opened:
            self.opened.pop().shutdown()
        for file in self.files():
            _forget_notes(os.path.join(self._directory, file))
        for left in list(transit._left):
            transit._left[left] = 0.0
        closing.remove_unarrived_queues()

    def files(self) -> list[str]:
        return sorted(os.listdir(self._directory))

    def left(self, before: set[str], names: set[str]) -> list[str]:
        """Descriptors that were not open before, and files of other names: what is left of an interrupted action."""
        return sorted(_descriptors() - before) + [file for file in self.files() if file not in names]


def _forget_notes(path: str) -> None:
    """Let the time be over for which pickled queues are waited for."""
    with open(path, "r+b") as file:
        if os.fstat(file.fileno()).st_size > transit._START:
            os.pwrite(file.fileno(), bytes(transit._TABLE.size), transit._START)


def _descriptors() -> set[str]:
    """Numbers and what they are open for; none where the kernel does not tell."""
    found = set()
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # it listed the directory
    return found


def _require_nothing_left(stage: Stage, before: set[str], names: set[str], place: int) -> None:
    deadline = time.monotonic() + 5
    while left := stage.left(before, names):
        gc.collect()
        if time.monotonic() > deadline:  # until then a thread of its own may just close it
            pytest.fail(f"left of an action that was interrupted at its call {place}: {left}")
        time.sleep(0.001)


def _one(stage: Stage) -> str:
    name = stage.new_name()
    stage.open(name, buffer_size=10_000)
    return name


def _orphan(stage: Stage) -> str:
    name = stage.new_name()
    with ShmQueue(name, keep=True) as q:
        q.put(1)
    return name


def _in_transit(stage: Stage) -> str:
    for name in (stage.new_name(), stage.new_name()):
        with ShmQueue(name) as q:
            q._handle.travel()
    for left in list(transit._left):
        _forget_notes(left.path)
        transit._left[left] = 0.0
    return name


def _create_one_in_use(stage: Stage, name: str) -> None:
    with pytest.raises(shmqueue.ShmQueueExistsError):
        stage.open(name, create=True)


def _open_none(stage: Stage, name: str) -> None:
    with pytest.raises(shmqueue.ShmQueueNotFoundError):
        stage.open(create=False)


def _travel(stage: Stage, name: str) -> None:
    handle = Handle.arrive(stage.opened[0]._handle.travel())
    if handle.missing is not None:
        raise handle.missing
    handle.close()


def _grow(stage: Stage, name: str) -> None:
    with stage.open(buffer_size=8192, max_bytes=1 << 20) as q:
        q.put(bytes(50_000))
        q.get()


def _select(stage: Stage, name: str) -> None:
    q = stage.opened[0]
    q.fileno()
    q.put(1)
    q.get()
    q.put(1)
    q.get()


def _renounce(stage: Stage, name: str) -> None:
    segment = stage.opened[0]._handle.segment
    assert segment.renounce(roles.WRITER) in (True, False)
    segment.renounce(roles.READER)


def _reopen(stage: Stage, name: str) -> None:
    segment = stage.opened[0]._handle.segment
    segment.renounce(roles.WRITER)
    os.close(segment.fileno())
    segment.fileno()


def _sweep(stage: Stage, name: str) -> None:
    removal.sweep_orphans()
    removal.sweep_strays()
    removal.list_strays()


def _look_at_all(stage: Stage, name: str) -> None:
    q = stage.opened[0]
    q.statistics()
    dir(q)
    repr(q)


Prepare = Callable[[Stage], str]
Act = Callable[[Stage, str], object]

ACTIONS: dict[str, tuple[Prepare, Act]] = {
    "create": (Stage.new_name, lambda stage, name: stage.open(name)),
    "create what is in use": (_one, _create_one_in_use),
    "open none": (Stage.new_name, _open_none),
    "attach": (_one, lambda stage, name: stage.open(name)),
    "adopt": (_orphan, lambda stage, name: stage.open(name)),
    "close": (_one, lambda stage, name: stage.opened[0].shutdown()),
    "unlink": (_one, lambda stage, name: stage.opened[0].unlink()),
    "pickle": (_one, _travel),
    "remove what never arrived": (_in_transit, lambda stage, name: closing.remove_unarrived_queues()),
    "look at one": (_orphan, lambda stage, name: inspection.look_at(name)),
    "list": (_orphan, lambda stage, name: inspection.list_queues(all_users=True)),
    "remove one": (_orphan, lambda stage, name: inspection.remove_queue(name)),
    "remove orphans": (_one, lambda stage, name: inspection.remove_orphans()),
    "sweep": (_one, _sweep),
    "probe": (Stage.new_name, lambda stage, name: probe_directory()),
    "renounce": (_one, _renounce),
    "reopen": (_one, _reopen),
    "grow": (Stage.new_name, _grow),
    "select": (_one, _select),
    "look at all attributes": (_one, _look_at_all),
}

KEPT = {"adopt", "look at one", "list", "remove one"}
"""Whose queue is there without a holder."""

CREATING = ["create", "create what is in use", "probe"]

SLOW = {"look at all attributes", "remove what never arrived", "grow"}  # have the most calls, each an attempt


KEEPS_WHAT_RETURNS = sys.version_info >= (3, 11)
"""Before, a handler may run when a Python function has returned and its result, a descriptor, is not assigned yet."""


@pytest.fixture
def stage(segment_directory: str) -> Iterator[Stage]:
    stage = Stage(segment_directory)
    yield stage
    stage.clear()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that were being opened
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "action", [pytest.param(action, marks=pytest.mark.thorough if action in SLOW else ()) for action in ACTIONS]
)
def test_at_any_call(stage: Stage, action: str) -> None:
    _interrupt_at_any_call(stage, action)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("action", CREATING)
def test_at_any_call_without_nameless_files(stage: Stage, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    _interrupt_at_any_call(stage, action)


def _interrupt_at_any_call(stage: Stage, action: str) -> None:
    prepare, act = ACTIONS[action]
    with raised_by_a_handler(Anything):
        act(stage, prepare(stage))  # what is done once only, such as an import, is done
        for call in range(1, 5000):
            stage.clear()
            before = _descriptors()
            name = prepare(stage)
            if not at_call(call, lambda name=name: act(stage, name), Anything, _FILES):  # type: ignore[misc]
                break
            stage.close()
            names = {os.path.basename(path_of(name))} if action in KEPT else set()
            if KEEPS_WHAT_RETURNS:
                _require_nothing_left(stage, before, names, call)
        else:
            pytest.fail("the action never came to its end")
    assert call > 3


def _owner_of_two(sidecar: str) -> Callable[[], object]:
    owner = Owner(sidecar, "")
    owner._opened = dict.fromkeys([open_sidecar(sidecar), open_sidecar(sidecar)])
    return owner._close


def _spare(sidecar: str) -> Callable[[], object]:
    spare = _Spare(sidecar)

    def renew_and_close() -> None:
        spare.renew()
        if spare.file is not None:
            spare.file.close()

    return renew_and_close


def _doorbell(sidecar: str) -> Callable[[], object]:
    return Doorbell().close


@pytest.mark.parametrize("make", [_owner_of_two, _spare, _doorbell])
def test_what_closes_descriptors_can_be_repeated(stage: Stage, make: Callable[[str], Callable[[], object]]) -> None:
    """Finalizers and hooks of fork call it, too: what is raised there reaches no caller, so it is called here."""
    sidecar = sidecar_of(stage.open()._handle.segment)
    with raised_by_a_handler(RuntimeError):
        for call in range(1, 100):
            before = _descriptors()
            close = make(sidecar)
            if not at_call(call, close, RuntimeError, _FILES):
                break
            close()
            assert _descriptors() == before, f"left of what was interrupted at its call {call}"
    assert call > 3


@pytest.mark.parametrize("action", ["create", "attach", "unpickle"])
def test_a_handler_raises_as_a_segment_has_been_made(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Nobody has it then: it is finalized, and another thread opens a file, which may get its descriptor's number."""
    first = stage.open("one")
    sent = pickle.dumps(first)
    others: list[int] = []

    def make_and_lose(*arguments: Any, **options: Any) -> None:
        Segment(*arguments, **options)
        others.append(os.open(os.devnull, os.O_RDONLY))
        raise RuntimeError("the handler's")

    files = stage.files()
    before = _descriptors()
    monkeypatch.setattr(lifecycle, "Segment", make_and_lose)
    actions: dict[str, Callable[[], object]] = {
        "create": functools.partial(stage.open, "two"),
        "attach": functools.partial(stage.open, "one"),
        "unpickle": functools.partial(pickle.loads, sent),
    }
    with pytest.raises(RuntimeError, match=r"^the handler's$"):
        actions[action]()
    for other in others:
        os.close(other)
    assert others
    assert _descriptors() == before
    assert stage.files() == files


def test_a_spare_is_given_back(stage: Stage) -> None:
    """Where a process that runs as another user by now borrows its lock file, other threads can have it afterwards."""
    segment = stage.open()._handle.segment
    sidecar = sidecar_of(segment)
    hold: Any = object()
    with raised_by_a_handler(Anything):
        for call in range(1, 100):
            owner, spare = Owner(sidecar, ""), _Spare(sidecar)
            assert spare.claim.acquire(False)
            owner._spare, owner._file = spare, spare.file
            owner._borrowing.add(hold)
            try:
                interrupted = at_call(call, functools.partial(owner._give_back, hold), Anything, _FILES)
            finally:
                if owner._borrowing:  # then ``release`` calls it again
                    owner._give_back(hold)
            assert not spare.claim._is_owned()  # type: ignore[attr-defined]
            assert owner._spare is None
            if not interrupted:
                break
    assert call > 3
