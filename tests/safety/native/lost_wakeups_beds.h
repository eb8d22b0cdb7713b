/* lost_wakeups_beds.h: where the engine's callers sleep, what wakes them there, and what they note down meanwhile. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_BEDS_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_BEDS_H

#include "quick_way.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define CAPACITY 4096u
#define SLEEPERS 2
#define SLEEPERS_ITEM 40u /* and the next; other items are numbered from 1 in each scene */
#define WEDGED_NS INT64_C(1000000000)  /* a stall as long as this is one that no slice ended */
#define METRONOME_NS INT64_C(5000000)

/* A word that callers sleep on, and the calls that do. */
enum bed { GETTERS, PUTTERS, JOINERS, PUTTERS_FOR_LEASE, JOINERS_FOR_LEASE, PUT_LOCK, GET_LOCK, BEDS };

static const char *const bed_names[BEDS] = {"consumer",
                                            "producer",
                                            "joiner",
                                            "producer until a lease ends",
                                            "joiner until a lease ends",
                                            "producer at the lock",
                                            "consumer at the lock"};

/* What a sleeping process notes down, for it may not live to tell. */
struct sleeper {
    pid_t pid;
    uint32_t item;           /* of one that puts */
    _Atomic uint32_t result; /* the item it put or took */
    _Atomic int64_t done;    /* when its call was through; 0: not yet */
    _Atomic int64_t queued;  /* for so long it was ready and no processor was free, from when it was due */
    _Atomic int64_t slept_out; /* when it had slept out a slice though it was due, see note_sleep(); 0: it has not */
};

/* Shared by all processes of a scene.
 *
 * due:      since when nothing keeps the sleepers waiting; 0: not yet.
 * chained:  each sleeper waits for the one before it, which makes it due.
 * ticked:   when the metronome, which only sleeps, last woke.
 * lateness: the longest that it has overslept: the machine's own stalls. */
struct board {
    _Atomic int64_t due;
    _Atomic uint32_t chained;
    _Atomic int64_t ticked, lateness;
    struct sleeper sleepers[SLEEPERS];
};

static struct ring ring;
static struct board *board;
static int bed_file;
static uint32_t next_item;
static uint64_t put_set, taken_set; /* bit i: item i was put, was taken */

static inline bool is_lock(enum bed bed) { return bed == PUT_LOCK || bed == GET_LOCK; }
static inline bool is_for_lease(enum bed bed) { return bed == PUTTERS_FOR_LEASE || bed == JOINERS_FOR_LEASE; }
static inline bool is_for_room(enum bed bed) { return bed == PUTTERS || bed == PUTTERS_FOR_LEASE; }
static inline bool is_for_end(enum bed bed) { return bed == JOINERS || bed == JOINERS_FOR_LEASE; }

static inline struct side *side_of_lock(enum bed bed)
{
    return bed == PUT_LOCK ? &ring.segment->put : &ring.segment->get;
}

static inline _Atomic uint32_t *word_of(enum bed bed)
{
    switch (bed) {
    case GETTERS:
        return &ring.segment->put.ledgers.sequence;
    case PUTTERS:
    case PUTTERS_FOR_LEASE:
        return &ring.segment->room.bell;
    case JOINERS:
    case JOINERS_FOR_LEASE:
        return &ring.segment->tally.sequence;
    default:
        return &side_of_lock(bed)->guard.lock;
    }
}

static inline enum ring_status put_item(uint32_t item, struct patience patience)
{
    struct part part = {&item, sizeof item};
    struct record_in record = {.length = sizeof item, .parts = &part, .part_count = 1};
    return put_quick_first(&ring, &record, patience);
}

static inline enum ring_status take_item(uint32_t *item, struct patience patience)
{
    struct getting getting;
    enum ring_status status = get_quick_first(&ring, &getting, patience);
    if (status == RING_OK) {
        if (getting.take.length != sizeof *item) {
            ring_get_abort(&ring, &getting.take);
            return ring_mark_corrupted(&ring, "an item of another length");
        }
        ring_get_read(&ring, &getting.take, item);
        commit_getting(&ring, &getting);
    }
    return status;
}

/* In the process that runs the scene. */
static inline void must(enum ring_status status, const char *what)
{
    if (status != RING_OK) {
        errno = 0;
        const char *why = ring.corrupted;
        printf("fault: %s: status %d%s%s\n", what, (int)status, why ? ": " : "", why ? why : "");
        harness_fail(what);
    }
}

static inline void put_one(void)
{
    must(put_item(next_item, until(monotonic_ns() + 10 * WEDGED_NS)), "a put");
    put_set |= UINT64_C(1) << next_item++;
}

static inline void take_one(void)
{
    uint32_t item = 0;
    struct patience patience = until(monotonic_ns() + 10 * WEDGED_NS);
    enum ring_status status;
    while ((status = take_item(&item, patience)) == RING_EMPTY) { /* a sleeper that was woken may be about to put */
        status = ring_wait_items(&ring, patience.deadline);
        if (status != RING_OK && status != RING_INTERRUPTED) {
            break;
        }
    }
    must(status, "a get");
    taken_set |= UINT64_C(1) << (item & 63);
}

/* Leases an item and acknowledges it. */
static inline void acknowledge_one(void)
{
    uint32_t item = 0;
    struct patience patience = until(monotonic_ns() + 10 * WEDGED_NS);
    struct getting getting;
    struct loan loan;
    enum ring_status status;
    while ((status = get_quick_first(&ring, &getting, patience)) == RING_EMPTY) { /* as in take_one() */
        status = ring_wait_items(&ring, patience.deadline);
        if (status != RING_OK && status != RING_INTERRUPTED) {
            break;
        }
    }
    must(status, "a get");
    ring_get_peek(&ring, &getting.take, 0, sizeof item, &item);
    must(lend_getting(&ring, &getting, &loan), "a lease");
    must(finish_quick_first(&ring, &loan, false, patience), "an acknowledgement");
    taken_set |= UINT64_C(1) << (item & 63);
}

/* For how long a process was ready to run, but had no processor, in ns; 0 where the kernel does not count. */
static inline int64_t queued_ns(pid_t pid)
{
    char path[40], text[100];
    long long ran, queued;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, text, sizeof text - 1);
    close(file);
    text[got > 0 ? got : 0] = '\0';
    return sscanf(text, "%lld %lld", &ran, &queued) == 2 ? (int64_t)queued : 0;
}

/* From now on the sleepers wait for nothing that they could not have. */
static inline void start_clocks(void)
{
    for (unsigned i = 0; i < SLEEPERS; i++) {
        struct sleeper *sleeper = &board->sleepers[i];
        if (sleeper->pid != 0) {
            atomic_fetch_sub(&sleeper->queued, queued_ns(sleeper->pid));
        }
    }
}

static inline void is_due(void)
{
    atomic_store(&board->due, monotonic_ns());
    start_clocks();
}

/* ---- in a sleeper ---- */

/* Slept a whole slice though it had been due before that was half over: the one that made it due had returned, wake-up
 * and all, while this call was sleeping.  Only the slowness of one that passes the wake-up on can look like that. */
static inline void note_sleep(struct sleeper *sleeper, int64_t called)
{
    int64_t due = atomic_load(&board->due);
    int64_t now = monotonic_ns();
    if (due > called && due < called + WAIT_SLICE_NS && now >= called + WAIT_SLICE_NS) {
        atomic_store(&sleeper->slept_out, now);
    }
}

static inline enum ring_status call_once(enum bed bed, struct sleeper *sleeper, struct patience patience)
{
    uint32_t item = sleeper->item;
    enum ring_status status;
    if (is_for_end(bed)) {
        return ring_join(&ring, patience.deadline);
    }
    status = is_for_room(bed) || bed == PUT_LOCK ? put_item(item, patience) : take_item(&item, patience);
    if (status == RING_EMPTY) {
        status = ring_wait_items(&ring, patience.deadline);
        return status == RING_OK ? RING_EMPTY : status; /* look again */
    }
    if (status == RING_OK) {
        atomic_store(&sleeper->result, item);
    }
    return status;
}

/* The call, until it is through. */
static inline enum ring_status call(enum bed bed, struct sleeper *sleeper, struct patience patience)
{
    for (;;) {
        int64_t called = monotonic_ns();
        enum ring_status status = call_once(bed, sleeper, patience);
        if (status == RING_INTERRUPTED) {
            note_sleep(sleeper, called);
        } else if (status != RING_EMPTY) {
            return status;
        }
    }
}

__attribute__((noreturn)) static inline void be_sleeper(enum bed bed, struct sleeper *sleeper, int64_t deadline)
{
    enum ring_status status = call(bed, sleeper, until(deadline));
    int64_t now = monotonic_ns();
    atomic_fetch_add(&sleeper->queued, queued_ns(getpid()));
    atomic_store(&sleeper->done, now);
    if (atomic_load(&board->chained)) {
        atomic_store(&board->due, now);
    }
    _exit((int)status);
}

/* ---- what a scene starts from, and what wakes ---- */

/* A queue in which a sleeper finds nothing to do. */
static inline void make_bed(enum bed bed)
{
    bool is_of_one = is_for_room(bed); /* by its bytes and by its items */
    bed_file = make_segment(0, is_of_one ? RECORD_HEADER_SIZE + sizeof(uint32_t) : CAPACITY, is_of_one ? 1 : 0);
    attach(&ring, bed_file);
    ring.may_spin = false, ring.spin_for_items = ring.spin_for_room = 0;
    memset(board->sleepers, 0, sizeof board->sleepers);
    atomic_store(&board->due, 0);
    atomic_store(&board->chained, 0);
    atomic_store(&board->lateness, 0);
    next_item = 1;
    put_set = taken_set = 0;
    if (is_for_lease(bed)) { /* the first one maps the table, which is not what is looked at here */
        put_one();
        acknowledge_one();
    }
    if (is_for_room(bed) || is_for_end(bed)) {
        put_one();
    }
    if (bed == JOINERS) {
        take_one();
    }
    if (bed == GET_LOCK) {
        put_one();
        put_one();
    }
}

static inline void unmake_bed(void)
{
    detach(&ring);
    close(bed_file);
}

/* Of the one that is going to wake a sleeper at a lock: to hold it. */
static inline void prepare_to_wake(enum bed bed)
{
    if (is_lock(bed)) {
        must(side_lock(&ring, side_of_lock(bed), lock_self(), AT_ONCE), "a lock");
    }
}

/* Gives one sleeper what it waits for, and wakes. */
static inline void wake(enum bed bed)
{
    switch (bed) {
    case GETTERS:
        put_one();
        break;
    case PUTTERS:
        take_one();
        break;
    case JOINERS:
        must(ring_task_done(&ring), "a task_done");
        break;
    case PUTTERS_FOR_LEASE:
    case JOINERS_FOR_LEASE:
        acknowledge_one();
        break;
    default:
        lock_release(&side_of_lock(bed)->guard.lock, lock_self());
    }
}

/* What wake() does to the sets, when another process did it whole. */
static inline void note_wake(enum bed bed)
{
    if (bed == GETTERS) {
        put_set |= UINT64_C(1) << next_item++;
    } else if (is_for_room(bed) || is_for_lease(bed)) {
        uint64_t left = put_set & ~taken_set;
        taken_set |= left & -left; /* the oldest */
    }
}

/* Takes back what wake() gave, so that a sleeper again finds nothing; false if that cannot be had without waiting. */
static inline bool take_back(enum bed bed)
{
    uint32_t item = 0;
    if (is_lock(bed)) {
        return side_lock(&ring, side_of_lock(bed), lock_self(), AT_ONCE) == RING_OK;
    }
    if (bed == GETTERS && take_item(&item, AT_ONCE) == RING_OK) {
        taken_set |= UINT64_C(1) << (item & 63);
        return true;
    }
    if (bed != GETTERS && put_item(next_item, AT_ONCE) == RING_OK) {
        put_set |= UINT64_C(1) << next_item++;
        return true;
    }
    return false;
}

#endif
