/* leases.c: see leases.h. */
#define _GNU_SOURCE
#include "leases.h"

enum ring_status leases_read_header(struct ring *ring, struct take *take)
{
    struct record_header head;
    const struct place *place = &take->place;
    if (!spilling_read(ring, place, 0, sizeof head, &head)) {
        return RING_UNMAPPED;
    }
    uint64_t length = head.length;
    if (head.length == RECORD_LONG && !spilling_read(ring, place, sizeof head, sizeof length, &length)) {
        return RING_UNMAPPED;
    }
    uint64_t size = ring->arena_size[place->arena], most = size < ring->capacity ? size : ring->capacity;
    uint64_t room = place->window != 0 ? place->window : most;
    if (record_head(length) > room || length > room - record_head(length) ||
        (place->window != 0 && length != place->window - record_head(length)) ||
        (head.length > RECORD_SHORT_MAX) != (head.length == RECORD_LONG && length > RECORD_SHORT_MAX)) {
        return ring_mark_corrupted(ring, "a leased record is longer than its place");
    }
    take->length = length;
    take->method = head.method;
    return RING_OK;
}

enum ring_status leases_look(struct ring *ring, struct take *take)
{
    struct lease *entries = lease_entries(ring);
    take->at = NOT_RETURNED;
    if (take->returned == 0) {
        return RING_EMPTY;
    }
    for (uint32_t i = 0; i < take->entries; i++) {
        if (lease_is_returned(&entries[i], take->generation) &&
            (take->at == NOT_RETURNED || GET(entries[i].count) < GET(entries[take->at].count))) {
            take->at = (int32_t)i;
        }
    }
    if (take->at == NOT_RETURNED) {
        return ring_mark_corrupted(ring, "a requeued item cannot be found");
    }
    take->number = GET(entries[take->at].count);
    if (!lease_find_place(ring, &entries[take->at], &take->place)) {
        return ring_mark_corrupted(ring, "a leased record lies where none can be");
    }
    return leases_read_header(ring, take);
}

enum ring_status leases_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes)
{
    bool done = spilling_read(ring, &take->place, record_head(take->length) + from, length, bytes);
    return done ? RING_OK : RING_UNMAPPED;
}

void leases_drop_returned(struct ring *ring, struct take *take)
{
    struct lease *entries = lease_entries(ring);
    for (uint32_t i = 0; i < take->entries && take->returned > 0; i++) {
        struct place place;
        if (lease_is_returned(&entries[i], take->generation) && lease_find_place(ring, &entries[i], &place)) {
            spilling_note_done(take, place.position, place.window);
        }
    }
    take->generation++;
    take->returned = 0;
    take->at = NOT_RETURNED;
}

void leases_settle(struct ring *ring, struct take *take, struct snapshot *settled)
{
    struct lease *entries = lease_entries(ring);
    struct next *next = &ring->segment->get.next;
    unsigned slot = (take->next.sequence + 1) & 1;
    if (take->taken) {
        SET(lease_change(ring, take, (uint32_t)take->at)->state, LEASE_FREE);
        spilling_note_done(take, take->place.position, take->place.window);
    }
    while (take->entries > 0 && !lease_is_used(&entries[take->entries - 1], take->generation)) {
        take->entries--;
    }
    /* Field by field: a copy of the whole would wait for the stores that have just filled it. */
    settled->position = take->next.position;
    settled->count = take->next.count - take->returned;
    settled->dropped = take->next.dropped;
    settled->arena = take->next.arena;
    settled->leases = take->entries > 0;
    settled->sequence = take->next.sequence;
    if (!settled->leases) {
        return;
    }
    spilling_move_if_it_holds_up(ring, take);
    uint32_t number;
    struct lease *oldest = lease_oldest_in_data(ring, take, &number);
    SET(next->position[slot], take->next.position);
    SET(next->count[slot], take->next.count);
    SET(next->arena[slot], take->next.arena);
    SET(next->entries[slot], take->entries);
    SET(next->generation[slot], take->generation);
    if (oldest != NULL) {
        settled->position = GET(oldest->position);
        settled->arena = GET(oldest->arena);
    }
}

enum ring_status leases_make_room(struct ring *ring, bool waits)
{
    struct take take;
    struct lease *entry;
    uint32_t number;
    uint64_t size;
    if (!ledger_read(&ring->segment->get.ledgers).leases || ring_is_corrupted(ring)) {
        return RING_FULL;
    }
    if (ring_get_lock(ring, &take, (struct patience){0}) != RING_OK) {
        return RING_BUSY;
    }
    uint64_t held_up_from = take.next.position; /* as the ledger has it */
    if (!take.next.leases || leases_enter(ring, &take) != RING_OK) {
        ring_get_abort(ring, &take);
        return RING_FULL;
    }
    take.makes_room = true;
    take.waits = waits;
    enum ring_status status = spilling_find(ring, &take, &entry, &number, &size);
    if (status != RING_OK) {
        ring_get_abort(ring, &take);
        return status == RING_BUSY ? RING_BUSY : RING_FULL;
    }
    leases_commit(ring, &take);
    return ledger_read(&ring->segment->get.ledgers).position != held_up_from ? RING_OK : RING_FULL;
}
