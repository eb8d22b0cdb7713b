/* reservations.c: see reservations.h. */
#define _GNU_SOURCE
#include "reservations.h"

#include <string.h>

#include "holders.h"
#include "writers.h"

enum ring_status ring_prepare_reservation(struct ring *ring, struct reserving *reserving, struct part head,
                                          uint32_t length, struct record_in *record, struct patience patience)
{
    static _Atomic uint32_t tokens;
    struct process me = os_this_process();
    enum ring_status status = writers_prepare(ring, patience);
    if (status != RING_OK) {
        return status;
    }
    atomic_store(&ring->segment->notes.reserves, 1); /* before it is put: clear() looks at the put ledger first */
    *reserving = (struct reserving){
        .who = {.length = RECORD_RESERVED,
                .state = RESERVATION_OPEN,
                .pid = me.pid,
                .handle = ring->handle,
                .started = me.started,
                .token = os_image_number() + atomic_fetch_add(&tokens, 1)},
        .head = head,
    };
    *record = (struct record_in){.length = (uint32_t)sizeof reserving->who + length, .reserving = reserving};
    return RING_OK;
}

enum ring_status ring_end_reservation(struct ring *ring, const struct reserving *reserving, bool commit,
                                      struct patience patience)
{
    struct take take;
    if (ring_is_corrupted(ring)) {
        return RING_CORRUPTED;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    status = take.next.leases ? leases_enter(ring, &take) : RING_OK;
    if (status != RING_OK) {
        ring_get_abort(ring, &take);
        return status;
    }
    bool is_shut = ledger_read(&ring->segment->put.ledgers).shut != SHUT_NOT; /* getters may have gone already */
    bool is_put = commit && !is_shut;
    status = commit && is_shut ? RING_SHUT : RING_OK;
    if (writers_end(ring, &take, &reserving->who, is_put, patience)) {
        return status;
    }
    if (reserving->position < take.next.position) { /* it was passed, and its bytes may be others' by now */
        ring_get_abort(ring, &take);
        return RING_MISMATCH;
    }
    if (memcmp(reserving->place, &reserving->who, sizeof reserving->who) != 0) {
        ring_get_abort(ring, &take);
        return ring_mark_corrupted(ring, "a reservation was overwritten");
    }
    *(volatile uint8_t *)(reserving->place + offsetof(struct reservation, state)) =
        is_put ? RESERVATION_COMMITTED : RESERVATION_ABANDONED;
    ring_get_abort(ring, &take);
    atomic_thread_fence(memory_order_seq_cst);
    if (!is_put) {
        ring_clear_the_way(ring);
    } else if (atomic_load(&ring->segment->put.ledgers.waiting) != 0) {
        side_wake_for_returned(ring, 1, patience); /* one that slept when it was put, and was not woken yet */
    }
    return status;
}

bool ring_drop_reservation(struct ring *ring, const struct reserving *reserving)
{
    return !ring_is_corrupted(ring) && writers_drop(ring, &reserving->who);
}

void ring_clear_the_way(struct ring *ring)
{
    struct take take;
    if (ring_is_corrupted(ring)) {
        return;
    }
    if (atomic_load(&ring->segment->notes.reserves) != 0 &&
        ring_get_begin(ring, &take, (struct patience){0}) == RING_OK) {
        ring_get_abort(ring, &take);
    }
    ring_return_dead(ring, WAIT_SLICE_NS / 2);
}

/* Whether a reservation will not be committed any more. */
static bool will_not_come(const struct reservation *reservation)
{
    struct process writer = {.pid = reservation->pid, .started = reservation->started}, me = os_this_process();
    bool is_of_this_process = writer.pid == me.pid && writer.started == me.started;
    return reservation->state != RESERVATION_OPEN ||
           (is_of_this_process ? !ring_is_of_this_image(reservation->handle) : !os_is_alive(writer));
}

bool ring_clear_what_is_over(struct ring *ring)
{
    struct take take;
    if (atomic_load_explicit(&ring->segment->notes.reserves, memory_order_relaxed) == 0 || !ring_look_is_due(ring)) {
        return false;
    }
    enum ring_status status = ring_get_begin_once(ring, &take, (struct patience){0});
    if (status == RING_OK || status == RING_RESERVED) {
        ring_get_abort(ring, &take);
    }
    if (status == RING_RESERVED && will_not_come(&take.reservation)) {
        ring_clear_the_way(ring);
    } else {
        ring_return_dead(ring, 0); /* which notes the time of this look */
    }
    return true;
}
