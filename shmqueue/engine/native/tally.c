/* tally.c: see tally.h. */
#define _GNU_SOURCE
#include "tally.h"

static uint64_t unfinished(uint64_t done, const struct snapshot *put, const struct snapshot *get)
{
    uint64_t over = get->dropped + done;
    return put->count > over ? put->count - over : 0;
}

uint64_t tally_unfinished(struct ring *ring, const struct snapshot *put, const struct snapshot *get)
{
    return unfinished(atomic_load(&ring->segment->tally.done), put, get);
}

/* `done` is read first: it never passes the other two, so a 0 was true at the moment of the last read. */
uint64_t tally_unfinished_now(struct segment *segment, uint64_t *done)
{
    *done = atomic_load(&segment->tally.done);
    struct snapshot get = ledger_read(&segment->get.ledgers);
    struct snapshot put = ledger_read(&segment->put.ledgers);
    return unfinished(*done, &put, &get);
}

/* The flag is cleared before the sequence moves, as in side_claim_sleeping_getter(). */
void tally_wake_if_finished(struct ring *ring)
{
    struct tally *tally = &ring->segment->tally;
    uint64_t done;
    if (tally_unfinished_now(ring->segment, &done) == 0) {
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
        if (ring_is_corrupted(ring)) {
            return RING_CORRUPTED;
        }
        if (tally_unfinished_now(ring->segment, &done) == 0) {
            return RING_EMPTY;
        }
    } while (!atomic_compare_exchange_weak(&tally->done, &done, done + 1));
    tally_wake_if_finished(ring); /* look anew: clear() may have dropped the rest meanwhile */
    return RING_OK;
}

/* The queue was shut down at once: what is left counts as dropped, whether it was dropped or not. */
static void drop_in_statistics(struct statistics *statistics)
{
    struct snapshot *get = &statistics->get;
    uint64_t records = statistics->put.count - get->count, left = unfinished(statistics->done, &statistics->put, get);
    get->dropped += records < left ? records : left;
    get->count = statistics->put.count;
    if (!get->leases) {
        get->position = statistics->put.position; /* else what is leased still has its bytes */
        get->arena = statistics->put.arena;
    }
}

enum ring_status ring_statistics(struct ring *ring, struct statistics *statistics)
{
    struct segment *segment = ring->segment;
    _Atomic uint32_t *sequence = &segment->get.ledgers.sequence;
    uint32_t before, after;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    do {
        before = atomic_load(sequence);
        statistics->get = ledger_read(&segment->get.ledgers);
        statistics->put = ledger_read(&segment->put.ledgers);
        after = atomic_load(sequence);
    } while (before != after);
    const char *why = ledgers_contradict(&statistics->put, &statistics->get, ring->capacity);
    if (why != NULL) {
        return ring_mark_corrupted(ring, why);
    }
    statistics->done = atomic_load(&segment->tally.done);
    if (statistics->put.shut == SHUT_IMMEDIATE) {
        drop_in_statistics(statistics); /* the next owner of the get lock drops it */
    }
    uint64_t highest = atomic_load(&segment->put.guard.high_water);
    uint64_t queued = statistics->put.count - statistics->get.count;
    statistics->high_water = highest > queued ? highest : queued;
    statistics->recoveries = atomic_load(&segment->put.guard.recoveries) + atomic_load(&segment->get.guard.recoveries);
    statistics->putters_waiting = atomic_load(&segment->get.ledgers.waiting);
    statistics->getters_waiting = atomic_load(&segment->put.ledgers.waiting);
    return RING_OK;
}
