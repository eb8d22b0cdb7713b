"""A process is killed at every instruction of what concerns leases, and each item is in exactly one place.

``native/lease_crash_points.c`` does it, by ptrace; this adds up what it prints.

Fails if: an item is lost, doubled, out of order or not whole after a death; a lease of a living process ends, or one
ends twice; the counts, the used bytes or the room of the queue are wrong afterwards.
"""

from __future__ import annotations

import shutil

from .crash_points import run_deaths
from .outcome import Mutant, Options, Outcome

TITLE = "Death while items are leased"

RANDOM_SHARE = 0.3  # of the time, after which no more instructions are chosen at random
NATIVE = "shmqueue/engine/native/"


def why_not() -> str | None:
    return None if shutil.which("gcc") else "gcc is needed"


def run(options: Options) -> Outcome:
    return run_deaths("lease_crash_points", options, RANDOM_SHARE, options.seed % (1 << 31))


CHANGE = "        note_change(leases, slot, number + 1);\n"
COPY = "        !copy_to_window(ring, GET(oldest->arena), GET(oldest->position), window, length)) {\n"
OLDEST = "    if (oldest != NULL) {\n        settled->position = GET(oldest->position);\n"
FINISH = """\
    SET(entry->state, pinned ? LEASE_PINNED : LEASE_FREE);
    uint64_t put = tally_count_as_done(ring, &take.next.dropped);
"""

QUICK_ENTRY = """\
    lease_set_holder(entry, lock_process(take->self), ring->handle, LEASE_LENT, bytes);
"""
QUICK_COMMIT = """\
    *loan = (struct loan){.entry = 0,
                          .attempt = 1,
                          .count = take->count,
                          .place = {.position = take->position, .arena = take->arena},
                          .length = take->head.length,
                          .method = take->head.method};
    unsigned slot = (take->sequence + 1) & 1;
    SET(next->position[slot], take->position + RECORD_HEADER_SIZE + take->head.length);
    SET(next->count[slot], take->count + 1);
    SET(next->arena[slot], take->arena);
    SET(next->entries[slot], 1);
    SET(next->generation[slot], 0);
    ledger_write(&segment->get.ledgers, take->sequence, take->position, take->count + 1, take->dropped,
                 take->arena | LEDGER_LEASES);
"""

IS_IN_C = True
MUTANTS = (
    Mutant("entry-changed-without-undo", NATIVE + "lease_table.c", CHANGE, ""),
    Mutant(
        "figures-not-restored",
        NATIVE + "lease_table.c",
        "            SET(leases->acknowledged, GET(leases->acknowledged_before));\n",
        "",
    ),
    Mutant(
        "quick-lease-does-not-go-on-to-the-next-item",
        NATIVE + "quick_lease.c",
        "take->position + RECORD_HEADER_SIZE + take->head.length);\n",
        "take->position);\n",
    ),
    Mutant(
        "quick-lease-commits-before-its-entry",
        NATIVE + "quick_lease.c",
        QUICK_ENTRY + QUICK_COMMIT,
        QUICK_COMMIT + QUICK_ENTRY,
    ),
    Mutant(
        "quick-finish-without-undo",
        NATIVE + "quick_lease.c",
        "    lease_change_figures(ring, settled.sequence); /* the entry is free with the commit, as it is */\n",
        "",
    ),
    Mutant(
        "quick-finish-counts-nothing-as-done",
        NATIVE + "quick_lease.c",
        "    uint64_t put = tally_count_as_done(ring, &settled.dropped);\n",
        "    uint64_t put = 0;\n",
    ),
    Mutant(
        "done-by-an-old-look",
        NATIVE + "tally.h",
        "    if (put <= over) {\n        put = ledger_read(&ring->segment->put.ledgers).count;\n    }\n",
        "",
    ),
    Mutant(
        "an-old-look-says-that-an-arena-is-left",
        NATIVE + "trimming.c",
        "get->position >= ring->put_as_seen.position) {",
        "get->position == ring->put_as_seen.position) {",
    ),
    Mutant(
        "quick-finish-of-anothers-lease",
        NATIVE + "quick_lease.c",
        " && lending_is_of(ring, entry, loan);",
        ";",
    ),
    Mutant(
        "undo-not-compared-with-the-sequence",
        NATIVE + "lease_table.c",
        "GET(leases->sequence) == take->next.sequence;",
        "GET(leases->sequence) + 1 == take->next.sequence;",
    ),
    Mutant(
        "undo-forgets-what-was-dropped",
        NATIVE + "lease_table.c",
        "                SET(entry->in_place, in_place); /* else its holder may have changed it (rule 15) */\n",
        "",
    ),
    Mutant(
        "undo-saved-after-the-change",
        NATIVE + "lease_table.c",
        "        copy_entry(&leases->before[slot], entry);\n        SET(",
        "        SET(",
    ),
    Mutant(
        "finished-before-the-commit",
        NATIVE + "lending.c",
        FINISH,
        FINISH + "    ledger_commit(&ring->segment->get.ledgers, &take.next);\n",
    ),
    Mutant(
        "moved-before-the-copy-is-whole",
        NATIVE + "spilling.c",
        COPY,
        "        !copy_to_window(ring, GET(oldest->arena), GET(oldest->position), window, length / 2)) {\n",
    ),
    Mutant(
        "moved-over-what-is-not-finished-yet",
        NATIVE + "spilling.c",
        "    if (take->done_from != take->done_to) {\n",
        "    if (take->done_from > take->done_to) {\n",
    ),
    Mutant(
        "freed-before-the-oldest", NATIVE + "leases.c", OLDEST, OLDEST.replace("!= NULL", "!= NULL && number > 9999")
    ),
    Mutant(
        "the-dead-not-looked-for",
        NATIVE + "holders.c",
        "    if (!os_is_alive(holder)) {\n",
        "    if (!os_is_alive(holder) && holder.pid == 0) {\n",
    ),
    Mutant(
        "clear-leaves-what-was-given-back",
        NATIVE + "leases.c",
        "    take->generation++;\n",
        "",
    ),
    Mutant(
        "writers-that-died-not-looked-for",
        NATIVE + "holders.c",
        "state == LEASE_PINNED || state == LEASE_WRITING;",
        "state == LEASE_PINNED;",
    ),
    Mutant(
        "what-is-being-written-passed-without-an-entry",
        NATIVE + "writers.c",
        "        make_writing(ring, take, number);\n",
        "        make_writing(ring, take, number);\n        take->entries = take->entries_before;\n",
    ),
    Mutant(
        "any-of-the-writers-items-ended",
        NATIVE + "writers.c",
        "           GET(entry->attempt) == reservation->token;",
        "           true;",
    ),
    Mutant(
        "what-was-abandoned-stays-unfinished",
        NATIVE + "writers.c",
        "    } else {\n        (void)tally_count_as_done(ring, &take->next.dropped);\n    }\n    take->next.position",
        "    }\n    take->next.position",
    ),
    Mutant(
        "clear-drops-what-is-being-written",
        NATIVE + "dropping.c",
        "        end = status == RING_OK ? open : *put;\n",
        "        status = status == RING_OK ? RING_EMPTY : status;\n        (void)open;\n",
    ),
    Mutant(
        "what-is-being-written-is-taken",
        NATIVE + "records.c",
        "    case RESERVATION_OPEN:\n    case RESERVATION_ABANDONED:\n        return RING_RESERVED;\n",
        "    case RESERVATION_OPEN:\n        take->next.position += sizeof *reservation;\n        return RING_OK;\n"
        "    case RESERVATION_ABANDONED:\n        return RING_RESERVED;\n",
    ),
    Mutant(
        "lease-ends-for-anybody",
        NATIVE + "lending.h",
        "GET(entry->attempt) == loan->attempt && ",
        "",
    ),
)
