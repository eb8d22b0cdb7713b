"""One record that the portable engine has handed out; see ``shmqueue.engine.Loan`` for what the methods do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shmqueue.exceptions import ShmQueueError

if TYPE_CHECKING:
    from shmqueue.engine.portable_leases import Entry
    from shmqueue.engine.portable_returns import Returns

__all__ = ["PortableLoan", "contents_of"]

_BIN = {0xC4: 2, 0xC5: 3, 0xC6: 5}  # msgpack's bytes types, and the bytes before their contents


def contents_of(method: int, payload: bytes) -> memoryview | None:
    """The contents of a record that is one bytes item, as msgpack packs it; None if it is anything else."""
    skipped = _BIN.get(payload[0]) if method == 0 and payload else None
    if skipped is None or len(payload) < skipped or int.from_bytes(payload[1:skipped], "big") != len(payload) - skipped:
        return None
    return memoryview(payload)[skipped:].toreadonly()


class PortableLoan:
    """One record in the hands of this process: a copy of it, and the right to say what becomes of the original."""

    def __init__(self, engine: Returns, entry: Entry, payload: bytes) -> None:
        self._engine, self._entry, self._payload = engine, entry, payload
        self._pid = os.getpid()
        self._is_over = False

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
        self._is_over = True
        return done

    def give_back(self, /) -> bool:
        self._require_own()
        if self._is_over:
            return False
        done = self._engine.give_back(self._entry)
        self._is_over = True
        return done

    def _require_own(self) -> None:
        if self._pid != os.getpid():
            raise ShmQueueError("a lease belongs to the process that took it, not to its child")

    def __del__(self) -> None:
        if not sys.is_finalizing() and self.is_held:
            try:
                self.give_back()
            except Exception:
                pass  # the handle's end, or the process's, gives it back
