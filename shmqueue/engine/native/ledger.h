/* ledger.h: reading and committing a side's ledger, by the rules in layout.h. */
#ifndef SHMQUEUE_LEDGER_H
#define SHMQUEUE_LEDGER_H

#include <stdbool.h>

#include "layout.h"

/* What was seen of a ledger at one moment.  Positions and counts only grow, so an old view of the other side is a safe
 * one: it shows less room, or fewer records, than there are. */
struct view {
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

/* Rule 3: without the lock. The slots are stored with release and read with acquire, so that whoever sees a value
 * that is being prepared also sees that the sequence has moved, and starts over. */
static inline struct view ledger_read(struct ledgers *ledgers)
{
    struct view view;
    uint32_t again, arena;
    do {
        view.sequence = atomic_load_explicit(&ledgers->sequence, memory_order_acquire);
        unsigned slot = view.sequence & 1;
        view.position = atomic_load_explicit(&ledgers->position[slot], memory_order_acquire);
        view.count = atomic_load_explicit(&ledgers->count[slot], memory_order_acquire);
        view.dropped = atomic_load_explicit(&ledgers->dropped[slot], memory_order_acquire); /* or shut */
        arena = atomic_load_explicit(&ledgers->arena[slot], memory_order_acquire);
        again = atomic_load_explicit(&ledgers->sequence, memory_order_relaxed);
    } while (view.sequence != again);
    view.arena = arena & ~LEDGER_LEASES;
    view.leases = (arena & LEDGER_LEASES) != 0;
    return view;
}

/* Rules 4 and 5, for who owns one side's lock and read the other side afterwards, or saw both at one moment.  NULL: it
 * holds. */
static inline const char *ledgers_contradict(const struct view *put, const struct view *get, uint64_t capacity)
{
    if (put->position < get->position || put->position - get->position > capacity) {
        return "the ledgers' positions contradict each other";
    }
    if (put->count < get->count) {
        return "the ledgers' counts contradict each other";
    }
    uint64_t bytes = put->position - get->position, records = put->count - get->count;
    if (get->leases) {
        return NULL; /* records that are leased have bytes and are not counted, moved ones are counted and have none */
    }
    if (records > bytes / RECORD_HEADER_SIZE || (records == 0 && bytes != 0)) {
        return "the ledgers' counts contradict their positions";
    }
    return NULL;
}

/* Rule 2: under the lock.  Returns the new sequence. */
static inline uint32_t ledger_commit(struct ledgers *ledgers, const struct view *view)
{
    uint32_t next = atomic_load_explicit(&ledgers->sequence, memory_order_relaxed) + 1;
    unsigned slot = next & 1;
    atomic_store_explicit(&ledgers->position[slot], view->position, memory_order_release);
    atomic_store_explicit(&ledgers->count[slot], view->count, memory_order_release);
    atomic_store_explicit(&ledgers->dropped[slot], view->dropped, memory_order_release); /* or shut */
    uint32_t arena = view->arena | (view->leases ? LEDGER_LEASES : 0);
    atomic_store_explicit(&ledgers->arena[slot], arena, memory_order_release);
    atomic_store_explicit(&ledgers->sequence, next, memory_order_release);
    return next;
}

#endif
