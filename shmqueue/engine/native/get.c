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

/* Under the get lock: whether the next record is an item that was never handed out, in a queue in which nothing is
 * leased and which is not shut down.  RING_MISMATCH: perhaps not. */
static inline enum ring_status look_quickly(struct ring *ring, struct quick_take *take)
{
    uint32_t arena = take->arena; /* with LEDGER_LEASES set it is above any number of arenas */
    if (arena >= ring->arenas || atomic_load_explicit(&ring->segment->notes.shut, memory_order_relaxed) != 0 ||
        ring->get_epoch != take->self->epoch || atomic_load_explicit(&ring->held_up, memory_order_relaxed)) {
        return RING_MISMATCH;
    }
    struct snapshot *put = &ring->put_as_seen;
    if (put->position <= take->position) {
        struct snapshot now = ledger_read(&ring->segment->put.ledgers);
        uint64_t bytes = now.position - take->position, records = now.count - take->count;
        if (bytes > ring->capacity || records > bytes / RECORD_HEADER_SIZE || now.arena != arena) {
            return RING_MISMATCH;
        }
        *put = now;
        if (bytes == 0) {
            return now.shut == SHUT_NOT ? RING_EMPTY : RING_MISMATCH;
        }
    }
    uint64_t used = put->position - take->position;
    const unsigned char *memory = atomic_load_explicit(&ring->arena_memory[arena], memory_order_acquire);
    if (memory == NULL || put->arena != arena || used < RECORD_HEADER_SIZE || used > ring->capacity ||
        take->count >= put->count) {
        return RING_MISMATCH;
    }
    const unsigned char *record = memory + arena_offset_in(ring, &ring->get_lap, arena, take->position);
    memcpy(&take->head, record, sizeof take->head);
    take->payload = record + sizeof take->head;
    bool is_whole = take->head.length <= RECORD_QUICK_MAX && take->head.length <= used - RECORD_HEADER_SIZE;
    return is_whole ? RING_OK : RING_MISMATCH;
}

enum ring_status ring_get_quick(struct ring *ring, struct quick_take *take)
{
    struct side *side = &ring->segment->get;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    take->self = lock_self();
    enum ring_status status = side_lock(ring, side, take->self, (struct patience){0});
    if (status != RING_OK) {
        return status;
    }
    take->sequence = atomic_load_explicit(&side->ledgers.sequence, memory_order_relaxed);
    unsigned slot = take->sequence & 1;
    take->position = atomic_load_explicit(&side->ledgers.position[slot], memory_order_relaxed);
    take->count = atomic_load_explicit(&side->ledgers.count[slot], memory_order_relaxed);
    take->dropped = atomic_load_explicit(&side->ledgers.dropped[slot], memory_order_relaxed);
    take->arena = atomic_load_explicit(&side->ledgers.arena[slot], memory_order_relaxed);
    status = look_quickly(ring, take);
    if (status != RING_OK) {
        lock_release(&side->guard.lock, take->self);
    }
    return status;
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
    take->payload = NULL; /* it is in the copy */
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
