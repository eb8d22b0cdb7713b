"""The portable engine's lock, which the death of its owner releases.

Where there is flock, the lock is an exclusive flock on the segment's sidecar file (the rules are in
``shmqueue.segment.sidecar``), which the kernel releases when its owner dies. The owner keeps a mark in the segment's
memory while it has the lock: a thread that takes the lock and finds the mark knows that the last owner died in the
middle.

What is guaranteed there:

- One owner at a time, among all threads of all processes that use the segment's sidecar.
- An owner that dies, by whatever signal and at whatever instruction, has released the lock. ``recovered`` tells the
  next one. A forked child owns nothing, and the descriptors that it inherits do not keep its parent's lock.
- A process that ends leaves no sidecar, even if its daemon threads still use the queue: when their handle on the
  segment has been closed, they make no sidecar any more but wait for the end. Other threads remove what they made.
- Waiting for the lock ends at the deadline or when the caller's ``give_up`` says so.
- A program that closes descriptors of the sidecar, or of the segment, makes the next call open them again. Files
  that have received their numbers meanwhile are not touched.
- At the end of the interpreter, when daemon threads have stopped wherever they were, finalizers take the lock away from
  them as from the dead.
- A process that has become another user goes on: it opened a description of the sidecar while it could, which its
  threads use one after the other. A child that it forks afterwards cannot have one, and gets an error.
- A signal handler or finalizer that interrupts its own thread's hold of the lock does not deadlock: it overtakes. It
  takes the lock anew (the same description of the sidecar is granted again), does its work, and releases everything.
  The interrupted call finds ``owner.hold is not hold`` and starts over. It checks that in the same uninterruptible run
  in which it writes: CPython calls handlers where functions are called and return and at jumps (before 3.11 at each
  conditional one), so not within a plain run of comparisons, subscripts and assignments. If such a run ends with a call
  of a C function, with arguments packed before the check (``act(*arguments)``), they are called after that function.

Where there is none (Windows), a shmlock lock is used: a named block of shared memory, which its creator owns and
removes again. There the system removes a block together with the last process that has it open, so a dead owner does
not keep that one either. But overtaking is impossible there: a call that interrupts its own thread's hold raises
``ShmQueueError``.

There is no line of waiters: they poll, and the lock is not fair.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from mmap import mmap
from typing import TYPE_CHECKING, Any, TypeAlias

from shmqueue import clock
from shmqueue.exceptions import ShmQueueError, ShmQueueRefusedError
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.segment import Segment
from shmqueue.segment import sidecar as sidecars
from shmqueue.segment.descriptor import Descriptor
from shmqueue.threads import WeakRegistry, sleep

if TYPE_CHECKING:
    from shmqueue.engine.portable_block import Block

__all__ = ["BLOCK", "NOTHING", "NOWHERE", "OWNED", "Act", "DeathSafeLock", "Hold", "Owner", "let_others_run"]

NOWHERE, OWNED = 131, 132
"""Offsets in a segment: of a byte where stores go that must have no effect, and of the owner's mark."""

Act: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"
"""A C function that runs no Python code, and its arguments: what can be called in the same breath as a look."""

NOTHING: Act = (bool, ())

SPINS = 60
"""Looks at a lock that is taken, before the first pause and after each: a running owner is done in less time."""
SHORTEST_PAUSE = 20e-6
LONGEST_PAUSE = 1e-3
"""Seconds between two rounds of looks, at first and in the end."""

let_others_run: Callable[[], object] = getattr(os, "sched_yield", bool)
"""What to do between two looks: where the system offers nothing, nothing."""

BLOCK = "shmqueue-block-"
"""What the names of blocks begin with."""


class DeathSafeLock:
    """The lock of one segment, as one handle sees it."""

    def __init__(self, segment: Segment, memory: mmap) -> None:
        self._segment = segment
        self._memory = memory
        self._sidecar = sidecars.sidecar_of(segment)
        self._block = BLOCK + segment.header.uuid.hex()
        self._local = threading.local()
        self._used: WeakRegistry[Owner] = WeakRegistry()
        self._number = next(_numbers)
        self._spare = _spare_of(segment, self._sidecar) if sidecars.HAS_SIDECARS else None

    def owner(self) -> Owner:
        """What the calling thread takes and releases the lock with."""
        owner: Owner | None = getattr(self._local, "owner", None)
        if owner is None or owner.pid != os.getpid():
            with sidecars.changing():  # another thread may just be closing the last handle that has used it
                owner = _owner_of_this_thread(self._sidecar, self._block)
                owner.users.add(self._number)
                self._used.add(owner)
                self._local.owner = owner
        return owner

    def hold(self) -> Hold:
        """What the calling thread's next hold of the lock will be."""
        return Hold(self.owner(), self._segment, self._memory)

    def close(self, is_idle: bool = False) -> None:
        """Close the descriptors of all threads but those that are just using them.

        Those are closed with the last reference to their owner, which may need a collection where there is no GIL. If
        ``is_idle``, no call is in flight, and none stays open that this handle alone has used.
        """
        self._local = threading.local()
        self._spare = None
        for owner in self._used if is_idle else ():
            with sidecars.changing():  # its thread may just begin to use it by another handle
                owner.users.discard(self._number)
                if not owner.users:
                    owner.close_if_free()


class Hold:
    """From one ``acquire`` to its ``release``.

    ``recovered``: when the lock was taken, the last owner had died with it. ``last``: what ``release`` does as the last
    thing before it gives the lock up, unless it was overtaken. As nothing can be taken back from then on, it is the
    place for what must not happen before that. Its OSError is ignored.
    """

    __slots__ = ("last", "marked", "memory", "owner", "recovered", "released", "segment")

    def __init__(self, owner: Owner, segment: Segment, memory: mmap) -> None:
        self.owner = owner
        self.segment = segment
        self.memory = memory
        self.last = NOTHING
        self.recovered = False
        self.marked = False
        self.released = True


class Owner:
    """One thread of one process, which may own the lock of one segment, by whichever handle.

    ``hold``: the one that owns the lock, or that is being acquired or released. A call that has acquired the lock and
    finds another one here, or None, has been overtaken.
    """

    def __init__(self, sidecar: str, block: str) -> None:
        self.pid = os.getpid()
        self.hold: Hold | None = None
        self.users: set[int] = set()  # numbers of the locks that have handed it out, and are open
        self._sidecar = sidecar
        self._block = block
        self._file: Descriptor | None = None
        self._opened: dict[Descriptor, None] = {}  # more than one only if an overtaker had to open the sidecar again
        self._spare: _Spare | None = None  # from which the file is borrowed, for these holds
        self._borrowing: set[Hold] = set()
        self._shmlock: Block | None = None  # where there are no sidecars
        _owners.add(self)

    def acquire(self, hold: Hold, deadline: float | None, give_up: Callable[[], bool]) -> bool:
        """Take the lock. False: not before the deadline (None: there is none), or ``give_up`` became true.

        Whatever is raised here, the caller has to call ``release``.
        """
        pause = SHORTEST_PAUSE
        while True:
            overtaking = self.hold is not None
            if overtaking and not sidecars.HAS_SIDECARS:
                raise ShmQueueError("a signal handler or finalizer used a queue in the middle of a call on it")
            hold.released = hold.marked = False
            self.hold = hold
            if self._take_sidecar(hold, overtaking) if sidecars.HAS_SIDECARS else self._take_block():
                memory, marks = hold.memory, (NOWHERE, OWNED)
                # No jump and no call between the look at the hold and the mark.
                dead = memory[OWNED]
                memory[marks[self.hold is hold]] = 1
                hold.marked = True
                if self.hold is hold:
                    hold.recovered = dead != 0 and not overtaking
                    return True
            self.release(hold)
            if give_up():
                return False
            if sys.is_finalizing():
                self._bury_frozen()
            if deadline is not None:
                left = deadline - clock.monotonic()
                if left <= 0:
                    return False
                pause = min(pause, left)
            sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def release(self, hold: Hold) -> None:
        """Release the lock, or as much of it as was taken. Releasing twice is harmless.

        If this raises, a KeyboardInterrupt for instance, call it again: it goes on where it was. As long as ``hold`` is
        the current one, nobody else has owned the lock since ``acquire``.
        """
        if hold.released:
            if self._borrowing:
                self._give_back(hold)
            return
        fd = self._file.unchecked if self._file is not None else -1  # acquire() has just looked at it
        self._finish(hold)
        if not sidecars.HAS_SIDECARS:
            self._release_block()
        elif fd >= 0:
            sidecars.unlock_sidecar(fd)
            if not hold.segment.is_open:
                sidecars.remove_sidecar(self._sidecar)
        hold.released = not self._borrowing or self._give_back(hold)

    def let_go(self, hold: Hold) -> None:
        """What is left of ``release`` when even that fails. It needs no memory, and leaves the mark as the dead do.

        Harmless after ``release``.
        """
        if not hold.released and sidecars.HAS_SIDECARS and (self.hold is hold or self.hold is None):
            self.hold = None
            hold.released = True
            if self._file is not None:
                fd = self._file.unchecked
                if fd >= 0:
                    sidecars.unlock_sidecar(fd)
            if self._borrowing:
                self._give_back(hold)

    def close_if_free(self) -> None:
        """Close the sidecar, unless it is being locked or unlocked. It is opened again where it is needed."""
        if self.hold is None and not self._borrowing:
            self._close()

    def _finish(self, hold: Hold) -> None:
        try:
            acts, marks, memory = (NOTHING, hold.last), (NOWHERE, OWNED), hold.memory
            # No jump and no call between the look at the hold and the body of act.
            is_ours = self.hold is hold
            act, arguments = acts[is_ours]
            memory[marks[is_ours & hold.marked]] = 0
            self.hold = None
            act(*arguments)
        except OSError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # it is a signal handler's

    def _take_sidecar(self, hold: Hold, overtaking: bool) -> bool:
        if self._spare is not None:
            self._borrowing.add(hold)
        while True:
            while self._file is None:
                with sidecars.changing():
                    if hold.segment.is_open or not threading.current_thread().daemon:
                        hold.segment.require_hold()
                        try:
                            opened = sidecars.open_sidecar(self._sidecar)
                            self._opened[opened] = None
                        except not_of_handler(ShmQueueRefusedError) as refusal:
                            if not self._borrow(hold, refusal):
                                return False
                            break
                        self._file = opened
                        break
                sleep(LONGEST_PAUSE)  # until the process ends: it has given the segment up already
            assert self._file is not None
            owned: bool | None = False
            end = clock.monotonic() + LONGEST_PAUSE  # where processors are busy, each look lets all the others run
            for spin in range(1, SPINS + 1):
                is_last = spin == SPINS or clock.monotonic() > end
                # A mark keeps one from the flock, which is dear, except in the end: it may be a dead owner's.
                if not hold.memory[OWNED] or overtaking or is_last:
                    owned = sidecars.try_lock_sidecar(self._file, self._sidecar)
                    if owned is not False:
                        break
                if is_last:
                    break
                let_others_run()
            if owned is not None:
                return owned
            if self._spare is not None:
                raise ShmQueueRefusedError(hold.segment.why_not_as_this_user("its lock file was removed"))
            self._file = None
            if not overtaking:  # else the interrupted call may be about to use it
                self._close()

    def _borrow(self, hold: Hold, refusal: ShmQueueRefusedError) -> bool:
        """Use the spare description of this process. False: another thread does.

        Raises:
            ShmQueueRefusedError: there is none.
        """
        spare = _spares.get(self._sidecar)
        if spare is None or spare.file is None or spare.file.number < 0:
            raise ShmQueueRefusedError(hold.segment.why_not_as_this_user("its lock file cannot be opened")) from refusal
        self._borrowing.add(hold)
        if not spare.claim.acquire(False):
            return False
        self._spare, self._file = spare, spare.file
        return True

    def _give_back(self, hold: Hold) -> bool:
        """Let other threads have what was borrowed, unless an interrupted hold of this one uses it. Returns True."""
        spare = self._spare
        try:
            self._borrowing.discard(hold)
            if spare is not None and not self._borrowing:
                self._file = self._spare = None
                spare.release()
        except BaseException as error:
            if spare is not None and not self._borrowing:  # nobody would do it later
                self._file = self._spare = None
                spare.release()
            if not isinstance(error, RuntimeError) or is_of_handler(error):
                raise
            # a signal handler has done it between the two
        return True

    def _take_block(self) -> bool:
        if self._shmlock is None:
            from shmqueue.engine.portable_block import Block  # here, for shmlock takes longer to import than all else

            self._shmlock = Block(self._block)
        try:
            return bool(self._shmlock.acquire(timeout=False))  # False: try once; shmlock takes 0 for for ever
        except not_of_handler(OSError) as error:
            cause = error.__cause__ or error  # shmlock's own words speak of an exit event, which is not there
            if isinstance(cause, OSError) and cause.filename is None:
                cause.filename = self._block
            raise cause from None

    def _release_block(self) -> None:
        shmlock, self._shmlock = self._shmlock, None
        if shmlock is not None:
            shmlock.release()
            if not shmlock.locked:
                self._shmlock = shmlock

    def _bury_frozen(self) -> None:
        """Unlock for threads that the end of the interpreter has stopped while they owned the lock."""
        for other in _owners:
            if other is not self and other._sidecar == self._sidecar and other.hold is not None:
                other.hold = None
                if other._file is not None and other._file.number >= 0:
                    sidecars.unlock_sidecar(other._file.number)
                if other._spare is not None:
                    other._spare.claim = threading.RLock()

    def _close(self) -> None:
        self._file = None
        while self._opened:  # a signal handler, or the finalizer in another thread, may do it meanwhile
            for opened in list(self._opened):
                opened.close()  # before it is forgotten: what a signal handler raised in between would leave it open
                self._opened.pop(opened, None)

    def _abandon(self) -> None:
        """In a forked child: close the inherited description, without unlocking, which would unlock the parent's."""
        self.hold = self._shmlock = self._spare = None
        self._borrowing.clear()
        self._close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end the names in this module may be gone, and all is closed with the process. Without those descriptors
        # a signal handler has raised before there was anything to close.
        if not is_finalizing() and hasattr(self, "_opened"):
            self._close()


_owners: WeakRegistry[Owner] = WeakRegistry()
_numbers = itertools.count()


class _Spare:
    """A description of a sidecar that is opened as long as the process may do that.

    For the threads of a process that runs as another user by now. One at a time uses it: the owner of ``claim``.
    """

    def __init__(self, sidecar: str) -> None:
        self._sidecar = sidecar
        self.claim = threading.RLock()
        self.file: Descriptor | None = sidecars.open_sidecar(sidecar)
        _live_spares.add(self)

    def release(self) -> None:
        """Let other threads have it, as often as this one has claimed it."""
        while self.claim._is_owned():  # type: ignore[attr-defined]
            self.claim.release()

    def renew(self) -> None:
        """In a forked child, whose parent uses the inherited description.

        The child may have removed the sidecar just now, with a segment that nobody else held any more.
        """
        self.claim = threading.RLock()
        if self.file is not None:
            self.file.close()
            self.file = None
        try:
            self.file = sidecars.open_sidecar(self._sidecar, make=False)
        except OSError:
            pass  # the call that needs it raises

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing() and getattr(self, "file", None) is not None:
            self.file.close()  # type: ignore[union-attr]


_live_spares: WeakRegistry[_Spare] = WeakRegistry()
_spares: weakref.WeakValueDictionary[str, _Spare] = weakref.WeakValueDictionary()


def _spare_of(segment: Segment, sidecar: str) -> _Spare | None:
    """For a process that may become another user, a spare; it is one for all handles on the segment.

    Raises:
        ShmQueueRefusedError: this process may not open the sidecar, so it cannot use the queue.
    """
    is_foreign = segment.user is not None and segment.user != os.geteuid()
    if not is_foreign and not _may_change_user():
        return None
    spare = _spares.get(sidecar)
    if spare is None:
        try:
            spare = _spares[sidecar] = _Spare(sidecar)
        except not_of_handler(OSError) as error:
            if not is_foreign:
                return None  # the call that needs the sidecar raises
            if not isinstance(error, ShmQueueRefusedError):
                raise
            why = segment.why_not_as_this_user("its lock file cannot be opened")
            raise ShmQueueRefusedError(error.errno, why, sidecar) from error
    return spare


def _may_change_user() -> bool:
    if not hasattr(os, "geteuid"):
        return False
    users = os.getresuid() if hasattr(os, "getresuid") else (os.getuid(), os.geteuid())
    return 0 in users or len(set(users)) > 1


_this_thread = threading.local()


def _owner_of_this_thread(sidecar: str, block: str) -> Owner:
    """One for all handles on a segment, so that a signal handler that uses another one can overtake as well."""
    known: weakref.WeakValueDictionary[str, Owner] | None = getattr(_this_thread, "owners", None)
    if known is None:
        known = _this_thread.owners = weakref.WeakValueDictionary()
    owner = known.get(sidecar)
    if owner is None or owner.pid != os.getpid():
        owner = known[sidecar] = Owner(sidecar, block)
    return owner


def _after_fork_in_child() -> None:
    for owner in _owners:
        owner._abandon()
    for spare in _live_spares:
        spare.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
