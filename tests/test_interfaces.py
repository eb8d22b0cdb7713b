"""The adapters have the names and signatures of the running interpreter's modules; what differs is listed.

Each list is exact: a name that a new Python adds to its queues fails here until the adapter has it or a reason is
given, and so does a reason that no longer holds.
"""

from __future__ import annotations

import asyncio
import asyncio.queues
import inspect
import multiprocessing
import multiprocessing.queues
import queue
from typing import Any, NamedTuple

import pytest

from shmqueue.compat import _queues
from shmqueue.compat import asyncio as our_asyncio
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

FIXED_ORDER = "items come in the order of their puts: a subclass that defines it is refused"
INSIDE = "a part of the standard implementation, which has no counterpart in shared memory"
THREADS_ONLY = "it guards the standard queue's own list between threads"
ITS_IMPORT = "a module that the standard module happens to import"

LATER = "the standard class has it on its objects, or in a later Python"
CLOSING = "a handle can be closed before it is collected"
SEVERAL = "several items in one call"
LEASING = "an item goes to another process if its holder dies"
POLLING = "for select() and event loops"
OTHER_SIDE = "the same queue, for threads"

FIGURES = "how much there is, and how much has gone through"

BESIDE = {
    "closed": CLOSING,
    "fileno": POLLING,
    **dict.fromkeys(("capacity_bytes", "initial_bytes", "used_bytes", "statistics"), FIGURES),
}
MANY_AND_LEASE = {"get_many": SEVERAL, "put_many": SEVERAL, "lease": LEASING}
HOOKS = dict.fromkeys(("_init", "_get", "_put", "_qsize"), FIXED_ORDER)
LOOPS = dict.fromkeys(("_format", "_get_loop", "_loop", "_wakeup_next"), INSIDE)


class Pair(NamedTuple):
    """A standard class and its adapter, and the names in which they differ, with the reasons."""

    standard: Any
    ours: Any
    missing: dict[str, str]
    more: dict[str, str]


CLASSES = {
    "queue.Queue": Pair(
        queue.Queue,
        our_queue.Queue,
        HOOKS,
        {
            **MANY_AND_LEASE,
            "shutdown": LATER,
            "is_shutdown": LATER,
            "close": CLOSING,
            **BESIDE,
            "maxsize": LATER,
            "unfinished_tasks": LATER,
        },
    ),
    "queue.SimpleQueue": Pair(queue.SimpleQueue, our_queue.SimpleQueue, {}, {"close": CLOSING, **BESIDE}),
    "multiprocessing.Queue": Pair(multiprocessing.queues.Queue, _queues.Queue, {}, {**MANY_AND_LEASE, **BESIDE}),
    "multiprocessing.JoinableQueue": Pair(
        multiprocessing.queues.JoinableQueue, _queues.JoinableQueue, {}, {**MANY_AND_LEASE, **BESIDE}
    ),
    "multiprocessing.SimpleQueue": Pair(
        multiprocessing.queues.SimpleQueue, _queues.SimpleQueue, {}, {"close": LATER, **BESIDE}
    ),
    "asyncio.Queue": Pair(
        asyncio.Queue,
        our_asyncio.Queue,
        {**HOOKS, **LOOPS},
        {
            **MANY_AND_LEASE,
            "shutdown": LATER,
            "close": CLOSING,
            **BESIDE,
            "lease_nowait": LEASING,
            "sync_queue": OTHER_SIDE,
        },
    ),
}

FUNCTIONS = {
    f"{method or 'default'}.{name}": (
        getattr(multiprocessing.get_context(method), name),
        getattr(our_multiprocessing.get_context(method), name),
    )
    for method in (None, *multiprocessing.get_all_start_methods())
    for name in dir(multiprocessing.get_context(method))
    if not name.startswith("_") and callable(getattr(multiprocessing.get_context(method), name))
}

pair = pytest.mark.parametrize("pair", CLASSES.values(), ids=CLASSES)


def public(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def parameters_of(function: Any) -> list[inspect.Parameter] | None:
    """Those that a caller gives: not ``self``. None: the function does not tell."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    # asyncio's queues of Python 3.10 have a parameter "loop", only to say that it is not to be given.
    return [parameter for parameter in parameters if parameter.name not in {"self", "loop"}]


def refused(standard: Any, ours: Any) -> list[str]:
    """What a call of the standard function may look like and one of ours may not."""
    theirs, own = parameters_of(standard), parameters_of(ours)
    assert own is not None, f"{ours} does not tell its parameters"
    if theirs is None or [p.kind for p in theirs] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]:
        return []
    found = [
        f"{p.name} is required" for p in own[len(theirs) :] if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    by_name = {parameter.name: (place, parameter) for place, parameter in enumerate(own)}
    for place, wanted in enumerate(theirs):
        there, parameter = by_name.get(wanted.name, (-1, wanted))
        if there < 0:
            found.append(f"{wanted.name} is missing")
        elif wanted.kind is wanted.POSITIONAL_OR_KEYWORD and (there, parameter.kind) != (place, wanted.kind):
            found.append(f"{wanted.name} cannot be given by place and by name")
        elif wanted.kind is wanted.POSITIONAL_ONLY and (there != place or parameter.kind is parameter.KEYWORD_ONLY):
            found.append(f"{wanted.name} cannot be given by place")
        elif wanted.default is not wanted.empty and parameter.default != wanted.default:
            found.append(f"{wanted.name} is {parameter.default!r}, not {wanted.default!r}")
    return found


@pair
def test_a_class_has_the_names_of_the_standard_one(pair: Pair) -> None:
    missing = set(dir(pair.standard)) - set(dir(pair.ours))
    assert missing == pair.missing.keys() & set(dir(pair.standard))


@pair
def test_what_a_class_has_beside_them_is_listed(pair: Pair) -> None:
    more = public(dir(pair.ours)) - set(dir(pair.standard))
    assert more == pair.more.keys() - set(dir(pair.standard))


@pair
def test_a_class_takes_the_arguments_of_the_standard_one(pair: Pair) -> None:
    names = (public(dir(pair.standard)) & public(dir(pair.ours))) | {"__init__"}
    compared = {
        name: refused(getattr(pair.standard, name), getattr(pair.ours, name))
        for name in names
        if callable(getattr(pair.standard, name))
    }
    assert {"get", "put", "__init__"} & compared.keys()
    assert {name: what for name, what in compared.items() if what} == {}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_context_has_the_methods_and_arguments_of_the_standard_one(function: str) -> None:
    standard, ours = FUNCTIONS[function]
    assert (standard is ours) if isinstance(standard, type) else (refused(standard, ours) == [])


def test_objects_have_the_attributes_of_the_standard_ones(engine: str) -> None:
    for standard, ours, missing in (
        (
            queue.Queue(),
            our_queue.Queue(),
            {
                "queue": INSIDE,
                **dict.fromkeys(("mutex", "not_empty", "not_full", "all_tasks_done"), THREADS_ONLY),
            },
        ),
        (queue.SimpleQueue(), our_queue.SimpleQueue(), {}),
        (multiprocessing.Queue(), our_multiprocessing.Queue(), {}),
        (multiprocessing.JoinableQueue(), our_multiprocessing.JoinableQueue(), {}),
        (multiprocessing.SimpleQueue(), our_multiprocessing.SimpleQueue(), {}),
        (asyncio.Queue(), our_asyncio.Queue(), {}),
    ):
        wanted = {name for name in public(dir(standard)) if hasattr(standard, name)}
        has = {name for name in public(dir(ours)) if hasattr(ours, name)}
        ours.close()
        if hasattr(standard, "_reader"):
            standard.close()  # type: ignore[union-attr]
        assert wanted - has == missing.keys(), type(standard)


@pytest.mark.parametrize(
    ("standard", "ours", "missing"),
    [
        (
            queue,
            our_queue,
            {
                **dict.fromkeys(("LifoQueue", "PriorityQueue"), FIXED_ORDER),
                **dict.fromkeys(("deque", "heappop", "heappush", "threading", "time", "types"), ITS_IMPORT),
            },
        ),
        (multiprocessing, our_multiprocessing, {}),
    ],
    ids=["queue", "multiprocessing"],
)  # fmt: skip
def test_a_module_has_the_names_of_the_standard_one(standard: Any, ours: Any, missing: dict[str, str]) -> None:
    names = public(dir(standard))
    assert names - set(dir(ours)) == missing.keys() & names
    assert {*standard.__all__} - {*ours.__all__} == missing.keys() & {*standard.__all__}


def test_the_asyncio_module_has_the_names_of_the_standard_one() -> None:
    names = {*asyncio.queues.__all__}
    assert names - {*our_asyncio.__all__} == {"LifoQueue", "PriorityQueue"}, FIXED_ORDER
    assert names - set(dir(our_asyncio)) == {"LifoQueue", "PriorityQueue"}
