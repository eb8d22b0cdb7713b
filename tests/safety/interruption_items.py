"""Items and arguments with a mind of their own: they raise, kill, use the queue that they go through, or change."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable
from typing import Any

import shmqueue

from .garbage import Garbage
from .interruption_calls import Target, new_name
from .interruption_process import STUCK, Neighbour
from .outcome import Outcome

_FORK = multiprocessing.get_context("fork")
_queue: Any = None  # which items use while they are pickled or unpickled


class Refuses:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ArithmeticError("this item refuses")


class Kills:
    """Kills the process that pickles it, or the one that unpickles it."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "pickled":
            os.kill(os.getpid(), signal.SIGKILL)
        return os.kill, (_OwnPid(), signal.SIGKILL)


class _OwnPid:
    def __reduce__(self) -> Any:
        return os.getpid, ()


class Uses:
    """Uses the queue while it is pickled and while it is unpickled."""

    def __reduce__(self) -> Any:
        _queue.put(["while pickling"])
        _queue.put(("while", "pickling"))
        return _use, ()


def _use() -> str:
    _queue.put({"while": {"unpickling"}})
    return f"unpickled, and got {_queue.get()!r}"


class Text(str):
    """A str that is not to be taken for one."""

    def encode(self, *arguments: Any) -> bytes:
        raise ArithmeticError("nobody may ask")


class Resizes:
    """Makes a bytearray, which is being put beside it, larger."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        self.data.extend(b"more" * 5000)
        return str, ("resized",)


def check_items(target: Target, outcome: Outcome) -> None:
    """All of them on one class."""
    global _queue
    name = new_name()
    _queue = queue = target.make(name)
    with Neighbour(name) as neighbour:
        for check in _CHECKS:
            check(target, queue, neighbour, outcome)
            outcome.count("hostile items and arguments")
            left = neighbour.exchange([])
            if left:
                outcome.fault(f"{check.__name__}: left in the queue: {left!r:.100}")
    target.close(queue)


def _refusal(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    puts: list[Callable[[], object]] = [lambda: queue.put(Refuses()), lambda: queue.put([1, [Refuses()]])]
    if target.has_many:
        puts.append(lambda: queue.put_many([1, [2], Refuses(), 3]))
    for put in puts:
        neighbour.exchange(["before"])
        try:
            put()
            outcome.fault("an item whose __reduce__ raises was put")
        except (ArithmeticError, shmqueue.ShmQueueSerializationError):
            pass
        queue.put([4])
        if (found := neighbour.exchange([])) != ["before", [4]]:
            outcome.fault(f"after an item whose __reduce__ raises another process finds {found!r:.100}")


def _killing(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    for when, call, expected in (
        ("pickled", lambda: queue.put(Kills("pickled")), ["first", "last"]),
        ("unpickled", queue.get, ["last"]),
    ):
        neighbour.exchange([])
        if when == "unpickled":
            queue.put(Kills("unpickled"))
        else:
            queue.put("first")
        queue.put("last")
        child = _FORK.Process(target=call)
        child.start()
        child.join(STUCK)
        if child.exitcode != -signal.SIGKILL:
            outcome.fault(f"a child that an item kills when {when} ended with {child.exitcode}")
            child.kill()
            child.join()
        if (found := neighbour.exchange([])) != expected:
            outcome.fault(f"after an item that kills when {when} another process finds {found!r:.100}")


def _use_of_the_queue(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    neighbour.exchange([])
    queue.put(Uses())
    got = [queue.get() for _ in range(3)]
    expected = [["while pickling"], ("while", "pickling"), f"unpickled, and got { {'while': {'unpickling'}}!r}"]
    if got != expected:
        outcome.fault(f"an item that uses the queue arrives as {got!r:.200}")


def _finalizers(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    """They use the queue while a call on it allocates; free lists are emptied first, so that it really does.

    Each item must come out once: through the call, to the finalizer, or to the neighbour afterwards.
    """
    before = gc.get_threshold()
    for number in range(_ROUNDS):
        items = [kind((n,)) for n in range(12) for kind in (list, tuple, set)]
        neighbour.exchange(items)
        got: list[Any] = []
        calls: list[tuple[Callable[[], Any], list[Any]]] = [
            (lambda: [queue.get()], []),
            (lambda: queue.put(("put",)), [("put",)]),
        ]
        if target.has_many:
            calls += [(lambda: queue.get_many(40), []), (lambda: queue.put_many(_many()), _many())]
        if hasattr(queue, "get_view"):
            calls.append((lambda: _look(queue), []))
        call, put = calls[number % len(calls)]
        gc.disable()
        gc.collect()
        _make_garbage(queue, got, by_callback=number // len(calls) % 2 == 1)
        gc.set_threshold(1)
        gc.enable()
        taken: Any = None
        try:
            taken = call()
        except Exception as error:
            outcome.fault(f"a call during which a finalizer uses the queue raised {error!r:.200}")
        finally:
            gc.set_threshold(*before)
        gc.collect()
        if len(got) != 2 or got[1] != "put":
            outcome.fault(f"a finalizer that used the queue during a call came to {got!r:.200}")
        came = [*(taken or []), *got[:1], *neighbour.exchange([])]
        wanted = [*items, *put, ["by a finalizer"]]
        if sorted(map(repr, came)) != sorted(map(repr, wanted)):
            outcome.fault(f"a finalizer used the queue during a call, then {came!r:.300} came out of it")


def _many() -> list[Any]:
    return [["many", n] for n in range(10)]


def _make_garbage(queue: Any, got: list[Any], by_callback: bool) -> None:
    def use(*_: object) -> None:
        try:
            got.append(queue.get())
            queue.put(["by a finalizer"])
            got.append("put")
        except BaseException as error:
            got.append(error)

    if by_callback:
        garbage = Garbage(lambda: None)
        _references.append(weakref.ref(garbage, use))
    else:
        Garbage(use)


def _look(queue: Any) -> None:
    try:
        with queue.get_view():
            pass
    except shmqueue.ShmQueueError:
        pass  # the item is not bytes, or the engine is the portable one


def _wrong_serializers(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    if not isinstance(queue, shmqueue.ShmQueue):
        return
    neighbour.exchange(["before"])
    for wrong in ("a str", None, 5, [b"x"], object()):
        queue.custom_serialize(lambda method, item, wrong=wrong: wrong)  # type: ignore[misc]
        try:
            queue.put(1, serialization_method=1001)
            outcome.fault(f"what custom_serialize returned, {wrong!r:.40}, was put")
        except shmqueue.ShmQueueSerializationError:
            pass
    if (found := neighbour.exchange([])) != ["before"]:
        outcome.fault(f"after a wrong custom_serialize another process finds {found!r:.100}")


def _subclasses(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    neighbour.exchange([])
    queue.put(Text("text"))
    item = queue.get()
    if type(item) is not Text or item != "text":
        outcome.fault(f"a subclass of str arrives as {item!r:.80}")


def _changing_buffers(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    if not target.has_many:
        return
    neighbour.exchange([])
    data = bytearray(b"some" * 2000)
    try:
        queue.put_many([data, Resizes(data), 3])
    except (BufferError, shmqueue.ShmQueueSerializationError):
        outcome.count("buffers that could not change size while they were put")
        return
    found = neighbour.exchange([])
    if len(found) != 3 or bytes(found[0]) not in (b"some" * 2000, b"some" * 2000 + b"more" * 5000):
        outcome.fault(f"a buffer that changed its size while it was put arrives as {found!r:.100}")


def _huge(target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
    if not isinstance(queue, shmqueue.ShmQueue):
        return
    neighbour.exchange(["before"])
    put: Callable[[], object]
    for put in (
        lambda: queue.put(b"x" * (1 << 21)),
        lambda: queue.put(["x" * (1 << 21)]),
        lambda: queue.put_many([1, b"x" * (1 << 21), 2]),
    ):
        try:
            put()
            outcome.fault("an item larger than the queue was put")
        except shmqueue.ShmQueueValueError:
            pass
    if (found := neighbour.exchange([])) != ["before"]:
        outcome.fault(f"after items that can never fit another process finds {found!r:.100}")


_ROUNDS = 20
_references: list[weakref.ref[Any]] = []
_CHECKS = (
    _refusal,
    _use_of_the_queue,
    _finalizers,
    _wrong_serializers,
    _subclasses,
    _changing_buffers,
    _huge,
    _killing,
)
