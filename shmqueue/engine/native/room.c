/* room.c: see room.h. */
#define _GNU_SOURCE
#include "room.h"

enum ring_status room_look(struct ring *ring, struct snapshot *put, uint64_t bytes, uint64_t items, bool may_grow)
{
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    const char *why = ring_contradiction(ring, put, &ring->get_as_seen);
    if (why != NULL) {
        return ring_mark_corrupted(ring, why);
    }
    if (!room_is_allowed(ring, put, bytes, items)) {
        uint64_t maxsize = ring_maxsize(ring);
        return maxsize != 0 && items > maxsize ? RING_TOO_MANY : RING_FULL;
    }
    if (!arena_is_elastic(ring) || arena_has_room(ring, put->arena, put->position, bytes)) {
        return RING_OK;
    }
    return may_grow ? arena_grow(ring, put, bytes) : RING_BUSY;
}

/* ---- whose turn it is ---- */

/* Under the put lock: the bytes and items that another putter has claimed, if it has and they count. */
static bool is_claimed(struct ring *ring, const struct self *self, uint64_t *bytes, uint64_t *items, int64_t *left)
{
    struct guard *guard = &ring->segment->put.guard;
    uint32_t claimant = atomic_load_explicit(&guard->claimant, memory_order_relaxed);
    if (claimant == 0 || claimant == self->tid) {
        return false;
    }
    uint64_t until = atomic_load_explicit(&guard->claim_until, memory_order_relaxed), now = (uint64_t)monotonic_ns();
    if (until <= now || until - now > (uint64_t)WAIT_SLICE_NS) { /* of a dead one, or by another clock */
        atomic_compare_exchange_strong(&guard->claimant, &claimant, 0);
        return false;
    }
    *bytes = atomic_load_explicit(&guard->claim_bytes, memory_order_relaxed);
    *items = atomic_load_explicit(&guard->claim_items, memory_order_relaxed);
    *left = (int64_t)(until - now);
    return *bytes <= ring->capacity;
}

bool room_is_beside_other_claim(struct ring *ring, const struct self *self, const struct snapshot *put, uint64_t bytes,
                            uint64_t items, struct want *want)
{
    uint64_t claimed, claimed_items;
    if (!is_claimed(ring, self, &claimed, &claimed_items, &want->claim_left)) {
        return true;
    }
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    if (ring_contradiction(ring, put, &ring->get_as_seen) != NULL || put->shut != SHUT_NOT) {
        return true; /* room_find() will say so */
    }
    uint64_t maxsize = ring_maxsize(ring), used = put->position - ring->get_as_seen.position;
    if (maxsize != 0 && claimed_items > maxsize) {
        return true; /* what it is for can be put no more */
    }
    if (ring->threshold != 0 && used + bytes >= ring->threshold) {
        return false;
    }
    return bytes <= ring->capacity - claimed && room_is_allowed(ring, put, bytes + claimed, items + claimed_items);
}

bool room_claim(struct ring *ring, const struct self *self, uint64_t bytes, uint64_t items)
{
    struct guard *guard = &ring->segment->put.guard;
    uint64_t other, other_items;
    int64_t left;
    uint64_t taken = ring->get_as_seen.position + ring->get_as_seen.count + 1;
    bool is_free = !is_claimed(ring, self, &other, &other_items, &left) &&
                   atomic_load_explicit(&guard->claim_taken, memory_order_relaxed) != taken;
    if (is_free) {
        atomic_store_explicit(&guard->claim_taken, taken, memory_order_relaxed);
        atomic_store_explicit(&guard->claim_until, (uint64_t)(monotonic_ns() + WAIT_SLICE_NS), memory_order_relaxed);
        atomic_store_explicit(&guard->claim_bytes, bytes, memory_order_relaxed);
        atomic_store_explicit(&guard->claim_items, items, memory_order_relaxed);
        atomic_store_explicit(&guard->claimant, self->tid, memory_order_relaxed);
    }
    return is_free;
}

/* ---- what to wait for ---- */

void room_note_want(const struct ring *ring, const struct snapshot *put, uint64_t bytes, uint64_t items,
                    struct want *want)
{
    uint64_t maxsize = ring_maxsize(ring), threshold = ring->threshold, share = want->is_exact ? UINT64_MAX : 8;
    uint64_t room = ring->capacity / share > bytes ? ring->capacity / share : bytes;
    bool has_small_shares = threshold / 8 <= 1 && maxsize / 8 <= items;
    want->is_exact = want->is_exact || (ring->capacity / 8 <= bytes && has_small_shares);
    want->position = want->count = 0;
    if (!room_is_allowed(ring, put, bytes, items)) {
        want->position = put->position + room > ring->capacity ? put->position + room - ring->capacity : 0;
        if (threshold != 0) {
            room = threshold / share > 1 ? threshold / share : 1;
            uint64_t position = put->position + room > threshold ? put->position + room - threshold : 0;
            want->position = position > want->position ? position : want->position;
        }
        if (maxsize != 0) {
            room = maxsize / share > items ? maxsize / share : items;
            want->count = put->count + room > maxsize ? put->count + room - maxsize : 0;
        }
    } /* else it is memory that is missing, which may come with any commit */
}

void room_ask(struct segment *segment, struct want *want)
{
    uint64_t position = want->is_behind ? UINT64_MAX : want->position; /* the end of the claim wakes us */
    uint64_t count = want->is_behind ? UINT64_MAX : want->count;
    want->bell = atomic_load(&segment->room.bell);
    if (atomic_load(&segment->get.ledgers.waiting) & WAITING_FOR_ROOM) {
        uint64_t others = atomic_load_explicit(&segment->room.position, memory_order_relaxed);
        position = others < position ? others : position;
        others = atomic_load_explicit(&segment->room.count, memory_order_relaxed);
        count = others < count ? others : count;
    }
    atomic_store_explicit(&segment->room.position, position, memory_order_relaxed);
    atomic_store_explicit(&segment->room.count, count, memory_order_relaxed);
    atomic_fetch_or(&segment->get.ledgers.waiting, WAITING_FOR_ROOM);
    store_load_barrier_after_locked();
    want->has_asked = true;
}
