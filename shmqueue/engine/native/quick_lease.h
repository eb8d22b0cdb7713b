/* quick_lease.h: the lease of a small item in a queue in which nothing else is leased, and its end: the quick way.
 *
 * Rules 11 to 13 in layout.h.  While no entry of the table is in use, all of them are undefined, so that one may be
 * written before the commit, and forgotten with it.
 */
#ifndef SHMQUEUE_QUICK_LEASE_H
#define SHMQUEUE_QUICK_LEASE_H

#include "get.h"
#include "lending.h"

/* Whether the table is there. */
static inline bool ring_can_lend_quick(const struct ring *ring)
{
    return atomic_load_explicit(&ring->table, memory_order_acquire) != NULL &&
           GET(ring->segment->leases.reserved) >= sizeof(struct lease);
}

/* Then, with a record at hand by ring_get_quick(): hands it out, and releases the lock.  `bytes`: what the holder does
 * with them. */
void ring_lend_quick(struct ring *ring, const struct quick_take *take, enum lease_bytes bytes, struct loan *loan);

/* The item is done.  False: nothing has changed, and ring_loan_finish() is for it. */
bool ring_loan_finish_quick(struct ring *ring, const struct loan *loan);

#endif
