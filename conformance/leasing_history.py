"""Decides from the log of a concurrent run with leases whether the queue can have been what it should be.

A delivery is a lease, or a get, which ends at the moment at which it happens. Every operation happens at one moment
between its invocation and its return; a worker that is killed loses its leases at some time after that, for a queue may
take a while to notice. Values are unique. What is certain from the log must not contradict itself:

1. From nowhere: a value was delivered before it was put, or never put.
2. Twice: a value was delivered after it was got or acknowledged.
3. Two holders: a lease of a value returned while another one was certainly held, which is from its return to the
   invocation of its end, or the death of its worker.
4. Refused: an ack or requeue of a lease that its worker had says that the lease was over.
5. Miscounted: the attempts of a value's leases do not ascend, or exceed their number by more than the leases during
   which workers were killed can explain.
6. Lost: in the end a value was not acknowledged, and no pending get can have taken it. A pending ack may have happened.
7. Out of order: b was delivered although, throughout the interval of that operation, some a put before b certainly
   could be taken. It certainly can from the return of its put or requeue to the invocation of its next delivery, unless
   a pending operation can have taken it in between. After a death nothing is certain until its next delivery.
8. Empty although not: an answer that there is nothing, with the certainty of the seventh.

A history that passes need not be that of a queue: the seventh compares pairs of values, and no more than that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from .history import Order, Pattern, Violation, find_wrong_empty
from .operations import NEVER, Log, Operation, Stay, end_of

__all__ = ["find_leasing_violation", "unfinished"]


class _Delivery(NamedTuple):
    """A value that a worker had: from which operation on, and the one that ended it, if one did.

    ``held_until``: until when it was certainly held, in ns; 0 for a get, which holds nothing.
    """

    taken: Operation
    end: Operation | None
    held_until: int

    @property
    def is_done(self) -> bool:
        """Whether the value must never come again."""
        return self.taken.kind == "get" or (self.end is not None and (self.end.kind, self.end.outcome) == ("ack", "ok"))

    @property
    def is_perhaps_done(self) -> bool:
        return self.is_done or (self.end is not None and self.end.kind == "ack" and self.end.outcome == "pending")

    @property
    def back_from(self) -> int:
        """From when on the value certainly could be taken again."""
        is_requeued = self.end is not None and self.end.kind == "requeue"
        return end_of(self.end) if is_requeued and self.end is not None else NEVER


class _Log(Log):
    """The operations of a history with leases, by what came of them."""

    def __init__(self, history: Sequence[Operation], deaths: Mapping[int, int]) -> None:
        super().__init__([operation for operation in history if operation.kind in ("put", "get")])
        self._history = history
        leases = [operation for operation in history if operation.kind == "lease"]
        ends = [operation for operation in history if operation.kind in ("ack", "requeue")]
        self.empties += [lease for lease in leases if lease.outcome == "empty"]
        self.pending_leases = [lease for lease in leases if lease.outcome == "pending"]
        self.refused = [end for end in ends if end.outcome == "refused"]
        self.deliveries: dict[Hashable, list[_Delivery]] = {value: [] for value in self.puts}
        for get in (*self.gets.values(), *self.gets_again):
            self.deliveries.setdefault(get.value, []).append(_Delivery(get, None, 0))
        ended: dict[tuple[int, Hashable], list[Operation]] = {}
        for end in sorted(ends, key=attrgetter("invoked"), reverse=True):
            ended.setdefault((end.worker, end.value), []).append(end)
        for lease in sorted(leases, key=attrgetter("invoked")):
            if lease.outcome == "ok":
                own = ended.get((lease.worker, lease.value))
                last = own.pop() if own else None
                until = last.invoked if last is not None else deaths.get(lease.worker, NEVER)
                self.deliveries.setdefault(lease.value, []).append(_Delivery(lease, last, until))
        for deliveries in self.deliveries.values():
            deliveries.sort(key=lambda delivery: end_of(delivery.taken))


def unfinished(history: Sequence[Operation]) -> list[Hashable]:
    """The values that must still come: they were put and neither got nor, perhaps, acknowledged."""
    log = _Log(history, {})
    return [
        value
        for value, deliveries in log.deliveries.items()
        if value in log.puts
        and log.puts[value].outcome == "ok"
        and not any(delivery.is_perhaps_done for delivery in deliveries)
    ]


def find_leasing_violation(
    history: Sequence[Operation],
    deaths: Mapping[int, int],
    *,
    order: Order = Order.TOTAL,
    empties: bool = True,
    returns_anywhere: bool = False,
) -> Violation | None:
    """Why ``history``, in any order, is not that of a queue with leases that was drained; None if nothing says so.

    Args:
        deaths: when each killed worker was killed, at the earliest, in nanoseconds of the history's clock.
        order: which puts must come out as they went in.
        empties: whether an answer that there is nothing may come only if there was.
        returns_anywhere: whether a value that comes again may do so at any place, with any attempt above 1.

    Raises:
        ValueError: an operation contradicts itself, or a value was put twice.
    """
    log = _Log(history, deaths)
    for refused in log.refused:
        reason = f"the {refused.kind} of {refused.value!r} by {log.tell(refused)} was refused, though it had the lease"
        return Violation(Pattern.REFUSED, (refused,), reason)
    for value, deliveries in log.deliveries.items():
        wrong = _find_wrong_delivery(log, value, deliveries, is_counted=not returns_anywhere)
        if wrong is not None:
            return wrong
    wrong = None if returns_anywhere else _find_wrong_attempts(log)
    wrong = wrong or _find_lost(log)
    if wrong is None:
        available = _certainly_new(log) if returns_anywhere else _certainly_available(log)
        wrong = _find_disorder(log, available, order, only_new=returns_anywhere)
        if wrong is None and empties:
            wrong = find_wrong_empty(log, sorted(available, key=attrgetter("put_returned")))
    return wrong


def _find_wrong_delivery(log: _Log, value: Hashable, deliveries: list[_Delivery], is_counted: bool) -> Violation | None:
    put = log.puts.get(value)
    for delivery in deliveries:
        taken = delivery.taken
        if put is None or end_of(taken) < put.invoked:
            when = "never" if put is None else f"later, by {log.tell(put)}"
            reason = f"{value!r} was taken by {log.tell(taken)} and put {when}"
            return Violation(Pattern.NOWHERE, (taken,), reason)
    for one, other in pairwise(deliveries):
        first, second = one.taken, other.taken
        operations = first, second
        if one.is_done:
            how = "got" if one.end is None else "acknowledged"
            reason = f"{value!r} was {how} by {log.tell(one.end or first)} and comes again to {log.tell(second)}"
            return Violation(Pattern.TWICE, operations, reason)
        if one.held_until > end_of(second):
            reason = f"{value!r} was leased by {log.tell(first)}, and while that had it, by {log.tell(second)}"
            return Violation(Pattern.HOLDERS, operations, reason)
        if second.kind == "lease" and second.attempt <= (first.attempt if is_counted else 1):
            reason = (
                f"{value!r} came to {log.tell(first)} as attempt {first.attempt}, "
                f"and then to {log.tell(second)} as attempt {second.attempt}"
            )
            return Violation(Pattern.ATTEMPTS, operations, reason)
    return None


def _find_wrong_attempts(log: _Log) -> Violation | None:
    skipped = []
    for deliveries in log.deliveries.values():
        leases = [delivery.taken for delivery in deliveries if delivery.taken.kind == "lease"]
        if leases and leases[-1].attempt != len(leases):
            skipped.append((leases[-1], leases[-1].attempt - len(leases)))
    unseen = sum(surplus for _, surplus in skipped)
    short = [lease for lease, surplus in skipped if surplus < 0]
    if unseen <= len(log.pending_leases) and not short:
        return None
    lease = short[0] if short else skipped[0][0]
    reason = (
        f"attempt {lease.attempt} of {lease.value!r} came to {log.tell(lease)}; all attempts together are "
        f"{unseen} more than the leases that were seen, and {len(log.pending_leases)} leases were not seen to their end"
    )
    return Violation(Pattern.ATTEMPTS, (lease,), reason)


def _find_lost(log: _Log) -> Violation | None:
    lost = []
    for value, put in log.puts.items():
        deliveries = log.deliveries[value]
        if (deliveries or put.outcome == "ok") and not (deliveries and deliveries[-1].is_perhaps_done):
            lost.append(put)
    if len(lost) <= len(log.pending_gets):
        return None
    some = "; ".join(f"{put.value!r}, put by {log.tell(put)}" for put in lost[:3])
    more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
    reason = (
        f"{len(lost)} values were never acknowledged and do not come again, "
        f"and pending gets can have taken {len(log.pending_gets)} at most: {some}{more}"
    )
    return Violation(Pattern.LOST, (*lost, *log.pending_gets), reason)


def _certainly_available(log: _Log) -> list[Stay]:
    """From when to when each value certainly could be taken: ``put_returned`` and ``get_invoked`` of the stays."""
    pending = [*log.pending_leases, *log.pending_gets]
    perhaps_taken = min((operation.invoked for operation in pending), default=NEVER)
    stays = []
    for value, put in log.puts.items():
        since, attempt = end_of(put), 0
        for delivery in log.deliveries[value]:
            taken = delivery.taken
            until = taken.invoked
            if taken.kind == "get":
                until = min(until, perhaps_taken)
            elif taken.attempt != attempt + 1:
                until = 0  # a pending lease had it in between
            if since < until:
                stays.append(Stay(put, taken, put.invoked, since, until, end_of(taken)))
            since, attempt = delivery.back_from, taken.attempt
        if since < perhaps_taken:
            stays.append(Stay(put, None, put.invoked, since, perhaps_taken, NEVER))
    return stays


def _certainly_new(log: _Log) -> list[Stay]:
    """From when to when each value certainly could be taken for the first time."""
    pending = [*log.pending_leases, *log.pending_gets]
    perhaps_taken = min((operation.invoked for operation in pending), default=NEVER)
    stays = []
    for value, put in log.puts.items():
        first = next((delivery.taken for delivery in log.deliveries[value]), None)
        until = perhaps_taken if first is None else min(first.invoked, perhaps_taken)
        if end_of(put) < until:
            stays.append(Stay(put, first, put.invoked, end_of(put), until, NEVER if first is None else end_of(first)))
    return stays


def _find_disorder(log: _Log, available: list[Stay], order: Order, only_new: bool) -> Violation | None:
    windows = []  # in which each delivery happened
    for value, deliveries in log.deliveries.items():
        since = log.puts[value].invoked
        for delivery in deliveries if not only_new else [each for each in deliveries if each.taken.attempt == 1]:
            windows.append((max(since, delivery.taken.invoked), delivery.taken))
            since = delivery.held_until
    windows.sort(key=lambda window: window[0])
    coming = sorted(available, key=attrgetter("put_returned"), reverse=True)
    active: list[Stay] = []
    for since, taken in windows:
        while coming and coming[-1].put_returned < since:
            active.append(coming.pop())
        active = [stay for stay in active if stay.get_invoked > since]
        put = log.puts[taken.value]
        for stay in active:
            is_older = end_of(stay.put) < put.invoked and (order is Order.TOTAL or stay.put.worker == put.worker)
            if is_older and stay.get_invoked > end_of(taken):
                return _disorder(log, stay, put, taken)
    return None


def _disorder(log: _Log, stay: Stay, put: Operation, taken: Operation) -> Violation:
    fate = "never again" if stay.get is None else f"later, by {log.tell(stay.get)}"
    reason = (
        f"{stay.put.value!r} was put by {log.tell(stay.put)} before {put.value!r} by {log.tell(put)} and could be "
        f"taken, yet {put.value!r} was taken by {log.tell(taken)} and {stay.put.value!r} {fate}"
    )
    return Violation(Pattern.ORDER, (stay.put, put, taken), reason)
