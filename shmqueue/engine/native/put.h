/* put.h: records in. */
#ifndef SHMQUEUE_PUT_H
#define SHMQUEUE_PUT_H

#include "reservations.h"
#include "room.h"

/* Puts all the records or none, in one commit.  The caller has made sure that they can fit an empty ring; if they
 * cannot any more, RING_TOO_MANY. */
enum ring_status ring_put(struct ring *ring, const struct record_in *records, size_t count, struct patience patience);

/* Puts one record of at most RECORD_QUICK_MAX bytes of payload, which lie behind its header, if there is room as far as
 * is known, nobody claims it, and the lock is free: most puts are such.  It can fit an empty ring, as for ring_put().
 * False: nothing was put, and ring_put() is for it. */
bool ring_put_quick(struct ring *ring, const struct record_header *record);

/* How many of the records, from the first, can fit an empty ring together; 0 when the first one never can. */
size_t ring_fitting(const struct ring *ring, const struct record_in *records, size_t count);

#endif
