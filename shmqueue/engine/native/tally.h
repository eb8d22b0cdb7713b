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
/* Under the get lock: one more item counts as done with the next commit of `get`, unless task_done() was called for
 * all. */
void tally_count_as_done(struct ring *ring, struct snapshot *get);

/* Marks one retrieved item as processed.  RING_EMPTY: nothing is unfinished, it was called too many times. */
enum ring_status ring_task_done(struct ring *ring);

/* Both ledgers as they were at one moment, and the rest.  RING_OK or RING_CORRUPTED. */
enum ring_status ring_statistics(struct ring *ring, struct statistics *statistics);

#endif
