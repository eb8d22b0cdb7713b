/* lending.c: see lending.h. */
#define _GNU_SOURCE
#include "lending.h"

enum ring_status ring_lend(struct ring *ring, struct take *take, struct loan *loan)
{
    struct leases *leases = &ring->segment->leases;
    uint32_t number;
    enum ring_status status = lease_choose(ring, take, &number);
    if (status != RING_OK) {
        ring_get_abort(ring, take);
        return status;
    }
    struct lease *entry = lease_change(ring, take, number);
    if (take->at == NOT_RETURNED) {
        take->place = (struct place){.position = take->next.position, .arena = take->next.arena};
        take->number = take->next.count;
        lease_set_record(entry, take->next.position, take->next.count, take->next.arena);
        SET(entry->attempt, 1);
        ring_get_pass(take);
    } else {
        bool is_first = GET(entry->attempt) == 0; /* it was being written when others were handed out */
        SET(entry->attempt, GET(entry->attempt) + 1);
        SET(leases->redelivered, GET(leases->redelivered) + !is_first);
        take->returned--;
    }
    lease_set_holder(entry, lock_process(take->self), ring->handle, LEASE_LENT, BYTES_IN_PLACE);
    if (number >= take->entries) {
        take->entries = number + 1;
    }
    *loan = (struct loan){.entry = number,
                          .attempt = GET(entry->attempt),
                          .count = take->number,
                          .place = take->place,
                          .length = take->length,
                          .method = take->method};
    take->next.leases = true;
    take->taken = false;
    take->at = NOT_RETURNED;
    ring_get_commit(ring, take);
    return RING_OK;
}

/* ---- its bytes ---- */

const void *ring_loan_place(struct ring *ring, const struct loan *loan, uint64_t from)
{
    const struct place *place = &loan->place;
    struct span span = arena_span(ring, place->arena);
    if (place->window != 0 || span.bytes == NULL) {
        return NULL;
    }
    uint64_t offset = arena_offset(ring, place->arena, place->position);
    return span.bytes + offset + record_head(loan->length) + from;
}

bool ring_loan_read(struct ring *ring, const struct loan *loan, uint64_t from, uint64_t length, void *bytes)
{
    return spilling_read(ring, &loan->place, record_head(loan->length) + from, length, bytes);
}

void ring_loan_note(struct ring *ring, const struct loan *loan, enum lease_bytes bytes)
{
    struct lease *entry = &lease_entries(ring)[loan->entry];
    if (!ring_is_corrupted(ring) && lending_is_of(ring, entry, loan)) {
        atomic_store_explicit(&entry->in_place, bytes, memory_order_release);
    }
}

/* ---- finding it again ---- */

enum ring_status lending_begin(struct ring *ring, struct take *take, struct patience patience)
{
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    enum ring_status status = ring_get_lock(ring, take, patience);
    if (status != RING_OK) {
        return status;
    }
    status = take->next.leases ? leases_enter(ring, take) : RING_MISMATCH;
    if (status != RING_OK) {
        ring_get_abort(ring, take);
    }
    return status;
}

/* As lending_begin(), and finds the entry of a loan. */
static enum ring_status begin_with(struct ring *ring, struct take *take, const struct loan *loan,
                                   enum lease_state state, struct patience patience)
{
    enum ring_status status = lending_begin(ring, take, patience);
    if (status != RING_OK) {
        return status;
    }
    const struct lease *entry = &lease_entries(ring)[loan->entry];
    if (loan->entry < take->entries && GET(entry->state) == (uint32_t)state && lending_is_of(ring, entry, loan)) {
        return RING_OK;
    }
    ring_get_abort(ring, take);
    return RING_MISMATCH;
}

enum ring_status ring_loan_find(struct ring *ring, struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status != RING_OK) {
        return status;
    }
    struct lease *entry = &lease_entries(ring)[loan->entry];
    if (!lease_find_place(ring, entry, &take.place)) {
        status = ring_mark_corrupted(ring, "a leased record lies where none can be");
    } else if ((status = leases_read_header(ring, &take)) == RING_OK && take.length != loan->length) {
        status = ring_mark_corrupted(ring, "a leased record has changed its length");
    }
    if (status == RING_OK) {
        atomic_store(&entry->in_place, BYTES_IN_PLACE);
        loan->place = take.place;
    }
    ring_get_abort(ring, &take);
    return status;
}

/* ---- its end ---- */

enum ring_status ring_loan_finish(struct ring *ring, const struct loan *loan, bool pinned, struct patience patience)
{
    struct take take;
    struct leases *leases = &ring->segment->leases;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status != RING_OK) {
        return status;
    }
    struct lease *entry = lease_change(ring, &take, loan->entry);
    struct place place;
    if (lease_find_place(ring, entry, &place)) {
        spilling_note_done(&take, place.position, place.window);
    }
    SET(entry->state, pinned ? LEASE_PINNED : LEASE_FREE);
    uint64_t put = tally_count_as_done(ring, &take.next.dropped);
    SET(leases->acknowledged, GET(leases->acknowledged) + 1);
    ring_get_commit(ring, &take);
    tally_wake_after_done(ring, put, take.next.dropped);
    return RING_OK;
}

enum ring_status ring_loan_unpin(struct ring *ring, const struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_PINNED, patience);
    if (status == RING_OK) {
        SET(lease_change(ring, &take, loan->entry)->state, LEASE_FREE);
        ring_get_commit(ring, &take);
    }
    return status;
}

bool lending_end_entry(struct ring *ring, struct take *take, uint32_t number, bool again)
{
    struct lease *entry = lease_change(ring, take, number);
    bool was_writing = GET(entry->state) == LEASE_WRITING;
    bool is_dropped = again && ledger_read(&ring->segment->put.ledgers).shut == SHUT_IMMEDIATE;
    again = again && !is_dropped;
    if (again) {
        SET(entry->pid, 0);
        SET(entry->started, take->generation);
        SET(entry->attempt, was_writing ? 0 : GET(entry->attempt));
        take->returned++;
    } else if (was_writing || is_dropped) {
        (void)tally_count_as_done(ring, &take->next.dropped);
    }
    struct place place;
    if (!again && lease_find_place(ring, entry, &place)) {
        spilling_note_done(take, place.position, place.window);
    }
    SET(entry->in_place, BYTES_MAY_MOVE);
    SET(entry->state, again ? LEASE_RETURNED : LEASE_FREE);
    ring_get_commit(ring, take);
    if (!again && (was_writing || is_dropped)) {
        tally_wake_if_finished(ring);
    }
    return again;
}

enum ring_status ring_loan_return(struct ring *ring, const struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status == RING_OK && lending_end_entry(ring, &take, loan->entry, true)) {
        side_wake_for_returned(ring, 1, patience);
    }
    return status;
}
