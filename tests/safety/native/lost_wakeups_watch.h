/* lost_wakeups_watch.h: starting the processes of a scene, and what is required of those that stay. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_WATCH_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_WATCH_H

#include "lost_wakeups_trace.h"

#include <stdarg.h>

#define TRIES 10     /* at a play that tells something */
#define NOTABLE_NS (WAIT_SLICE_NS + INT64_C(150000000))

enum scene {
    ASLEEP,
    WOKEN,
    BEFORE_WAKE,
    AT_COMMIT,
    NOBODY,
    HOLDER,
    STOPPED_HOLDER,
    REUSED_OUTSIDE,
    REUSED_INSIDE,
    STOPPED,
    SHUT_BESIDE,
    FALLING,
    TWO_WAKERS,
    RELAYED,
    GROUP,
    SCENES
};

static const char *const scene_names[SCENES] = {
    "killed asleep",
    "killed as it was woken",
    "the waker killed before its wake",
    "the waker killed right after its commit",
    "two, nobody killed",
    "the lock's owner killed",
    "the lock's owner stopped",
    "the lock's owner killed, busy with another queue, its id given to a process elsewhere",
    "the lock's owner killed, busy with another queue, its id given to a process that has the queue",
    "stopped asleep",
    "shut down while a getter is stopped under its lock",
    "falling asleep at an instruction of the waker",
    "two, and two wakers, one in the middle of the other",
    "two, asleep before the commit of a waker that saw none, and another waker",
    "a group killed",
};

/* What came of a scene.  missed: plays that hit somebody else, or were too slow to tell.  stall: the worst time from
 * when it was due to when it was done.  notable: stalls that are worth a look. */
struct tallied {
    unsigned plays, missed, notable;
    int64_t stall;
};

static struct tallied results[BEDS][SCENES];
static enum bed bed;
static enum scene scene;
static int64_t bedtime; /* before the first sleeper was started; 0: none was */
static unsigned faults;
static uint64_t random_state;

static inline uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % limit;
}

__attribute__((format(printf, 1, 2))) static inline void fault(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("fault: %s, %s: ", bed_names[bed], scene_names[scene]);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    fflush(stdout);
    faults++;
}

/* How long the machine itself has kept a process waiting in this scene. */
static inline int64_t lateness(void)
{
    int64_t late = atomic_load(&board->lateness);
    int64_t late_now = monotonic_ns() - atomic_load(&board->ticked) - METRONOME_NS;
    return late_now > late ? late_now : late;
}

static inline struct sleeper *start_sleeper(unsigned number, bool traced, int64_t deadline)
{
    struct sleeper *sleeper = &board->sleepers[number];
    bedtime = bedtime == 0 ? monotonic_ns() : bedtime;
    sleeper->item = SLEEPERS_ITEM + number;
    pid_t child = start_child();
    if (child == 0) {
        if (traced) {
            ask_for_trace();
        }
        be_sleeper(bed, sleeper, deadline);
    }
    sleeper->pid = child;
    if (traced) {
        await_traced(sleeper->pid);
    }
    return sleeper;
}

static inline struct sleeper *start_asleep(unsigned number)
{
    struct sleeper *sleeper = start_sleeper(number, false, WAIT_FOREVER);
    if (!await_asleep(sleeper->pid, word_of(bed), sleeper)) {
        fault("it does not fall asleep");
    }
    return sleeper;
}

/* A process that stands right before it wakes a sleeper, the lock in its hands if it is one. */
static inline pid_t start_waker(void)
{
    pid_t waker = start_child();
    if (waker == 0) {
        (void)lock_self(); /* takes many instructions once, that are not of interest */
        prepare_to_wake(bed);
        ask_for_trace();
        wake(bed);
        _exit(0);
    }
    await_traced(waker);
    return waker;
}

static inline void note_result(const struct sleeper *sleeper)
{
    uint64_t item = UINT64_C(1) << (atomic_load(&sleeper->result) & 63);
    if (is_for_room(bed) || bed == PUT_LOCK) {
        put_set |= item;
    } else if (bed == GETTERS || bed == GET_LOCK) {
        if (taken_set & item) {
            fault("an item came twice");
        }
        taken_set |= item;
    }
}

/* Waits for a sleeper's call to be through. */
static inline void await_done(struct sleeper *sleeper, bool may_sleep_out)
{
    struct tallied *result = &results[bed][scene];
    int64_t due = atomic_load(&board->due), done;
    while ((done = atomic_load(&sleeper->done)) == 0 && monotonic_ns() < due + WEDGED_NS + lateness()) {
        usleep(200);
    }
    if (done == 0) {
        fault("the one that stayed is still waiting after %d ms", (int)((monotonic_ns() - due) / 1000000));
        kill_child(sleeper->pid);
        return;
    }
    int status = reap(sleeper->pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != RING_OK) {
        fault("the call of the one that stayed ended with status %#x", (unsigned)status);
        return;
    }
    note_result(sleeper);
    if (atomic_load(&sleeper->slept_out) != 0 && !may_sleep_out) {
        fault("one slept out its slice while what it waited for was there");
    }
    int64_t stall = done - due - atomic_load(&sleeper->queued); /* the machine's part is not ours */
    result->stall = stall > result->stall ? stall : result->stall;
    result->notable += stall > NOTABLE_NS;
}

/* Whether it was woken, but had no processor until the other one's slice was over. */
static inline bool was_slow(const struct sleeper *sleeper, const struct sleeper *other)
{
    return atomic_load(&sleeper->slept_out) == 0 && atomic_load(&sleeper->done) > atomic_load(&other->slept_out);
}

/* The same for two, of which the first to wake passes the wake-up on. */
static inline void await_both(struct sleeper *first, struct sleeper *second)
{
    int64_t due = atomic_load(&board->due);
    while ((atomic_load(&first->done) == 0 || atomic_load(&second->done) == 0) &&
           monotonic_ns() < due + WEDGED_NS + lateness()) {
        usleep(200);
    }
    bool first_may = was_slow(second, first), second_may = was_slow(first, second);
    await_done(first, first_may);
    await_done(second, second_may);
}

/* What is in the queue is what was put and not taken; and the queue goes on. */
static inline void check_queue(void)
{
    struct statistics figures;
    if (faults != 0) {
        return; /* a process was killed that should not have been */
    }
    while (put_set != taken_set) {
        uint32_t item = 0;
        struct patience patience = until(monotonic_ns() + WEDGED_NS + lateness());
        enum ring_status status = take_item(&item, patience);
        uint64_t bit = UINT64_C(1) << (item & 63);
        if (status != RING_OK || !(put_set & ~taken_set & bit)) {
            fault("status %d, item %u: put %#lx, taken %#lx", (int)status, item, (unsigned long)put_set,
                  (unsigned long)taken_set);
            return;
        }
        taken_set |= bit;
    }
    put_one();
    take_one();
    if (ring_statistics(&ring, &figures) != RING_OK || figures.put.count != figures.get.count ||
        figures.put.count != (uint64_t)__builtin_popcountll(put_set)) {
        fault("the ledgers say %lu put and %lu taken of %d", (unsigned long)figures.put.count,
              (unsigned long)figures.get.count, __builtin_popcountll(put_set));
    }
    if (scene == STOPPED_HOLDER && figures.recoveries != 0) {
        fault("the lock of a living owner was taken away");
    }
}

static inline void begin(enum scene which)
{
    scene = which;
    bedtime = 0;
    make_bed(bed);
}

/* Where no slice is needed, none may have ended before it was due: it would have hidden that nobody woke. */
static inline bool tells(void)
{
    bool needs_no_slice = scene == ASLEEP || scene == NOBODY || scene == HOLDER || scene == FALLING ||
                          scene == TWO_WAKERS || scene == RELAYED;
    return !needs_no_slice || atomic_load(&board->due) - bedtime < WAIT_SLICE_NS;
}

/* False: on a machine that is this busy, it has told nothing, and is worth another try. */
static inline bool end(bool hit)
{
    if (scene != SHUT_BESIDE) {
        check_queue();
    }
    unmake_bed();
    bool told = hit && tells();
    results[bed][scene].plays++;
    results[bed][scene].missed += !told;
    return told;
}

#endif
