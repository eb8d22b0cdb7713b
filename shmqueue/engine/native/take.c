/* take.c: see take.h. */
#define _GNU_SOURCE
#include "take.h"

enum ring_status ring_get_lock(struct ring *ring, struct take *take, struct patience patience)
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
    }
    take->next = ledger_read(&side->ledgers);
    take->arena = take->next.arena;
    return RING_OK;
}
