/* room.h: whether there is room for a put, and which putter's turn it is.
 *
 * All of this is done under the put lock, except where the comment says otherwise.
 *
 * A putter that others have overtaken for some time claims the room that it needs: until the claim ends, at most for a
 * slice, others leave that much free.  So a large item behind small ones waits for a bounded time.
 */
#ifndef SHMQUEUE_ROOM_H
#define SHMQUEUE_ROOM_H

#include "space.h"

/* Most items that may be in the queue, 0 for as many as fit.  Another one may hold a moment later, unless the caller
 * owns the put lock.  No lock. */
static inline uint64_t ring_maxsize(const struct ring *ring)
{
    uint64_t chosen = atomic_load_explicit(&ring->segment->put.guard.maxsize, memory_order_relaxed);
    return chosen != 0 ? chosen - 1 : ring->first_maxsize;
}

/* Whether the limits of the queue allow so much more, by ring->get_as_seen. */
static inline bool room_is_allowed(const struct ring *ring, const struct snapshot *put, uint64_t bytes, uint64_t items)
{
    const struct snapshot *get = &ring->get_as_seen;
    uint64_t used = put->position - get->position, maxsize = ring_maxsize(ring);
    return used <= ring->capacity - bytes && (ring->threshold == 0 || used < ring->threshold) &&
           (maxsize == 0 || put->count - get->count + items <= maxsize);
}

/* Whether there is room, by an older look at the getters and by where the records lie. */
static inline bool room_is_known(const struct ring *ring, const struct snapshot *put, uint64_t bytes, uint64_t items)
{
    if (ring->get_as_seen.leases && ring_maxsize(ring) != 0) {
        return false; /* an item given back since then has made get.count smaller: the snapshot is no safe one */
    }
    return room_is_allowed(ring, put, bytes, items) &&
           (!arena_is_elastic(ring) || arena_has_room(ring, put->arena, put->position, bytes));
}

/* Looks at the getters, and makes room if it `may_grow` (which takes its time), which moves `put`. */
enum ring_status room_look(struct ring *ring, struct snapshot *put, uint64_t bytes, uint64_t items, bool may_grow);

static inline enum ring_status room_find(struct ring *ring, struct snapshot *put, uint64_t bytes, uint64_t items,
                                         bool may_grow)
{
    if (put->arena >= ring->arenas) {
        return ring_mark_corrupted(ring, ring_contradiction(ring, put, &ring->get_as_seen));
    }
    if (put->shut != SHUT_NOT) {
        return RING_SHUT;
    }
    return room_is_known(ring, put, bytes, items) ? RING_OK : room_look(ring, put, bytes, items, may_grow);
}

/* ---- whose turn it is ---- */

/* Whether there is room beside the claim of another putter, if there is one. */
bool room_is_beside_other_claim(struct ring *ring, const struct self *self, const struct snapshot *put, uint64_t bytes,
                                uint64_t items, struct want *want);

static inline bool room_is_beside_claim(struct ring *ring, const struct self *self, const struct snapshot *put,
                                        uint64_t bytes, uint64_t items, struct want *want)
{
    uint32_t claimant = atomic_load_explicit(&ring->segment->put.guard.claimant, memory_order_relaxed);
    return claimant == 0 || claimant == self->tid ||
           room_is_beside_other_claim(ring, self, put, bytes, items, want);
}

/* When there is no room: claims it.  One claim at a time: another one must have ended, and something must have been
 * taken since: a process that takes may have to put first. */
bool room_claim(struct ring *ring, const struct self *self, uint64_t bytes, uint64_t items);

/* Takes back this thread's claim, if it has one.  True: others may have waited for that.  No lock. */
static inline bool room_unclaim(struct ring *ring, const struct self *self)
{
    uint32_t claimant = atomic_load_explicit(&ring->segment->put.guard.claimant, memory_order_relaxed);
    return claimant == self->tid && atomic_compare_exchange_strong(&ring->segment->put.guard.claimant, &claimant, 0);
}

/* ---- what to wait for ---- */

/* Writes into *want how far the get side must come: up to where the records fit, and, unless that is to be exact, up to
 * where an eighth of the queue is free.  Waking a putter for each item that is taken costs both sides more than the
 * item. */
void room_note_want(const struct ring *ring, const struct snapshot *put, uint64_t bytes, uint64_t items,
                    struct want *want);
/* Rule 17: the getter that comes so far wakes us. */
void room_ask(struct segment *segment, struct want *want);

#endif
