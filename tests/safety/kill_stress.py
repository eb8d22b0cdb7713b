"""Producers and consumers are killed at random moments, and every item is accounted for.

Fails if: an item is missing that no killed worker explains, or is doubled or out of order; the queue's counts
contradict the journals; a worker stands still or ends by itself; a process is left.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from .kill_stress_items import LARGEST
from .kill_stress_round import Round
from .kill_stress_workers import Shape
from .outcome import Mutant, Options, Outcome

TITLE = "Producers and consumers killed at random"
SHAPES = (
    Shape("fixed, one page", 4096, None, largest=400, batch=4),
    Shape("elastic", 4096, 2 << 20, largest=LARGEST, batch=8),
    Shape("fixed", 1 << 20, None, largest=LARGEST, batch=5),
    Shape("elastic, at most 50 items", 1 << 16, 2 << 20, largest=LARGEST // 4, batch=8, maxsize=50),
    Shape("fixed, leased", 16384, None, largest=400, batch=4, leases=True),
    Shape("elastic, leased", 4096, 8 << 20, largest=LARGEST, batch=8, leases=True),
)
PARTS = tuple(shape.title for shape in SHAPES)
LONGEST_ROUND = 5.0  # seconds; the journals of a round are kept that long

NATIVE = "shmqueue/engine/native/"
LEASED = "fixed, leased"  # the part that finds what only concerns leases
MUTANTS = (
    Mutant(
        "commit before payload",
        NATIVE + "put.c",
        """    write_records(span, arena_offset(ring, put.arena, put.position), put.position, records, count);
    put.position += bytes;
    put.count += count;
    note_high_water(ring, put.count);
""",
        """    uint64_t offset = arena_offset(ring, put.arena, put.position), position = put.position;
    put.position += bytes;
    put.count += count;
    note_high_water(ring, put.count);
    ledger_commit(&side->ledgers, &put);
    write_records(span, offset, position, records, count);
""",
    ),
    Mutant(
        "a large item is read and stays",
        NATIVE + "python_get.c",
        " fill);\n    ring_get_pass(&take);\n    ring_get_commit(&self->ring, &take);\n",
        " fill);\n    ring_get_commit(&self->ring, &take);\n",
    ),
    Mutant(
        "what a dead process had is dropped",
        NATIVE + "holders.c",
        "    return lending_end_entry(ring, take, number, GET(lease_entries(ring)[number].state) == LEASE_LENT);\n",
        "    const struct lease *entry = &lease_entries(ring)[number];\n"
        "    return lending_end_entry(ring, take, number,\n"
        "                             GET(entry->state) == LEASE_LENT && GET(entry->pid) == os_this_process().pid);\n",
        part=LEASED,
    ),
    Mutant(
        "a lease that is finished stays in the table",
        NATIVE + "lending.c",
        "    SET(entry->state, pinned ? LEASE_PINNED : LEASE_FREE);\n",
        "    SET(entry->state, pinned ? LEASE_PINNED : LEASE_LENT);\n",
        part=LEASED,
    ),
    Mutant(
        "a stopped process counts as dead",
        NATIVE + "os.c",
        "{ return is_over(fields->state) && fields->threads <= 1; }",
        "{ return is_over(fields->state) || fields->state == 'T' || fields->threads < 1; }",
    ),
    Mutant(
        "a lease that is finished is not committed",
        "shmqueue/engine/portable_returns.py",
        "            return following._replace(dropped=dropped, acknowledged=acknowledged), True, move\n",
        '            return None, True, b""\n',
        engine="portable",
        part=LEASED,
    ),
    Mutant(
        "the dead are not looked for",
        "shmqueue/engine/portable_returns.py",
        "            if is_earlier or not is_alive(holder):\n",
        "            if is_earlier or (not is_alive(holder) and not holder[0]):\n",
        engine="portable",
        part=LEASED,
    ),
    Mutant(
        "put_many() puts one by one",
        "shmqueue/channel.py",
        "        return self._items.put_items(items, block, timeout, self._as_pickle, self.codec.dump_rest)\n",
        "        dump = self.codec.dump_rest\n"
        "        return sum(self._items.put_items([item], block, timeout, False, dump) for item in items)\n",
    ),
    Mutant(
        "a dead owner's mark keeps the others out",
        "shmqueue/engine/portable_lock.py",
        " or overtaking or is_last:",
        " or overtaking:",
        engine="portable",
    ),
    Mutant(
        "two may own the sidecar",
        "shmqueue/segment/sidecar.py",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        engine="portable",
    ),
)


FIGURES = (
    "producers killed",
    "consumers killed",
    "leasers killed",
    "openers killed",
    "anchors killed",
    "stopped and continued",
    "items put",
    "items put by producers killed in the put",
    "items not put by producers killed in the put",
    "items got",
    "items lost with a killed consumer",
    "items that killed consumers may have had",
    "items leased",
    "leased items lost",
    "items redelivered after a death",
    "worst redelivery in a busy queue (ms)",
    "items doubled",
    "items reordered",
    "locks taken over from the dead",
    "most memory of an elastic queue (bytes)",
    "elastic queues gave memory back",
    "worst put (ms)",
    "worst get (ms)",
    "worst lease (ms)",
    "worst ack (ms)",
    "worst done (ms)",
    "worst open (ms)",
    "worst close (ms)",
)


def run(options: Options) -> Outcome:
    outcome = Outcome({"engine": options.engine, "start method": options.start_method, **dict.fromkeys(FIGURES, 0)})
    began = time.monotonic()
    deadline = began + options.seconds
    shapes = [shape for shape in SHAPES if options.includes(shape.title)]
    length = min(LONGEST_ROUND, options.seconds / len(shapes))
    directory = Path(tempfile.mkdtemp(prefix="shmqueue-kill-stress-", dir=tempfile.gettempdir()))
    try:
        number = 0
        redeliveries: list[int] = []
        while not outcome.faults and (number < len(shapes) or time.monotonic() < deadline):
            a_round = Round(number, shapes[number % len(shapes)], options, outcome, directory, redeliveries)
            a_round.run(length)
            a_round.check_leftovers()
            number += 1
    finally:
        shutil.rmtree(directory)
    left = len(multiprocessing.active_children())
    if left:
        outcome.fault(f"{left} processes are left")
    if redeliveries:
        outcome.figures["redelivery to one that waits, median (ms)"] = round(statistics.median(redeliveries) / 1e6)
        outcome.figures["redelivery to one that waits, worst (ms)"] = round(max(redeliveries) / 1e6)
    outcome.figures["rounds"] = number
    outcome.figures["seconds"] = round(time.monotonic() - began)
    outcome.figures["processes left"] = left
    return outcome
