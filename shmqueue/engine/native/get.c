/* get.c: see get.h. */
#define _GNU_SOURCE
#include "get.h"

#include <string.h>

#include "dropping.h"
#include "holders.h"
#include "writers.h"

enum ring_status ring_get_begin_once(struct ring *ring, struct take *take, struct patience patience)
{
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    enum ring_status status = ring_get_lock(ring, take, patience);
    if (status == RING_OK && take->next.leases && ring_look_is_due(ring)) {
        ring_get_abort(ring, take); /* what a dead holder had may be the oldest item */
        ring_return_dead(ring, 0);
        status = ring_get_lock(ring, take, patience);
    }
    if (status != RING_OK) {
        return status;
    }
    if (take->arena >= ring->arenas) {
        status = ring_mark_corrupted(ring, "a ledger is in an arena that does not exist");
    } else if (take->next.leases) {
        status = leases_enter(ring, take);
    }
    if (status == RING_OK && atomic_load_explicit(&ring->segment->notes.shut, memory_order_relaxed) != 0) {
        status = dropping_finish_shut_down(ring, take);
        if (status == RING_SHUT || status == RING_INTERRUPTED) {
            return status; /* the lock is free again */
        }
    }
    if (status == RING_OK) {
        status = records_look(ring, take);
    }
    if (status == RING_EMPTY && arena_is_elastic(ring) && arena_trim_is_due(ring, &take->next, take->arena)) {
        atomic_store_explicit(&ring->trim_due, true, memory_order_relaxed);
    }
    if (status != RING_OK && status != RING_RESERVED) {
        ring_get_abort(ring, take);
    }
    return status;
}

enum ring_status ring_get_begin(struct ring *ring, struct take *take, struct patience patience)
{
    enum ring_status status;
    while ((status = ring_get_begin_once(ring, take, patience)) == RING_RESERVED) {
        status = writers_pass(ring, take);
        if (status == RING_FULL) { /* for now: this getter waits for it */
            atomic_store(&ring->held_up, true);
            return RING_EMPTY;
        }
        if (status != RING_OK) {
            return status;
        }
    }
    bool knows = status == RING_OK || status == RING_EMPTY; /* that nothing is held up */
    if (knows && atomic_load_explicit(&ring->held_up, memory_order_relaxed)) {
        atomic_store(&ring->held_up, false); /* for those that wait and do not look themselves */
    }
    return status;
}

void ring_get_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes)
{
    if (take_is_of_entry(take)) {
        leases_peek(ring, take, from, length, bytes);
        return;
    }
    struct span span = arena_span(ring, take->next.arena);
    uint64_t offset = arena_offset(ring, take->next.arena, take->next.position);
    memcpy(bytes, span.bytes + offset + record_head(take->length) + from, (size_t)length);
}

void ring_get_read(struct ring *ring, struct take *take, void *payload)
{
    ring_get_peek(ring, take, 0, take->length, payload);
    ring_get_pass(take);
}

uint32_t ring_get_copy(struct ring *ring, const struct take *take, void *bytes, uint32_t room)
{
    uint32_t arena = take->next.arena;
    uint64_t begin = take->next.position, end = ring->put_as_seen.position;
    if (arena != ring->put_as_seen.arena) {
        end = atomic_load_explicit(&ring->segment->arenas[arena].end, memory_order_relaxed);
    }
    if (end < begin || end > ring->put_as_seen.position || take_is_of_entry(take)) {
        return 0; /* ring_get_next() will say what is wrong */
    }
    struct span span = arena_span(ring, arena);
    uint64_t length = end - begin < room ? end - begin : room;
    length = length < span.size ? length : span.size;
    memcpy(bytes, span.bytes + arena_offset(ring, arena, begin), (size_t)length);
    return (uint32_t)length;
}

bool ring_get_in_copy(const struct ring *ring, struct take *take, const void *bytes, uint32_t length)
{
    struct record_header head;
    if (length < sizeof head || take->next.count >= ring->put_as_seen.count) {
        return false;
    }
    memcpy(&head, bytes, sizeof head);
    take->length = head.length;
    take->method = head.method;
    return head.length <= length - sizeof head; /* which is less than RECORD_SHORT_MAX */
}

enum ring_status ring_get_next(struct ring *ring, struct take *take)
{
    if (take->next.leases && take->taken) {
        return RING_EMPTY; /* one entry is changed with each commit */
    }
    enum ring_status status = records_look(ring, take);
    return status == RING_RESERVED ? RING_EMPTY : status; /* the next call passes it */
}
