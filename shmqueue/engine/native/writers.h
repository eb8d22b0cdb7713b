/* writers.h: entries of the lease table for records whose payload is still being written.
 *
 * Rules 20 and 21 in layout.h, for getters, with the get lock held.
 */
#ifndef SHMQUEUE_WRITERS_H
#define SHMQUEUE_WRITERS_H

#include "lending.h"

/* With a reservation at hand: makes an entry of it if it is open, passes it, and releases the get lock.  RING_FULL:
 * there is no entry left.  RING_UNMAPPED: no memory for the table. */
enum ring_status writers_pass(struct ring *ring, struct take *take);

/* If the reservation is an entry: has the next process that checks the holders abandon it.  False: it is none.  No
 * lock. */
bool writers_drop(struct ring *ring, const struct reservation *reservation);

/* If the reservation is an entry: ends it and releases the lock.  False: it is none. */
bool writers_end(struct ring *ring, struct take *take, const struct reservation *reservation, bool commit,
                 struct patience patience);

/* Before a reservation is put, with no lock held: makes sure that there is memory for an entry. */
enum ring_status writers_prepare(struct ring *ring, struct patience patience);

#endif
