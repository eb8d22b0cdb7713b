"""The accounts of one round: from the journals alone, which items may be missing, and which are.

1. An item whose put returned comes out once, or was with a consumer when it was killed: one that was killed in a get
   may have had as many items as that get takes at most.
2. What a killed producer was just putting is put as a whole or not at all.
3. Whatever was refused does not come out, unless it was put again.
4. Each consumer sees the items of each producer in their order.
5. Of task_done() only the calls that a killed consumer was just making are uncertain.

Where items are leased, and only consumers that take them by lease are killed:

6. No item is missing, but for those that a killed consumer was just acknowledging.
7. An item that was acknowledged does not come again.
8. No item is in the hands of two living processes at once. One that was killed had it until the signal was sent.
9. What a killed process had comes again, soon.

Rule 4 then holds for what was never handed out before.

The queue's own counts are checked against these, they prove nothing by themselves.

Fails if: one of these rules does not hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .kill_stress_journal import Line, What

_BEGINS = {
    What.BEGIN_OPEN,
    What.BEGIN_CLOSE,
    What.BEGIN_PUT,
    What.BEGIN_GET,
    What.BEGIN_DONE,
    What.BEGIN_LEASE,
    What.BEGIN_ACK,
}

Item = tuple[int, int]
"""A producer, and the number of one of its items."""


@dataclass
class Holding:
    """An item in the hands of a worker: times in nanoseconds of the monotonic clock.

    ``begun``: when it asked for an item; from ``start`` to ``end`` it certainly had it. ``attempt``: 0 where it was not
    told.
    """

    worker: int
    begun: int
    start: int
    attempt: int
    end: int | None = None
    was_killed: bool = False


@dataclass
class Puts:
    """Of one producer: items 0 to ``sure`` - 1 are put, the next ``unsure`` perhaps."""

    sure: int = 0
    unsure: int = 0


@dataclass
class Accounts:
    """Add all journals, then ask for ``faults`` once."""

    has_leases: bool = False
    puts: dict[int, Puts] = field(default_factory=dict)
    seen: dict[int, dict[int, int]] = field(default_factory=dict)
    """How often each item of each producer came out."""
    lost_at_most: int = 0
    done: int = 0
    done_perhaps: int = 0
    reordered: int = 0
    holdings: dict[Item, list[Holding]] = field(default_factory=dict)
    finished: dict[Item, int] = field(default_factory=dict)
    """When an item was certainly acknowledged."""
    finished_perhaps: set[Item] = field(default_factory=set)
    worst_wait: dict[str, int] = field(default_factory=dict)
    """Nanoseconds that an operation took, by its name."""

    @property
    def put(self) -> int:
        """Items whose put returned."""
        return sum(puts.sure for puts in self.puts.values())

    @property
    def got(self) -> int:
        return sum(sum(counts.values()) for counts in self.seen.values())

    @property
    def doubled(self) -> int:
        return sum(count - 1 for counts in self.seen.values() for count in counts.values())

    @property
    def missing(self) -> int:
        """Items that are put, and did not come out."""
        return len(self._missing())

    def _missing(self) -> set[Item]:
        return {
            (producer, number)
            for producer, puts in self.puts.items()
            for number in self._put_for_sure(producer, puts) - self.seen.get(producer, {}).keys()
        }

    @property
    def lost(self) -> int:
        """Of the missing ones, those that nobody was just acknowledging."""
        return len(self._missing() - self.finished_perhaps)

    @property
    def redeliveries(self) -> list[int]:
        """Nanoseconds from the death of a holder until its item was in other hands."""
        waits = []
        for holdings in self.holdings.values():
            holdings.sort(key=lambda holding: holding.start)
            for holding, following in itertools.pairwise(holdings):
                if holding.was_killed and holding.end is not None:
                    waits.append(following.start - holding.end)
        return waits

    @property
    def unsure(self) -> int:
        """Items that a killed producer was just putting, and of whose operation nothing was seen."""
        return sum(puts.unsure for producer, puts in self.puts.items() if not self._unsure_were_put(producer, puts))

    @property
    def put_by_the_dead(self) -> int:
        """Items that a killed producer was just putting, and that were put."""
        return sum(puts.unsure for producer, puts in self.puts.items() if self._unsure_were_put(producer, puts))

    def add(self, worker: int, journal: Iterable[Line], ended: int, killed: int | None = None) -> None:
        """Add a worker's journal.

        Both in nanoseconds of the monotonic clock: ``ended``, when it had certainly ended; ``killed``, when it had
        certainly not been killed yet; None, it was not.
        """
        held: dict[Item, Holding] = {}
        leased: Line | None = None
        last: dict[int, int] = {}  # producer -> the last one of its items that this worker got
        begun: Line | None = None
        got = 0  # of the operation under way
        for line in journal:
            if line.what in _BEGINS:
                begun, got = line, 0
                if line.what == What.BEGIN_ACK:
                    held.pop((line.count, line.number)).end = line.time
            elif line.what == What.GOT:
                producer = line.time
                counts = self.seen.setdefault(producer, {})
                counts[line.number] = counts.get(line.number, 0) + 1
                if not self.has_leases:
                    self.reordered += line.number <= last.get(producer, -1)
                    last[producer] = line.number
                got += 1
            elif line.what == What.LEASED:
                leased = line
                if line.count == 1:
                    self.reordered += line.number <= last.get(line.time, -1)
                    last[line.time] = line.number
            elif line.what in {What.BEGIN_REQUEUE, What.REQUEUED}:
                if (holding := held.pop((line.count, line.number), None)) is not None:
                    holding.end = line.time
            elif begun is not None:
                self._note_wait(begun, line.time)
                self._end(worker, begun, line)
                if leased is not None:
                    item = leased.time, leased.number
                    held[item] = Holding(worker, begun.time, line.time, leased.count)
                    self.holdings.setdefault(item, []).append(held[item])
                begun = leased = None
        if begun is not None:
            self._note_wait(begun, ended)
            self._interrupt(worker, begun, got)
        for holding in held.values():
            holding.end, holding.was_killed = killed, killed is not None

    def _end(self, worker: int, begun: Line, line: Line) -> None:
        if line.what == What.PUT:
            self.puts.setdefault(worker, Puts()).sure += begun.count
        elif line.what == What.DONE:
            self.done += begun.count
        elif line.what == What.ACKED:
            self.done += 1
            item = line.count, line.number
            self.finished[item] = line.time
            counts = self.seen.setdefault(line.count, {})
            counts[line.number] = counts.get(line.number, 0) + 1

    def _interrupt(self, worker: int, begun: Line, got: int) -> None:
        if begun.what == What.BEGIN_PUT:
            self.puts.setdefault(worker, Puts()).unsure = begun.count
        elif begun.what == What.BEGIN_GET:
            self.lost_at_most += begun.count - got
        elif begun.what == What.BEGIN_DONE:
            self.done_perhaps += begun.count
        elif begun.what == What.BEGIN_ACK:
            self.done_perhaps += 1
            self.lost_at_most += 1
            self.finished_perhaps.add((begun.count, begun.number))

    def _note_wait(self, begun: Line, end: int) -> None:
        operation = What(begun.what).name.removeprefix("BEGIN_").lower()
        self.worst_wait[operation] = max(self.worst_wait.get(operation, 0), end - begun.time)

    def _unsure_were_put(self, producer: int, puts: Puts) -> bool:
        counts = self.seen.get(producer, {})
        return any(puts.sure + more in counts for more in range(puts.unsure))

    def _put_for_sure(self, producer: int, puts: Puts) -> set[int]:
        return set(range(puts.sure + (puts.unsure if self._unsure_were_put(producer, puts) else 0)))

    def faults(self, puts: int, gets: int, unfinished: int) -> Iterator[str]:
        """What the rules forbid and has happened; the arguments are what the queue says of itself, when it is empty."""
        for producer, counts in self.seen.items():
            for number, count in counts.items():
                if count > 1:
                    yield f"item {number} of producer {producer} came out {count} times"
            strange = counts.keys() - self._put_for_sure(producer, self.puts.get(producer, Puts()))
            if strange:
                yield f"items {sorted(strange)[:10]} of producer {producer} came out and were never put"
        yield from self._faults_of_leases()
        if self.reordered:
            yield f"{self.reordered} items came out behind a later one of the same producer"
        put_at_least = sum(len(self._put_for_sure(producer, puts)) for producer, puts in self.puts.items())
        if not put_at_least <= puts <= put_at_least + self.unsure:
            yield (
                f"the queue says that {puts} items were put: {put_at_least} were, and {self.unsure} perhaps; "
                "so some were put in part"
            )
        if puts != gets:
            yield f"the queue is empty, and says that of {puts} items {gets} were taken"
        if self.missing > self.lost_at_most or gets - self.got > self.lost_at_most:
            yield (
                f"{self.missing} items are missing, by the queue's counts {gets - self.got}, "
                f"and killed consumers had {self.lost_at_most} at most"
            )
        if not puts - self.done - self.done_perhaps <= unfinished <= puts - self.done:
            yield (
                f"{unfinished} items are unfinished of {puts} with {self.done} calls of task_done() "
                f"and {self.done_perhaps} perhaps"
            )

    def _faults_of_leases(self) -> Iterator[str]:
        if self.has_leases and self.lost:
            yield f"{self.lost} items are lost, though they belonged to the queue: {sorted(self._missing())[:10]}"
        for (producer, number), holdings in self.holdings.items():
            name = f"item {number} of producer {producer}"
            holdings.sort(key=lambda holding: holding.start)
            finished = self.finished.get((producer, number))
            if finished is not None and any(holding.begun > finished for holding in holdings):
                yield f"{name} was leased after it had been acknowledged"
            for holding, following in itertools.pairwise(holdings):
                if holding.end is None or following.start < holding.end:
                    yield f"{name} was in the hands of workers {holding.worker} and {following.worker} at once"
            attempts = [holding.attempt for holding in holdings if holding.attempt]
            if any(later <= earlier for earlier, later in itertools.pairwise(attempts)):
                yield f"{name} was handed out with the attempts {attempts}"
