/* tally.c: task_done(), join() and the figures of a queue.  No lock is taken here but for what a killed
 * ring_shut_down() has left undone. */
#define _GNU_SOURCE
#include "ring.h"

static uint64_t unfinished(uint64_t done, const struct view *put, const struct view *get)
{
    uint64_t over = get->dropped + done;
    return put->count > over ? put->count - over : 0;
}

uint64_t tally_unfinished(struct ring *ring, const struct view *put, const struct view *get)
{
    return unfinished(atomic_load(&ring->segment->tally.done), put, get);
}

/* `done` is read first: it never passes the other two, so a 0 was true at the moment of the last read. */
static uint64_t unfinished_now(struct segment *segment, uint64_t *done)
{
    *done = atomic_load(&segment->tally.done);
    struct view get = ledger_read(&segment->get.ledgers);
    struct view put = ledger_read(&segment->put.ledgers);
    return unfinished(*done, &put, &get);
}

/* The flag goes down before the sequence moves, as in ring_commit_and_wake(). */
void tally_wake_if_finished(struct ring *ring)
{
    struct tally *tally = &ring->segment->tally;
    uint64_t done;
    if (unfinished_now(ring->segment, &done) == 0) {
        bool asleep = atomic_load(&tally->waiting) != 0 && atomic_exchange(&tally->waiting, 0) != 0;
        atomic_fetch_add(&tally->sequence, 1);
        if (asleep || atomic_load(&tally->waiting) != 0) {
            futex_wake(&tally->sequence, WAIT_EVERYONE);
        }
    }
}

enum ring_status ring_task_done(struct ring *ring)
{
    struct tally *tally = &ring->segment->tally;
    uint64_t done;
    do {
        if (ring_is_poisoned(ring)) {
            return RING_BROKEN;
        }
        if (unfinished_now(ring->segment, &done) == 0) {
            return RING_EMPTY;
        }
    } while (!atomic_compare_exchange_weak(&tally->done, &done, done + 1));
    tally_wake_if_finished(ring); /* look anew: clear() may have dropped the rest meanwhile */
    return RING_OK;
}

/* Whoever shut the queue down for all, at once, was killed before he had dropped the items. */
static bool is_shut_with_items(struct ring *ring)
{
    if (atomic_load(&ring->segment->notes.shut) == 0) {
        return false;
    }
    uint64_t taken = ledger_read(&ring->segment->get.ledgers).count;
    struct view put = ledger_read(&ring->segment->put.ledgers);
    return put.shut == SHUT_IMMEDIATE && put.count != taken;
}

enum ring_status ring_join(struct ring *ring, int64_t deadline)
{
    struct tally *tally = &ring->segment->tally;
    for (;;) {
        uint64_t done;
        uint32_t seen = atomic_load(&tally->sequence);
        if (ring_is_poisoned(ring)) {
            return RING_BROKEN;
        }
        if (unfinished_now(ring->segment, &done) == 0) {
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

/* The queue was shut down, and what is left is nobody's any more, dropped or not. */
static void drop_in_figures(struct figures *figures)
{
    struct view *get = &figures->get;
    uint64_t records = figures->put.count - get->count, left = unfinished(figures->done, &figures->put, get);
    get->dropped += records < left ? records : left;
    get->count = figures->put.count;
    if (!get->leases) {
        get->position = figures->put.position; /* else what is leased still has its bytes */
        get->arena = figures->put.arena;
    }
}

enum ring_status ring_figures(struct ring *ring, struct figures *figures)
{
    struct segment *segment = ring->segment;
    _Atomic uint32_t *sequence = &segment->get.ledgers.sequence;
    uint32_t before, after;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    do {
        before = atomic_load(sequence);
        figures->get = ledger_read(&segment->get.ledgers);
        figures->put = ledger_read(&segment->put.ledgers);
        after = atomic_load(sequence);
    } while (before != after);
    const char *why = ledgers_contradict(&figures->put, &figures->get, ring->capacity);
    if (why != NULL) {
        return ring_poison(ring, why);
    }
    figures->done = atomic_load(&segment->tally.done);
    if (figures->put.shut == SHUT_IMMEDIATE) {
        drop_in_figures(figures); /* whoever has the get lock next does it */
    }
    uint64_t highest = atomic_load(&segment->put.guard.high_water), queued = figures->put.count - figures->get.count;
    figures->high_water = highest > queued ? highest : queued;
    figures->recoveries = atomic_load(&segment->put.guard.recoveries) + atomic_load(&segment->get.guard.recoveries);
    figures->putters_waiting = atomic_load(&segment->get.ledgers.waiting);
    figures->getters_waiting = atomic_load(&segment->put.ledgers.waiting);
    return RING_OK;
}
