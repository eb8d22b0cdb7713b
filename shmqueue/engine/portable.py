"""The portable engine: a ring of records in pure Python, for wherever CPython runs.

It may be slow, it may poll, and it keeps every other promise of the ``Engine`` protocol. All mutable state of a segment
is under one lock (``shmqueue.engine.portable_lock``, which survives its owner's death), except where rule 3 below says
otherwise.

    offset   bytes  what
         0     128  header      written once by shmqueue.segment
       128       1  selector    low byte of the current state's serial number
       129       1  putters     somebody may be asleep in a put: raised before each sleep, taken down by each commit
       130       1  getters     the same for a get
       131       1  nowhere     where stores go that must have no effect
       132       1  owned       the lock's owner is at work: an owner that finds it set follows a dead one
       136      32  claim       of a put that others overtake, see portable_claim.py; a hint, written without the lock
       192     160  state[0]    what the queue holds: the fields of State in portable_state.py, then a CRC-32
       448     160  state[1]
      4096       -  data        the ring: ``size`` bytes of records; behind it room for it to grow to ``capacity``
         -       -  leases      two tables of what is handed out, and its payloads: see portable_leases.py

A record is  u32 payload length | u32 serialization method | payload,  unaligned; any part of it may wrap from the last
byte of the ring to the first. A length of 2**32 - 1 or more is written as that number, and as u64 behind the method.
Positions count bytes, and counts items, since the segment was made.

1. The current state is ``state[selector & 1]``; its serial number's low byte is the selector.
2. To commit, the lock's owner fills the other slot with the next serial number, then stores the selector: that one byte
   is the commit. Death before it has changed nothing, death after it everything.
3. Anyone may read the state without the lock: selector, slot, selector again. It counts if the selector has not
   moved, the checksum is right and the serial number fits the selector; else start over, or take the lock.
4. The records are the bytes [get_position, put_position), oldest first; the byte of a position p is the one at
   (p - base) % size in the ring. A putter writes only outside of them.
5. All zeros is a valid state: ``size`` 0 stands for the size to begin with.
6. The ring of an elastic queue has memory; what is behind it need not have any, and is not even read. To grow, the
   lock's owner reserves the memory, copies to behind the ring what wraps, which changes nothing yet, and commits the
   new size and a base that leaves the oldest record where it is. Records wrap only so far that this is possible.
7. To shrink, when there are few records or none, the owner copies them to the start of the ring, where there must be
   none, commits the smaller size and then, as the last thing before the lock is free, gives back what is behind it.
   Death in between leaves memory there that the next one to grow uses.
8. A record that is handed out leaves the ring: its payload is copied to where no entry of the lease table has one, the
   other table is written, and the commit makes that one the current one. Finishing it, or giving it back, writes the
   other table again. Records that were given back are taken first.

The modules, each of which builds on those before it: ``portable_calls`` (a handle and its calls), ``portable_commit``
(rules 1 to 3), ``portable_records`` (rules 4, 6 and 7), ``portable_returns`` (rule 8), ``portable_waiting``,
``portable_put``, ``portable_get``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shmqueue.engine import Counters
from shmqueue.engine.portable_commit import GETTERS, PUTTERS, Step
from shmqueue.engine.portable_get import Gets, has_news
from shmqueue.engine.portable_lock import NOWHERE, Hold
from shmqueue.engine.portable_processes import this_process
from shmqueue.engine.portable_put import Puts
from shmqueue.engine.portable_state import State

__all__ = ["PortableEngine"]


class PortableEngine(Puts, Gets):
    """A handle on the records of one segment; see ``Engine`` for what the methods do.

    All methods may be called from several threads, and from signal handlers and finalizers.
    """

    def task_done(self, /) -> bool:
        return self._counted(lambda: self._at_once(_finish_one))

    def join(self, timeout: float | None, /) -> bool:
        return self._counted(lambda: self._watch(lambda state: not state.unfinished, NOWHERE, timeout))

    def qsize(self, /) -> int:
        return self._counted(self._available)

    def _available(self) -> int:
        self._try_to_return_loans_of_the_dead()
        return self._current().available

    def counters(self, /) -> tuple[int, int, int, int, int, int, int, int, bool, bool, bool]:
        return self._counted(self._figures)

    def wait(self, records: bool, timeout: float | None, /) -> bool:
        if records:
            return self._counted(lambda: self._watch(has_news, GETTERS, timeout))
        return self._counted(lambda: self._watch(lambda state: state.shut or not state.available, PUTTERS, timeout))

    def moment(self, kind: int, /) -> int:
        return self._counted(self._current).serial

    def pass_on(self, /) -> None:
        """Nobody sleeps: all look by themselves."""

    def shut_down(self, immediate: bool, /) -> None:
        form = 2 if immediate else 1
        self._counted(lambda: self._at_once(lambda state, hold: self._shut(state, hold, form)))

    def maxsize(self, /) -> int:
        return self._maxsize_in(self._counted(self._current))

    def prefault(self) -> bool:
        """False: beside what a call costs here, page faults are nothing."""
        self.qsize()  # raises what any method raises after close()
        return False

    def set_maxsize(self, maxsize: int, /) -> None:
        self._counted(lambda: self._at_once(lambda state, hold: (state._replace(maxsize=maxsize + 1), True, b"")))

    def _figures(self) -> tuple[int, int, int, int, int, int, int, int, bool, bool, bool]:
        self._try_to_return_loans_of_the_dead()
        state = self._current()
        return Counters(
            put_position=state.put_position,
            put_count=state.put_count,
            get_position=state.get_position,
            get_count=state.get_count - state.returned,
            dropped=state.dropped,
            done=state.done,
            high_water=state.high_water,
            recoveries=state.recoveries,
            putters_waiting=bool(self._memory[PUTTERS]),
            getters_waiting=bool(self._memory[GETTERS]),
            is_shut_down=state.shut > 0,
        )

    def _shut(self, state: State, hold: Hold, form: int) -> Step[bool]:
        following = state._replace(shut=max(state.shut, form))
        if following.shut == 2:
            following, move = self._dropped(following, hold)
            return following, True, move
        return following, True, b""

    def _last_acts(self) -> Iterable[Callable[[], object]]:
        yield self._give_back
        if self._loans:
            yield lambda: self._return_loans_of(this_process(), self._handle)


def _finish_one(state: State, hold: Hold) -> Step[bool]:
    return (state._replace(done=state.done + 1), True, b"") if state.unfinished else (None, False, b"")
