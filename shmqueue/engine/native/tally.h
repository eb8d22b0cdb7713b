/* tally.h: how much of a queue is unfinished, and all its figures, under no lock. */
#ifndef SHMQUEUE_TALLY_H
#define SHMQUEUE_TALLY_H

#include "ring.h"

struct statistics {
    struct snapshot put, get; /* of one moment */
    uint64_t done;
    uint64_t high_water;
    uint64_t recoveries;
    bool putters_waiting, getters_waiting;
};

/* Items put, by these snapshots, that are neither dropped nor done. */
uint64_t tally_unfinished(struct ring *ring, const struct snapshot *put, const struct snapshot *get);
/* The same now; *done: what tally.done was. */
uint64_t tally_unfinished_now(struct segment *segment, uint64_t *done);
/* Wakes the joiners if nothing is unfinished. */
void tally_wake_if_finished(struct ring *ring);

/* Under the get lock, as ring_get_lock() takes it: one more item counts as done with the next commit, unless task_done()
 * was called for all; *dropped: of the get ledger, before and after.  Returns how many items were put, at least: mostly
 * those that this handle knows of, for putters are just writing the line of the put ledger. */
static inline uint64_t tally_count_as_done(struct ring *ring, uint64_t *dropped)
{
    uint64_t put = ring->put_as_seen.count;
    uint64_t over = *dropped + atomic_load(&ring->segment->tally.done);
    if (put <= over) {
        put = ledger_read(&ring->segment->put.ledgers).count;
    }
    *dropped += put > over;
    return put;
}

/* After that commit, whose `dropped` it is: as tally_wake_if_finished(). */
static inline void tally_wake_after_done(struct ring *ring, uint64_t put, uint64_t dropped)
{
    if (put <= dropped + atomic_load(&ring->segment->tally.done)) {
        tally_wake_if_finished(ring);
    }
}

/* Marks one retrieved item as processed.  RING_EMPTY: nothing is unfinished, it was called too many times. */
enum ring_status ring_task_done(struct ring *ring);

/* Both ledgers as they were at one moment, and the rest.  RING_OK or RING_CORRUPTED. */
enum ring_status ring_statistics(struct ring *ring, struct statistics *statistics);

#endif
