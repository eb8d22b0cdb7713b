/* waiting.c: how long to spin, when to sleep, and when not to look for a moment. */
#define _GNU_SOURCE
#include "arena.h"
#include "leases.h"

#define WAKE_NS 25000        /* about what waking a sleeper on another processor costs */
#define SPIN_LEAST_NS 1000
#define PAUSES_WHEN_FULL 64 /* a few microseconds */
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

static enum ring_status may_wait(struct ring *ring, int64_t deadline)
{
    if (atomic_load(&ring->closing)) {
        return RING_CLOSED;
    }
    return deadline != WAIT_FOREVER && monotonic_ns() >= deadline ? RING_DEADLINE : RING_OK;
}

/* Sleeps until the put ledger moves on from `seen`, which was read before a look that found nothing.  *was_soon: it did
 * while this was still spinning. */
static enum ring_status sleep_for_items(struct ring *ring, uint32_t seen, int64_t deadline, bool *was_soon)
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
        ring_clear_the_way(ring);
        return RING_INTERRUPTED;
    }
}

/* Looks now and then only: each look fetches the line that the getters commit in. */
bool ring_spin_for_room(struct ring *ring, const struct want *want, int64_t deadline)
{
    int64_t budget = atomic_load_explicit(&ring->spin_for_room, memory_order_relaxed), now = monotonic_ns();
    int64_t end = deadline - budget > now ? now + budget : deadline;
    bool is_there = false;
    while (ring->may_spin && !is_there && now < end && !atomic_load(&ring->closing)) {
        for (int i = 0; i < PAUSES_WHEN_FULL; i++) {
            cpu_relax();
        }
        sched_yield(); /* with more threads than processors the getter may need this very one */
        struct view get = ledger_read(&ring->segment->get.ledgers);
        is_there = get.position >= want->position && get.count >= want->count;
        now = monotonic_ns();
    }
    return is_there;
}

enum ring_status ring_sleep_for_room(struct ring *ring, const struct want *want, int64_t most, int64_t deadline)
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
        sleep_for_items(ring, seen, deadline, &was_soon);
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

bool ring_has_something(struct ring *ring)
{
    struct figures figures;
    enum ring_status status = ring_figures(ring, &figures);
    return status != RING_OK || figures.put.shut != SHUT_NOT || figures.put.count != figures.get.count;
}

enum ring_status ring_wait(struct ring *ring, bool records, int64_t deadline)
{
    struct want want = {0};
    for (;;) {
        struct figures figures;
        uint32_t put_seen = atomic_load_explicit(&ring->segment->put.ledgers.sequence, memory_order_acquire);
        enum ring_status status = ring_figures(ring, &figures);
        if (status != RING_OK) {
            return status;
        }
        if (figures.put.shut != SHUT_NOT || (figures.put.count != figures.get.count) == records) {
            return RING_OK;
        }
        if (!records && !want.has_asked) {
            want.bell = atomic_load(&ring->segment->room.bell);
            atomic_fetch_or(&ring->segment->get.ledgers.waiting, WAITING_FOR_ANY);
            store_load_barrier_after_locked();
            want.has_asked = true;
            continue; /* what was committed before that woke nobody */
        }
        want.has_asked = false;
        status = records ? ring_wait_items(ring, deadline)
                         : ring_sleep_for_room(ring, &want, WAIT_SLICE_NS, deadline);
        if (status != RING_OK) {
            return status;
        }
        if (records && atomic_load(&ring->segment->put.ledgers.sequence) != put_seen) {
            futex_wake(&ring->segment->put.ledgers.sequence, 1); /* one who takes may have been left asleep for us */
        }
    }
}
