"""One example: a queue that several workers use, step by step, beside a model of what it should hold.

Each step picks a worker and an operation, says what must come of it by the model, and looks at what did. An operation
that has to wait is started in one step and stays under way: whenever a later step makes its end possible it must end,
and until then it must not.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

from .judging import Judging, shown
from .model import Waiting
from .values import is_same
from .workers import PATIENCE, Method, Reply

__all__ = ["FORMS", "NOTICED", "SHORT", "Trial"]

SHORT = 0.04
"""Seconds: the timeout of operations that are expected to run into it."""

NOTICED = 0.3
"""Seconds after which a get has to notice that the holder of an older item is dead."""


class Trial(Judging):
    """The steps, but for those that concern leases."""

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
        call = f"{kind}({', '.join(map(shown, arguments))})"
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
