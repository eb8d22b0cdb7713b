/* ledger.h: reading and committing a side's ledger, by the rules in layout.h. */
#ifndef SHMQUEUE_LEDGER_H
#define SHMQUEUE_LEDGER_H

#include <stdbool.h>

#include "layout.h"

/* One consistent read of a ledger.  Positions and counts only grow, so an old snapshot of the other side is a safe one:
 * it shows less room, or fewer records, than there are. */
struct snapshot {
    uint64_t position;
    uint64_t count;
    union {
        uint64_t dropped; /* of a get ledger */
        uint64_t shut;    /* of a put ledger */
    };
    uint32_t arena;
    bool leases; /* of a get ledger: some item is leased, see rules 11 to 15 */
    uint32_t sequence; /* of the ledger when it was read: what to sleep on until it moves */
};

static inline void snapshot_set_arena(struct snapshot *snapshot, uint32_t arena)
{
    snapshot->arena = arena & ~LEDGER_LEASES;
    snapshot->leases = (arena & LEDGER_LEASES) != 0;
}

/* Rule 3: without the lock.  The slots are stored with release and read with acquire: a reader that sees a value that
 * is being prepared also sees that the sequence has moved, and starts over. */
static inline struct snapshot ledger_read(struct ledgers *ledgers)
{
    struct snapshot snapshot;
    uint32_t again, arena;
    do {
        snapshot.sequence = atomic_load_explicit(&ledgers->sequence, memory_order_acquire);
        unsigned slot = snapshot.sequence & 1;
        snapshot.position = atomic_load_explicit(&ledgers->position[slot], memory_order_acquire);
        snapshot.count = atomic_load_explicit(&ledgers->count[slot], memory_order_acquire);
        snapshot.dropped = atomic_load_explicit(&ledgers->dropped[slot], memory_order_acquire); /* or shut */
        arena = atomic_load_explicit(&ledgers->arena[slot], memory_order_acquire);
        again = atomic_load_explicit(&ledgers->sequence, memory_order_relaxed);
    } while (snapshot.sequence != again);
    snapshot_set_arena(&snapshot, arena);
    return snapshot;
}

/* Rule 1: by the owner of its lock, beside whom nobody writes. */
static inline struct snapshot ledger_read_own(struct ledgers *ledgers)
{
    struct snapshot snapshot;
    snapshot.sequence = atomic_load_explicit(&ledgers->sequence, memory_order_relaxed);
    unsigned slot = snapshot.sequence & 1;
    snapshot.position = atomic_load_explicit(&ledgers->position[slot], memory_order_relaxed);
    snapshot.count = atomic_load_explicit(&ledgers->count[slot], memory_order_relaxed);
    snapshot.dropped = atomic_load_explicit(&ledgers->dropped[slot], memory_order_relaxed); /* or shut */
    snapshot_set_arena(&snapshot, atomic_load_explicit(&ledgers->arena[slot], memory_order_relaxed));
    return snapshot;
}

/* Rules 4 and 5, of a snapshot under the lock and one of the other side taken afterwards, or of both at one moment.
 * NULL: they hold. */
static inline const char *ledgers_contradict(const struct snapshot *put, const struct snapshot *get, uint64_t capacity)
{
    if (put->position < get->position || put->position - get->position > capacity) {
        return "the ledgers' positions contradict each other";
    }
    if (put->count < get->count) {
        return "the ledgers' counts contradict each other";
    }
    uint64_t bytes = put->position - get->position, records = put->count - get->count;
    if (get->leases) { /* leased records have bytes and are not counted, moved ones are counted and have none */
        return records <= capacity / RECORD_HEADER_SIZE + LAYOUT_LEASES
                   ? NULL
                   : "the ledgers' counts contradict their positions";
    }
    if (records > bytes / RECORD_HEADER_SIZE || (records == 0 && bytes != 0)) {
        return "the ledgers' counts contradict their positions";
    }
    return NULL;
}

/* Rule 2: under the lock, in a ledger of this sequence.  `dropped`: or shut; `arena`: with LEDGER_LEASES, if there
 * are any.  Returns the new sequence. */
static inline uint32_t ledger_write(struct ledgers *ledgers, uint32_t sequence, uint64_t position, uint64_t count,
                                    uint64_t dropped, uint32_t arena)
{
    uint32_t next = sequence + 1;
    unsigned slot = next & 1;
    atomic_store_explicit(&ledgers->position[slot], position, memory_order_release);
    atomic_store_explicit(&ledgers->count[slot], count, memory_order_release);
    atomic_store_explicit(&ledgers->dropped[slot], dropped, memory_order_release);
    atomic_store_explicit(&ledgers->arena[slot], arena, memory_order_release);
    atomic_store_explicit(&ledgers->sequence, next, memory_order_release);
    return next;
}

static inline uint32_t ledger_commit(struct ledgers *ledgers, const struct snapshot *snapshot)
{
    return ledger_write(ledgers, atomic_load_explicit(&ledgers->sequence, memory_order_relaxed), snapshot->position,
                        snapshot->count, snapshot->dropped,
                        snapshot->arena | (snapshot->leases ? LEDGER_LEASES : 0));
}

#endif
