/* quick_way.h: puts and gets as the queue classes make them: the quick way first, see put.h and get.h. */
#ifndef SHMQUEUE_TESTS_QUICK_WAY_H
#define SHMQUEUE_TESTS_QUICK_WAY_H

#include "harness.h"
#include "quick_lease.h"

struct quick_record {
    struct record_header head;
    unsigned char payload[RECORD_QUICK_MAX];
};

/* False: it is too long, or of several parts. */
static inline bool shorten(struct quick_record *to, const struct record_in *record)
{
    if (record->length > RECORD_QUICK_MAX) {
        return false;
    }
    unsigned char *payload = to->payload;
    to->head = (struct record_header){.length = (uint32_t)record->length, .method = record->method};
    for (size_t i = 0; i < record->part_count; i++) {
        memcpy(payload, record->parts[i].bytes, record->parts[i].length);
        payload += record->parts[i].length;
    }
    return true;
}

static inline enum ring_status put_quick_first(struct ring *ring, const struct record_in *record,
                                               struct patience patience)
{
    struct quick_record brief;
    return shorten(&brief, record) && ring_put_quick(ring, &brief.head) ? RING_OK
                                                                        : ring_put(ring, record, 1, patience);
}

/* A get that has its first record at hand: in `take`, whichever way it came. */
struct getting {
    bool is_quick;
    struct quick_take brief;
    struct take take;
};

static inline enum ring_status get_quick_first(struct ring *ring, struct getting *getting, struct patience patience)
{
    enum ring_status status = ring_get_quick(ring, &getting->brief);
    getting->is_quick = status == RING_OK;
    if (getting->is_quick) {
        ring_get_of_quick(&getting->brief, &getting->take);
        return RING_OK;
    }
    bool is_other = status == RING_MISMATCH || (status == RING_BUSY && patience.for_lock);
    return is_other ? ring_get_begin(ring, &getting->take, patience) : status;
}

/* Hands its first record out, before anything was read. */
static inline enum ring_status lend_getting(struct ring *ring, struct getting *getting, struct loan *loan)
{
    if (!getting->is_quick || !ring_can_lend_quick(ring)) {
        return ring_lend(ring, &getting->take, loan);
    }
    ring_lend_quick(ring, &getting->brief, BYTES_IN_PLACE, loan);
    return RING_OK;
}

static inline enum ring_status finish_quick_first(struct ring *ring, const struct loan *loan, bool pinned,
                                                  struct patience patience)
{
    return !pinned && ring_loan_finish_quick(ring, loan) ? RING_OK : ring_loan_finish(ring, loan, pinned, patience);
}

/* After the first record was read and passed, and no other. */
static inline void commit_getting(struct ring *ring, struct getting *getting)
{
    if (getting->is_quick) {
        ring_get_quick_commit(ring, &getting->brief);
    } else {
        ring_get_commit(ring, &getting->take);
    }
}

#endif
