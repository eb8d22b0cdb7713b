/* records.c: see records.h. */
#define _GNU_SOURCE
#include "records.h"

#include <string.h>

/* Under the get lock: goes on to the next arena if this one is done. */
static enum ring_status follow_to(struct ring *ring, struct take *take, const struct snapshot *put)
{
    for (uint32_t steps = 0; arena_is_left(ring, &take->next, put); steps++) {
        take->next.arena = arena_after(ring, take->next.arena);
        if (take->next.arena >= ring->arenas || steps > ring->arenas) {
            return ring_mark_corrupted(ring, "an arena is followed by one that does not exist");
        }
    }
    return RING_OK;
}

/* Under the get lock: a fresh look at the put side, when there are no records as far as we know. */
static enum ring_status look_at_put_side(struct ring *ring, const struct take *take)
{
    ring->put_as_seen = ledger_read(&ring->segment->put.ledgers);
    const char *why = ring_contradiction(ring, &ring->put_as_seen, &take->next);
    if (why != NULL) {
        return ring_mark_corrupted(ring, why);
    }
    if (ring->put_as_seen.position == take->next.position) {
        if (ring->put_as_seen.count != take->next.count) {
            return ring_mark_corrupted(ring, "the ledgers' counts contradict their positions");
        }
        return ring->put_as_seen.shut != SHUT_NOT ? RING_SHUT : RING_EMPTY;
    }
    return RING_OK;
}

/* The length of a record that begins with these bytes, `used` of which belong to it and others; and its method.
 * False: it is longer than that, or not said as it should be. */
static inline bool read_head(const unsigned char *bytes, uint64_t used, uint64_t *length, uint32_t *method)
{
    struct record_header head;
    memcpy(&head, bytes, sizeof head);
    *length = head.length;
    *method = head.method;
    if (head.length == RECORD_LONG && used >= record_head(UINT64_MAX)) {
        memcpy(length, bytes + sizeof head, sizeof *length);
        return *length > RECORD_SHORT_MAX && *length <= used - record_head(*length);
    }
    return head.length <= RECORD_SHORT_MAX && head.length <= used - sizeof head;
}

/* Under the get lock, where there is a reservation and behind it the bytes of other records, `used` of them together:
 * goes on to its record, whose header it reads, if that is an item. */
static enum ring_status look_at_reservation(struct ring *ring, struct take *take, const unsigned char *bytes,
                                            uint64_t used, struct record_header *head)
{
    struct reservation *reservation = &take->reservation;
    if (used < sizeof *reservation + sizeof *head) {
        return ring_mark_corrupted(ring, "a reservation is longer than the bytes in the queue");
    }
    memcpy(reservation, bytes, sizeof *reservation);
    memcpy(head, bytes + sizeof *reservation, sizeof *head);
    if (head->length > RECORD_SHORT_MAX || head->length > used - sizeof *reservation - sizeof *head) {
        return ring_mark_corrupted(ring, "a reserved record is longer than the bytes in the queue");
    }
    take->length = head->length;
    switch (reservation->state) {
    case RESERVATION_COMMITTED:
        take->next.position += sizeof *reservation;
        return RING_OK;
    case RESERVATION_OPEN:
    case RESERVATION_ABANDONED:
        return RING_RESERVED;
    default:
        return ring_mark_corrupted(ring, "a reservation is in no state that there is");
    }
}

enum ring_status records_look(struct ring *ring, struct take *take)
{
    if (take->next.leases) {
        enum ring_status status = leases_look(ring, take);
        if (status != RING_EMPTY) {
            return status;
        }
    }
    if (ring->put_as_seen.position <= take->next.position) {
        enum ring_status status = look_at_put_side(ring, take);
        if (status != RING_OK) {
            return status;
        }
    }
    if (arena_is_elastic(ring) && follow_to(ring, take, &ring->put_as_seen) != RING_OK) {
        return RING_CORRUPTED;
    }
    struct span span = arena_span(ring, take->next.arena);
    if (span.bytes == NULL) {
        return RING_UNMAPPED;
    }
    uint64_t used = ring->put_as_seen.position - take->next.position;
    struct record_header head;
    if (used < sizeof head || used > ring->capacity || take->next.count >= ring->put_as_seen.count) {
        return ring_mark_corrupted(ring, "the get ledger contradicts the put ledger");
    }
    const unsigned char *bytes = span.bytes + arena_offset(ring, take->next.arena, take->next.position);
    memcpy(&head, bytes, sizeof head);
    if (head.length == RECORD_RESERVED) {
        enum ring_status status = look_at_reservation(ring, take, bytes, used, &head);
        if (status != RING_OK) {
            return status;
        }
        bytes += sizeof(struct reservation);
        used -= sizeof(struct reservation);
    }
    if (!read_head(bytes, used, &take->length, &take->method) || take->length > span.size - record_head(take->length)) {
        return ring_mark_corrupted(ring, "a record is longer than the bytes in the queue");
    }
    take->payload = bytes + record_head(take->length);
    return RING_OK;
}

enum ring_status records_find_open(struct ring *ring, const struct take *take, const struct snapshot *put,
                                   struct snapshot *found)
{
    struct take at = *take;
    while (at.next.count < put->count) {
        struct record_header head;
        if (arena_is_elastic(ring) && follow_to(ring, &at, put) != RING_OK) {
            return RING_CORRUPTED;
        }
        struct span span = arena_span(ring, at.next.arena);
        if (span.bytes == NULL) {
            return RING_UNMAPPED;
        }
        uint64_t used = put->position - at.next.position;
        if (used < sizeof head || used > ring->capacity) {
            return ring_mark_corrupted(ring, "the get ledger contradicts the put ledger");
        }
        const unsigned char *bytes = span.bytes + arena_offset(ring, at.next.arena, at.next.position);
        memcpy(&head, bytes, sizeof head);
        if (head.length == RECORD_RESERVED) {
            *found = at.next;
            enum ring_status status = look_at_reservation(ring, &at, bytes, used, &head);
            if (status == RING_RESERVED && at.reservation.state == RESERVATION_OPEN) {
                return RING_OK;
            }
            if (status != RING_OK && status != RING_RESERVED) {
                return status;
            }
            at.next.position = found->position + sizeof(struct reservation);
            bytes += sizeof(struct reservation);
            used -= sizeof(struct reservation);
        }
        if (!read_head(bytes, used, &at.length, &at.method)) {
            return ring_mark_corrupted(ring, "a record is longer than the bytes in the queue");
        }
        at.next.position += record_head(at.length) + at.length;
        at.next.count++;
    }
    return RING_EMPTY;
}
