/* leases.h: what leases change about a get: requeued items come first, and a commit settles the table.
 *
 * Rules 11 to 14 in layout.h.  All of this is done under the get lock, for nanoseconds: no lock is held while a holder
 * works.
 */
#ifndef SHMQUEUE_LEASES_H
#define SHMQUEUE_LEASES_H

#include "spilling.h"
#include "tally.h"

/* Makes a requeued item the record at hand.  RING_EMPTY: there is none. */
enum ring_status leases_look(struct ring *ring, struct take *take);
/* The record at take->place, checked: its length and method. */
enum ring_status leases_read_header(struct ring *ring, struct take *take);
/* Copies bytes of the payload at hand, which is such an item's. */
enum ring_status leases_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes);
/* Drops all requeued items; they are what `take` then says. */
void leases_drop_returned(struct ring *ring, struct take *take);

/* *settled: what becomes of take->next in the ledger; writes what belongs beside it. */
void leases_settle(struct ring *ring, struct take *take, struct snapshot *settled);

/* Commits what was taken, releases the lock, and wakes putters. */
static inline void leases_commit(struct ring *ring, struct take *take)
{
    if (!take->next.leases) {
        side_commit_get(ring, take->self, &take->next);
        return;
    }
    struct snapshot settled;
    leases_settle(ring, take, &settled);
    side_commit_get(ring, take->self, &settled);
    spilling_tidy(ring, take);
}

/* The same, and notes whether memory could be given back. */
static inline void ring_get_commit(struct ring *ring, struct take *take)
{
    if (arena_is_elastic(ring) && arena_trim_is_due(ring, &take->next, take->arena)) {
        atomic_store_explicit(&ring->trim_due, true, memory_order_relaxed);
    }
    leases_commit(ring, take);
}

/* For a putter that finds no room and owns no lock: moves a leased record that keeps bytes from use.  RING_FULL: none
 * was moved.  RING_BUSY: the get lock is not free, or the record is too large for a call that does not wait. */
enum ring_status leases_make_room(struct ring *ring, bool waits);

#endif
