/* writers.c: see writers.h. */
#define _GNU_SOURCE
#include "writers.h"

static void make_writing(struct ring *ring, struct take *take, uint32_t number)
{
    const struct reservation *reservation = &take->reservation;
    struct lease *entry = lease_change(ring, take, number);
    struct process writer = {.pid = reservation->pid, .started = reservation->started};
    lease_set_record(entry, take->next.position + sizeof *reservation, take->next.count, take->next.arena);
    SET(entry->attempt, reservation->token);
    lease_set_holder(entry, writer, reservation->handle, LEASE_WRITING, BYTES_IN_PLACE);
    if (number >= take->entries) {
        take->entries = number + 1;
    }
    take->next.leases = true;
}

enum ring_status writers_pass(struct ring *ring, struct take *take)
{
    bool is_open = take->reservation.state == RESERVATION_OPEN;
    if (is_open) {
        uint32_t number;
        take->at = NOT_RETURNED;
        enum ring_status status = lease_choose(ring, take, &number);
        if (status != RING_OK) {
            ring_get_abort(ring, take);
            return status;
        }
        make_writing(ring, take, number);
    } else {
        (void)tally_count_as_done(ring, &take->next.dropped);
    }
    take->next.position += sizeof take->reservation + record_head(take->length) + take->length;
    take->next.count++;
    ring_get_commit(ring, take);
    if (!is_open) {
        tally_wake_if_finished(ring);
    }
    return RING_OK;
}

static bool is_entry_of(const struct lease *entry, const struct reservation *reservation)
{
    return GET(entry->state) == LEASE_WRITING && GET(entry->pid) == reservation->pid &&
           GET(entry->started) == reservation->started && GET(entry->handle) == reservation->handle &&
           GET(entry->attempt) == reservation->token;
}

bool writers_drop(struct ring *ring, const struct reservation *reservation)
{
    uint32_t entries = lease_entries_now(ring);
    struct lease *table = lease_entries(ring);
    for (uint32_t i = 0; i < entries; i++) {
        if (is_entry_of(&table[i], reservation)) {
            atomic_store_explicit(&table[i].in_place, BYTES_DROPPED, memory_order_release);
            return true;
        }
    }
    return false;
}

bool writers_end(struct ring *ring, struct take *take, const struct reservation *reservation, bool commit,
                 struct patience patience)
{
    const struct lease *entries = lease_entries(ring);
    for (uint32_t i = 0; take->next.leases && i < take->entries; i++) {
        if (is_entry_of(&entries[i], reservation)) {
            if (lending_end_entry(ring, take, i, commit)) {
                side_wake_for_returned(ring, 1, patience);
            }
            return true;
        }
    }
    return false;
}

enum ring_status writers_prepare(struct ring *ring, struct patience patience)
{
    struct take take;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    if (GET(ring->segment->leases.reserved) > 0 && lease_table(ring) != NULL) { /* now: later the file may be gone */
        return RING_OK;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status == RING_OK) {
        status = lease_table(ring) != NULL && lease_table_reserve(ring, 1) ? RING_OK : RING_UNMAPPED;
        ring_get_abort(ring, &take);
    }
    return status;
}
