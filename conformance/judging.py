"""Judging what came of a call by the model, and noting it in the example's program and history."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .clauses import Broken
from .model import Item, Model, Waiting
from .profiles import Profile
from .timeline import Bar, marked
from .values import is_alike, is_same
from .workers import Hung, Method, Reply, Team

__all__ = ["Judging", "shown"]


class Judging:
    """A queue, its workers and the model, without the steps.

    Args:
        team: workers whose slot ``slot`` is a queue that nobody has used.
        profile: what is expected.
        maxsize: what the queue was made with.
        ignored: clauses that are known to be broken; the example is over where one shows.
        decided: counts how often each clause was put to the test.
    """

    def __init__(
        self, team: Team, slot: int, profile: Profile, maxsize: int, ignored: set[str], decided: Counter[str]
    ) -> None:
        self._team, self._slot, self._profile = team, slot, profile
        self._ignored, self._decided = ignored, decided
        self.model = Model(maxsize)
        self.waiting: list[Waiting] = []
        self.program: list[str] = []
        self.history: list[Bar] = []
        self._put_at: list[int] = []  # the place in the history of each put, by the item's number
        self.is_over = False
        self.is_dirty = False
        self.replaced = 0

    def check(self, key: str, holds: bool, what: str, about: Iterable[int] = ()) -> None:
        """Say that a clause was put to the test, and how that ended.

        ``about``: the places in the history of the operations that it is about, beside the last one.
        """
        if self.is_over or key not in self._profile.clauses:
            return
        self._decided[key] += 1
        if holds:
            return
        self.is_over = self.is_dirty = True
        if key not in self._ignored:
            raise Broken(key, what, self.program, marked(self.history, {len(self.history) - 1, *about}))

    def _note(self, worker: int, call: str, outcome: object) -> None:
        self.program.append(f"{len(self.program) + 1}. worker {worker}: {call} -> {outcome}")

    def _draw(self, worker: int, call: str, began: int, outcome: object = None) -> None:
        """Add an operation to the history: one that has not ended if there is no outcome."""
        ended = None if outcome is None else time.monotonic_ns()
        self.history.append(Bar(worker, call if outcome is None else f"{call} -> {outcome}", began, ended))

    def _count_put(self, value: Any, worker: int, bar: int) -> None:
        self.model.put(value, worker)
        self._put_at.append(bar)

    def _call(self, worker: int, method: Method, *arguments: Any, hang: str = "prompt", **options: Any) -> Reply:
        """Make a call that returns soon; ``hang`` is the clause that is broken if it does not."""
        listed = ", ".join([*map(shown, arguments), *(f"{name}={value!r}" for name, value in options.items())])
        call = f"{method if isinstance(method, str) else method.__name__}({listed})"
        began = time.monotonic_ns()
        try:
            reply = self._team.workers[worker].call(self._slot, method, *arguments, **options)
        except Hung:
            self._note(worker, call, "does not return")
            self._draw(worker, call, began)
            puts = self._next_puts() if call.startswith("get") else []
            self.check(hang, False, f"{call} does not return", puts)
            self.is_over = self.is_dirty = True
            return Reply(None, ("Hung",), "", 0.0)
        self._note(worker, call, reply)
        self._draw(worker, call, began, reply)
        return reply

    # ---- which item was taken ----

    def _got(self, reply: Reply) -> None:
        """Judge what a get returned while items were there."""
        if self._fits(reply, reply.value) is not None:
            for key in ("same", "fifo", "once", "kept"):
                self.check(key, True, "")

    def _fits(self, reply: Reply, value: Any) -> Item | None:
        """Which item it is that was taken, out of the model; judged if it is none that can come next."""
        model, firsts = self.model, self._possible_next()
        if reply.errors:
            key = self._key_of_next("kept") if "Empty" in reply.errors else "prompt"
            self.check(key, False, f"a get with {len(model.items)} items queued: {reply}", self._next_puts())
            self.is_over = self.is_dirty = True
            return None
        for item in firsts:
            if is_same(value, item.value):
                model.items.remove(item)
                if item.back:
                    self.check(item.back, True, "")
                return item
        expected = " or ".join(shown(item.value) for item in firsts)
        known = [*firsts, *model.items, *(lease.item for lease in model.leases), *model.acknowledged]
        puts = [self._put_at[item.number] for item in known if item in firsts or is_same(value, item.value)]
        self.check(self._fault_of(value, firsts), False, f"got {shown(value)} instead of {expected}", puts)
        self.is_over = self.is_dirty = True
        return None

    def _fault_of(self, value: Any, firsts: list[Item]) -> str:
        """The clause that is broken by what was taken instead of one of those that can come next."""
        model = self.model
        if any(is_same(value, item.value) for item in model.items):
            return self._key_of_next("fifo")
        if any(is_same(value, lease.item.value) for lease in model.leases):
            return "lease-alone"
        for item in model.acknowledged:
            if is_same(value, item.value):
                return item.back
        return "same" if any(is_alike(value, item.value) for item in firsts) else "once"

    def _key_of_next(self, otherwise: str) -> str:
        """The clause by which one of those that can come next is in the queue again."""
        return next((item.back for item in self._possible_next() if item.back), otherwise)

    def _possible_next(self) -> list[Item]:
        """The items that may come next: the oldest, or the oldest of each worker where these may be reordered."""
        if self._profile.returns_anywhere:
            new = [item for item in self.model.items if not item.back]
            return [*new[:1], *(item for item in self.model.items if item.back)]
        if not self._profile.reordering:
            return self.model.items[:1]
        firsts: dict[int, Item] = {}
        for item in self.model.items:
            firsts.setdefault(item.producer, item)
        return list(firsts.values())

    def _next_puts(self) -> list[int]:
        """The places in the history of the puts of those."""
        return [self._put_at[item.number] for item in self._possible_next()]


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
