/* quick_lease.c: see quick_lease.h. */
#define _GNU_SOURCE
#include "quick_lease.h"

void ring_lend_quick(struct ring *ring, const struct quick_take *take, enum lease_bytes bytes, struct loan *loan)
{
    struct segment *segment = ring->segment;
    struct next *next = &segment->get.next;
    struct lease *entry = lease_entries(ring);
    struct process me = os_this_process();
    lease_forget_changes(ring);
    SET(entry->position, take->position);
    SET(entry->window, 0);
    SET(entry->count, take->count);
    SET(entry->arena, take->arena);
    SET(entry->attempt, 1);
    SET(entry->in_place, bytes);
    SET(entry->pid, me.pid);
    SET(entry->started, me.started);
    SET(entry->handle, ring->handle);
    SET(entry->since, (uint64_t)monotonic_ns());
    SET(entry->state, LEASE_LENT);
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

/* What the get ledger becomes when the only lease is finished. */
struct finished {
    uint32_t sequence, arena;
    uint64_t position, count, dropped;
};

/* Under the get lock: whether this is the only lease, with nothing to be undone. */
static inline bool is_only_lease(struct ring *ring, const struct loan *loan, struct finished *finished)
{
    struct segment *segment = ring->segment;
    struct ledgers *ledgers = &segment->get.ledgers;
    const struct lease *entry = lease_entries(ring);
    uint32_t sequence = GET(ledgers->sequence);
    unsigned slot = sequence & 1;
    *finished = (struct finished){.sequence = sequence,
                                  .arena = GET(segment->get.next.arena[slot]),
                                  .position = GET(segment->get.next.position[slot]),
                                  .count = GET(segment->get.next.count[slot]),
                                  .dropped = GET(ledgers->dropped[slot])};
    return loan->entry == 0 && GET(ledgers->arena[slot]) == (finished->arena | LEDGER_LEASES) &&
           GET(segment->get.next.entries[slot]) == 1 && GET(ledgers->count[slot]) == finished->count &&
           GET(ledgers->position[slot]) == loan->place.position && loan->place.window == 0 &&
           finished->position - loan->place.position <= ring->capacity && finished->arena < ring->arenas &&
           GET(segment->leases.changed[0]) == 0 && GET(segment->notes.shut) == 0 &&
           GET(entry->state) == LEASE_LENT && GET(entry->window) == 0 && lending_is_of(ring, entry, loan);
}

bool ring_loan_finish_quick(struct ring *ring, const struct loan *loan)
{
    struct segment *segment = ring->segment;
    struct leases *leases = &segment->leases;
    struct side *side = &segment->get;
    struct self *self = lock_self();
    struct finished finished;
    if (arena_is_elastic(ring) || ring_is_corrupted(ring) ||
        side_lock(ring, side, self, (struct patience){0}) != RING_OK) {
        return false;
    }
    if (!is_only_lease(ring, loan, &finished)) {
        lock_release(&side->guard.lock, self);
        return false;
    }
    struct snapshot put = ledger_read(&segment->put.ledgers), get = {.dropped = finished.dropped};
    get.dropped += tally_unfinished(ring, &put, &get) > 0;
    struct take undo = {.next = {.sequence = finished.sequence}, .entries_before = 1};
    (void)lease_change(ring, &undo, 0); /* for the figures: the entry itself is free with the commit */
    SET(leases->acknowledged, GET(leases->acknowledged) + 1);
    ledger_write(&side->ledgers, finished.sequence, finished.position, finished.count,
                 get.dropped, finished.arena);
    side_end_get(ring, self, finished.position, finished.count);
    if (tally_unfinished(ring, &put, &get) == 0) { /* as far as is known: there may be more */
        tally_wake_if_finished(ring);
    }
    return true;
}
