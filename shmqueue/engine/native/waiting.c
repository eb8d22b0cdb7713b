/* waiting.c: how long to spin, when to sleep, and when not to look for a moment. */
#define _GNU_SOURCE
#include "arena.h"
#include "leases.h"

#define WAKE_NS 25000        /* about what waking a sleeper on another processor costs */
#define SPIN_LEAST_NS 1000
#define PAUSES_WHEN_FULL 256 /* a few microseconds */
#define LULL_NS 4000         /* how long a getter does not look, where several items come meanwhile */
#define LULL_TRIAL_NS 1000
#define LULL_TRIAL 256       /* one in so many waits finds out */
#define LULL_PAYS 3          /* items */

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

/* For a getter that was woken. A putter who finds the flag down, because the next one took it down between his commit
 * and his look, relies on that one, who wakes for his own items only. So whoever is woken and sees more than the one
 * that he may take wakes another one. Putters need no such thing: they are all woken at once. */
static void pass_on(struct segment *segment)
{
    uint64_t taken = ledger_read(&segment->get.ledgers).count;
    if (ledger_read(&segment->put.ledgers).count - taken > 1) {
        futex_wake(&segment->put.ledgers.sequence, 1);
    }
}

enum ring_status ring_sleep_on(struct ring *ring, struct ledgers *ledgers, uint32_t seen, int64_t deadline,
                               _Atomic int32_t *spin, bool *was_soon)
{
    *was_soon = false;
    if (atomic_load(&ring->closing)) {
        return RING_CLOSED;
    }
    if (deadline != WAIT_FOREVER && monotonic_ns() >= deadline) {
        return RING_DEADLINE;
    }
    int32_t budget = atomic_load_explicit(spin, memory_order_relaxed);
    if (spin_while_equal(&ledgers->sequence, seen, budget)) {
        *was_soon = true;
        return RING_OK;
    }
    int64_t begun = monotonic_ns() - budget;
    atomic_exchange(&ledgers->waiting, 1);
    enum wait_result waited = futex_wait(&ledgers->sequence, seen, deadline);
    learn(ring, spin, waited == WAIT_WOKEN && monotonic_ns() - begun <= SPIN_MOST_NS + WAKE_NS);
    switch (waited) {
    case WAIT_WOKEN:
        if (ledgers == &ring->segment->put.ledgers) {
            pass_on(ring->segment);
        }
        return RING_OK;
    case WAIT_DEADLINE:
        return RING_DEADLINE;
    default:
        ring_clear_the_way(ring);
        return RING_INTERRUPTED;
    }
}

void ring_let_some_be_taken(const struct ring *ring)
{
    for (int i = 0; ring->may_spin && i < PAUSES_WHEN_FULL; i++) {
        cpu_relax();
    }
}

/* A getter that keeps up with its putters would meet each item when it is put, and they would fetch each other's lines
 * for every single one.  A moment without looking lets several come.  Whether they do is found out now and then: who
 * takes part in a conversation gets one at a time, and should have it at once.  `taken`: so far, by all. */
static void let_some_come(struct ring *ring, uint64_t taken)
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

enum ring_status ring_wait_items(struct ring *ring, int64_t deadline)
{
    struct segment *segment = ring->segment;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    uint32_t seen = atomic_load_explicit(&segment->put.ledgers.sequence, memory_order_acquire);
    struct view get = ledger_read(&segment->get.ledgers), put = ledger_read(&segment->put.ledgers);
    bool is_held_up = atomic_exchange(&ring->held_up, false); /* what is there cannot be taken now */
    if ((put.count != get.count && !is_held_up) || put.shut != SHUT_NOT) {
        return RING_OK;
    }
    bool was_soon;
    enum ring_status status =
        ring_sleep_on(ring, &segment->put.ledgers, seen, deadline, &ring->spin_for_items, &was_soon);
    if (was_soon) {
        let_some_come(ring, get.count);
    }
    if (status == RING_INTERRUPTED && get.leases) {
        ring_return_dead(ring, WAIT_SLICE_NS / 2);
    }
    if (status == RING_INTERRUPTED && arena_is_elastic(ring)) {
        ring_trim(ring, true); /* a slice without news, or a signal: time to tidy up */
    }
    return status;
}

enum ring_status ring_wait(struct ring *ring, bool records, int64_t deadline)
{
    for (;;) {
        struct figures figures;
        uint32_t seen = atomic_load_explicit(&ring->segment->get.ledgers.sequence, memory_order_acquire);
        uint32_t put_seen = atomic_load_explicit(&ring->segment->put.ledgers.sequence, memory_order_acquire);
        enum ring_status status = ring_figures(ring, &figures);
        if (status != RING_OK) {
            return status;
        }
        if (figures.put.shut != SHUT_NOT || (figures.put.count != figures.get.count) == records) {
            return RING_OK;
        }
        struct ledgers *takers = &ring->segment->get.ledgers;
        bool was_soon;
        status = records ? ring_wait_items(ring, deadline)
                         : ring_sleep_on(ring, takers, seen, deadline, &ring->spin_for_room, &was_soon);
        if (status != RING_OK) {
            return status;
        }
        if (records && atomic_load(&ring->segment->put.ledgers.sequence) != put_seen) {
            futex_wake(&ring->segment->put.ledgers.sequence, 1); /* one who takes may have been left asleep for us */
        }
    }
}
