"""The steps of a trial that concern leases: taken, acknowledged, requeued, as a block."""

from __future__ import annotations

from . import leasing
from .model import Item, Lease
from .trial import FORMS, SHORT, Trial
from .workers import Reply

__all__ = ["LeasingTrial"]


class LeasingTrial(Trial):
    """A trial of a queue that may have leases."""

    def lease(self, worker: int, form: str) -> None:
        """Lease an item; a call that would have to wait is started. ``form``: plain, no block, timeout, negative."""
        nothing = not self.model.items
        if form == "plain" and nothing and not self.model.shut:
            if len(self._takers()) < 2:
                self._start(worker, "lease", None, method=leasing.lease)
            return
        hang = "lease-as-get" if nothing else self._key_of_next("lease-as-get")
        reply = self._call(worker, leasing.lease, hang=hang, **FORMS[form])
        if self.is_over:
            return
        key = "lease-as-get"
        if nothing and self.model.shut:
            self.check(key, "ShutDown" in reply.errors, f"a lease of an empty queue after shutdown: {reply}")
        elif form == "negative" and self._profile.negative != "no wait":
            self.check(key, "ValueError" in reply.errors, f"a lease with timeout=-1: {reply}")
        elif nothing:
            self.check(key, "Empty" in reply.errors, f"a lease ({form}) of an empty queue: {reply}")
            slow_enough = form != "timeout" or reply.seconds >= SHORT * 0.99
            self.check(key, slow_enough, f"Empty after {reply.seconds} s of {SHORT}")
        elif not ("Empty" in reply.errors and self._may_seem_empty(form)):
            self._leased(worker, reply)
        self.settle()

    def _leased(self, worker: int, reply: Reply) -> None:
        """Judge what a lease returned while items were there."""
        leased = leasing.Leased(*reply.value) if not reply.errors else None
        item = self._fits(reply, leased and leased.item)
        if item is None or leased is None:
            return
        for key in ("lease-as-get", "lease-alone", "lease-acked"):
            self.check(key, True, "")
        self.model.leases.append(Lease(item, worker, leased.number))
        attempt = item.attempts + 1
        self.check("lease-attempt", leased.attempt == attempt, f"attempt {leased.attempt} instead of {attempt}")

    def end_lease(self, which: int, how: str) -> None:
        """End one of the leases, if there are any. ``how``: ack or requeue."""
        model = self.model
        if not model.leases or (how == "requeue" and model.shut_now):
            return  # what becomes of a requeued item of which all others were dropped is not promised
        lease = model.leases.pop(which % len(model.leases))
        reply = self._call(lease.worker, leasing.end, lease.number, how)
        ended = leasing.Ended(*reply.value) if not reply.errors else None
        key = "lease-acked" if how == "ack" else "lease-requeued"
        self.check(key, ended is not None and ended.first is True, f"{how}() of {lease.item.value!r}: {reply}")
        again = ended is not None and ended.ack_again is False and ended.requeue_again is False
        self.check("lease-ends", again, f"{how}(), then ack() and requeue(): {reply}")
        self._end_of(lease.item, how == "ack", key)

    def holder(self, which: int) -> int | None:
        """The worker that has one of the leases, if there are any."""
        leases = self.model.leases
        return leases[which % len(leases)].worker if leases else None

    def use_block(self, worker: int, raises: bool) -> None:
        """Lease an item for the length of a block, if there is one."""
        if not self.model.items or self._of("put") or (raises and self.model.shut_now):
            return  # a put under way may find room while the item is leased, or not
        reply = self._call(worker, leasing.use_block, raises, hang="lease-block")
        if self.is_over:
            return
        leased = leasing.Leased(*reply.value) if not reply.errors else None
        item = self._fits(reply, leased and leased.item)
        if item is not None:
            self.check("lease-block", True, "")
            self._end_of(item, not raises, "lease-block")

    def _end_of(self, item: Item, is_acknowledged: bool, key: str) -> None:
        model = self.model
        if is_acknowledged:
            model.acknowledged.append(item._replace(back=key))
            model.unfinished = max(0, model.unfinished - 1)  # task_done() may have been called for it
        else:
            model.give_back(item, key)
        self.settle()
