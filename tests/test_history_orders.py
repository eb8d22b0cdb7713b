"""The checker of histories refutes one if and only if no order of its operations, all of them tried, is a queue's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from history_support import empty, full, get, pending_get, put
from hypothesis import given, settings
from hypothesis import strategies as st

from shmqueue.conformance.history import Operation, Order, find_violation

NEVER = 1 << 62


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
