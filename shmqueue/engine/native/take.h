/* take.h: a get in progress: what a getter knows while it holds the get lock. */
#ifndef SHMQUEUE_TAKE_H
#define SHMQUEUE_TAKE_H

#include "space.h"

/* Where a leased record lies. */
struct place {
    uint64_t position; /* in the data, or in the windows */
    uint64_t window;   /* 0: in the data; else its bytes, header and all */
    uint32_t arena;
};

struct take {
    struct self *self;
    struct snapshot next; /* what the get ledger becomes on commit; where there are leases, what is handed out next */
    uint32_t arena;   /* where it was before */
    uint32_t method;  /* of the record at hand */
    uint64_t length;  /* bytes of its payload */
    const unsigned char *payload; /* where that lies, unless it is of an entry */
    /* where next.leases says that there are leases: */
    bool taken;              /* the requeued item is */
    int32_t at;              /* which entry the record at hand is of, NOT_RETURNED if it was never handed out */
    uint32_t entries;        /* of the table */
    uint32_t entries_before; /* the same as the ledger has it */
    uint64_t generation;
    uint32_t returned; /* requeued items */
    struct place place; /* of that entry's record, checked */
    uint64_t number;    /* which of all items that is */
    bool waits;         /* it may take its time: a call that waits for nothing copies no large record */
    bool makes_room;    /* for a putter: whatever keeps bytes from use is moved away */
    uint64_t done_from, done_to; /* bytes of the windows some of whose memory is not needed after the commit */
    struct reservation reservation; /* which stands before the record, of RING_RESERVED */
};

#define NOT_RETURNED (-1)

/* Whether the record at hand is of an entry: it was handed out before, or was being written when others were. */
static inline bool take_is_of_entry(const struct take *take)
{
    return take->next.leases && take->at != NOT_RETURNED;
}

/* Takes the get lock and reads the ledger, no more. */
static inline enum ring_status ring_get_lock(struct ring *ring, struct take *take, struct patience patience)
{
    struct side *side = &ring->segment->get;
    take->self = lock_self();
    take->waits = patience.for_lock;
    enum ring_status status = side_lock(ring, side, take->self, patience);
    if (status != RING_OK) {
        return status;
    }
    if (ring->get_epoch != take->self->epoch) {
        ring->get_epoch = take->self->epoch;
        ring->put_as_seen = (struct snapshot){0};
        ring->get_lap = (struct lap){0};
    }
    take->next = ledger_read_own(&side->ledgers);
    take->arena = take->next.arena;
    return RING_OK;
}

/* Releases it without a commit. */
static inline void ring_get_abort(struct ring *ring, struct take *take)
{
    lock_release(&ring->segment->get.guard.lock, take->self);
}

/* Passes the record at hand without copying it: it is taken with the commit. */
static inline void ring_get_pass(struct take *take)
{
    if (take_is_of_entry(take)) {
        take->taken = true;
        take->returned--;
        return;
    }
    take->next.position += record_head(take->length) + take->length;
    take->next.count++;
}

#endif
