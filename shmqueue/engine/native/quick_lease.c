/* quick_lease.c: see quick_lease.h. */
#define _GNU_SOURCE
#include "quick_lease.h"

void ring_lend_quick(struct ring *ring, const struct quick_take *take, enum lease_bytes bytes, struct loan *loan)
{
    struct segment *segment = ring->segment;
    struct next *next = &segment->get.next;
    struct lease *entry = lease_entries(ring);
    lease_forget_changes(ring);
    lease_set_record(entry, take->position, take->count, take->arena);
    SET(entry->attempt, 1);
    lease_set_holder(entry, lock_process(take->self), ring->handle, LEASE_LENT, bytes);
    *loan = (struct loan){.entry = 0,
                          .attempt = 1,
                          .count = take->count,
                          .place = {.position = take->position, .arena = take->arena},
                          .length = take->head.length,
                          .method = take->head.method};
    unsigned slot = (take->sequence + 1) & 1;
    SET(next->position[slot], take->position + RECORD_HEADER_SIZE + take->head.length);
    SET(next->count[slot], take->count + 1);
    SET(next->arena[slot], take->arena);
    SET(next->entries[slot], 1);
    SET(next->generation[slot], 0);
    ledger_write(&segment->get.ledgers, take->sequence, take->position, take->count + 1, take->dropped,
                 take->arena | LEDGER_LEASES);
    side_end_get(ring, take->self, take->position, take->count + 1);
}

/* Whether this is the only entry; without the lock a guess, so that it is not taken in vain where there are several. */
static inline bool is_only_entry(struct ring *ring, const struct loan *loan)
{
    struct side *side = &ring->segment->get;
    return loan->entry == 0 && GET(side->next.entries[GET(side->ledgers.sequence) & 1]) == 1;
}

/* Under the get lock: whether this is the only lease, with nothing to be undone.  As it is this process's, so is what
 * the handle knows of putters.  *settled: what the get ledger becomes when it is finished. */
static inline bool is_only_lease(struct ring *ring, const struct loan *loan, struct snapshot *settled)
{
    struct segment *segment = ring->segment;
    struct ledgers *ledgers = &segment->get.ledgers;
    const struct lease *entry = lease_entries(ring);
    uint32_t sequence = GET(ledgers->sequence);
    unsigned slot = sequence & 1;
    settled->sequence = sequence;
    settled->position = GET(segment->get.next.position[slot]);
    settled->count = GET(segment->get.next.count[slot]);
    settled->dropped = GET(ledgers->dropped[slot]);
    settled->arena = GET(segment->get.next.arena[slot]);
    settled->leases = false;
    return GET(ledgers->arena[slot]) == (settled->arena | LEDGER_LEASES) &&
           is_only_entry(ring, loan) && GET(ledgers->count[slot]) == settled->count &&
           GET(ledgers->position[slot]) == loan->place.position && loan->place.window == 0 &&
           settled->position - loan->place.position <= ring->capacity && settled->arena < ring->arenas &&
           GET(segment->leases.changed[0]) == 0 && GET(segment->notes.shut) == 0 &&
           GET(entry->state) == LEASE_LENT && GET(entry->window) == 0 && lending_is_of(ring, entry, loan);
}

bool ring_loan_finish_quick(struct ring *ring, const struct loan *loan)
{
    struct leases *leases = &ring->segment->leases;
    struct side *side = &ring->segment->get;
    struct self *self = lock_self();
    struct snapshot settled;
    if (!is_only_entry(ring, loan) || ring_is_corrupted(ring) ||
        side_lock(ring, side, self, (struct patience){0}) != RING_OK) {
        return false;
    }
    if (!is_only_lease(ring, loan, &settled)) {
        lock_release(&side->guard.lock, self);
        return false;
    }
    lease_change_figures(ring, settled.sequence); /* the entry is free with the commit, as it is */
    SET(leases->acknowledged, GET(leases->acknowledged) + 1);
    uint64_t put = tally_count_as_done(ring, &settled.dropped);
    if (arena_is_elastic(ring) && arena_trim_is_due(ring, &settled, settled.arena)) {
        atomic_store_explicit(&ring->trim_due, true, memory_order_relaxed);
    }
    ledger_write(&side->ledgers, settled.sequence, settled.position, settled.count, settled.dropped, settled.arena);
    side_end_get(ring, self, settled.position, settled.count);
    tally_wake_after_done(ring, put, settled.dropped);
    return true;
}
