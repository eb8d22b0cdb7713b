"""What the checker of histories accepts and what it refutes, and that both agree with trying every order there is."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmqueue.conformance.history import Operation, Order, Pattern, find_violation

NEVER = 1 << 62
Value = tuple[int, int]


def put(value: object, invoked: int, returned: int | None, worker: int = 0) -> Operation:
    return Operation(worker, "put", value, invoked, returned, "pending" if returned is None else "ok")


def get(value: object, invoked: int, returned: int, worker: int = 5) -> Operation:
    return Operation(worker, "get", value, invoked, returned, "ok")


def empty(invoked: int, returned: int, worker: int = 6) -> Operation:
    return Operation(worker, "get", None, invoked, returned, "empty")


def full(value: object, invoked: int, returned: int, worker: int = 1) -> Operation:
    return Operation(worker, "put", value, invoked, returned, "full")


def pending_get(invoked: int, worker: int = 7) -> Operation:
    return Operation(worker, "get", None, invoked, None, "pending")


def pattern(history: Sequence[Operation], **options: object) -> Pattern | None:
    """The pattern that refutes it; whichever order it is given in."""
    violations = [find_violation(each, **options) for each in (history, history[::-1])]  # type: ignore[arg-type]
    patterns = [violation.pattern if violation else None for violation in violations]
    assert patterns[0] == patterns[1]
    return patterns[0]


# ---- each pattern ----


def test_nothing_is_wrong_with_nothing() -> None:
    assert pattern([]) is None
    assert pattern([pending_get(0), empty(0, 1), put("a", 2, None)]) is None


def test_a_value_that_nobody_put_comes_from_nowhere() -> None:
    assert pattern([get("a", 0, 1)]) is Pattern.NOWHERE
    assert pattern([full("a", 0, 1), get("a", 2, 3)]) is Pattern.NOWHERE


def test_a_value_comes_from_nowhere_if_its_get_returned_before_its_put_was_invoked() -> None:
    assert pattern([get("a", 0, 1), put("a", 2, 3)]) is Pattern.NOWHERE
    assert pattern([get("a", 0, 2), put("a", 2, 3)]) is None
    assert pattern([get("a", 0, 1), put("a", 2, None)]) is Pattern.NOWHERE


def test_a_value_comes_out_once() -> None:
    assert pattern([put("a", 0, 1), get("a", 0, 3), get("a", 2, 4)]) is Pattern.TWICE


def test_values_come_out_as_they_went_in() -> None:
    puts = [put("a", 0, 1), put("b", 2, 3, worker=1)]
    assert pattern([*puts, get("a", 4, 5), get("b", 6, 7)]) is None
    assert pattern([*puts, get("a", 6, 7), get("b", 4, 5)]) is Pattern.ORDER
    assert pattern([*puts, get("a", 5, 7), get("b", 4, 6)]) is None  # both at once


def test_values_put_at_once_come_out_in_any_order() -> None:
    assert pattern([put("a", 0, 2), put("b", 1, 3), get("b", 4, 5), get("a", 6, 7)]) is None


def test_a_value_that_stays_may_not_be_overtaken() -> None:
    history = [put("a", 0, 1), put("b", 2, 3), get("b", 4, 5)]
    assert pattern(history, drained=False) is Pattern.ORDER
    assert pattern(history[1:], drained=False) is None
    assert pattern([put("a", 0, 1), put("b", 0, 3), get("b", 4, 5)], drained=False) is None


def test_a_value_that_stays_in_a_drained_queue_is_lost() -> None:
    assert pattern([put("a", 0, 1)]) is Pattern.LOST
    assert pattern([put("a", 0, 1)], drained=False) is None


def test_a_get_says_empty_only_if_there_was_a_moment_for_it() -> None:
    stay = [put("a", 0, 1), get("a", 8, 9)]
    assert pattern([*stay, empty(2, 7)]) is Pattern.EMPTY
    assert pattern([*stay, empty(2, 8)]) is None
    assert pattern([*stay, empty(1, 7)]) is None
    assert pattern([*stay, empty(2, 7)], empties=False) is None


def test_values_that_overlap_keep_the_queue_from_being_empty() -> None:
    stays = [put("a", 0, 1), get("a", 5, 6), put("b", 3, 4), get("b", 8, 9), put("c", 5, 7), get("c", 10, 11)]
    violation = find_violation([*stays, empty(2, 9)])
    assert violation is not None
    assert violation.pattern is Pattern.EMPTY
    assert [operation.value for operation in violation.operations] == [None, "a", "a", "b", "b", "c", "c"]
    assert pattern([*stays[:2], put("b", 3, 5), *stays[3:], empty(2, 9)]) is None  # one moment between a and b


def test_a_wrong_empty_answer_is_refuted_with_as_few_values_as_suffice() -> None:
    stay = [put("a", 0, 1), get("a", 9, 10)]
    answer = empty(4, 8)
    violation = find_violation([put("b", 0, 0), get("b", 2, 3), *stay, put("c", 1, 2), get("c", 3, 4), answer])
    assert violation is not None
    assert violation.operations == (answer, *stay)


def test_a_value_that_stays_for_ever_keeps_the_queue_from_being_empty() -> None:
    assert pattern([put("a", 0, 1), empty(2, 3)], drained=False) is Pattern.EMPTY
    assert pattern([put("a", 0, 2), empty(2, 3)], drained=False) is None


def test_a_put_says_full_only_if_there_can_have_been_so_many_items() -> None:
    stays = [put("a", 0, 1), put("b", 10, 11), get("a", 20, 21), get("b", 30, 31)]
    assert pattern([*stays, full("c", 5, 9)], maxsize=2) is Pattern.FULL
    assert pattern([*stays, full("c", 5, 10)], maxsize=2) is None
    assert pattern([*stays, full("c", 21, 25)], maxsize=2) is None
    assert pattern([*stays, full("c", 22, 25)], maxsize=2) is Pattern.FULL
    assert pattern([*stays, full("c", 22, 31)], maxsize=1) is None
    assert pattern([*stays, full("c", 0, 99)], maxsize=3) is Pattern.FULL
    assert pattern([*stays, full("c", 0, 99)]) is None
    assert (
        pattern([put("a", 0, 1), get("a", 5, 10), put("b", 10, 11), get("b", 12, 13), full("c", 8, 12)], maxsize=2)
        is None
    )


def test_items_that_were_never_there_together_fill_nothing() -> None:
    stays = [put("a", 0, 1), get("a", 2, 3), put("b", 5, 6), get("b", 7, 8)]
    assert pattern([*stays, full("c", 0, 9)], maxsize=2) is Pattern.FULL


def test_what_a_pending_operation_may_have_left_in_there_counts_for_full() -> None:
    assert pattern([put("a", 0, None), full("b", 5, 6)], maxsize=1) is None
    assert pattern([put("a", 0, 1), pending_get(2), full("b", 5, 6)], maxsize=1) is None


# ---- ties ----


def test_equal_readings_order_nothing() -> None:
    assert pattern([put("a", 0, 1), put("b", 1, 2), get("b", 3, 4), get("a", 5, 6)]) is None
    assert pattern([put("a", 0, 1), put("b", 2, 3), get("b", 4, 5), get("a", 5, 6)]) is None
    assert pattern([put("a", 0, 0), get("a", 0, 0), empty(0, 0)]) is None


# ---- pending operations ----


def test_a_pending_put_has_happened_if_its_value_was_got() -> None:
    assert pattern([put("a", 0, None)]) is None
    assert pattern([put("a", 0, None), get("a", 1, 2)]) is None
    assert pattern([put("a", 0, None), put("b", 1, 2), get("b", 3, 4), get("a", 5, 6)]) is None
    assert pattern([put("b", 0, 1), put("a", 2, None), get("a", 3, 4), get("b", 5, 6)]) is Pattern.ORDER


def test_a_pending_get_accounts_for_one_missing_value() -> None:
    assert pattern([put("a", 0, 1), pending_get(9)]) is None
    assert pattern([put("a", 8, 9), pending_get(0)]) is None
    assert pattern([put("a", 0, 1), put("b", 2, 3), pending_get(9)]) is Pattern.LOST
    assert pattern([put("a", 0, 1), put("b", 2, 3), pending_get(8), pending_get(9)]) is None
    assert pattern([put("a", 0, 1), pending_get(9)], lost_by_killed_gets=False) is Pattern.LOST


def test_a_pending_get_took_a_value_before_it_was_overtaken() -> None:
    overtaken = [put("a", 0, 1), put("b", 2, 3), get("b", 4, 5)]
    for drained in (True, False):
        assert pattern([*overtaken, pending_get(5)], drained=drained) is None
        assert pattern([*overtaken, pending_get(6)], drained=drained) is Pattern.ORDER


def test_two_values_overtaken_need_two_pending_gets_in_time() -> None:
    overtaken = [put("a", 0, 1), put("b", 0, 1), put("c", 2, 3), get("c", 4, 5)]
    assert pattern([*overtaken, pending_get(0), pending_get(5)]) is None
    assert pattern([*overtaken, pending_get(0), pending_get(6)]) is Pattern.ORDER
    assert pattern([*overtaken, pending_get(0)], drained=False) is Pattern.ORDER


def test_a_pending_get_made_room_for_an_empty_answer_only_after_it_was_invoked() -> None:
    assert pattern([put("a", 0, 1), pending_get(5), empty(3, 5)]) is None
    assert pattern([put("a", 0, 1), pending_get(5), empty(3, 4)]) is Pattern.EMPTY
    # The earlier get must have taken the earlier value, the later one what was put after the empty answer.
    two = [put("a", 0, 1), put("b", 10, 11), pending_get(5), pending_get(15)]
    assert pattern([*two, empty(6, 9)]) is None
    assert pattern([*two, empty(12, 14)]) is Pattern.EMPTY


# ---- the order per producer ----


def test_only_values_of_the_same_producer_keep_their_order_if_that_is_all_that_is_asked() -> None:
    gets = [get("b", 4, 5), get("a", 6, 7)]
    assert pattern([put("a", 0, 1, 1), put("b", 2, 3, 2), *gets], order=Order.PER_PRODUCER) is None
    assert pattern([put("a", 0, 1, 1), put("b", 2, 3, 1), *gets], order=Order.PER_PRODUCER) is Pattern.ORDER
    assert pattern([put("a", 0, 1, 1), put("b", 2, 3, 2), *gets]) is Pattern.ORDER


def test_per_producer_the_more_urgent_value_has_the_earlier_pending_get() -> None:
    # b, which was overtaken by c, must be the first pending get's, though a was put before.
    history = [put("a", 0, 1, 1), put("b", 2, 3, 2), put("c", 4, 5, 2), get("c", 6, 8), pending_get(7), pending_get(20)]
    assert pattern(history, order=Order.PER_PRODUCER) is None
    assert pattern([*history, empty(9, 19)], order=Order.PER_PRODUCER) is Pattern.EMPTY
    assert pattern([*history[:3], *history[4:]], order=Order.PER_PRODUCER, drained=False) is None


def test_per_producer_the_earlier_value_has_the_earlier_pending_get_if_the_other_can_wait() -> None:
    # Then the queue was empty between the first pending get and the put of b.
    overtaken = [put("a", 0, 1, 1), put("b", 10, 11, 2), put("c", 12, 13, 2), get("c", 14, 30)]
    assert pattern([*overtaken, pending_get(5), pending_get(30), empty(6, 9)], order=Order.PER_PRODUCER) is None
    assert (
        pattern([*overtaken, pending_get(5), pending_get(31), empty(6, 9)], order=Order.PER_PRODUCER) is Pattern.EMPTY
    )


def test_per_producer_values_put_at_once_are_not_urgent() -> None:
    at_once = [put("a", 0, 1, 1), put("b", 1, 2, 1), get("b", 3, 4)]
    overtaken = [put("c", 2, 3, 2), put("d", 4, 5, 2), get("d", 6, 8)]
    assert pattern([*at_once, *overtaken, pending_get(7), pending_get(20)], order=Order.PER_PRODUCER) is None


# ---- what is reported ----


def test_a_violation_names_values_workers_and_times_since_the_start() -> None:
    start = 10**15
    history = [
        put("a", start, start + 1000, 1),
        put("b", start + 2000, start + 3000, 2),
        get("b", start + 4000, start + 5000, 3),
        get("a", start + 6000, start + 1_000_007, 4),
    ]
    violation = find_violation(history)
    assert violation is not None
    assert violation.operations == (history[0], history[1], history[3], history[2])
    assert str(violation) == (
        "out of order: 'a' was put by worker 1 (0.000000 to 0.001000 ms) "
        "before 'b' by worker 2 (0.002000 to 0.003000 ms), "
        "yet 'b' was got by worker 3 (0.004000 to 0.005000 ms) "
        "and 'a' later, by worker 4 (0.006000 to 1.000007 ms)"
    )


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([get("a", 0, 1, 3)], ["from nowhere", "'a'", "worker 3", "nobody"]),
        ([put("a", 5, 6, 1), get("a", 0, 1, 3)], ["from nowhere", "'a'", "worker 3", "worker 1", "before"]),
        ([put("a", 0, 1), get("a", 2, 3, 3), get("a", 2, 3, 4)], ["twice", "'a'", "worker 3", "worker 4"]),
        ([put("a", 0, 1, 3)], ["lost", "1 value was", "'a'", "worker 3"]),
        ([put(n, n, n) for n in range(9)], ["lost", "9 values were", "0, put", "2, put", "and 6 more"]),
        ([put("a", 0, 1), get("a", 4, 5), empty(2, 3, 8)], ["empty although not", "worker 8", "'a'"]),
        ([put("a", 0, 1), pending_get(4, 9), empty(2, 3, 8)], ["worker 8", "'a'", "worker 9 (from 0.000004 ms on)"]),
        ([full("a", 0, 1, 3)], ["full although not", "'a'", "worker 3", "2 items"]),
        (
            [put("a", 0, 1), put("b", 2, 3), get("b", 4, 5), pending_get(6, 9)],
            ["out of order", "'a' at best by the pending get of worker 9"],
        ),
    ],
)
def test_every_pattern_is_told_in_one_sentence(history: list[Operation], words: list[str]) -> None:
    told = str(find_violation(history, maxsize=2))
    assert [word for word in words if word not in told] == [], told
    assert "\n" not in told


@pytest.mark.parametrize(
    "history",
    [
        [put("a", 0, 1), put("a", 2, 3)],
        [put("a", 0, 1), put("a", 2, None)],
        [put("a", 1, 0)],
        [Operation(0, "put", "a", 0, None, "ok")],
        [Operation(0, "put", "a", 0, 1, "pending")],
        [Operation(0, "put", "a", 0, 1, "empty")],
        [Operation(0, "get", None, 0, 1, "full")],
    ],
)
def test_what_is_no_history_is_refused(history: list[Operation]) -> None:
    with pytest.raises(ValueError, match="Operation"):
        find_violation(history)


# ---- all orders tried ----


def linearizes(
    history: Sequence[Operation],
    *,
    order: Order = Order.TOTAL,
    empties: bool = True,
    lost_by_killed_gets: bool = True,
    drained: bool = True,
    maxsize: int = 0,
) -> bool:
    """Whether any order of the operations is what a queue does; those pending may be left out."""
    end = [NEVER if each.returned is None else each.returned for each in history]
    before = [{other for other in range(len(history)) if end[other] < each.invoked} for each in history]
    required = {index for index, each in enumerate(history) if each.outcome != "pending"}
    dead_ends: set[tuple[frozenset[int], tuple[Operation, ...]]] = set()

    def heads(held: tuple[Operation, ...]) -> list[Operation]:
        """The puts whose values can come out next."""
        if order is Order.TOTAL:
            return list(held[:1])
        return [each for at, each in enumerate(held) if each.worker not in {other.worker for other in held[:at]}]

    def outcomes(operation: Operation, held: tuple[Operation, ...]) -> list[tuple[Operation, ...]]:
        """What can be in the queue after the operation."""
        has_room = not maxsize or len(held) < maxsize
        if operation.outcome == "full":
            return [held] if not has_room else []
        if operation.kind == "put":
            return [(*held, operation)] if has_room else []
        if operation.outcome == "empty":
            return [held] if not (held and empties) else []
        if operation.outcome == "pending" and not lost_by_killed_gets:
            return []
        taken = [each for each in heads(held) if operation.outcome == "pending" or each.value == operation.value]
        return [tuple(each for each in held if each is not one) for one in taken]

    def can_end(done: frozenset[int], held: tuple[Operation, ...]) -> bool:
        if done >= required and not (drained and held):
            return True
        if (done, held) in dead_ends:
            return False
        dead_ends.add((done, held))
        ready = [index for index in range(len(history)) if index not in done and before[index] <= done]
        return any(can_end(done | {index}, after) for index in ready for after in outcomes(history[index], held))

    return can_end(frozenset(), ())


@st.composite
def histories(draw: st.DrawFn, fulls: bool = False) -> list[Operation]:
    """Up to eight operations that overlap, right and wrong ones; most values that are got were put."""
    span = draw(st.sampled_from([4, 8, 16, 30]))
    kinds = ["put", "put, get", "put, get", "pending put", "pending put, get", "pending get", "empty"]
    kinds += ["full"] if fulls else []
    history: list[Operation] = []

    def interval() -> tuple[int, int]:
        invoked = draw(st.integers(0, span))
        return invoked, invoked + draw(st.integers(0, draw(st.sampled_from([1, 2, span // 2]))))

    for value, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6))):
        invoked, returned = interval()
        if kind == "pending get":
            history.append(pending_get(invoked))
        elif kind == "empty":
            history.append(empty(invoked, returned))
        elif kind == "full":
            history.append(full(value, invoked, returned))
        else:
            end = None if kind.startswith("pending") else returned
            history.append(put(value, invoked, end, worker=draw(st.integers(0, 1))))
        if kind.endswith(", get"):
            history.append(get(draw(st.sampled_from([value] * 9 + [0])), *interval()))
    return history[:8]


@pytest.mark.thorough
@settings(max_examples=1500)
@given(
    history=histories(),
    order=st.sampled_from(Order),
    empties=st.booleans(),
    lost_by_killed_gets=st.booleans(),
    drained=st.booleans(),
)
def test_a_history_is_refuted_if_and_only_if_no_order_of_it_is_a_queues(
    history: list[Operation], order: Order, empties: bool, lost_by_killed_gets: bool, drained: bool
) -> None:
    violation = find_violation(
        history, order=order, empties=empties, lost_by_killed_gets=lost_by_killed_gets, drained=drained
    )
    possible = linearizes(
        history, order=order, empties=empties, lost_by_killed_gets=lost_by_killed_gets, drained=drained
    )
    assert (violation is None) is possible, violation


@pytest.mark.thorough
@settings(max_examples=500)
@given(history=histories(fulls=True), maxsize=st.integers(1, 3), drained=st.booleans())
def test_with_maxsize_a_history_is_refuted_only_if_no_order_of_it_is_a_queues(
    history: list[Operation], maxsize: int, drained: bool
) -> None:
    if linearizes(history, maxsize=maxsize, drained=drained):
        assert find_violation(history, maxsize=maxsize, drained=drained) is None


# ---- long histories of real queues ----


def simulate(chance: random.Random, operations: int, maxsize: int) -> list[Operation]:
    """What three producers and three consumers see of a queue; some are killed, and the rest drains it."""
    history: list[Operation] = []
    held: list[int] = []
    unused = count()

    def step(moment: int, kind: str) -> None:
        invoked, returned = moment - chance.randrange(500), moment + chance.randrange(500)
        killed, too_early = chance.random() < 0.01, chance.random() < 0.5
        if kind == "get" and killed:
            if held and not too_early:
                held.pop(0)
            history.append(pending_get(invoked))
        elif kind == "get":
            history.append(get(held.pop(0), invoked, returned) if held else empty(invoked, returned))
        elif len(held) == maxsize and not killed:
            history.append(full(next(unused), invoked, returned))
        else:
            value = next(unused)
            if len(held) < maxsize and not (killed and too_early):
                held.append(value)
            history.append(put(value, invoked, None if killed else returned, chance.randrange(3)))

    for number in range(operations):
        step(number * 100, chance.choice(["put", "get"]))
    for number in count(operations):
        if not held:
            break
        step(number * 100, "get")
    chance.shuffle(history)
    return history


@pytest.mark.parametrize("seed", range(8))
def test_what_workers_see_of_a_queue_is_accepted(seed: int) -> None:
    chance = random.Random(seed)
    maxsize = chance.choice([1, 3, 50])
    history = simulate(chance, 3000, maxsize)
    for order in Order:
        for drained in (True, False):
            assert find_violation(history, order=order, drained=drained, maxsize=maxsize) is None


def test_what_threads_see_of_the_standard_queue_is_accepted() -> None:
    shared: queue.Queue[Value] = queue.Queue(10)
    history: list[Operation] = []

    def log(worker: int, kind: str, call: Callable[[], Value | None], value: Value | None) -> None:
        invoked, outcome = time.monotonic_ns(), "ok"
        try:
            value = call() or value
        except (queue.Empty, queue.Full) as error:
            outcome = type(error).__name__.lower()
        history.append(Operation(worker, kind, value, invoked, time.monotonic_ns(), outcome))  # type: ignore[arg-type]

    def produce(worker: int) -> None:
        for number in range(500):
            value = worker, number
            log(worker, "put", partial(shared.put_nowait, value), value)

    def consume(worker: int) -> None:
        while any(producer.is_alive() for producer in producers) or not shared.empty():
            log(worker, "get", shared.get_nowait, None)

    producers = [threading.Thread(target=produce, args=(worker,)) for worker in (0, 1)]
    consumers = [threading.Thread(target=consume, args=(worker,)) for worker in (2, 3)]
    for thread in (*producers, *consumers):
        thread.start()
    for thread in (*producers, *consumers):
        thread.join()
    assert find_violation(history, maxsize=10) is None


@pytest.fixture(scope="module")
def million() -> list[Operation]:
    """Half a million values, put a microsecond apart and got two milliseconds later, by operations that overlap."""
    chance = random.Random(1)
    history = []
    for operation, delay in ((put, 0), (get, 2_000_000)):
        for value in range(500_000):
            moment = value * 1000 + delay
            times = moment - chance.randrange(1500), moment + chance.randrange(1500)
            history.append(operation(value, *times, worker=chance.randrange(4)))
    return history


@pytest.mark.thorough
def test_a_million_operations_are_accepted(million: list[Operation]) -> None:
    assert find_violation(million) is None


@pytest.mark.parametrize("distance", [10, 1000])
def test_two_swapped_values_among_a_million_operations_are_named(million: list[Operation], distance: int) -> None:
    history = list(million)
    first, then = 750_000, 750_000 + distance
    history[first] = million[first]._replace(value=million[then].value)
    history[then] = million[then]._replace(value=million[first].value)
    violation = find_violation(history)
    assert violation is not None
    assert violation.pattern is Pattern.ORDER
    assert violation.operations == (million[250_000], million[250_000 + distance], history[then], history[first])
