/* lost_wakeups_steps.h: nobody dies, but two do their work in each other's middle, instruction by instruction.
 *
 * No slice may be needed for any of this. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_STEPS_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_STEPS_H

#include "lost_wakeups_scenes.h"

#define NEAR 64        /* instructions before a commit, in which its waker looks who sleeps */
#define STRIDE 16      /* of those before that, which differ in little */
#define SHORT_STRIDE 3 /* of the others, when there is little time */

/* A waker that has done this number of steps.  0: it had finished before. */
static inline pid_t start_waker_in_the_middle(unsigned steps)
{
    int status;
    pid_t waker = start_waker();
    for (unsigned i = 0; i < steps; i++) {
        if (!resume_traced(waker, true, &status)) {
            return 0;
        }
    }
    return waker;
}

/* It has looked and has found nothing, for another one was faster; it says that it sleeps, but is not asleep until the
 * waker is through.  The next one must wake it.  False: the waker was through before. */
static inline bool fall_asleep(unsigned steps)
{
    pid_t waker = start_waker_in_the_middle(steps);
    if (waker == 0) {
        return false;
    }
    bool taken_back = take_back(bed);
    struct sleeper *sleeper = start_sleeper(0, true, WAIT_FOREVER);
    if (!run_to_futex(sleeper->pid, word_of(bed), FUTEX_WAIT)) {
        fault("%u instructions: it does not fall asleep", steps);
        run_to_end(waker);
        return true;
    }
    run_to_end(waker);
    note_wake(bed);
    if (!taken_back) {
        is_due();
    }
    ptrace(PTRACE_DETACH, sleeper->pid, NULL, NULL);
    if (taken_back) {
        await_asleep(sleeper->pid, word_of(bed), sleeper);
        wake(bed);
        is_due();
    }
    await_done(sleeper, false);
    return true;
}

/* Two items for two sleepers, the second one put while the first one's putter stands still.  False: it was through. */
static inline bool wake_in_between(unsigned steps)
{
    struct sleeper *first = start_asleep(0), *second = start_asleep(1);
    pid_t waker = start_waker_in_the_middle(steps);
    uint32_t item = SLEEPERS_ITEM;
    bool second_put = put_item(item, AT_ONCE) == RING_OK;
    if (waker != 0) {
        run_to_end(waker);
    }
    note_wake(bed);
    if (!second_put) {
        must(put_item(item, until(monotonic_ns() + 10 * WEDGED_NS)), "a put");
    }
    put_set |= UINT64_C(1) << item;
    is_due();
    await_both(first, second);
    return waker != 0;
}

/* The first putter may have looked at the flag already when two fall asleep.  The second one takes the flag down
 * between the first one's commit and its second look.  False: the first one had come to its commit. */
static inline bool rely_on_each_other(unsigned steps)
{
    int status;
    uint32_t before = read_before();
    pid_t first = start_waker_in_the_middle(steps);
    if (first == 0 || is_given(before)) {
        if (first != 0) {
            kill_child(first);
        }
        return false;
    }
    struct sleeper *sleepers[] = {start_asleep(0), start_asleep(1)};
    step_until_given(first, before);
    while (atomic_load(&ring.segment->put.guard.lock) != 0 && resume_traced(first, true, &status)) {
    }
    note_wake(bed);
    before = read_before();
    pid_t second = start_waker();
    step_until_given(second, before);
    run_to_end(first);
    run_to_end(second);
    note_wake(bed);
    is_due();
    await_both(sleepers[0], sleepers[1]);
    return true;
}

/* How many instructions a waker does until what it gives is there. */
static inline unsigned steps_to_commit(enum scene which)
{
    int status;
    unsigned steps = 0;
    begin(which);
    pid_t waker = start_waker();
    uint32_t before = read_before();
    while (!is_given(before) && resume_traced(waker, true, &status)) {
        steps++;
    }
    kill_child(waker);
    unmake_bed();
    return steps;
}

/* Once, if it tells something.  False: there was nobody in whose middle it could have been. */
static inline bool play_after(unsigned steps, enum scene which, bool (*how)(unsigned steps))
{
    for (unsigned tries = 0; tries < TRIES && faults < FAULTS_MAX; tries++) {
        begin(which);
        if (!how(steps)) {
            unmake_bed();
            return false;
        }
        if (end(true)) {
            return true;
        }
    }
    return faults < FAULTS_MAX;
}

/* The instructions from shortly before the commit to the end, `stride` apart, and some of those before. */
static inline void play_at_instructions(enum scene which, bool (*how)(unsigned steps), unsigned stride)
{
    unsigned near = steps_to_commit(which);
    near = near < NEAR ? 0 : near - NEAR;
    unsigned steps = random_below(stride);
    while (play_after(steps, which, how)) {
        steps += steps < near ? STRIDE : stride;
    }
}

/* Those shortly before the commit.  In a virtual machine a waker was seen to be one step further than it should be, each
 * time: then those before it must do. */
static inline void play_before_commit(enum scene which, bool (*how)(unsigned steps), unsigned stride)
{
    unsigned last = steps_to_commit(which), early = 0, played = 0;
    unsigned steps = last < NEAR ? 0 : last - NEAR + random_below(stride);
    while (steps < last && faults < FAULTS_MAX) {
        bool is_before = play_after(steps, which, how);
        played += is_before;
        early += !is_before;
        if (is_before || early == TRIES) {
            steps += stride;
            early = 0;
        }
    }
    if (played == 0 && faults == 0) {
        fault("no waker was stopped before its commit, to which one came after %u instructions", last);
    }
}

#endif
