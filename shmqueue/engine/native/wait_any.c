/* wait_any.c: see wait_any.h.  Where the system cannot wait for several words at once, the wishes are polled. */
#define _GNU_SOURCE
#include "wait_any.h"

#define TURN_NS INT64_C(2000000) /* where there are more words than fit one call, they take turns of this length */
#define POLL_FIRST_NS INT64_C(200000) /* between two looks without that call */
#define POLL_LONGEST_NS INT64_C(10000000)

uint32_t ring_moment(struct ring *ring, enum wish_kind kind)
{
    struct segment *segment = ring->segment;
    switch (kind) {
    case WISH_ITEMS:
        return atomic_load(&segment->put.ledgers.sequence);
    case WISH_ROOM:
        return atomic_load(&segment->get.ledgers.sequence);
    default:
        return atomic_load(&segment->tally.sequence);
    }
}

/* What a wish sleeps on. */
static _Atomic uint32_t *word_of(const struct wish *wish)
{
    struct segment *segment = wish->ring->segment;
    switch (wish->kind) {
    case WISH_ITEMS:
        return &segment->put.ledgers.sequence;
    case WISH_ROOM:
        return &segment->room.bell;
    default:
        return &segment->tally.sequence;
    }
}

/* Before the look at whether it is granted: the process that grants it later moves the word, and wakes us. */
static void raise_flag(struct wish *wish)
{
    struct segment *segment = wish->ring->segment;
    wish->before = atomic_load(word_of(wish));
    switch (wish->kind) {
    case WISH_ITEMS:
        atomic_exchange(&segment->put.ledgers.waiting, 1);
        break;
    case WISH_ROOM:
        atomic_fetch_or(&segment->get.ledgers.waiting, WAITING_FOR_ANY);
        store_load_barrier_after_locked(); /* rule 17: the look at the get ledger comes after it */
        break;
    default:
        atomic_exchange(&segment->tally.waiting, 1);
    }
}

static bool is_granted(const struct wish *wish)
{
    struct ring *ring = wish->ring;
    if (atomic_load(&ring->closing) || ring_is_corrupted(ring) || ring_moment(ring, wish->kind) != wish->seen) {
        return true;
    }
    struct snapshot get = ledger_read(&ring->segment->get.ledgers), put = ledger_read(&ring->segment->put.ledgers);
    switch (wish->kind) {
    case WISH_ITEMS:
        return (put.count != get.count && !atomic_load(&ring->held_up)) || put.shut != SHUT_NOT;
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

/* Each slice, as ring_wait_items() does: a dead holder's items are requeued, and memory is returned.  Nothing here waits
 * for a lock: with a stopped process in each of many queues that would add up. */
static void tidy(struct wish *wishes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct ring *ring = wishes[i].ring;
        if (ring_is_corrupted(ring)) {
            continue;
        }
        ring_clear_the_way(ring);
        if (wishes[i].kind != WISH_ITEMS) {
            continue;
        }
        if (ledger_read(&ring->segment->get.ledgers).leases) {
            ring_return_dead(ring, WAIT_SLICE_NS / 2); /* due again only if that look found the lock held */
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

/* Sleeps on the nudge and on as many wishes from number `first` on as fit one call, until `end`. False: this system has
 * no such call. */
static bool sleep_on(const struct wish *wishes, size_t count, size_t first, _Atomic uint32_t *nudge, uint32_t nudge_seen,
                     int64_t end)
{
    struct futex_word words[FUTEX_WORDS_MOST];
    size_t used = count < FUTEX_WORDS_MOST ? count : FUTEX_WORDS_MOST - 1;
    words[0] = (struct futex_word){.word = nudge, .seen = nudge_seen, .is_private = true};
    for (size_t i = 0; i < used; i++) {
        const struct wish *wish = &wishes[(first + i) % count];
        words[i + 1] = (struct futex_word){.word = word_of(wish), .seen = wish->before};
    }
    int woken = futex_wait_any(words, used + 1, end);
    for (size_t i = 0; woken > 0 && i < used; i++) { /* the kernel names one word, and may have woken us on several */
        const struct wish *wish = &wishes[(first + i) % count];
        if (wish->kind == WISH_ITEMS && is_granted(wish)) {
            ring_pass_on(wish->ring); /* we take nothing: a getter that takes may have been left asleep for us */
        }
    }
    return woken != FUTEX_NO_SUCH_CALL;
}

size_t ring_wait_any(struct wish *wishes, size_t count, _Atomic uint32_t *nudge, uint32_t nudge_seen, int64_t deadline)
{
    static _Atomic bool is_missing; /* futex_waitv */
    static _Thread_local int64_t tidied; /* when this thread did it last: other wishes may end each wait early */
    int64_t pause = POLL_FIRST_NS, slice = monotonic_ns() + WAIT_SLICE_NS;
    int64_t end = deadline < slice ? deadline : slice;
    size_t granted = 0;
    for (size_t first = 0;; first = count > 0 ? (first + FUTEX_WORDS_MOST - 1) % count : 0) {
        for (size_t i = 0; i < count; i++) {
            raise_flag(&wishes[i]);
        }
        granted = grant(wishes, count);
        int64_t now = monotonic_ns();
        if (granted > 0 || now >= end || atomic_load(nudge) != nudge_seen) {
            break;
        }
        int64_t turn = count < FUTEX_WORDS_MOST || end - now < TURN_NS ? end : now + TURN_NS;
        if (!atomic_load(&is_missing) && !sleep_on(wishes, count, first, nudge, nudge_seen, turn)) {
            atomic_store(&is_missing, true);
        }
        if (atomic_load(&is_missing)) {
            sleep_ns(pause < end - now ? pause : end - now);
            pause = 2 * pause < POLL_LONGEST_NS ? 2 * pause : POLL_LONGEST_NS;
        }
    }
    int64_t now = monotonic_ns();
    if (now - tidied >= WAIT_SLICE_NS) {
        tidied = now;
        tidy(wishes, count);
    }
    return granted;
}
