/* get.h: records out: the get lock is held from a successful ring_get_begin(), or ring_get_quick(), to a commit or
 * ring_get_abort(). */
#ifndef SHMQUEUE_GET_H
#define SHMQUEUE_GET_H

#include <string.h>

#include "leases.h"

/* Takes the get lock and looks at the first record.  RING_EMPTY leaves the lock free. */
enum ring_status ring_get_begin(struct ring *ring, struct take *take, struct patience patience);
/* The same, and stops at what is not an item.  RING_RESERVED: there is a reservation, and the lock is held. */
enum ring_status ring_get_begin_once(struct ring *ring, struct take *take, struct patience patience);

/* ---- the quick way, for small records ---- */

#define RECORD_QUICK_MAX 2048 /* bytes of payload */
_Static_assert(RECORD_HEADER_SIZE + RECORD_QUICK_MAX <= 4096, "an arena consists of whole pages: it has such a record");

/* A get that holds the lock and has a small record at hand: an item that was never handed out, where nothing is leased.
 * Most gets are such. */
struct quick_take {
    struct self *self;
    uint64_t position, count, dropped; /* of the get ledger, which is not read again: it was checked */
    uint32_t sequence, arena;
    struct record_header head;
    const unsigned char *payload;
};

/* Takes the lock if it is free, and looks at the first record.  RING_OK: it is at hand, and the lock is held.
 * RING_MISMATCH: this get is not such a one, and ring_get_begin() is for it.  Otherwise as that says. */
enum ring_status ring_get_quick(struct ring *ring, struct quick_take *take);

/* The same get as the functions below want it. */
static inline void ring_get_of_quick(const struct quick_take *of, struct take *take)
{
    take->self = of->self;
    take->waits = false;
    take->next = (struct snapshot){.position = of->position, .count = of->count, .dropped = of->dropped,
                                   .arena = of->arena, .sequence = of->sequence};
    take->arena = of->arena;
    take->method = of->head.method;
    take->length = of->head.length;
    take->payload = of->payload;
}

/* Takes the record, and releases the lock. */
static inline void ring_get_quick_commit(struct ring *ring, const struct quick_take *take)
{
    if (arena_is_elastic(ring)) { /* perhaps memory can be given back */
        struct take whole;
        ring_get_of_quick(take, &whole);
        ring_get_pass(&whole);
        ring_get_commit(ring, &whole);
        return;
    }
    uint64_t position = take->position + RECORD_HEADER_SIZE + take->head.length, count = take->count + 1;
    ledger_write(&ring->segment->get.ledgers, take->sequence, position, count, take->dropped, take->arena);
    side_end_get(ring, take->self, position, count);
}

/* ---- the record at hand ---- */

/* Which of all items that were ever put the one at hand is. */
static inline uint64_t ring_get_number(const struct take *take)
{
    return take_is_of_entry(take) ? take->number : take->next.count;
}

/* Copies `length` bytes of the payload at hand, from its byte `from` on; they must be within it. */
static inline void ring_get_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length,
                                 void *bytes)
{
    if (take_is_of_entry(take)) {
        leases_peek(ring, take, from, length, bytes);
    } else {
        memcpy(bytes, take->payload + from, (size_t)length);
    }
}

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
