"""Profiles: which clauses a kind of queue promises, and in which form.

A profile describes the standard library's own queue of that name, relaxations included; "broker" is what a queue at a
message broker can have. ``multiprocessing.Queue`` needs
two, because every process writes through a buffer and a feeder thread of its own: items of *different* processes may
overtake each other, and a get that may not wait, or ``empty()``, may find nothing although a put has returned.

Leases are no part of the standard contract. A queue that has ``lease`` is held to the clauses about it, whatever its
profile; see ``Profile.with_leases``. So is one that has ``put_view`` and ``get_view`` to the clauses about these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .clauses import CLAUSES

__all__ = ["LEASING", "PROFILES", "VIEWING", "Profile"]

Make = Callable[[Callable[..., Any], int, "str | None"], Any]

_ALWAYS = {
    "same", "fifo", "once", "kept", "prompt", "copy", "unbounded", "get-waits", "get-woken", "empty", "argument",
    "inherited", "exit", "ended", "killed-idle", "killed-waiting", "killed-busy", "unpicklable-told",
    "unpicklable-harmless", "large", "linear",
}  # fmt: skip
_WAITING = {
    "empty-raises", "full-raises", "get-timeout", "put-timeout", "get-negative", "put-negative", "no-block", "keywords",
    "qsize", "full", "put-waits", "put-woken",
}  # fmt: skip
_OF_MAXSIZE = {"full-raises", "put-timeout", "full", "put-waits", "put-woken"}
_JOINING = {"unfinished", "join"}
_SHUTTING = {"shut-put", "shut-get", "shut-now"}
_CLOSING = {"close", "close-twice"}

LEASING = frozenset(
    {
        "lease-as-get", "lease-acked", "lease-requeued", "lease-killed", "lease-alone", "lease-attempt", "lease-ends",
        "lease-block", "lease-join", "lease-qsize", "lease-linear",
    }
)  # fmt: skip
"""The clauses of a queue with leases."""

VIEWING = frozenset({"view-put", "view-dropped", "view-get"})
"""The clauses of a queue whose items can be written and read in place."""

_BROKER_LEASING = frozenset(
    {
        "lease-as-get",
        "lease-acked",
        "lease-alone",
        "lease-ends",
        "lease-block",
        "lease-qsize",
        "lease-again",
        "lease-linear",
    }
)
"""Those of a broker, which neither counts attempts nor says where in the queue an item is that comes again."""


def _make_bounded(factory: Callable[..., Any], maxsize: int, name: str | None) -> Any:
    return factory(maxsize) if name is None else factory(maxsize, name=name)


def _make_simple(factory: Callable[..., Any], maxsize: int, name: str | None) -> Any:
    return factory() if name is None else factory(name=name)


def _make_by_name(factory: Callable[..., Any], maxsize: int, name: str | None) -> Any:
    return factory(name)


def _make_named(factory: Callable[..., Any], maxsize: int, name: str | None) -> Any:
    return factory(name, maxsize=maxsize, max_bytes=0)


@dataclass(frozen=True)
class Profile:
    """What is expected of a queue class.

    ``item`` is the name of put's first argument. ``methods`` says what it has beside put and get: "empty", "qsize",
    "full", "join" (and task_done), "shutdown", "lease", and "timeout" if put and get take one. ``negative`` says what a
    negative timeout does: it "raises" ValueError, which a put without maxsize does not look at, "always raises" it, or
    is "no wait". ``closed`` is the error that put and get raise after ``close_method``, None if it cannot be closed.
    With ``is_pipe`` some 64 KiB are enough to make a put wait. ``reordering`` and ``early_empty`` are the relaxations
    described above. ``leasing`` are the clauses about leases, if it has any. With ``returns_anywhere`` an item that is
    requeued, or that a killed process had leased, may come again at any place in the queue; ``noticed`` is after how
    many seconds it does so after a death at the latest. Without ``has_views`` nothing is promised about views, though
    there may be methods of that name. ``many`` is how many items have to be put and got within a minute each. With
    ``bytes_for_bytearray`` a bytearray arrives as bytes, which it says itself. ``make`` calls the factory;
    ``needs_name`` says that it cannot do without a name.
    """

    name: str
    clauses: frozenset[str]
    item: str
    methods: frozenset[str]
    negative: str = "raises"
    closed: str | None = None
    close_method: str = "close"
    is_pipe: bool = False
    bytes_for_bytearray: bool = False
    reordering: bool = False
    early_empty: bool = False
    leasing: frozenset[str] = LEASING
    returns_anywhere: bool = False
    noticed: float = 0.3
    has_views: bool = True
    many: int = 20_000
    make: Make = field(default=_make_bounded, compare=False)
    needs_name: bool = False

    def __post_init__(self) -> None:
        unknown = self.clauses - CLAUSES.keys()
        assert not unknown, f"no such clauses: {unknown}"

    def has(self, method: str) -> bool:
        """Whether it has a method, or what ``methods`` calls so."""
        return method in self.methods

    @property
    def has_leases(self) -> bool:
        """Whether it has ``lease``."""
        return self.has("lease")

    def with_leases(self) -> Profile:
        """The profile of a queue that has ``lease(block, timeout)`` besides.

        What that returns has ``item`` and ``attempt``, ``ack()`` and ``requeue()`` that return whether they ended the
        lease, and is a context manager. The timeout means what it means to ``get``.
        """
        lacking = {
            clause for method, clause in (("join", "lease-join"), ("qsize", "lease-qsize")) if not self.has(method)
        }
        return replace(self, clauses=self.clauses | self.leasing - lacking, methods=self.methods | {"lease"})

    def with_views(self) -> Profile:
        """The profile of a queue that has ``put_view(length, block, timeout)``, ``get_view(block, timeout)`` besides.

        Both return context managers, whose blocks have a buffer of the item's bytes.
        """
        if not self.has_views:
            return self
        return replace(self, clauses=self.clauses | VIEWING, methods=self.methods | {"put_view", "get_view"})

    def without(self, clauses: Iterable[str], methods: Iterable[str] = ()) -> Profile:
        """The profile less some clauses and methods."""
        return replace(self, clauses=self.clauses - set(clauses), methods=self.methods - set(methods))


def _profile(name: str, clauses: set[str], item: str, **more: Any) -> Profile:
    methods = {"empty"}
    if clauses >= _WAITING - _OF_MAXSIZE:
        methods |= {"timeout", "qsize"}
    if clauses >= _OF_MAXSIZE:
        methods |= {"full"}
    if clauses >= _JOINING:
        methods |= {"join"}
    if clauses >= _SHUTTING:
        methods |= {"shutdown"}
    return Profile(name, frozenset(clauses), item, frozenset(methods), **more)


_MULTIPROCESSING = {"item": "obj", "negative": "no wait", "reordering": True, "early_empty": True}

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _profile("queue.Queue", _ALWAYS | _WAITING | _JOINING | _SHUTTING | {"pickled", "named"}, "item"),
        _profile(
            "asyncio.Queue",
            _ALWAYS | _WAITING | _JOINING | _SHUTTING | {"pickled", "named"},
            "item",
            negative="no wait",
        ),
        _profile(
            "multiprocessing.Queue",
            _ALWAYS | _WAITING | _CLOSING | {"join-thread"},
            closed="ValueError",
            **_MULTIPROCESSING,  # type: ignore[arg-type]
        ),
        _profile(
            "multiprocessing.JoinableQueue",
            _ALWAYS | _WAITING | _CLOSING | _JOINING | {"join-thread"},
            closed="ValueError",
            **_MULTIPROCESSING,  # type: ignore[arg-type]
        ),
        _profile(
            "multiprocessing.SimpleQueue",
            (_ALWAYS | _CLOSING) - {"unbounded"},  # a pipe holds 64 KiB
            "obj",
            closed="OSError",
            is_pipe=True,
            make=_make_simple,
        ),
        _profile(
            "ShmQueue",
            _ALWAYS | _WAITING | _JOINING | _CLOSING | {"pickled", "named", "too-large"},
            "data",
            negative="always raises",
            bytes_for_bytearray=True,
            closed="RuntimeError",
            close_method="shutdown",
            make=_make_named,
            needs_name=True,
        ),
        _profile(
            "broker",
            (_ALWAYS | _WAITING | _CLOSING | {"pickled", "named"}) - _OF_MAXSIZE,
            "data",
            negative="always raises",
            bytes_for_bytearray=True,
            closed="RuntimeError",
            leasing=_BROKER_LEASING,
            returns_anywhere=True,
            noticed=20.0,
            has_views=False,
            many=2_000,
            make=_make_by_name,
            needs_name=True,
        ),
    )
}
"""The profiles by name."""
