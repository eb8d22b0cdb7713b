/* side.c: see side.h. */
#define _GNU_SOURCE
#include "side.h"

#define LOCK_SPIN_NS 2000    /* for a lock: a critical section is a copy of a few bytes */
#define WAKE_PATIENCE_NS INT64_C(10000000)
#define WAKE_NS 25000        /* about what waking a sleeper on another processor costs */
#define SPIN_LEAST_NS 1000
#define PAUSES_WHEN_FULL 64  /* a few microseconds */
#define GATHER_SHARE 64      /* the room that a putter lets gather is a 64th of the queue's bytes and most items, */
#define GATHER_BYTES 8192    /* and no more bytes than these */
#define GATHER_ROUNDS 16
#define LULL_NS 4000         /* how long a getter does not look, where several items come meanwhile */
#define LULL_TRIAL_NS 1000
#define LULL_TRIAL 256       /* one wait in this many tries it */
#define LULL_PAYS 3          /* items */

/* ---- the lock ---- */

enum ring_status side_lock_otherwise(struct ring *ring, struct side *side, struct self *self, struct patience patience,
                                     enum lock_result result)
{
    if (result == LOCK_BUSY && patience.for_lock) {
        int64_t spin = ring->may_spin ? LOCK_SPIN_NS : 0;
        result = lock_wait(&side->guard.lock, self, patience.deadline, spin);
    }
    switch (result) {
    case LOCK_RECOVERED:
        atomic_store_explicit(&side->guard.recoveries,
                              atomic_load_explicit(&side->guard.recoveries, memory_order_relaxed) + 1,
                              memory_order_relaxed);
        return RING_OK;
    case LOCK_TAKEN:
        return RING_OK;
    case LOCK_BUSY:
        return RING_BUSY;
    case LOCK_DEADLINE:
        return RING_LOCKED;
    default:
        return RING_INTERRUPTED;
    }
}

/* ---- wake ---- */

/* If every wake reached a sleeper more may sleep, so the flag is set again.  A putter that committed while it was
 * cleared relied on us, so we look at the sequence once more. */
void side_wake_getters(struct ring *ring, uint32_t committed, int most)
{
    struct ledgers *ledgers = &ring->segment->put.ledgers;
    if (futex_wake(&ledgers->sequence, most) == most) {
        atomic_exchange(&ledgers->waiting, 1);
        if (atomic_load(&ledgers->sequence) != committed) {
            futex_wake(&ledgers->sequence, WAIT_EVERYONE);
        }
    }
}

void side_wake_putters(struct ring *ring)
{
    struct segment *segment = ring->segment;
    if (atomic_load(&segment->get.ledgers.waiting) != 0 && atomic_exchange(&segment->get.ledgers.waiting, 0) != 0) {
        atomic_fetch_add(&segment->room.bell, 1); /* for those that are about to sleep */
        futex_wake(&segment->room.bell, WAIT_EVERYONE);
    }
}

void side_wake_putters_for(struct ring *ring, uint64_t position, uint64_t count, uint32_t waiting)
{
    struct segment *segment = ring->segment;
    if ((waiting & WAITING_FOR_ANY) ||
        (position >= atomic_load_explicit(&segment->room.position, memory_order_relaxed) &&
         count >= atomic_load_explicit(&segment->room.count, memory_order_relaxed))) {
        side_wake_putters(ring);
    }
}

/* Getters sleep on the put side's sequence, so that one moves, though nothing was put. */
void side_wake_for_returned(struct ring *ring, int most, struct patience patience)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    int64_t end = patience.for_lock ? monotonic_ns() + WAKE_PATIENCE_NS : 0;
    patience.deadline = patience.deadline < end ? patience.deadline : end;
    if (side_lock(ring, side, self, patience) == RING_OK) {
        struct snapshot put = ledger_read(&side->ledgers);
        side_commit_put(ring, self, &put, most);
    } else { /* Its owner moves the sequence, mostly; else one that is about to sleep waits for a slice.  All that sleep:
              * one of them may wait without taking anything. */
        futex_wake(&side->ledgers.sequence, WAIT_EVERYONE);
    }
}

/* ---- sleep ---- */

/* Spins less where it does not pay, and as long as may be again as soon as it would have.  Threads that share the ring
 * may overwrite each other's guess. */
static void learn(const struct ring *ring, _Atomic int32_t *spin, bool has_paid)
{
    int32_t ns = atomic_load_explicit(spin, memory_order_relaxed) / 2;
    if (ring->may_spin) {
        atomic_store_explicit(spin, has_paid ? SPIN_MOST_NS : ns > SPIN_LEAST_NS ? ns : SPIN_LEAST_NS,
                              memory_order_relaxed);
    }
}

/* For a getter that was woken.  A putter that finds the flag clear, because the next putter cleared it between commit
 * and look, relies on that putter, which wakes for its own items only.  So a getter that is woken and sees more than
 * the one item that it may take wakes another getter.  Putters need no such thing: they are all woken at once. */
static void pass_on(struct segment *segment)
{
    uint64_t taken = ledger_read(&segment->get.ledgers).count;
    if (ledger_read(&segment->put.ledgers).count - taken > 1) {
        futex_wake(&segment->put.ledgers.sequence, 1);
    }
}

static enum ring_status may_wait(struct ring *ring, int64_t deadline)
{
    if (atomic_load(&ring->closing)) {
        return RING_CLOSED;
    }
    return deadline != WAIT_FOREVER && monotonic_ns() >= deadline ? RING_DEADLINE : RING_OK;
}

enum ring_status side_sleep_for_items(struct ring *ring, uint32_t seen, int64_t deadline, bool *was_soon)
{
    struct ledgers *ledgers = &ring->segment->put.ledgers;
    _Atomic int32_t *spin = &ring->spin_for_items;
    *was_soon = false;
    enum ring_status status = may_wait(ring, deadline);
    if (status != RING_OK) {
        return status;
    }
    int32_t budget = atomic_load_explicit(spin, memory_order_relaxed);
    if (spin_while_equal(&ledgers->sequence, seen, budget)) {
        *was_soon = true;
        return RING_OK;
    }
    lock_disown(&ring->segment->put.guard.lock, lock_self());
    lock_disown(&ring->segment->get.guard.lock, lock_self());
    int64_t begun = monotonic_ns() - budget;
    atomic_exchange(&ledgers->waiting, 1);
    enum wait_result waited = futex_wait(&ledgers->sequence, seen, deadline);
    learn(ring, spin, waited == WAIT_WOKEN && monotonic_ns() - begun <= SPIN_MOST_NS + WAKE_NS);
    switch (waited) {
    case WAIT_WOKEN:
        pass_on(ring->segment);
        return RING_OK;
    case WAIT_DEADLINE:
        return RING_DEADLINE;
    default:
        return RING_INTERRUPTED;
    }
}

static void pause_when_full(void)
{
    for (int i = 0; i < PAUSES_WHEN_FULL; i++) {
        cpu_relax();
    }
    sched_yield(); /* with more threads than processors the getter may need this very one */
}

void side_let_room_gather(struct ring *ring, uint64_t bytes)
{
    uint64_t chosen = atomic_load_explicit(&ring->segment->put.guard.maxsize, memory_order_relaxed);
    uint64_t maxsize = chosen != 0 ? chosen - 1 : ring->first_maxsize, before = UINT64_MAX;
    uint64_t room = ring->capacity / GATHER_SHARE, items = maxsize != 0 ? maxsize / GATHER_SHARE : 0;
    room = room < GATHER_BYTES ? room : GATHER_BYTES;
    atomic_store_explicit(&ring->met_full, false, memory_order_relaxed);
    if (!ring->may_spin || room <= bytes || ring->threshold != 0 || (maxsize != 0 && items < 2)) {
        return;
    }
    for (int round = 0; round < GATHER_ROUNDS && !atomic_load(&ring->closing); round++) {
        struct snapshot put = ledger_read(&ring->segment->put.ledgers), get = ledger_read(&ring->segment->get.ledgers);
        bool is_there = put.position - get.position <= ring->capacity - room &&
                        (maxsize == 0 || put.count - get.count + items <= maxsize);
        if (is_there || get.position == before) {
            return; /* what there is will not become more so soon */
        }
        before = get.position;
        pause_when_full();
    }
}

/* Looks now and then only: each look fetches the line that the getters commit in. */
bool side_spin_for_room(struct ring *ring, const struct want *want, int64_t deadline)
{
    int64_t budget = atomic_load_explicit(&ring->spin_for_room, memory_order_relaxed), now = monotonic_ns();
    int64_t end = deadline - budget > now ? now + budget : deadline;
    bool is_there = false;
    while (ring->may_spin && !is_there && now < end && !atomic_load(&ring->closing)) {
        pause_when_full();
        struct snapshot get = ledger_read(&ring->segment->get.ledgers);
        is_there = get.position >= want->position && get.count >= want->count;
        now = monotonic_ns();
    }
    return is_there;
}

enum ring_status side_sleep_for_room(struct ring *ring, const struct want *want, int64_t most, int64_t deadline)
{
    enum ring_status status = may_wait(ring, deadline);
    if (status != RING_OK) {
        return status;
    }
    lock_disown(&ring->segment->put.guard.lock, lock_self());
    lock_disown(&ring->segment->get.guard.lock, lock_self());
    int64_t begun = monotonic_ns();
    int64_t end = deadline - most > begun ? begun + most : deadline;
    enum wait_result waited = futex_wait(&ring->segment->room.bell, want->bell, end);
    int64_t spun = atomic_load_explicit(&ring->spin_for_room, memory_order_relaxed);
    bool was_soon = monotonic_ns() - begun <= SPIN_MOST_NS - spun + WAKE_NS;
    learn(ring, &ring->spin_for_room, waited == WAIT_WOKEN && was_soon);
    if (waited == WAIT_DEADLINE && end < deadline) {
        return RING_OK;
    }
    return waited == WAIT_WOKEN ? RING_OK : waited == WAIT_DEADLINE ? RING_DEADLINE : RING_INTERRUPTED;
}

/* A getter that keeps up with its putters would meet each item when it is put, and they would fetch each other's lines
 * for every single one.  A moment without looking lets several come.  Whether they do is tried now and then: a process
 * that answers each item with another one gets one at a time, and should have it at once. */
void side_let_some_come(struct ring *ring, uint64_t taken)
{
    uint64_t several = taken - atomic_load_explicit(&ring->taken_before_lull, memory_order_relaxed);
    int32_t lull = atomic_load_explicit(&ring->lull, memory_order_relaxed);
    if (lull > 0) {
        lull = several >= LULL_PAYS ? LULL_NS : 0;
    } else {
        uint32_t times = atomic_load_explicit(&ring->times_without_lull, memory_order_relaxed) + 1;
        atomic_store_explicit(&ring->times_without_lull, times, memory_order_relaxed);
        lull = times % LULL_TRIAL == 0 ? LULL_TRIAL_NS : 0;
    }
    atomic_store_explicit(&ring->taken_before_lull, taken, memory_order_relaxed);
    atomic_store_explicit(&ring->lull, lull, memory_order_relaxed);
    if (lull > 0) {
        int64_t end = monotonic_ns() + lull;
        while (monotonic_ns() < end) {
            cpu_relax();
        }
    }
}
