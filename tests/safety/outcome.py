"""The options of a group, and its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Options:
    """How to run a group.

    ``seconds`` is how long to go on for where there is no end by itself; a group whose work is finite takes as much of
    it as the time allows, and all of it from ``LONG`` seconds on. ``part``: the only part of the group to run, one of
    the module's ``PARTS``; empty, all of it.
    """

    seconds: float
    seed: int
    engine: str
    start_method: str
    part: str = ""

    LONG = 60.0

    def includes(self, part: str) -> bool:
        """Whether a part of the group is to be run."""
        return self.part in ("", part)

    @property
    def is_long(self) -> bool:
        return self.seconds >= self.LONG


@dataclass
class Outcome:
    """Figures in the order in which they are printed, and a sentence for each fault."""

    figures: dict[str, int | float | str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count(self, what: str, more: int = 1) -> None:
        """Add to a figure."""
        before = self.figures.get(what, 0)
        assert isinstance(before, int)
        self.figures[what] = before + more

    def note_worst(self, what: str, value: float) -> None:
        """Keep the largest."""
        before = self.figures.get(what, value)
        assert isinstance(before, (int, float))
        self.figures[what] = max(before, value)

    def fault(self, sentence: str) -> None:
        self.faults.append(sentence)


@dataclass(frozen=True)
class Mutant:
    """A fault seeded into a copy of the project: in ``file``, ``old``, which occurs there once, becomes ``new``.

    ``engine``: the one that the group is run with to find it; None, the one that was asked for. ``part``: which part of
    the group finds it, one of the module's ``PARTS``; empty, all of the group is run.
    """

    name: str
    file: str
    old: str
    new: str
    engine: str | None = None
    part: str = ""


class Group(Protocol):
    """A module of this package that ``GROUPS`` names."""

    TITLE: str
    MUTANTS: tuple[Mutant, ...]
    run: Callable[[Options], Outcome]
