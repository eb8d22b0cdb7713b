/* queue.c: see queue.h. */
#define _GNU_SOURCE
#include "queue.h"

#include "dropping.h"
#include "writers.h"

/* ---- waiting ---- */

enum ring_status ring_wait_items(struct ring *ring, int64_t deadline)
{
    struct segment *segment = ring->segment;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    uint32_t seen = atomic_load_explicit(&segment->put.ledgers.sequence, memory_order_acquire);
    struct snapshot get = ledger_read(&segment->get.ledgers), put = ledger_read(&segment->put.ledgers);
    bool is_held_up = atomic_exchange(&ring->held_up, false); /* what is there cannot be taken now */
    if ((put.count != get.count && !is_held_up) || put.shut != SHUT_NOT) {
        return RING_OK;
    }
    bool was_soon;
    enum ring_status status = side_sleep_for_items(ring, seen, deadline, &was_soon);
    if (was_soon) {
        side_let_some_come(ring, get.count);
    }
    if (status == RING_INTERRUPTED) {
        ring_clear_the_way(ring);
    }
    if (status == RING_INTERRUPTED && get.leases) {
        ring_return_dead(ring, WAIT_SLICE_NS / 2); /* due again only if that look found the lock held */
    }
    if (status == RING_INTERRUPTED && arena_is_elastic(ring)) {
        ring_trim(ring, true); /* a slice without news, or a signal: time to tidy up */
    }
    return status;
}

bool ring_has_something(struct ring *ring)
{
    struct statistics statistics;
    enum ring_status status = ring_statistics(ring, &statistics);
    return status != RING_OK || statistics.put.shut != SHUT_NOT || statistics.put.count != statistics.get.count;
}

enum ring_status ring_wait(struct ring *ring, bool records, int64_t deadline)
{
    struct want want = {0};
    for (;;) {
        struct statistics statistics;
        uint32_t put_seen = atomic_load_explicit(&ring->segment->put.ledgers.sequence, memory_order_acquire);
        enum ring_status status = ring_statistics(ring, &statistics);
        if (status != RING_OK) {
            return status;
        }
        if (statistics.put.shut != SHUT_NOT || (statistics.put.count != statistics.get.count) == records) {
            return RING_OK;
        }
        if (!records && !want.has_asked) {
            want.bell = atomic_load(&ring->segment->room.bell);
            atomic_fetch_or(&ring->segment->get.ledgers.waiting, WAITING_FOR_ANY);
            store_load_barrier_after_locked();
            want.has_asked = true;
            continue; /* a commit before that did not wake us */
        }
        want.has_asked = false;
        status = records ? ring_wait_items(ring, deadline)
                         : side_sleep_for_room(ring, &want, WAIT_SLICE_NS, deadline);
        if (status != RING_OK) {
            return status;
        }
        if (records && atomic_load(&ring->segment->put.ledgers.sequence) != put_seen) {
            futex_wake(&ring->segment->put.ledgers.sequence, 1); /* a getter may have been left asleep for us */
        }
    }
}

/* The process that shut the queue down at once was killed before it had dropped the items. */
static bool is_shut_with_items(struct ring *ring)
{
    if (atomic_load(&ring->segment->notes.shut) == 0) {
        return false;
    }
    uint64_t taken = ledger_read(&ring->segment->get.ledgers).count;
    struct snapshot put = ledger_read(&ring->segment->put.ledgers);
    return put.shut == SHUT_IMMEDIATE && put.count != taken;
}

enum ring_status ring_join(struct ring *ring, int64_t deadline)
{
    struct tally *tally = &ring->segment->tally;
    for (;;) {
        uint64_t done;
        uint32_t seen = atomic_load(&tally->sequence);
        if (ring_is_corrupted(ring)) {
            return RING_CORRUPTED;
        }
        if (tally_unfinished_now(ring->segment, &done) == 0) {
            return RING_OK;
        }
        if (atomic_load(&ring->closing)) {
            return RING_CLOSED;
        }
        if (is_shut_with_items(ring)) {
            uint64_t dropped;
            struct patience patience = {.for_lock = true, .deadline = deadline};
            enum ring_status status = ring_clear(ring, &dropped, patience);
            if (status != RING_OK) {
                return status;
            }
            continue;
        }
        atomic_exchange(&tally->waiting, 1);
        enum wait_result waited = futex_wait(&tally->sequence, seen, deadline);
        if (waited == WAIT_DEADLINE) {
            return RING_DEADLINE;
        }
        if (waited != WAIT_WOKEN) {
            ring_clear_the_way(ring);
            return RING_INTERRUPTED;
        }
    }
}

/* ---- clearing, shutting down ---- */

enum ring_status ring_clear(struct ring *ring, uint64_t *dropped, struct patience patience)
{
    uint64_t end = ledger_read(&ring->segment->put.ledgers).count; /* what is put from now on may stay */
    enum ring_status status;
    *dropped = 0;
    while ((status = dropping_clear_once(ring, dropped, patience)) == RING_RESERVED) {
        struct take take;
        status = ring_get_begin_once(ring, &take, patience);
        if (status == RING_OK) {
            ring_get_abort(ring, &take); /* it is an item by now: the next round drops it */
        } else if (status == RING_RESERVED) {
            bool is_old = take.next.count < end;
            status = is_old ? writers_pass(ring, &take) : RING_EMPTY;
            if (!is_old) {
                ring_get_abort(ring, &take);
            }
        }
        if (status != RING_OK) {
            break;
        }
    }
    if (status == RING_EMPTY || status == RING_SHUT || status == RING_FULL) {
        status = RING_OK;
    }
    if (status == RING_OK) {
        ring_trim(ring, false);
    }
    return status;
}

enum ring_status ring_shut_down(struct ring *ring, bool immediate, struct patience patience)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    uint64_t dropped, wanted = immediate ? SHUT_IMMEDIATE : SHUT_PLAIN;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    atomic_store(&ring->segment->notes.shut, 1); /* before the commit: getters look at it first */
    enum ring_status status = side_lock(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    struct snapshot put = ledger_read(&side->ledgers);
    put.shut = put.shut > wanted ? put.shut : wanted;
    side_commit_put(ring, self, &put, WAIT_EVERYONE);
    side_wake_putters(ring); /* a putter that asks for room later does so under the lock, and sees the commit */
    if (immediate) {
        struct patience none = {0}; /* a getter has the lock: its next owner drops what is left */
        status = ring_clear(ring, &dropped, none);
    }
    return status == RING_BUSY ? RING_OK : status;
}

enum ring_status ring_set_maxsize(struct ring *ring, uint64_t maxsize, struct patience patience)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    enum ring_status status = side_lock(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    atomic_store_explicit(&side->guard.maxsize, maxsize + 1, memory_order_relaxed);
    lock_release(&side->guard.lock, self);
    side_wake_putters(ring);
    return RING_OK;
}
