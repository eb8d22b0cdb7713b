"""Leases in a queue whose bytes contradict themselves: an error, and no wait beyond the timeout."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from support import overwrite

from shmqueue import ShmQueue, ShmQueueCorruptedError, ShmQueueError
from shmqueue.engine.portable_processes import is_alive
from shmqueue.segment import path_of

PUT_COUNTS = (408, 416)  # see layout.h


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("count", [6, 1 << 40, (1 << 64) - 1])
def test_a_wrong_number_of_items_is_an_error(make: Callable[..., ShmQueue], name: str, count: int) -> None:
    q = make()
    q.put_many(range(5))
    leases = [q.lease(timeout=0) for _ in range(5)]
    for at in PUT_COUNTS:
        overwrite(path_of(name), at, struct.pack("=Q", count))
    begun = time.monotonic()
    with pytest.raises(ShmQueueCorruptedError, match="counts contradict"):
        q.get(timeout=0.2)
    assert time.monotonic() - begun < 60  # and not for ever
    for lease in leases:
        with pytest.raises(ShmQueueError):
            lease.ack()


@pytest.mark.parametrize("number", [0, -1, 1 << 31, (1 << 32) - 1])
def test_no_process_has_an_id_that_cannot_be(number: int) -> None:
    assert not is_alive((number, 0))
