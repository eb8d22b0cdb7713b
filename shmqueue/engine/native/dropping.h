/* dropping.h: taking and dropping many records at once: clear(), and the end of a queue. */
#ifndef SHMQUEUE_DROPPING_H
#define SHMQUEUE_DROPPING_H

#include "records.h"

/* With the get lock held, when the queue is shut down or about to be: does what a process that was killed may have left
 * undone.  RING_OK: go on, there may be records.  RING_SHUT, RING_INTERRUPTED: the lock is free, and in the second case
 * there may be more to do. */
enum ring_status dropping_finish_shut_down(struct ring *ring, struct take *take);

/* Takes the get lock, drops all up to an open reservation, and releases it.  RING_RESERVED: there is one.  *dropped
 * grows by how many items that were. */
enum ring_status dropping_clear_once(struct ring *ring, uint64_t *dropped, struct patience patience);

#endif
