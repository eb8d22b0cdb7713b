/* lost_wakeups_scenes.h: one sleeper or waker dies or stands still, and another one stays. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_SCENES_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_SCENES_H

#include "lost_wakeups_watch.h"

#define SHORT_DEADLINE_NS INT64_C(200000000)
#define LONG_ASLEEP_NS INT64_C(45000000) /* by then a putter sleeps for whole slices */
#define TOLD_NS INT64_C(20000000)        /* of a shutdown; less than what is left of a slice */

static int64_t overshoot; /* the worst, of a deadline while the lock's owner was stopped */

static inline bool kill_asleep(void)
{
    prepare_to_wake(bed);
    struct sleeper *victim = start_asleep(0), *other = start_asleep(1);
    kill_child(victim->pid);
    wake(bed);
    is_due();
    await_done(other, false);
    return true;
}

/* False: it was not the victim that was woken. */
static inline bool kill_woken(void)
{
    prepare_to_wake(bed);
    struct sleeper *victim = start_sleeper(0, true, WAIT_FOREVER);
    if (!run_to_futex(victim->pid, word_of(bed), FUTEX_WAIT) ||
        ptrace(PTRACE_SYSCALL, victim->pid, NULL, NULL) != 0 ||
        !await_asleep(victim->pid, word_of(bed), victim)) {
        fault("it does not fall asleep");
    }
    struct sleeper *other = start_asleep(1);
    wake(bed);
    bool hit = WIFSTOPPED(reap(victim->pid)) && was_woken(victim->pid);
    kill_child(victim->pid);
    is_due();
    await_done(other, true);
    return hit;
}

static inline bool kill_waker(void)
{
    struct sleeper *other;
    pid_t waker = start_waker();
    other = start_asleep(1);
    if (!run_to_futex(waker, word_of(bed), FUTEX_WAKE)) {
        fault("it wakes nobody");
    } else {
        kill_child(waker);
    }
    note_wake(bed);
    is_due();
    await_done(other, true);
    return true;
}

static inline uint32_t read_before(void)
{
    switch (bed) {
    case JOINERS:
        return (uint32_t)atomic_load(&ring.segment->tally.done);
    case PUTTERS:
        return atomic_load(&ring.segment->get.ledgers.sequence);
    case PUTTERS_FOR_LEASE:
    case JOINERS_FOR_LEASE:
        return (uint32_t)ledger_read(&ring.segment->get.ledgers).position;
    default:
        return atomic_load(word_of(bed));
    }
}

/* Whether what a sleeper waits for is there, as the bytes say that `before` was read from. */
static inline bool is_given(uint32_t before)
{
    if (!is_lock(bed)) {
        return read_before() != before;
    }
    return (atomic_load(word_of(bed)) & FUTEX_TID_MASK) != (before & FUTEX_TID_MASK);
}

static inline void step_until_given(pid_t waker, uint32_t before)
{
    int status;
    while (!is_given(before)) {
        if (!resume_traced(waker, true, &status)) {
            fault("a waker does not come to its commit");
            return;
        }
    }
}

static inline bool kill_at_commit(void)
{
    pid_t waker = start_waker();
    struct sleeper *other = start_asleep(1);
    uint32_t before = read_before();
    step_until_given(waker, before);
    kill_child(waker);
    note_wake(bed);
    is_due();
    await_done(other, true);
    return true;
}

/* Each is woken for what is due to it; no slice is needed.  With two locks' sleepers the first one wakes the second. */
static inline bool kill_nobody(void)
{
    prepare_to_wake(bed);
    atomic_store(&board->chained, is_lock(bed));
    struct sleeper *first = start_asleep(0), *second = start_asleep(1);
    if (is_lock(bed)) {
        start_clocks();
        wake(bed);
    } else {
        wake(bed);
        if (!is_for_end(bed)) {
            wake(bed);
        }
        is_due();
    }
    while (atomic_load(&board->due) == 0) {
        usleep(50);
    }
    await_both(first, second);
    return true;
}

/* The kernel wakes one. */
static inline bool kill_holder(void)
{
    pid_t holder = start_waker();
    struct sleeper *other = start_asleep(1);
    kill_child(holder);
    is_due();
    await_done(other, false);
    return true;
}

static inline bool stop_holder(void)
{
    int status;
    pid_t holder = start_child();
    if (holder == 0) {
        prepare_to_wake(bed);
        raise(SIGSTOP);
        wake(bed);
        _exit(0);
    }
    if (waitpid(holder, &status, WUNTRACED) != holder || !WIFSTOPPED(status)) {
        harness_fail("stopping a child");
    }
    int64_t deadline = monotonic_ns() + SHORT_DEADLINE_NS;
    struct sleeper *hasty = start_sleeper(0, false, deadline), *other = start_asleep(1);
    while (atomic_load(&hasty->done) == 0 && monotonic_ns() < deadline + WEDGED_NS + lateness()) {
        usleep(200);
    }
    int64_t over = atomic_load(&hasty->done) - deadline;
    if (over < 0) {
        fault("a call with a deadline has not returned, or too early");
    }
    overshoot = over > overshoot ? over : overshoot;
    if (kill(hasty->pid, SIGKILL) == 0) {
        status = reap(hasty->pid);
        if (!WIFEXITED(status) || (WEXITSTATUS(status) != RING_DEADLINE && WEXITSTATUS(status) != RING_LOCKED)) {
            fault("a call with a deadline ended with status %#x", (unsigned)status);
        }
    }
    kill(holder, SIGCONT);
    reap(holder);
    is_due();
    await_done(other, false);
    return true;
}

/* Ends a call by a shutdown: its stall is from `since`. */
static inline void await_shut(struct sleeper *sleeper, int64_t since)
{
    struct tallied *result = &results[bed][scene];
    while (atomic_load(&sleeper->done) == 0 && monotonic_ns() < since + WEDGED_NS + lateness()) {
        usleep(200);
    }
    int64_t stall = atomic_load(&sleeper->done) - since - atomic_load(&sleeper->queued);
    int status = atomic_load(&sleeper->done) == 0 ? -1 : reap(sleeper->pid);
    if (status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) != RING_SHUT) {
        fault("a call that waited ended with status %#x, if at all", (unsigned)status);
        return;
    }
    if (stall > TOLD_NS + lateness()) {
        fault("a call that waited returned %d ms after the shutdown", (int)(stall / 1000000));
    }
    result->stall = stall > result->stall ? stall : result->stall;
}

/* No owner of the get lock delays it: the items are gone, and the putters that waited for room return. */
static inline bool shut_down_beside_getter(void)
{
    int status;
    struct statistics figures;
    pid_t holder = start_child();
    if (holder == 0) {
        must(side_lock(&ring, &ring.segment->get, lock_self(), AT_ONCE), "a lock");
        raise(SIGSTOP);
        lock_release(&ring.segment->get.guard.lock, lock_self());
        _exit(0);
    }
    if (waitpid(holder, &status, WUNTRACED) != holder || !WIFSTOPPED(status)) {
        harness_fail("stopping a child");
    }
    struct sleeper *sleepers[] = {start_asleep(0), start_asleep(1)};
    usleep((useconds_t)(LONG_ASLEEP_NS / 1000));
    is_due();
    int64_t since = monotonic_ns();
    enum ring_status done = ring_shut_down(&ring, true, until(since + WAIT_SLICE_NS / 2));
    if (done != RING_OK || monotonic_ns() - since > WAIT_SLICE_NS / 2 + lateness()) {
        fault("a shutdown ended with status %d after %d ms", (int)done, (int)((monotonic_ns() - since) / 1000000));
    }
    if (ring_statistics(&ring, &figures) != RING_OK || figures.put.count != figures.get.count ||
        figures.put.position != figures.get.position) {
        fault("items are left after an immediate shutdown");
    }
    await_shut(sleepers[0], since);
    await_shut(sleepers[1], since);
    kill(holder, SIGCONT);
    reap(holder);
    uint32_t item;
    if (take_item(&item, AT_ONCE) != RING_SHUT || ring_join(&ring, monotonic_ns() + WEDGED_NS) != RING_OK) {
        fault("after an immediate shutdown something can be taken, or is not done");
    }
    return true;
}

#define LAST_PID "/proc/sys/kernel/ns_last_pid"

/* A child with this process id.  -1: another process was faster. */
static inline pid_t start_child_as(pid_t wanted)
{
    char text[20];
    int file = open(LAST_PID, O_WRONLY | O_CLOEXEC), length = snprintf(text, sizeof text, "%d", wanted - 1);
    if (file < 0 || write(file, text, (size_t)length) != length) {
        harness_fail(LAST_PID);
    }
    pid_t child = start_child();
    close(file);
    if (child == 0 && getpid() != wanted) {
        _exit(0);
    }
    if (child > 0 && child != wanted) {
        reap(child);
        return -1;
    }
    return child;
}

/* The kernel looks at one word of a dead thread, and this one has told it of another queue's. */
static inline pid_t leave_lock_unmarked(void)
{
    static _Atomic uint32_t elsewhere;
    int status;
    pid_t holder = start_child();
    if (holder == 0) {
        prepare_to_wake(bed);
        lock_announce(lock_self(), &elsewhere);
        raise(SIGSTOP);
        _exit(102);
    }
    if (waitpid(holder, &status, WUNTRACED) != holder || !WIFSTOPPED(status)) {
        harness_fail("stopping a child");
    }
    kill_child(holder);
    if ((atomic_load(word_of(bed)) & FUTEX_TID_MASK) != (uint32_t)holder) {
        fault("the kernel marked a word that it was not told of");
    }
    return holder;
}

/* False: the id went to somebody else. */
static inline bool reuse_id(bool has_queue)
{
    int gone[2]; /* its end is closed when the child is what it is to be */
    char nothing;
    pid_t holder = leave_lock_unmarked();
    if (pipe2(gone, O_CLOEXEC) != 0) {
        harness_fail("pipe");
    }
    pid_t child = start_child_as(holder);
    if (child == 0 && has_queue) {
        struct ring own;
        attach(&own, bed_file);
        close(gone[1]);
        pause();
    } else if (child == 0) {
        execlp("sleep", "sleep", "60", (char *)NULL);
        _exit(103);
    }
    close(gone[1]);
    bool is_reused = child > 0 && read(gone[0], &nothing, 1) == 0;
    close(gone[0]);
    struct sleeper *other = start_sleeper(1, false, WAIT_FOREVER);
    is_due();
    await_done(other, true);
    if (child > 0) {
        kill_child(child);
    }
    return is_reused;
}

static inline bool reuse_id_outside(void) { return reuse_id(false); }
static inline bool reuse_id_inside(void) { return reuse_id(true); }

static inline bool stop_sleeper(void)
{
    int status;
    struct sleeper *stopped = start_asleep(0), *other = start_asleep(1);
    kill(stopped->pid, SIGSTOP);
    if (waitpid(stopped->pid, &status, WUNTRACED) != stopped->pid || !WIFSTOPPED(status)) {
        harness_fail("stopping a child");
    }
    wake(bed);
    is_due();
    await_done(other, false);
    atomic_store(&board->due, 0);
    kill(stopped->pid, SIGCONT);
    wake(bed);
    is_due();
    await_done(stopped, true);
    return true;
}

#endif
