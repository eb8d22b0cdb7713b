/* wait_any.c: see wait_any.h.  futex_waitv (Linux 5.16) sleeps on up to 128 words; without it the wishes are polled. */
#define _GNU_SOURCE
#include "wait_any.h"

#include <string.h>

#include "arena.h"
#include "leases.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

#define WORDS_MOST 128                      /* FUTEX_WAITV_MAX, from which kernel headers on is too new to rely on */
#define TURN_NS INT64_C(2000000)            /* where there are more words, they take turns of this length */
#define POLL_FIRST_NS INT64_C(200000)       /* between two looks without futex_waitv */
#define POLL_LONGEST_NS INT64_C(10000000)

struct waiter { /* struct futex_waitv */
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};

#define SIZE_32 2u      /* FUTEX2_SIZE_U32 */
#define PRIVATE 128u    /* FUTEX2_PRIVATE */

static _Atomic uint32_t *word_of(const struct wish *wish)
{
    struct segment *segment = wish->ring->segment;
    switch (wish->kind) {
    case WISH_ITEMS:
        return &segment->put.ledgers.sequence;
    case WISH_ROOM:
        return &segment->get.ledgers.sequence;
    default:
        return &segment->tally.sequence;
    }
}

static _Atomic uint32_t *flag_of(const struct wish *wish)
{
    struct segment *segment = wish->ring->segment;
    switch (wish->kind) {
    case WISH_ITEMS:
        return &segment->put.ledgers.waiting;
    case WISH_ROOM:
        return &segment->get.ledgers.waiting;
    default:
        return &segment->tally.waiting;
    }
}

uint32_t ring_moment(struct ring *ring, enum wish_kind kind)
{
    struct wish wish = {.ring = ring, .kind = kind};
    return atomic_load(word_of(&wish));
}

static bool is_granted(const struct wish *wish)
{
    struct ring *ring = wish->ring;
    if (atomic_load(&ring->closing) || ring_is_poisoned(ring) || atomic_load(word_of(wish)) != wish->seen) {
        return true;
    }
    struct view get = ledger_read(&ring->segment->get.ledgers), put = ledger_read(&ring->segment->put.ledgers);
    switch (wish->kind) {
    case WISH_ITEMS:
        return put.count != get.count || put.shut != SHUT_NOT;
    case WISH_ROOM:
        return put.shut != SHUT_NOT;
    default:
        return tally_unfinished(ring, &put, &get) == 0;
    }
}

static size_t grant(struct wish *wishes, size_t count)
{
    size_t granted = 0;
    for (size_t i = 0; i < count; i++) {
        wishes[i].granted = is_granted(&wishes[i]);
        granted += wishes[i].granted;
    }
    return granted;
}

/* Each slice, as ring_wait_items() does: a dead holder's items are given back, and memory too. */
static void tidy(struct wish *wishes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct ring *ring = wishes[i].ring;
        if (wishes[i].kind != WISH_ITEMS || ring_is_poisoned(ring)) {
            continue;
        }
        if (ledger_read(&ring->segment->get.ledgers).leases) {
            ring_return_dead(ring, WAIT_SLICE_NS / 2);
        }
        if (arena_is_elastic(ring)) {
            ring_trim(ring, true);
        }
    }
}

static void sleep_ns(int64_t ns)
{
    struct timespec pause = {.tv_sec = 0, .tv_nsec = (long)ns};
    nanosleep(&pause, NULL);
}

void ring_pass_on(struct ring *ring) { futex_wake(&ring->segment->put.ledgers.sequence, 1); }

/* Sleeps on the nudge and on up to WORDS_MOST - 1 wishes from number `first` on, until `end`. False: this kernel, or a
 * filter, has no such call. */
static bool sleep_on(const struct wish *wishes, size_t count, size_t first, _Atomic uint32_t *nudge, uint32_t nudge_seen,
                     int64_t end)
{
    struct waiter waiters[WORDS_MOST];
    struct { /* the call takes 64 bits for the time, everywhere */
        int64_t seconds, nanoseconds;
    } until = {end / 1000000000, end % 1000000000};
    size_t words = count < WORDS_MOST ? count : WORDS_MOST - 1;
    waiters[0] = (struct waiter){.value = nudge_seen, .address = (uintptr_t)nudge, .flags = SIZE_32 | PRIVATE};
    for (size_t i = 0; i < words; i++) {
        const struct wish *wish = &wishes[(first + i) % count];
        waiters[i + 1] = (struct waiter){.value = wish->seen, .address = (uintptr_t)word_of(wish), .flags = SIZE_32};
    }
    long woken = syscall(SYS_futex_waitv, waiters, (unsigned)(words + 1), 0u, &until, CLOCK_MONOTONIC);
    if (woken > 0) {
        const struct wish *wish = &wishes[(first + (size_t)woken - 1) % count];
        if (wish->kind == WISH_ITEMS) {
            ring_pass_on(wish->ring); /* we take nothing: a getter that takes may have been left asleep for us */
        }
    }
    return woken >= 0 || errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR;
}

size_t ring_wait_any(struct wish *wishes, size_t count, _Atomic uint32_t *nudge, uint32_t nudge_seen, int64_t deadline)
{
    static _Atomic bool is_missing; /* futex_waitv */
    int64_t pause = POLL_FIRST_NS, slice = monotonic_ns() + WAIT_SLICE_NS;
    int64_t end = deadline < slice ? deadline : slice;
    size_t granted = 0;
    for (size_t first = 0;; first = count > 0 ? (first + WORDS_MOST - 1) % count : 0) {
        for (size_t i = 0; i < count; i++) {
            atomic_exchange(flag_of(&wishes[i]), 1); /* before the look, as in ring_sleep_on() */
        }
        granted = grant(wishes, count);
        int64_t now = monotonic_ns();
        if (granted > 0 || now >= end || atomic_load(nudge) != nudge_seen) {
            break;
        }
        int64_t turn = count < WORDS_MOST || end - now < TURN_NS ? end : now + TURN_NS;
        if (!atomic_load(&is_missing) && !sleep_on(wishes, count, first, nudge, nudge_seen, turn)) {
            atomic_store(&is_missing, true);
        }
        if (atomic_load(&is_missing)) {
            sleep_ns(pause < end - now ? pause : end - now);
            pause = 2 * pause < POLL_LONGEST_NS ? 2 * pause : POLL_LONGEST_NS;
        }
    }
    if (granted == 0 && monotonic_ns() >= slice) {
        tidy(wishes, count);
    }
    return granted;
}
