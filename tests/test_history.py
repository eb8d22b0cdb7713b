"""What the checker of histories accepts, what it refutes, and what it says of that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from history_support import empty, full, get, pattern_of, pending_get, put

from shmqueue.conformance.history import Operation, Order, Pattern, find_violation


def pattern(history: Sequence[Operation], **options: Any) -> Pattern | None:
    """The pattern that refutes it; whichever order it is given in."""
    return pattern_of(partial(find_violation, **options), history)


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
