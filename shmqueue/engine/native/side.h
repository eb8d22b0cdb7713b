/* side.h: one side of a queue: its lock, its commit and the wake-up after it, and the sleep until the other side moves.
 *
 * Rules 1, 2, 17 and 18 in layout.h.
 */
#ifndef SHMQUEUE_SIDE_H
#define SHMQUEUE_SIDE_H

#include "ring.h"

#define SPIN_MOST_NS 50000 /* for an item or for room: two that wake each other in turn come out of that by themselves */

/* ---- the lock ---- */

/* What `result` of lock_try() leads to: waits for the lock if `patience` says so, and counts a recovery. */
enum ring_status side_lock_otherwise(struct ring *ring, struct side *side, struct self *self, struct patience patience,
                                     enum lock_result result);

static inline enum ring_status side_lock(struct ring *ring, struct side *side, struct self *self,
                                         struct patience patience)
{
    enum lock_result result = lock_try(&side->guard.lock, self);
    return result == LOCK_TAKEN ? RING_OK : side_lock_otherwise(ring, side, self, patience, result);
}

/* ---- commit and wake ---- */

/* Wakes up to `most` getters after the commit of sequence `committed`. */
void side_wake_getters(struct ring *ring, uint32_t committed, int most);
/* Wakes the putters, whatever they wait for. */
void side_wake_putters(struct ring *ring);
/* Wakes them if a get ledger that has come so far leaves the room that they wait for. */
void side_wake_putters_for(struct ring *ring, uint64_t position, uint64_t count, uint32_t waiting);
/* Makes up to `most` sleeping getters look again, though nothing was put.  Takes the put lock if it is free; with
 * patience for it, waits for it for 10 ms at most. */
void side_wake_for_returned(struct ring *ring, int most, struct patience patience);

/* Before the commit of a put: whether a getter may sleep; then this put clears the flag, and is to wake it afterwards.
 *
 * The flag is cleared before the commit.  The getter that set it read an older sequence: it sleeps and is woken
 * after it, or its futex_wait() returns at once.  The flag is never cleared after the commit, when it may belong to a
 * getter that has already seen the new sequence. */
static inline bool side_claim_sleeping_getter(struct ledgers *ledgers)
{
    return atomic_load_explicit(&ledgers->waiting, memory_order_relaxed) != 0 &&
           atomic_exchange(&ledgers->waiting, 0) != 0;
}

/* After it: releases the lock, then wakes up to `most` getters if one slept, or may sleep now. */
static inline void side_end_put(struct ring *ring, struct self *self, uint32_t committed, bool asleep, int most)
{
    struct side *side = &ring->segment->put;
    lock_release(&side->guard.lock, self);
    store_load_barrier_after_locked();
    if (asleep || atomic_load_explicit(&side->ledgers.waiting, memory_order_relaxed) != 0) {
        side_wake_getters(ring, committed, most);
    }
}

/* Commits, releases the lock, then wakes up to `most` getters. */
static inline void side_commit_put(struct ring *ring, struct self *self, const struct snapshot *snapshot, int most)
{
    struct ledgers *ledgers = &ring->segment->put.ledgers;
    bool asleep = side_claim_sleeping_getter(ledgers);
    side_end_put(ring, self, ledger_commit(ledgers, snapshot), asleep, most);
}

/* After the commit of a get: releases the lock, then wakes the putters if they have the room that they wait for (rule
 * 18).  The flags are cleared after the commit: the bell also reaches putters that set them meanwhile. */
static inline void side_end_get(struct ring *ring, struct self *self, uint64_t position, uint64_t count)
{
    struct segment *segment = ring->segment;
    lock_release(&segment->get.guard.lock, self);
    store_load_barrier_after_locked();
    uint32_t waiting = atomic_load_explicit(&segment->get.ledgers.waiting, memory_order_acquire);
    if (waiting != 0) {
        side_wake_putters_for(ring, position, count, waiting);
    }
}

/* Commits, releases the lock, then wakes the putters. */
static inline void side_commit_get(struct ring *ring, struct self *self, const struct snapshot *snapshot)
{
    ledger_commit(&ring->segment->get.ledgers, snapshot);
    side_end_get(ring, self, snapshot->position, snapshot->count);
}

/* ---- sleep ---- */

/* What a put waits for: a get ledger that has come so far. */
struct want {
    uint64_t position, count;
    uint32_t bell; /* before the flag was set */
    bool is_exact; /* no more than the records need; else enough for some others, too */
    bool has_asked; /* the flag is set */
    bool claims; /* others may have gone before us for too long */
    bool has_claim;
    bool is_behind; /* what there is no room beside is another putter's claim */
    int64_t claim_left; /* then: for so long, ns */
    uint64_t put_count; /* at the first attempt; 0: there was none */
};

/* Sleeps until the put ledger moves on from `seen`, which was read before a look that found nothing.  *was_soon: it did
 * while this was still spinning.  RING_INTERRUPTED: a signal, or a slice without news. */
enum ring_status side_sleep_for_items(struct ring *ring, uint32_t seen, int64_t deadline, bool *was_soon);
/* For a getter that was woken soon: lets several items come before it looks, where that pays.  `taken`: items so far,
 * by all. */
void side_let_some_come(struct ring *ring, uint64_t taken);

/* For a putter that has found no room (met_full) and may wait: while getters go on taking, lets some more room gather than one item's.
 * Putters that are hardly faster than the getters would else stay at the brink, where both fetch each other's line for
 * nearly every item.  `bytes`: what the put takes. */
void side_let_room_gather(struct ring *ring, uint64_t bytes);

/* Spins until there is the room that is wanted.  False: it has not come soon. */
bool side_spin_for_room(struct ring *ring, const struct want *want, int64_t deadline);
/* Sleeps for at most `most` ns when the flag is set.  RING_OK: look again. */
enum ring_status side_sleep_for_room(struct ring *ring, const struct want *want, int64_t most, int64_t deadline);

#endif
