"""What the workers' diaries prove together: which process held which incarnation when, and where the items went.

Of each session with a queue there are times at which it held the queue for sure (from when the open had returned to
when it was about to close, or was about to be killed), and times at which it perhaps did (from before the open to after
the close, or the death). All processes read the same clock.

1. Two that hold for sure at the same time hold the same incarnation: else there are two live queues under one name.
2. An open finds nothing only if there was a moment in it at which nobody held for sure.
3. An open finds that the name is in use only if another one perhaps held it in that time, or if the last holder before
   was perhaps killed: then the queue stays with the items that are in it.
4. A worker that closes has seen the queue empty: each item that it has put was taken once, from the incarnation it was
   put into, or was with a worker that was killed in a get.

Fails if: one of these rules does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Item = tuple[int, int]
"""Its producer, and how many that one had put before."""


@dataclass(eq=False)
class Session:
    """Times are in nanoseconds; ``held`` and ``about_to_end`` are None if it never held for sure."""

    worker: int
    began: int
    result: str = "killed"  # or held, exists, missing
    uuid: str = ""
    created: bool = False
    held: int | None = None
    about_to_end: int | None = None
    ended: int = 0
    closed: bool = False
    put: list[Item] = field(default_factory=list)
    got: list[Item] = field(default_factory=list)
    lost_at_most: int = 0
    company: int = 0
    """Sessions that perhaps held at the same time."""

    def holds_throughout(self, other: Session) -> bool:
        if self.held is None or self.about_to_end is None:
            return False
        return self.held <= other.began and other.ended <= self.about_to_end

    def holds_for_sure_with(self, other: Session) -> bool:
        """At some moment."""
        if self.held is None or self.about_to_end is None or other.held is None or other.about_to_end is None:
            return False
        return max(self.held, other.held) < min(self.about_to_end, other.about_to_end)


@dataclass
class History:
    """Add all diaries, then ask for ``faults`` once."""

    sessions: list[Session] = field(default_factory=list)

    def add(self, worker: int, diary: Path, about_to_die: int, dead: int) -> None:
        """``about_to_die``: when it was not killed yet, ``dead``: when it certainly was."""
        text = diary.read_text() if diary.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        session: Session | None = None
        last = ""
        for line in lines:
            time, last, *words = line.split()
            session = self._note(session, worker, int(time), last, words)
        if session is not None:
            session.ended = dead
            session.lost_at_most = int(last == "getting")
            if session.held is not None and session.about_to_end is None:
                session.about_to_end = about_to_die

    def _note(self, session: Session | None, worker: int, time: int, what: str, words: list[str]) -> Session | None:
        """Returns the session that goes on."""
        if what == "open":
            session = Session(worker, time)
            self.sessions.append(session)
            return session
        assert session is not None
        if what in {"exists", "missing"}:
            session.result, session.ended = what, time
            return None
        if what == "held":
            session.result, session.held, session.uuid = what, time, words[0]
            session.created = words[1] == "created"
        elif what == "put":
            session.put.append((worker, int(words[0])))
        elif what == "got":
            session.got.append((int(words[0]), int(words[1])))
        elif what == "close":
            session.about_to_end = time
        elif what == "closed":
            session.ended, session.closed = time, True
            return None
        return session

    # ---- what was counted ----

    def count(self, result: str) -> int:
        """Opens with that result."""
        return sum(session.result == result for session in self.sessions)

    @property
    def created(self) -> int:
        return sum(session.created for session in self.sessions)

    @property
    def incarnations(self) -> set[str]:
        return {session.uuid for session in self.sessions if session.uuid}

    @property
    def worst_open(self) -> int:
        """Nanoseconds; those that were killed in it count until then."""
        return max(((session.held or session.ended) - session.began for session in self.sessions), default=0)

    @property
    def put(self) -> int:
        return sum(len(session.put) for session in self.sessions)

    @property
    def got(self) -> int:
        return sum(len(session.got) for session in self.sessions)

    # ---- what is proved ----

    def faults(self) -> Iterator[str]:
        yield from self._faults_of_pairs()
        for session in self.sessions:
            if session.result == "exists" and not session.company and not self._is_perhaps_orphaned(session.began):
                yield "a name was in use, and nobody used it"
        yield from self._faults_of_items()

    def _is_perhaps_orphaned(self, moment: int) -> bool:
        """Whether the last holder that had ended before was perhaps one that was killed."""
        before = [each for each in self.sessions if each.result in {"held", "killed"} and each.ended <= moment]
        last = max((each.about_to_end or each.began for each in before), default=0)
        return any(not each.closed for each in before if each.ended >= last)

    def _faults_of_pairs(self) -> Iterator[str]:
        """Of all sessions that perhaps held at the same time."""
        going_on: list[Session] = []
        for session in sorted(self.sessions, key=lambda each: each.began):
            going_on = [other for other in going_on if other.ended >= session.began]
            for other in going_on:
                if other.worker != session.worker:
                    other.company += 1
                    session.company += 1
                    yield from _faults_of_pair(session, other)
            going_on.append(session)

    def _faults_of_items(self) -> Iterator[str]:
        put_into = {item: session.uuid for session in self.sessions for item in session.put}
        got: Counter[Item] = Counter()
        for session in self.sessions:
            got.update(session.got)
            for item in session.got:
                if put_into.get(item, session.uuid) != session.uuid:
                    yield f"item {item} was put into {put_into[item]} and taken from {session.uuid}"
        for item, times in got.items():
            if times > 1:
                yield f"item {item} was taken {times} times"
        missing = [item for session in self.sessions if session.closed for item in session.put if item not in got]
        lost_at_most = sum(session.lost_at_most for session in self.sessions)
        if len(missing) > lost_at_most:
            yield f"{len(missing)} items are missing, and {lost_at_most} workers were killed in a get"


def _faults_of_pair(one: Session, other: Session) -> Iterator[str]:
    for failed, holder in ((one, other), (other, one)):
        if failed.result == "missing" and holder.holds_throughout(failed):
            yield f"a queue was not found while worker {holder.worker} held it"
    if one.uuid != other.uuid and one.holds_for_sure_with(other):
        yield f"two queues under one name: {one.uuid} and {other.uuid} were held at the same time"
