"""What exchanges, queues and bindings there are, as all processes of one namespace see them.

A broker keeps that in its own memory. Here it is one record in a named queue, and a process that is killed at any
instruction has changed all of it or nothing. A process that changes it locks the file of that queue, puts the new state
behind the old one and then takes the old one away: that is the moment at which the change is made. Reading waits for
no other process, and costs one comparison unless something has changed. Changing waits for a limited time: a process
that was stopped while it changes the state must not block all others.

This module knows nothing of kombu and of messages.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from shmqueue import clock, inspection, plain
from shmqueue.exceptions import (
    ShmQueueBrokerError,
    ShmQueueEmpty,
    ShmQueueError,
    ShmQueueFull,
    ShmQueueNoSpaceError,
    ShmQueueNotFoundError,
    ShmQueueValueError,
)
from shmqueue.handle import Handle, open_handle
from shmqueue.interruptions import not_of_handler
from shmqueue.readiness import ITEMS, ROOM
from shmqueue.threads import Guard, forks_wait

from ._kombu_state import Owner, Queue, State, drop_ownerless

__all__ = ["NO_MEMORY", "PATIENCE", "Topology", "changing", "namespace_of", "segment_name"]

changing = Guard()
"""Held while a thread changes what all know of a namespace. No call within it waits, or opens or closes a queue.

So its holder needs no other lock, and a signal handler may take it whatever locks its thread has.
"""

forks_wait(changing)

PATIENCE = 10.0
"""Seconds that a change waits for another process's change at most, by default."""

NO_MEMORY = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""The ``errno`` of an error that says that there is not enough memory for a file."""

_FIRST_PACE, _LONGEST_PACE = 0.0005, 0.01  # seconds between two attempts to take the lock

_OVER = plain.pack((1e-9, {"headers": {}, "properties": {"delivery_info": {}}}))  # a message whose time is over

_SAFE = re.compile(r"[A-Za-z0-9_-]+\Z")


def namespace_of(text: str) -> str:
    """The namespace that a URL's virtual host or host name means.

    Raises:
        ShmQueueValueError: it has characters other than letters, digits, ``_`` and ``-``.
    """
    text = text.strip("/")
    if text and not _SAFE.match(text):
        raise ShmQueueValueError(f"the namespace of a shm:// URL has letters, digits, '_' and '-' only, not {text!r}")
    return text


def segment_name(namespace: str, queue: str, level: int) -> str:
    """The name of the queue that holds the messages of ``queue`` with the priority ``level``."""
    return f"kombu{level or ''}{'-' if namespace else ''}{namespace}.{queue}"


class _Seen(NamedTuple):
    """A state and when it was read, in one object: threads replace it as a whole."""

    state: State
    moments: tuple[int, int] | None = None
    is_unfinished: bool = False
    """Another process was changing it then, or was killed doing so."""


class Topology:
    """One process's handle on the state of a namespace.

    Args:
        namespace: see ``namespace_of``.
        max_bytes: most bytes of each queue that is declared here; None, as much as there is memory.
        patience: seconds that a change waits for another process's change at most.
    """

    def __init__(self, namespace: str, max_bytes: int | None = None, patience: float = PATIENCE) -> None:
        self.namespace = namespace
        self._name = "kombu" + "-" * bool(namespace) + namespace
        self._max_bytes, self._patience = max_bytes, patience
        self._handle = open_handle(self._name, keep=True)
        self._seen = _Seen(State())
        self._made: list[tuple[str, int]] = []  # queues and levels of which a change has made the memory

    @property
    def engine(self) -> Any:
        """Its ``moment`` for ``ROOM`` moves when the state changes."""
        return self._handle.engine

    def current(self) -> State:
        """The state as it is now, not to be changed: while another process changes it, the state before that change.

        It is never older than the state that an earlier call has returned, in any thread.

        Raises:
            ShmQueueBrokerError: the state was never read here, and another process was stopped while it has the lock of
                the queue that holds it.
        """
        while True:
            seen = self._seen
            if not seen.is_unfinished and seen.moments == self._moments_now():
                return seen.state
            found = self._look(seen)
            with changing():
                if self._seen is seen:  # else another thread has looked meanwhile, and may have seen a newer one
                    self._seen = found
                    return found.state

    def _look(self, seen: _Seen) -> _Seen:
        """What there is after what was seen last."""
        is_unfinished = self._handle.engine.qsize() > 1 and not self._finish()
        state, moments = seen.state, self._moments_now()
        if moments != seen.moments:
            try:
                state = self._read(0.0 if seen.moments else self._patience)
            except ShmQueueBrokerError:
                if seen.moments is None:
                    raise
                moments = seen.moments
        return _Seen(state, moments, is_unfinished)

    def change(self, how: Callable[[State], bool], patience: float | None = None) -> None:
        """Change the state: ``how`` changes what it is given and returns whether it has.

        No other process does so meanwhile. It may be called again, with a newer state, and must not wait for anything.

        Args:
            patience: seconds to wait for another process's change at most; None, those of the topology.

        Raises:
            ShmQueueBrokerError: another process did not end its change in time. Nothing was changed.
            ShmQueueFull: there is no memory for the new state.
        """
        with self._locked(self._patience if patience is None else patience):
            self._settle()
            state = self._read(self._patience)
            changed = drop_ownerless(state)
            self._made.clear()
            try:
                changed = how(state) or changed
                if changed:
                    self._put(state)
            except BaseException:
                for name, level in self._made:
                    self._free(name, [level])
                raise
            if changed:
                self._settle()
            if state.doomed:
                for name, levels in state.doomed:
                    self._free(name, levels)
                state.doomed = []
                self._write(state)

    def declare(self, state: State, name: str, arguments: dict[str, Any], owner: Owner | None) -> bool:
        """Within a change: make a queue if it is not there yet, or have one more owner own it.

        Raises:
            ShmQueueValueError: no queue can be called so.
        """
        queue = state.queues.get(name)
        if queue is None:
            _require_encodable(name)
            state.serial += 1
            self._make(name, 0)
            state.queues[name] = Queue(state.serial, [0], arguments, None if owner is None else [owner])
            if name in state.gone:
                state.gone.remove(name)
            return True
        if owner is None or queue.owners is None or owner in queue.owners:
            return False
        queue.owners.append(owner)
        return True

    def add_level(self, state: State, name: str, level: int) -> bool:
        """Within a change: let a queue have messages of one more priority."""
        queue = state.queues.get(name)
        if queue is None or level in queue.levels:
            return False
        self._make(name, level)
        queue.levels = sorted([*queue.levels, level], reverse=True)
        return True

    def renew(self, state: State, name: str) -> bool:
        """Within a change: make a queue anew whose memory somebody has removed."""
        queue = state.queues.get(name)
        if queue is None:
            return False
        state.serial += 1
        queue.id = state.serial
        for level in queue.levels:
            self._make(name, level)
        return True

    def open(self, name: str, level: int) -> Handle:
        """A handle on the messages of a queue.

        Raises:
            ShmQueueNotFoundError: there is none.
        """
        return open_handle(segment_name(self.namespace, name, level), create=False)

    def close(self) -> None:
        """Close this handle."""
        self._handle.close()

    def remove(self) -> None:
        """Remove the state, and all queues with what is in them. Their users must have ended.

        Also those that no state has: a process that declared one was killed before it had changed the state.
        """
        is_ours = re.compile(re.escape(segment_name(self.namespace, "", 0)).replace("kombu", "kombu[1-9]?", 1)).match
        for info in inspection.list_queues():
            if is_ours(info.name):
                _remove(info.name)
        self._handle.close()
        inspection.remove_queue(self._name)

    def _make(self, name: str, level: int) -> None:
        handle = open_handle(segment_name(self.namespace, name, level), keep=True, max_bytes=self._max_bytes)
        try:
            if handle.segment.created:
                self._made.append((name, level))
                _make_lease_table(handle)
        finally:
            handle.close()

    def _free(self, name: str, levels: list[int]) -> None:
        for level in levels:
            _remove(segment_name(self.namespace, name, level))

    def _moments_now(self) -> tuple[int, int]:
        """What moves with each change: the first when a new state is put, the second when the old one is taken."""
        engine = self._handle.engine
        return engine.moment(ITEMS), engine.moment(ROOM)

    def _read(self, patience: float) -> State:
        found = self._patiently(self._handle.engine.peek, patience)
        return State() if found is None else State.unpack(*found[1:])

    def _patiently(self, call: Callable[[bool, None], Any], patience: float) -> Any:
        """The result of a call that does not block, once no other process has the lock of the queue itself."""
        deadline = clock.monotonic() + patience
        while True:
            try:
                return call(False, None)
            except ShmQueueEmpty:
                if clock.monotonic() >= deadline:
                    raise self._blocked(patience) from None
                time.sleep(_FIRST_PACE)  # the engine has said that its lock is taken; there is nothing to wait on

    def _finish(self) -> bool:
        """Finish the change of a process that was killed after it had put the new state. False: it was not killed."""
        try:
            with self._locked(0.0):
                self._settle(0.0)
        except ShmQueueBrokerError:
            return False
        return True

    def _settle(self, patience: float | None = None) -> None:
        """Take all states but the newest, with the lock held; also those of a process that was killed before it did."""
        engine = self._handle.engine
        while engine.qsize() > 1:
            self._patiently(engine.get, self._patience if patience is None else patience)

    def _write(self, state: State) -> None:
        self._put(state)
        self._settle()

    def _put(self, state: State) -> None:
        """Put a state. There may be no memory for it, and the lock must not be held until there is."""
        record, patience, is_first = state.pack(), self._patience / 2, self._handle.engine.qsize() == 0
        if not self._handle.engine.put(*record, True, patience):
            raise ShmQueueFull(f"{self._handle.why_full(1)}: nothing can be declared")
        if is_first:  # one more, for one is to be taken: taking is what wakes those who wait for a change
            self._handle.engine.put(*record, True, patience)

    @contextmanager
    def _locked(self, patience: float) -> Iterator[None]:
        """Keep other processes and threads from changing the state. The kernel ends it with the process."""
        while True:
            try:
                fd = os.open(self._handle.segment.path, os.O_RDWR | os.O_CLOEXEC)
            except not_of_handler(FileNotFoundError):  # it was removed: begin a new one
                self._handle.close()
                self._handle = open_handle(self._name, keep=True)
                self._seen = _Seen(self._seen.state)
                continue
            break
        try:
            self._lock(fd, patience)
            try:
                yield
            finally:  # explicitly: a child that was forked meanwhile has the descriptor, too
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_bytes(fcntl.F_UNLCK))
        finally:
            os.close(fd)

    def _lock(self, fd: int, patience: float) -> None:
        """Take the lock. The kernel offers no wait with a timeout, so it is tried again and again."""
        deadline, pace = clock.monotonic() + patience, _FIRST_PACE
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_bytes(fcntl.F_WRLCK))
                return
            except not_of_handler(OSError) as error:
                if error.errno not in _LOCKED:
                    raise
            left = deadline - clock.monotonic()
            if left <= 0:
                raise self._blocked(patience)
            time.sleep(min(pace, left))  # flock() waits for ever, or not at all
            pace = min(2 * pace, _LONGEST_PACE)

    def _blocked(self, patience: float) -> ShmQueueBrokerError:
        why = f"another process has been changing what is declared on shm:// (queue {self._name!r}) for {patience:g} s"
        stopped = _stopped(self._handle.segment.holders()) if patience else []
        if stopped:
            why += f"; stopped processes that have it open: {', '.join(map(str, stopped))} (continue them: kill -CONT)"
        return ShmQueueBrokerError(why)


def _remove(name: str) -> None:
    try:
        inspection.remove_queue(name)
    except ShmQueueNotFoundError:
        pass


def _make_lease_table(handle: Handle) -> None:
    """Have the queue reserve the memory for leases now: when messages have used up all memory, they can be taken.

    A lease does it. If this process is killed in between, a message remains whose time is over.

    Raises:
        ShmQueueNoSpaceError: there is not enough memory.
    """
    engine, code = handle.engine, errno.ENOSPC
    try:
        if engine.put(*_OVER, False, None):
            loan = engine.lend(False, None, False)
            if loan is not None:
                loan.finish()
            return
    except not_of_handler(OSError) as error:
        if error.errno not in NO_MEMORY or isinstance(error, ShmQueueError):
            raise
        code = error.errno or code
    why = f"there is not enough memory for queue {handle.name!r}: {os.strerror(code)}"
    raise ShmQueueNoSpaceError(code, why, handle.segment.path)


def _require_encodable(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ShmQueueValueError(f"a queue cannot be called {name!r}: {error}") from None


def _stopped(processes: Iterable[int]) -> list[int]:
    """Those that were stopped, by SIGSTOP or Ctrl-Z."""
    found = []
    for process in sorted(set(processes)):
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except not_of_handler(OSError, IndexError):
            continue
        if state in (b"T", b"t"):
            found.append(process)
    return found


_LOCKED = frozenset({errno.EAGAIN, errno.EACCES})


def _lock_bytes(kind: int) -> bytes:
    """``struct flock`` for the whole file."""
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)
