"""Decides from the log of a concurrent run whether a queue was first in, first out.

Workers put and get freely and log each operation: when it was invoked, when it returned, how it ended. Values are
unique. A history is linearizable if every operation can be given a moment between its invocation and its return such
that, in the order of these moments, they are what a plain FIFO queue does. For complete histories four bad patterns
decide it (Henzinger, Sezgin and Vafeiadis, "Aspect-Oriented Linearizability Proofs", CONCUR 2013). x is before y if
x returned before y was invoked; equal clock readings order nothing, not even within a worker.

1. From nowhere: a value was got and never put, or its get is before its put.
2. Twice: a value was got twice.
3. Out of order: put(a) is before put(b), and get(b) is before get(a), or b was got and a never.
4. Empty although not: a get said empty, and at every moment of its interval some value was certainly in the queue.
   A value certainly is in it from its put's return to its get's invocation, both moments excluded.

An operation that never returned (its worker was killed, or still waited at the end) may or may not have happened. Such
a put did if its value was got; if not, supposing that it did never helps. Such a get took at most one value, one that
nobody got. It can have taken a if and only if it was not invoked after a's deadline: the first return of a get(b) with
put(a) before put(b), if there is one. Pattern 1 asks nothing of it, for it may have waited for its value.
A missing value that no get took is in the queue for ever: then it has no deadline, no pending get took a value b with
put(a) before put(b), and it is lost if the queue was drained. Which get took which value is chosen so that the history
passes if it does with any choice:

- In total order the missing values by their put's return, which is also their order by deadline, go to the pending gets
  by invocation, first to first, until either runs out. Had two values been taken the other way round, exchanging their
  gets would break no deadline, and add no moment at which the queue was certainly not empty.
- Per producer, where only values b of a's producer count, the two orders may differ. Each pending get, by invocation,
  goes to the value whose put returned first among those that leave all others able to keep their deadlines.

So the answer is exact, but for maxsize: a put that said full is refuted only if at no moment of its interval maxsize
items can have been in the queue, each counted from its put's invocation to its get's return, or for ever if pending.
That more items than maxsize went in is not looked for.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from operator import attrgetter, itemgetter

from .operations import NEVER, Log, Operation, Stay, end_of

__all__ = ["Operation", "Order", "Pattern", "Violation", "find_violation", "find_wrong_empty"]


class Order(enum.Enum):
    """Which puts must come out in the order in which they went in."""

    TOTAL = "total"
    PER_PRODUCER = "per producer"
    """Those of the same worker: all that ``multiprocessing.Queue`` keeps, whose every process puts into a buffer of its
    own that a thread sends on later. For the same reason its empty answers may be early: check it with empties=False.
    """


class Pattern(enum.Enum):
    """In which way a history is wrong; the last three, one with leases."""

    NOWHERE = "from nowhere"
    TWICE = "twice"
    ORDER = "out of order"
    LOST = "lost"
    EMPTY = "empty although not"
    FULL = "full although not"
    HOLDERS = "two holders"
    REFUSED = "refused"
    ATTEMPTS = "attempts miscounted"


@dataclass(frozen=True)
class Violation:
    """Why a history is not that of a queue; as a string, one sentence with times since the start of the history."""

    pattern: Pattern
    operations: tuple[Operation, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.pattern.value}: {self.reason}"


def find_violation(
    history: Sequence[Operation],
    *,
    order: Order = Order.TOTAL,
    empties: bool = True,
    lost_by_killed_gets: bool = True,
    drained: bool = True,
    maxsize: int = 0,
) -> Violation | None:
    """Why ``history``, in any order, is not that of a FIFO queue; None if it is.

    It takes time n log n, and for each pending get a pass over the values that nobody got.

    Args:
        order: which puts must come out as they went in.
        empties: whether a get may say empty only if the queue was.
        lost_by_killed_gets: whether pending gets may have taken values that nobody got.
        drained: whether the queue was empty at the end, so that a value that nobody took was lost.
        maxsize: how many items the queue holds; with 0 or less puts that said full are not looked at.

    Raises:
        ValueError: it is not a history: a value was put twice, or an operation contradicts itself.
    """
    log = Log(history)
    wrong = _find_wrong_get(log)
    if wrong is not None:
        return wrong
    stays = [Stay.between(put, log.gets[value]) for value, put in log.puts.items() if value in log.gets]
    missing = [put for value, put in log.puts.items() if value not in log.gets and put.returned is not None]
    takers = sorted(log.pending_gets, key=attrgetter("invoked")) if lost_by_killed_gets else []
    if drained and len(missing) > len(takers):
        return _lost(log, missing, takers)
    if missing:
        stays += _choose(stays, missing, takers, order)
    stays.sort(key=attrgetter("put_returned"))
    for group in _by_producer(stays, order).values():
        wrong = _find_disorder(log, group)
        if wrong is not None:
            return wrong
    wrong = find_wrong_empty(log, stays) if empties else None
    if wrong is None and maxsize > 0:
        wrong = _find_wrong_full(log, maxsize)
    return wrong


def _by_producer(stays: list[Stay], order: Order) -> dict[int, list[Stay]]:
    """Those whose order counts among each other."""
    if order is Order.TOTAL:
        return {0: stays}
    groups: dict[int, list[Stay]] = {}
    for stay in stays:
        groups.setdefault(stay.put.worker, []).append(stay)
    return groups


def _find_wrong_get(log: Log) -> Violation | None:
    for value, get in log.gets.items():
        put = log.puts.get(value)
        if put is None:
            return Violation(Pattern.NOWHERE, (get,), f"{value!r} was got by {log.tell(get)} and put by nobody")
        if end_of(get) < put.invoked:
            reason = f"{value!r} was got by {log.tell(get)} before it was put by {log.tell(put)}"
            return Violation(Pattern.NOWHERE, (put, get), reason)
    for again in log.gets_again:
        get = log.gets[again.value]
        reason = f"{again.value!r} was got by {log.tell(get)} and by {log.tell(again)}"
        return Violation(Pattern.TWICE, (get, again), reason)
    return None


def _lost(log: Log, missing: list[Operation], takers: list[Operation]) -> Violation:
    some = "; ".join(f"{put.value!r}, put by {log.tell(put)}" for put in missing[:3])
    more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
    many = "1 value was" if len(missing) == 1 else f"{len(missing)} values were"
    reason = f"{many} never got, and pending gets can have taken {len(takers)} at most: {some}{more}"
    return Violation(Pattern.LOST, (*missing, *takers), reason)


def _choose(got: list[Stay], missing: list[Operation], takers: list[Operation], order: Order) -> list[Stay]:
    """The stays of missing values, each ended by the pending get that is to have taken it, if one is."""
    left: list[tuple[int, int, Stay]] = []  # deadline, return of the put
    groups = _by_producer(got, order)
    for producer, stays in _by_producer([Stay.between(put, None) for put in missing], order).items():
        last_first = sorted(groups.get(producer, ()), key=attrgetter("put_invoked"), reverse=True)
        invoked = [-stay.put_invoked for stay in last_first]
        deadlines = [NEVER, *accumulate((stay.get_returned for stay in last_first), min)]
        left += ((deadlines[bisect_left(invoked, -s.put_returned)], s.put_returned, s) for s in stays)
    left.sort(key=itemgetter(0, 1))
    taken = []
    for position, taker in enumerate(takers[: len(left)], 1):
        first = 0
        gets_after = chain((get.invoked for get in takers[position:]), repeat(NEVER))
        for at, ((deadline, put_returned, _), get_after) in enumerate(zip(left, gets_after, strict=False)):
            if put_returned < left[first][1]:
                first = at
            if get_after > deadline:  # any choice behind this one would leave it too late a get
                break
        taken.append(Stay.between(left.pop(first)[2].put, taker))
    return taken + [stay for _, _, stay in left]


def _find_disorder(log: Log, stays: list[Stay]) -> Violation | None:
    """Of all pairs in the wrong order it names the one furthest apart: if two values were swapped, these two."""
    pair: tuple[Stay, Stay] | None = None
    passed = widest = 0
    late = stays[0] if stays else None  # of those put before, the one that was got last
    late_get = -NEVER
    for stay in sorted(stays, key=attrgetter("put_invoked")):
        while stays[passed].put_returned < stay.put_invoked:  # which the stay's own is not
            if stays[passed].get_invoked > late_get:
                late = stays[passed]
                late_get = late.get_invoked
            passed += 1
        if late is not None and late_get - stay.get_returned > widest:
            widest = late_get - stay.get_returned
            pair = late, stay
    return None if pair is None else _disorder(log, *pair)


def _disorder(log: Log, a: Stay, b: Stay) -> Violation:
    gets = [get for get in (a.get, b.get) if get is not None]
    by = [log.tell(get) for get in gets]
    if a.get is None:
        fate = "never"
    elif a.get.returned is None:
        fate = f"at best by the pending get of {by[0]}"
    else:
        fate = f"later, by {by[0]}"
    reason = (
        f"{a.put.value!r} was put by {log.tell(a.put)} before {b.put.value!r} by {log.tell(b.put)}, "
        f"yet {b.put.value!r} was got by {by[-1]} and {a.put.value!r} {fate}"
    )
    return Violation(Pattern.ORDER, (a.put, b.put, *gets), reason)


def find_wrong_empty(log: Log, stays: list[Stay]) -> Violation | None:
    """A get that found nothing, all the while some stay lasted; these by the return of their puts."""
    begins: list[int] = []  # from when to when the queue was certainly not empty, both moments excluded
    ends: list[int] = []
    end = -NEVER
    for stay in stays:
        if stay.get_invoked > max(end, stay.put_returned):
            if stay.put_returned < end:
                ends[-1] = stay.get_invoked
            else:
                begins.append(stay.put_returned)
                ends.append(stay.get_invoked)
            end = stay.get_invoked
    for empty in log.empties:
        at = bisect_left(begins, empty.invoked) - 1
        if at >= 0 and end_of(empty) < ends[at]:
            return _wrong_empty(log, empty, _cover(stays, empty))
    return None


def _cover(stays: list[Stay], empty: Operation) -> list[Stay]:
    """As few stays as suffice to cover its interval."""
    cover: list[Stay] = []
    covered_until, longest = empty.invoked, stays[0]
    for stay in stays:
        if stay.put_returned >= covered_until:
            cover.append(longest)
            covered_until = longest.get_invoked
            if covered_until > end_of(empty):
                return cover
        if stay.get_invoked > longest.get_invoked:
            longest = stay
    return [*cover, longest]


def _wrong_empty(log: Log, empty: Operation, cover: list[Stay]) -> Violation:
    held = [
        f"{put.value!r}, put by {log.tell(put)} and got " + (f"by {log.tell(get)}" if get is not None else "never")
        for put, get, *_ in cover[:3]
    ]
    more = f"; and {len(cover) - 3} more" if len(cover) > 3 else ""
    reason = (
        f"the get of {log.tell(empty)} found nothing, yet all the while the queue held {'; then '.join(held)}{more}"
    )
    operations = [operation for stay in cover for operation in stay[:2] if operation is not None]
    return Violation(Pattern.EMPTY, (empty, *operations), reason)


def _find_wrong_full(log: Log, maxsize: int) -> Violation | None:
    invoked = sorted(put.invoked for put in log.puts.values())
    returned = sorted(end_of(get) for get in log.gets.values())
    # There may be maxsize items from the nth put's invocation until n - maxsize + 1 gets have returned.
    spans = zip(invoked[maxsize - 1 :], chain(returned, repeat(NEVER)), strict=False)
    crowded = [(begin, end) for begin, end in spans if begin <= end]  # both ascend
    for full in log.fulls:
        at = bisect_right(crowded, (end_of(full), NEVER)) - 1
        if at < 0 or crowded[at][1] < full.invoked:
            reason = f"the put of {full.value!r} by {log.tell(full)} found no room, with never {maxsize} items in there"
            return Violation(Pattern.FULL, (full,), reason)
    return None
