"""What the checker of histories with leases accepts, and what it refutes."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence

import pytest
from history_support import A, get, pattern_of, put

from shmqueue.conformance.history import Operation, Order, Pattern
from shmqueue.conformance.leasing_history import find_leasing_violation, unfinished

B = 6  # another consumer than A


def lease(value: object, invoked: int, returned: int | None, attempt: int = 1, worker: int = A) -> Operation:
    return Operation(worker, "lease", value, invoked, returned, "pending" if returned is None else "ok", attempt)


def empty(invoked: int, returned: int, worker: int = B) -> Operation:
    return Operation(worker, "lease", None, invoked, returned, "empty")


def ack(value: object, invoked: int, returned: int | None, worker: int = A) -> Operation:
    return Operation(worker, "ack", value, invoked, returned, "pending" if returned is None else "ok")


def requeue(value: object, invoked: int, returned: int | None, worker: int = A) -> Operation:
    return Operation(worker, "requeue", value, invoked, returned, "pending" if returned is None else "ok")


def pattern(
    *history: Operation,
    deaths: dict[int, int] | None = None,
    order: Order = Order.TOTAL,
    returns_anywhere: bool = False,
) -> Pattern | None:
    """The pattern that refutes it; whichever order it is given in."""
    return pattern_of(
        lambda each: find_leasing_violation(each, deaths or {}, order=order, returns_anywhere=returns_anywhere), history
    )


def test_nothing_is_wrong_with_a_lease_that_is_acknowledged() -> None:
    assert pattern() is None
    assert pattern(put("a", 0, 1), lease("a", 2, 3), ack("a", 4, 5), empty(6, 7)) is None


def test_a_requeued_value_comes_again() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3), requeue("a", 4, 6)]
    assert pattern(*first, lease("a", 5, 7, 2, B), ack("a", 8, 9, B)) is None
    assert pattern(*first, get("a", 5, 7, B)) is None
    assert pattern(*first) is Pattern.LOST


def test_an_acknowledged_value_never_comes_again() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3), ack("a", 4, 6)]
    assert pattern(*first, lease("a", 7, 8, 2, B), ack("a", 9, 10, B)) is Pattern.TWICE
    assert pattern(*first, get("a", 7, 8, B)) is Pattern.TWICE
    assert pattern(put("a", 0, 1), get("a", 2, 3), lease("a", 7, 8, 1, B), ack("a", 9, 10, B)) is Pattern.TWICE


def test_a_value_has_one_living_holder() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3)]
    second = [lease("a", 5, 7, 2, B), ack("a", 8, 9, B)]
    assert pattern(*first, requeue("a", 8, 9), *second) is Pattern.HOLDERS
    assert pattern(*first, *second) is Pattern.HOLDERS  # it has it to this day
    assert pattern(*first, *second, deaths={A: 6}) is None
    assert pattern(*first, *second, deaths={A: 8}) is Pattern.HOLDERS


def test_an_ack_during_which_its_worker_is_killed_may_have_happened() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3), ack("a", 4, None)]
    assert pattern(*first, deaths={A: 5}) is None
    assert pattern(*first, lease("a", 6, 7, 2, B), ack("a", 8, 9, B), deaths={A: 5}) is None


def test_the_value_of_a_killed_holder_is_not_lost() -> None:
    assert pattern(put("a", 0, 1), lease("a", 2, 3), deaths={A: 4}) is Pattern.LOST
    assert pattern(put("a", 0, 1), lease(None, 2, None), deaths={A: 4}) is Pattern.LOST
    assert pattern(put("a", 0, 1), get(None, 2, None), deaths={A: 4}) is None


def test_values_come_as_they_were_put() -> None:
    puts = [put("a", 0, 1), put("b", 2, 3, worker=1)]
    acks = [ack("a", 20, 21), ack("b", 22, 23)]
    assert pattern(*puts, lease("a", 4, 5), lease("b", 6, 7), *acks) is None
    assert pattern(*puts, lease("a", 6, 7), lease("b", 4, 5), *acks) is Pattern.ORDER
    assert pattern(*puts, lease("a", 6, 7), lease("b", 4, 5), *acks, order=Order.PER_PRODUCER) is None
    assert pattern(*puts, lease("a", 5, 7), lease("b", 4, 6), *acks) is None  # both at once


def test_a_requeued_value_comes_before_newer_ones() -> None:
    first = [put("a", 0, 1), put("b", 2, 3), lease("a", 4, 5), requeue("a", 6, 7)]
    acks = [ack("a", 20, 21, B), ack("b", 22, 23, B)]
    assert pattern(*first, lease("a", 8, 9, 2, B), lease("b", 10, 11, 1, B), *acks) is None
    assert pattern(*first, lease("b", 8, 9, 1, B), lease("a", 10, 11, 2, B), *acks) is Pattern.ORDER
    assert pattern(*first, lease("b", 6, 9, 1, B), lease("a", 10, 11, 2, B), *acks) is None  # perhaps before


def test_where_values_return_to_any_place_only_new_ones_have_an_order() -> None:
    puts = [put("a", 0, 1), put("b", 2, 3)]
    acks = [ack("a", 20, 21, B), ack("b", 22, 23, B)]
    late = [lease("a", 4, 5), requeue("a", 6, 7), lease("b", 8, 9, 1, B), lease("a", 10, 11, 2, B)]
    assert pattern(*puts, *late, *acks, returns_anywhere=True) is None
    early = [put("c", 4, 5), lease("a", 6, 7), requeue("a", 8, 9), lease("a", 10, 11, 2, B), lease("b", 12, 13, 1, B)]
    end = [lease("c", 14, 15, 1, B), ack("c", 24, 25, B)]
    assert pattern(*puts, *early, *end, *acks, returns_anywhere=True) is None
    swapped = [lease("b", 6, 7, 1, B), lease("a", 8, 9, 1, B)]
    assert pattern(*puts, *swapped, *acks, returns_anywhere=True) is Pattern.ORDER


def test_where_values_return_to_any_place_attempts_only_tell_new_from_old() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3), requeue("a", 4, 5), lease("a", 6, 7, 2, B), requeue("a", 8, 9, B)]
    assert pattern(*first, lease("a", 10, 11, 2, B), ack("a", 12, 13, B), returns_anywhere=True) is None
    assert pattern(*first, lease("a", 10, 11, 2, B), ack("a", 12, 13, B)) is Pattern.ATTEMPTS
    as_new = [lease("a", 10, 11, 1, B), ack("a", 12, 13, B)]
    assert pattern(*first, *as_new, returns_anywhere=True) is Pattern.ATTEMPTS


def test_where_values_return_to_any_place_none_is_lost_or_there_twice() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3)]
    assert pattern(*first, deaths={A: 4}, returns_anywhere=True) is Pattern.LOST
    again = [ack("a", 4, 6), lease("a", 7, 8, 2, B), ack("a", 9, 10, B)]
    assert pattern(*first, *again, returns_anywhere=True) is Pattern.TWICE
    assert (
        pattern(put("a", 0, 1), empty(2, 3), lease("a", 4, 5), ack("a", 6, 7), returns_anywhere=True) is Pattern.EMPTY
    )


def test_a_dead_holders_value_may_come_late() -> None:
    first = [put("a", 0, 1), put("b", 2, 3), lease("a", 4, 5)]
    late = [lease("b", 8, 9, 1, B), lease("a", 10, 11, 2, B), ack("a", 20, 21, B), ack("b", 22, 23, B)]
    assert pattern(*first, *late, deaths={A: 6}) is None


def test_a_value_that_a_killed_lease_can_have_had_may_come_late() -> None:
    first = [put("a", 0, 1), put("b", 2, 3), lease(None, 4, None)]
    acks = [ack("a", 20, 21, B), ack("b", 22, 23, B)]
    assert pattern(*first, lease("b", 8, 9, 1, B), lease("a", 10, 11, 2, B), *acks, deaths={A: 6}) is None
    assert pattern(*first, lease("b", 8, 9, 1, B), lease("a", 10, 11, 1, B), *acks, deaths={A: 6}) is Pattern.ORDER


def test_attempts_count() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3), requeue("a", 4, 6)]
    assert pattern(*first, lease("a", 7, 8, 1, B), ack("a", 9, 10, B)) is Pattern.ATTEMPTS
    again = [lease("a", 7, 8, 3, B), ack("a", 9, 10, B)]
    assert pattern(*first, *again) is Pattern.ATTEMPTS
    assert pattern(*first, *again, lease(None, 6, None, worker=7), deaths={7: 7}) is None


def test_a_lease_that_its_worker_has_can_be_ended() -> None:
    refused = Operation(A, "ack", "a", 4, 5, "refused")
    assert pattern(put("a", 0, 1), lease("a", 2, 3), refused) is Pattern.REFUSED


def test_it_says_empty_only_if_nothing_can_be_taken() -> None:
    first = [put("a", 0, 1), lease("a", 2, 3)]
    rest = [requeue("a", 6, 7), lease("a", 10, 11, 2), ack("a", 12, 13)]
    assert pattern(*first, empty(4, 5), *rest) is None
    assert pattern(*first, empty(8, 9), *rest) is Pattern.EMPTY


def test_a_value_comes_from_somewhere() -> None:
    assert pattern(lease("a", 0, 1), ack("a", 2, 3)) is Pattern.NOWHERE
    assert pattern(lease("a", 0, 1), put("a", 2, 3), ack("a", 4, 5)) is Pattern.NOWHERE


def test_unfinished_values_are_those_that_must_still_come() -> None:
    history = [
        *(put(value, 0, 1) for value in "abcd"), put("e", 0, None),
        lease("a", 2, 3), ack("a", 4, 5), lease("b", 6, 7), requeue("b", 8, 9), lease("c", 10, 11), ack("c", 12, None),
    ]  # fmt: skip
    assert unfinished(history) == ["b", "d"]


def right_history(seed: int) -> tuple[list[Operation], dict[int, int]]:
    """What a right queue does: operations happen at moments, and their intervals are wider than that."""
    chance = random.Random(seed)
    now, numbers = 0, 0
    free: list[tuple[int, int]] = []  # number, attempts
    held: dict[int, tuple[int, int]] = {}  # by worker
    busy_until: dict[int, int] = {}
    history: list[Operation] = []
    deaths: dict[int, int] = {}
    returns: list[tuple[int, tuple[int, int]]] = []  # of the dead: when, what
    consumers = [10, 11, 12]

    def interval(worker: int) -> tuple[int, int]:
        begin = max(busy_until.get(worker, 0) + 1, now - chance.randrange(30))
        end = max(begin, now) + chance.randrange(30)
        busy_until[worker] = end
        return begin, end

    for _ in range(chance.randrange(20, 120)):
        now += 40
        for when, item in [each for each in returns if each[0] <= now]:
            bisect.insort(free, item)
            returns.remove((when, item))
        if chance.random() < 0.4:
            producer = chance.randrange(2)
            history.append(put(numbers, *interval(producer), worker=producer))
            bisect.insort(free, (numbers, 0))
            numbers += 1
            continue
        worker = chance.choice(consumers)
        if worker in held and chance.random() < 0.1:
            deaths[worker] = busy_until[worker] + 1
            returns.append((now + chance.randrange(200), held.pop(worker)))
            consumers[consumers.index(worker)] = max(consumers) + 1
        elif worker in held:
            number, attempts = held.pop(worker)
            if chance.random() < 0.3:
                history.append(requeue(number, *interval(worker), worker=worker))
                bisect.insort(free, (number, attempts))
            else:
                history.append(ack(number, *interval(worker), worker=worker))
        elif not free:
            history.append(empty(*interval(worker), worker=worker))
        elif chance.random() < 0.1:
            history.append(get(free.pop(0)[0], *interval(worker), worker=worker))
        else:
            number, attempts = free.pop(0)
            held[worker] = number, attempts + 1
            history.append(lease(number, *interval(worker), attempt=attempts + 1, worker=worker))
    left = [*free, *(item for _, item in returns)]
    for worker, item in held.items():
        deaths[worker] = busy_until[worker] + 1
        left.append(item)
    now += 10_000
    for number, attempts in sorted(left):
        now += 40
        history += [lease(number, now, now + 1, attempts + 1, 99), ack(number, now + 2, now + 3, 99)]
    return history, deaths


def spoil(history: Sequence[Operation], chance: random.Random) -> list[Operation]:
    """The same with one ack that was none."""
    acks = [operation for operation in history if operation.kind == "ack"]
    one = chance.choice(acks)
    return [operation._replace(kind="requeue") if operation is one else operation for operation in history]


@pytest.mark.parametrize("seeds", [range(start, start + 100) for start in range(0, 400, 100)])
def test_it_accepts_what_a_right_queue_does(seeds: range) -> None:
    for seed in seeds:
        history, deaths = right_history(seed)
        assert find_leasing_violation(history, deaths) is None, seed


def test_it_refutes_a_loss_anywhere() -> None:
    refuted = 0
    for seed in range(100):
        history, deaths = right_history(seed)
        if any(operation.kind == "ack" for operation in history):
            spoilt = spoil(history, random.Random(seed))
            violation = find_leasing_violation(spoilt, deaths)
            assert violation is not None, seed
            assert violation.pattern in (Pattern.LOST, Pattern.EMPTY, Pattern.ORDER), seed
            refuted += 1
    assert refuted > 50
