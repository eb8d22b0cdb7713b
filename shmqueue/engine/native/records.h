/* records.h: the records of the queue, one after the other, with the get lock held.
 *
 * Every byte is checked before it is relied on: another process may have written anything there.
 */
#ifndef SHMQUEUE_RECORDS_H
#define SHMQUEUE_RECORDS_H

#include "leases.h"

/* The record at take->next.  RING_EMPTY: there is none.  RING_RESERVED: there is a reservation, which is not an
 * item. */
enum ring_status records_look(struct ring *ring, struct take *take);

/* Where the first reservation that is open lies among the records up to `put`.  RING_EMPTY: there is none. */
enum ring_status records_find_open(struct ring *ring, const struct take *take, const struct snapshot *put,
                                   struct snapshot *found);

#endif
