/* reservations.h: records that are put before their payload is written, where it lies.
 *
 * Rules 19 to 21 in layout.h.
 */
#ifndef SHMQUEUE_RESERVATIONS_H
#define SHMQUEUE_RESERVATIONS_H

#include "get.h"

struct part {
    const void *bytes;
    size_t length;
};

/* A record to put: the payload is its parts, one after the other. */
struct record_in {
    uint32_t method;
    uint64_t length; /* of all parts together */
    const struct part *parts;
    size_t part_count;
    struct reserving *reserving; /* NULL; else see ring_prepare_reservation() */
};

/* A record whose payload is written later, where it lies. */
struct reserving {
    struct reservation who;
    struct part head;     /* of the payload, written at once */
    unsigned char *place; /* where the reservation lies, once it is put */
    uint64_t position;    /* the same as a position */
};

/* Makes `record` one that reserves `length` bytes of payload, which begin with `head`; ring_put() puts it, as the only
 * one.  Its bytes behind the head, from ring_reserved_bytes() on, are the caller's to write until it is ended, as long
 * as the ring is not closed. */
enum ring_status ring_prepare_reservation(struct ring *ring, struct reserving *reserving, struct part head,
                                          uint32_t length, struct record_in *record, struct patience patience);

static inline unsigned char *ring_reserved_bytes(const struct reserving *reserving)
{
    return reserving->place + sizeof(struct reservation) + RECORD_HEADER_SIZE + reserving->head.length;
}

/* Makes it an item like others, or nothing.  RING_SHUT: the queue was shut down meanwhile, so it is nothing.
 * RING_MISMATCH: it was ended already, by a process that took this one for dead.  When it returns none of these and not
 * RING_OK, nothing has changed: call it again. */
enum ring_status ring_end_reservation(struct ring *ring, const struct reserving *reserving, bool commit,
                                      struct patience patience);

/* Where the lock could not be had to abandon one: has the next process that checks the holders do it.  False: that is
 * not possible, because no getter has passed it yet.  No lock. */
bool ring_drop_reservation(struct ring *ring, const struct reserving *reserving);

/* For a call that waits: passes what is not an item, if it is the oldest, and gives back what dead processes have. */
void ring_clear_the_way(struct ring *ring);
/* For a put that does not wait, and there may be no other calls: now and then gives back what dead processes have, and
 * passes the oldest record if it is a reservation that is over.  True: it was time, and there may be room now. */
bool ring_clear_what_is_over(struct ring *ring);

#endif
