/* dropping.c: see dropping.h. */
#define _GNU_SOURCE
#include "dropping.h"

/* Under the get lock: takes and drops all records that are not leased, up to `put`.  Returns how many there were. */
static uint64_t drop_all(struct ring *ring, const struct snapshot *put, struct take *take)
{
    struct snapshot *get = &take->next;
    uint64_t records = put->count - get->count;
    if (get->leases) {
        records += take->returned;
        leases_drop_returned(ring, take);
    }
    struct snapshot all = ledger_read(&ring->segment->put.ledgers);
    uint64_t left = tally_unfinished(ring, &all, get); /* fewer, if task_done() was called before an item was taken */
    get->position = put->position;
    get->count = put->count;
    get->arena = put->arena;
    get->dropped += records < left ? records : left;
    return records;
}

/* As drop_all(), and leaves in the queue what lies behind an open reservation: RING_RESERVED, there is one. */
static enum ring_status drop_up_to_open(struct ring *ring, const struct snapshot *put, struct take *take,
                                        uint64_t *dropped)
{
    struct snapshot end = *put, open;
    enum ring_status status = RING_EMPTY;
    if (atomic_load(&ring->segment->notes.reserves) != 0) {
        status = records_find_open(ring, take, put, &open);
        end = status == RING_OK ? open : *put;
    }
    if (status != RING_OK && status != RING_EMPTY) {
        return status;
    }
    *dropped += drop_all(ring, &end, take);
    return status == RING_OK ? RING_RESERVED : RING_OK;
}

enum ring_status dropping_finish_shut_down(struct ring *ring, struct take *take)
{
    struct snapshot put = ledger_read(&ring->segment->put.ledgers);
    const char *why = ring_contradiction(ring, &put, &take->next);
    if (why != NULL) {
        return ring_mark_corrupted(ring, why);
    }
    bool is_empty = put.count == take->next.count && (!take->next.leases || take->returned == 0);
    if (put.shut != SHUT_IMMEDIATE || is_empty) {
        return RING_OK;
    }
    uint64_t dropped = 0;
    enum ring_status status = drop_up_to_open(ring, &put, take, &dropped);
    if ((status != RING_OK && status != RING_RESERVED) || (status == RING_RESERVED && dropped == 0)) {
        return status == RING_RESERVED ? RING_OK : status;
    }
    leases_commit(ring, take);
    tally_wake_if_finished(ring);
    return status == RING_RESERVED ? RING_INTERRUPTED : RING_SHUT;
}

enum ring_status dropping_clear_once(struct ring *ring, uint64_t *dropped, struct patience patience)
{
    struct take take;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    struct snapshot put = ledger_read(&ring->segment->put.ledgers);
    const char *why = ring_contradiction(ring, &put, &take.next);
    status = why != NULL ? ring_mark_corrupted(ring, why) : take.next.leases ? leases_enter(ring, &take) : RING_OK;
    if (status == RING_OK && (why = ring_contradiction(ring, &put, &take.next)) != NULL) {
        status = ring_mark_corrupted(ring, why); /* what is handed out next has its own position and count */
    }
    status = status == RING_OK ? drop_up_to_open(ring, &put, &take, dropped) : status;
    if (status != RING_OK && status != RING_RESERVED) {
        ring_get_abort(ring, &take);
        return status;
    }
    leases_commit(ring, &take);
    tally_wake_if_finished(ring);
    return status;
}
