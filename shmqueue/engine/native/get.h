/* get.h: records out: the get lock is held from a successful ring_get_begin() to ring_get_commit() or
 * ring_get_abort(). */
#ifndef SHMQUEUE_GET_H
#define SHMQUEUE_GET_H

#include "leases.h"

/* Takes the get lock and looks at the first record.  RING_EMPTY leaves the lock free. */
enum ring_status ring_get_begin(struct ring *ring, struct take *take, struct patience patience);
/* The same, and stops at what is not an item.  RING_RESERVED: there is a reservation, and the lock is held. */
enum ring_status ring_get_begin_once(struct ring *ring, struct take *take, struct patience patience);

/* Which of all items that were ever put the one at hand is. */
static inline uint64_t ring_get_number(const struct take *take)
{
    return take_is_of_entry(take) ? take->number : take->next.count;
}

/* Copies `length` bytes of the payload at hand, from its byte `from` on; they must be within it. */
void ring_get_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes);
/* Copies all of it, and passes it. */
void ring_get_read(struct ring *ring, struct take *take, void *payload);
/* Copies the queue's bytes from this record on, headers and all, `room` at most, as far as they lie in one arena.  How
 * many; the last record may be cut off. */
uint32_t ring_get_copy(struct ring *ring, const struct take *take, void *bytes, uint32_t room);
/* Whether there is a record, as far as is known, of `length` bytes of such a copy; then it is the one at hand. */
bool ring_get_in_copy(const struct ring *ring, struct take *take, const void *bytes, uint32_t length);
/* Moves on to the next record, RING_EMPTY if there is none. */
enum ring_status ring_get_next(struct ring *ring, struct take *take);

#endif
