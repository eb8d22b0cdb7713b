/* queue.h: the queue as a whole: waiting, joining, clearing, shutting down. */
#ifndef SHMQUEUE_QUEUE_H
#define SHMQUEUE_QUEUE_H

#include "holders.h"
#include "put.h"

/* Sleeps until there seems to be something to take, or the end: RING_OK says look, and promises nothing. */
enum ring_status ring_wait_items(struct ring *ring, int64_t deadline);
/* Sleeps until there are records (true) or none (false), or the queue is shut down. */
enum ring_status ring_wait(struct ring *ring, bool records, int64_t deadline);
/* Sleeps until nothing is unfinished. */
enum ring_status ring_join(struct ring *ring, int64_t deadline);

/* Takes and drops all records at once; they count as done. */
enum ring_status ring_clear(struct ring *ring, uint64_t *dropped, struct patience patience);

/* Refuses all puts from now on, wakes all sleepers, and with `immediate` drops what is in the queue.  When it returns
 * something else than RING_OK, call it again: it goes on where it was. */
enum ring_status ring_shut_down(struct ring *ring, bool immediate, struct patience patience);

/* Changes ring_maxsize() for all, and wakes the putters.  When it returns something else than RING_OK, call it
 * again. */
enum ring_status ring_set_maxsize(struct ring *ring, uint64_t maxsize, struct patience patience);

#endif
