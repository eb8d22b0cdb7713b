"""One example: a queue that several workers use, step by step, beside a model of what it should hold.

Each step picks a worker and an operation, says what must come of it by the model, and looks at what did. An operation
that has to wait is started in one step and stays under way: whenever a later step makes its end possible it must end,
and until then it must not.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from .clauses import Broken
from .profiles import Profile
from .timeline import Bar, marked
from .values import is_alike, is_same
from .workers import PATIENCE, Hung, Method, Reply, Team

__all__ = ["FORMS", "NOTICED", "SHORT", "Item", "Lease", "Trial", "Waiting"]

SHORT = 0.04
"""Seconds: the timeout of operations that are expected to run into it."""

NOTICED = 0.3
"""Seconds after which a get has to notice that the holder of an older item is dead."""


class Item(NamedTuple):
    """An item, which worker has put it, and its number in the order of the puts.

    ``attempts``: how often it was leased. ``back``: the clause by which it is in the queue again; "" for a new one.
    """

    value: Any
    producer: int
    number: int
    attempts: int = 0
    back: str = ""


class Lease(NamedTuple):
    """An item that a worker has leased, and the lease's number there."""

    item: Item
    worker: int
    number: int


@dataclass
class Model:
    """What the queue should hold."""

    maxsize: int
    items: list[Item] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    acknowledged: list[Item] = field(default_factory=list)
    puts: int = 0
    unfinished: int = 0
    shut: bool = False
    shut_now: bool = False

    @property
    def has_room(self) -> bool:
        return self.maxsize == 0 or len(self.items) < self.maxsize

    def put(self, value: Any, producer: int) -> None:
        self.items.append(Item(value, producer, self.puts))
        self.puts += 1
        self.unfinished += 1

    def give_back(self, item: Item, back: str) -> None:
        self.items.append(item._replace(attempts=item.attempts + 1, back=back))
        self.items.sort(key=attrgetter("number"))


class Waiting(NamedTuple):
    """An operation under way that has to wait; ``bar``: its place in the trial's history."""

    worker: int
    number: int
    kind: str
    value: Any
    bar: int


class Trial:
    """A queue, its workers and the model.

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

    @property
    def is_left_clean(self) -> bool:
        """Whether its workers can be used for another queue.

        Operations left waiting hurt nobody. But a process does not end before its feeder threads have written all that
        it put, and nobody reads that any more.
        """
        return not self.is_dirty and not (self._profile.reordering and self.model.items)

    @property
    def is_clogged(self) -> bool:
        """Whether a feeder thread may be waiting until somebody reads what is in the pipe."""
        return self._profile.reordering and sum(len(pickle.dumps(item.value)) for item in self.model.items) > 32768

    # ---- judging ----

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
        shown = ", ".join([*map(_short, arguments), *(f"{name}={value!r}" for name, value in options.items())])
        call = f"{method if isinstance(method, str) else method.__name__}({shown})"
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

    # ---- put and get ----

    def put(self, worker: int, value: Any, form: str) -> None:
        """Put an item; one that would have to wait is started. ``form``: plain, nowait, no block, timeout, negative."""
        must_wait = not self.model.has_room and not self.model.shut
        if self._profile.bytes_for_bytearray and isinstance(value, bytearray):
            value = bytes(value)
        if self._profile.is_pipe and (len(self.model.items) >= 8 or len(pickle.dumps(value)) > 4096):
            return  # it may have to wait there, or not
        if self._profile.reordering and self._is_queued_by_another(worker, value):
            return  # when it comes out, its producer would be unknown
        if form == "plain" and must_wait:
            self.start_put(worker, value)
            return
        reply = self._put(worker, value, form, _PUT_KEYS.get(form, "prompt") if must_wait else "prompt")
        if self.is_over:
            return
        if form == "keywords":
            self.check("keywords", "TypeError" not in reply.errors, f"a put with keywords: {reply}")
        refused = form == "negative" and (
            self._profile.negative == "always raises" or (self._profile.negative == "raises" and self.model.maxsize > 0)
        )
        if self.model.shut:
            self.check("shut-put", "ShutDown" in reply.errors, f"a put after shutdown: {reply}")
        elif refused:
            self.check("put-negative", "ValueError" in reply.errors, f"a put with timeout=-1: {reply}")
        elif must_wait:
            key = _PUT_KEYS.get(form, "full-raises")
            self.check(key, "Full" in reply.errors, f"a put ({form}) on a full queue: {reply}")
            self.check(
                "put-timeout", form != "timeout" or reply.seconds >= SHORT * 0.99, f"Full after {reply.seconds} s"
            )
        else:
            self.check("prompt", not reply.errors, f"a put with room for it: {reply}")
            self._count_put(value, worker, len(self.history) - 1)
        self.settle()

    def _put(self, worker: int, value: Any, form: str, hang: str) -> Reply:
        if form == "nowait" and self._profile.has("timeout"):
            return self._call(worker, "put_nowait", value, hang=hang)
        if not self._profile.has("timeout"):
            return self._call(worker, "put", value, hang=hang)
        if form == "keywords":
            return self._call(worker, "put", hang=hang, **{self._profile.item: value, "block": True, "timeout": SHORT})
        return self._call(worker, "put", value, hang=hang, **FORMS[form])

    def _is_queued_by_another(self, worker: int, value: Any) -> bool:
        items = [*self.model.items, *(lease.item for lease in self.model.leases)]
        others = [(item.value, item.producer) for item in items]
        others += [(waiting.value, waiting.worker) for waiting in self._of("put")]
        return any(producer != worker and is_same(value, other) for other, producer in others)

    def get(self, worker: int, form: str) -> None:
        """Take an item; a get that would have to wait is started. Forms as those of ``put``."""
        nothing = not self.model.items
        if form in ("plain", "keywords") and nothing and not self.model.shut:
            self.start_get(worker)
            return
        hang = _GET_KEYS.get(form, "prompt") if nothing else self._key_of_next("kept")
        if not self._profile.has("timeout"):
            reply = self._call(worker, "get", hang=hang)
        elif form == "nowait":
            reply = self._call(worker, "get_nowait")
        else:
            reply = self._call(worker, "get", hang=hang, **FORMS[form])
        if self.is_over:
            return
        if form == "keywords":
            self.check("keywords", "TypeError" not in reply.errors, f"a get with keywords: {reply}")
        if nothing and self.model.shut:
            key = "shut-now" if self.model.shut_now else "shut-get"
            self.check(key, "ShutDown" in reply.errors, f"a get from an empty queue after shutdown: {reply}")
        elif form == "negative" and self._profile.negative != "no wait":
            self.check("get-negative", "ValueError" in reply.errors, f"a get with timeout=-1: {reply}")
        elif nothing:
            key = _GET_KEYS.get(form, "empty-raises")
            self.check(key, "Empty" in reply.errors, f"a get ({form}) from an empty queue: {reply}")
            slow_enough = form != "timeout" or reply.seconds >= SHORT * 0.99
            self.check("get-timeout", slow_enough, f"Empty after {reply.seconds} s of {SHORT}")
        elif "Empty" in reply.errors and self._may_seem_empty(form):
            pass
        else:
            self._got(reply)
        self.settle()

    def _may_seem_empty(self, form: str) -> bool:
        return self._profile.early_empty and form in ("nowait", "no block", "negative", "timeout")

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
        expected = " or ".join(_short(item.value) for item in firsts)
        known = [*firsts, *model.items, *(lease.item for lease in model.leases), *model.acknowledged]
        puts = [self._put_at[item.number] for item in known if item in firsts or is_same(value, item.value)]
        self.check(self._fault_of(value, firsts), False, f"got {_short(value)} instead of {expected}", puts)
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

    def fill(self, worker: int) -> None:
        """Put until the queue is full, one item at least."""
        self.put(worker, len(self.program), "plain")
        while self.model.maxsize and self.model.has_room and not self.is_over and not self.model.shut:
            self.put(worker, len(self.program), "plain")
        if self._profile.has("full"):
            self.look(worker, "full")

    def drain(self, worker: int) -> None:
        """Take all there is."""
        while self.model.items and not self.is_over:
            self.get(worker, "plain")
        self.look(worker, "empty")

    # ---- operations that wait ----

    def start_get(self, worker: int) -> None:
        """Start a get on an empty queue; up to two at a time."""
        if len(self._takers()) < 2:
            self._start(worker, "get", None)

    def start_put(self, worker: int, value: Any) -> None:
        """Start a put on a full queue; one at a time, so that the order in which they end is known."""
        if not any(waiting.kind == "put" for waiting in self.waiting):
            self._start(worker, "put", value, value)

    def start_join(self, worker: int) -> None:
        """Start a join() with items unfinished, or make one that returns at once."""
        if self._of("join"):
            return  # one is enough
        if self.model.unfinished:
            self._start(worker, "join", None)
        else:
            reply = self._call(worker, "join")
            self.check("join", not reply.errors, f"a join with nothing unfinished: {reply}")

    def _start(self, worker: int, kind: str, value: Any, *arguments: Any, method: Method = "") -> None:
        call = f"{kind}({', '.join(map(_short, arguments))})"
        self._draw(worker, call, time.monotonic_ns())
        number = self._team.workers[worker].start("thread", self._slot, method or kind, arguments, {})
        self.waiting.append(Waiting(worker, number, kind, value, len(self.history) - 1))
        self._note(worker, call, "under way")
        self.settle()

    def settle(self) -> None:
        """See that what can end now ends, and that nothing else does."""
        while not self.is_over:
            if self.model.shut and self._of("put"):
                self._end(self._of("put"), "shut-put")
            elif self._takers() and (self.model.items or self.model.shut):
                self._end(self._takers(), self._key_of_next("get-woken") if self.model.items else "shut-get")
            elif self._of("put") and self.model.has_room:
                self._end(self._of("put"), "put-woken")
            elif self._of("join") and not self.model.unfinished:
                self._end(self._of("join"), self._key_of_join)
            else:
                break
        for waiting in list(self.waiting):
            reply = None if self.is_over else self._team.workers[waiting.worker].reply(waiting.number, 0)
            keys = {"join": self._key_of_join, "lease": "lease-as-get"}
            key = keys.get(waiting.kind, f"{waiting.kind}-waits")
            self.check(key, reply is None, f"a {waiting.kind} that has to wait ended: {reply}", [waiting.bar])

    @property
    def _key_of_join(self) -> str:
        """Whose clause a join keeps."""
        return "lease-join" if self.model.leases or self.model.acknowledged else "join"

    def _takers(self) -> list[Waiting]:
        """Those under way that take an item."""
        return [*self._of("get"), *self._of("lease")]

    def _of(self, kind: str) -> list[Waiting]:
        return [waiting for waiting in self.waiting if waiting.kind == kind]

    def _end(self, candidates: list[Waiting], key: str) -> None:
        """One of the operations ends now; it is the queue's choice which."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for waiting in candidates:
                reply = self._team.workers[waiting.worker].reply(waiting.number, 0.001)
                if reply is not None:
                    self.waiting.remove(waiting)
                    self._note(waiting.worker, f"the {waiting.kind} under way", reply)
                    bar = self.history[waiting.bar]
                    self.history[waiting.bar] = bar.until(time.monotonic_ns(), reply)
                    self._ended(waiting, reply, key)
                    return
            if time.monotonic() > deadline:
                who = ", ".join(f"worker {waiting.worker}" for waiting in candidates)
                self._note(candidates[0].worker, f"the {candidates[0].kind} under way", "still waits")
                waits = [waiting.bar for waiting in candidates]
                if candidates[0].kind in ("get", "lease"):
                    waits += self._next_puts()
                self.check(key, False, f"{candidates[0].kind}() of {who} goes on waiting", waits)
                self.is_over = self.is_dirty = True
                return

    def _ended(self, waiting: Waiting, reply: Reply, key: str) -> None:
        if key in ("shut-put", "shut-get"):
            what = f"a waiting {waiting.kind} at shutdown: {reply}"
            self.check(key, "ShutDown" in reply.errors, what, [waiting.bar])
            return
        self.check(key, not reply.errors, f"a {waiting.kind} that could end: {reply}", [waiting.bar])
        if waiting.kind == "put":
            self._count_put(waiting.value, waiting.worker, waiting.bar)
        elif waiting.kind == "get":
            self._got(reply)
        elif waiting.kind == "lease":
            self._leased(waiting.worker, reply)

    # ---- the other operations ----

    def look(self, worker: int, method: str) -> None:
        """qsize, empty or full."""
        items, maxsize = len(self.model.items), self.model.maxsize
        expected = {"qsize": items, "empty": items == 0, "full": 0 < maxsize <= items}[method]
        reply = self._call(worker, method)
        early = method == "empty" and self._profile.early_empty and items > 0
        holds = not reply.errors and (early or reply.value == expected)
        what = f"{method}() with {items} items of {maxsize or 'any number'}"
        if self.model.leases:
            self.check("lease-qsize", holds, f"{what} and {len(self.model.leases)} leased: {reply}")
        else:
            self.check(method, holds, f"{what}: {reply}")

    def task_done(self, worker: int) -> None:
        """Mark one retrieved item as processed."""
        reply = self._call(worker, "task_done")
        if self.model.unfinished:
            self.check("unfinished", not reply.errors, f"task_done() with {self.model.unfinished} unfinished: {reply}")
            self.model.unfinished -= 1
        else:
            self.check("unfinished", "ValueError" in reply.errors, f"task_done() with nothing unfinished: {reply}")
        self.settle()

    def shutdown(self, worker: int, immediate: bool) -> None:
        """Shut the queue down for all."""
        reply = self._call(worker, "shutdown", immediate)
        key = "shut-now" if immediate else "shut-get"
        self.check(key, not reply.errors, f"shutdown({immediate}): {reply}")
        self.model.shut = True
        if immediate:
            self.model.shut_now = True
            self.model.unfinished = max(0, self.model.unfinished - len(self.model.items))
            self.model.items.clear()
        self.settle()

    # ---- leases, which LeasingTrial has steps for ----

    def _leased(self, worker: int, reply: Reply) -> None:
        raise NotImplementedError

    def _give_back_all_of(self, worker: int, back: str) -> bool:
        """A worker has lost its leases. Returns whether it had any."""
        model = self.model
        lost = [lease for lease in model.leases if lease.worker == worker]
        model.leases = [lease for lease in model.leases if lease.worker != worker]
        for lease in lost:
            model.give_back(lease.item, back)
        return bool(lost)

    def has_clear_order(self, worker: int) -> bool:
        """Whether it is known what becomes of a worker's items, should it lose its leases now.

        Several come back one by one, and those that wait take what they can. After ``shutdown(True)`` nothing is
        promised of them.
        """
        leases = sum(lease.worker == worker for lease in self.model.leases)
        return leases == 0 or not (self.model.shut_now or (leases > 1 and self._takers()))

    def is_soon(self, worker: int) -> bool:
        """Whether others get a worker's items at once, should it be killed now; later ones are not waited for here."""
        return self._profile.noticed <= NOTICED or all(lease.worker != worker for lease in self.model.leases)

    # ---- workers come and go ----

    def is_idle(self, worker: int) -> bool:
        """Whether nothing of a worker's is under way."""
        return all(waiting.worker != worker for waiting in self.waiting)

    def has_put(self, worker: int) -> bool:
        """Whether something that a worker has put is still queued."""
        return any(item.producer == worker for item in self.model.items)

    def replace(self, worker: int, kill: bool) -> None:
        """End an idle worker, politely or with SIGKILL, and start another one."""
        self.replaced += 1
        key = "killed-idle" if kill else "ended"
        if kill:
            self._team.workers[worker].kill()
        else:
            politely = self._team.workers[worker].end()
            self.check("exit", politely, "a process does not end")
        self._note(worker, "killed" if kill else "ends", "another one takes its place")
        self._draw(worker, "killed" if kill else "ends", time.monotonic_ns(), "another one takes its place")
        self._team.replace(worker)
        if self._give_back_all_of(worker, "lease-killed") and not self._takers():
            time.sleep(NOTICED)  # until then a get need not have noticed
        self.settle()
        if self.model.items and not self.is_over:
            reply = self._call(worker, "get", hang=self._key_of_next("prompt"))
            self.check(key, not reply.errors, f"a get after another process has gone: {reply}")
            if not reply.errors:
                self._got(reply)
                self.settle()

    def close(self, worker: int) -> None:
        """Close the queue in one worker, see that it is closed there, and replace the worker."""
        method, error = self._profile.close_method, self._profile.closed or ""
        self.replaced += 1
        first, second = self._call(worker, method, hang="close"), self._call(worker, method, hang="close-twice")
        self.check("close", not first.errors, f"{method}(): {first}")
        self.check("close-twice", not second.errors, f"a second {method}(): {second}")
        self._give_back_all_of(worker, "lease-requeued")
        reply = self._call(worker, "put", 1, hang="close")
        self.check("close", error in reply.errors, f"a put after {method}(): {reply}")
        if not (self._profile.is_pipe and self._of("get")):  # a waiting call has the lock that get takes
            reply = self._call(worker, "get", hang="close")
            self.check("close", error in reply.errors, f"a get after {method}(): {reply}")
        if not self.is_over:
            self._team.workers[worker].end()
            self._team.replace(worker)
            self.settle()


_PUT_KEYS = {"timeout": "put-timeout", "negative": "put-negative", "no block": "no-block"}
_GET_KEYS = {"timeout": "get-timeout", "negative": "get-negative", "no block": "no-block"}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no block": {"block": False, "timeout": 60},
    "timeout": {"block": True, "timeout": SHORT},
    "negative": {"timeout": -1},
    "keywords": {"block": True, "timeout": None},
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
