"""One record that the portable engine has handed out; see ``shmqueue.engine.Loan`` for what the methods do."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmqueue.exceptions import ShmQueueError
from shmqueue.interruptions import not_of_handler

if TYPE_CHECKING:
    from shmqueue.engine.portable_leases import Entry
    from shmqueue.engine.portable_returns import Returns

__all__ = ["Lost", "PortableLoan", "contents_of"]

_BIN = {0xC4: 2, 0xC5: 3, 0xC6: 5}  # msgpack's bytes types, and the bytes before their contents


def contents_of(method: int, payload: bytes) -> memoryview | None:
    """The contents of a record that is one bytes item, as msgpack packs it; None if it is anything else."""
    skipped = _BIN.get(payload[0]) if method == 0 and payload else None
    if skipped is None or len(payload) < skipped or int.from_bytes(payload[1:skipped], "big") != len(payload) - skipped:
        return None
    return memoryview(payload)[skipped:].toreadonly()


class Lost(weakref.ref["PortableLoan"]):
    """What is left of a loan that was collected: the entry that is to be given back; None, there is none."""

    __slots__ = ("entry",)

    entry: Entry | None

    def __new__(cls, loan: PortableLoan, collected: Callable[[Lost], object]) -> Lost:
        lost = super().__new__(cls, loan, collected)
        lost.entry = None
        return lost


class PortableLoan:
    """One record in the hands of this process: a copy of it, and the right to say what becomes of the original.

    It is made before the record is lent, to ``receive`` it: so there is a loan for each record that is lent, whatever a
    signal handler raises. Its end is noted by C code alone, so an exception in ``__del__`` loses nothing either.
    """

    _lost: Lost | None = None

    def __init__(self, engine: Returns) -> None:
        self._engine = engine
        self._pid = os.getpid()
        self._payload = b""
        self._is_over = False
        self._lost = lost = Lost(self, engine.lost.add)
        engine.lent.add(lost)  # now, for it keeps the hash that it has while the loan lives

    def receive(self, entry: Entry, payload: bytes) -> None:
        """What is about to be lent. If it was not after all, this may be called again."""
        assert self._lost is not None
        self._entry, self._payload = entry, payload
        self._lost.entry = entry

    @property
    def attempt(self) -> int:
        return self._entry.attempt

    @property
    def method(self) -> int:
        return self._entry.method

    @property
    def is_held(self) -> bool:
        return not self._is_over and self._pid == os.getpid() and self._engine.is_open

    def payload(self, /) -> bytes:
        return self._payload

    def contents(self, /) -> memoryview:
        contents = contents_of(self._entry.method, self._payload)
        if contents is None or not self.is_held:
            why = "the lease is over" if contents is not None else "the item is not bytes"
            raise BufferError(why)
        return contents

    def finish(self, /) -> bool:
        self._require_own()
        if self._is_over:
            return False
        done = self._engine.finish(self._entry)
        self._end()
        return done

    def give_back(self, /) -> bool:
        self._require_own()
        if self._is_over:
            return False
        done = self._engine.give_back(self._entry)
        self._end()
        return done

    def let_go(self) -> None:
        """Have it given back, now or in the handle's next call, if it is not over. It is of no use afterwards."""
        lost = self._lost
        if lost is not None and lost.entry is not None and self.is_held:
            self._engine.lost.add(lost)
            self._engine.return_lost()

    def _end(self) -> None:
        self._is_over = True
        lost = self._lost
        if lost is not None:
            lost.entry = None
            self._engine.lent.discard(lost)
            self._lost = None

    def _require_own(self) -> None:
        if self._pid != os.getpid():
            raise ShmQueueError("a lease belongs to the process that took it, not to its child")

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing():
            return
        try:
            self.let_go()
        except not_of_handler(Exception):
            pass  # the handle's end, or the process's, gives it back; Python prints what a handler raises
