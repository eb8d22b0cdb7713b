/* crash_points_helper.h: the live process beside the one that dies: it sleeps for what that one brings, waits for its
 * lock, or has the lock.  It must come through by itself. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_HELPER_H
#define SHMQUEUE_TESTS_CRASH_POINTS_HELPER_H

#include "crash_points_states.h"

#include <sched.h>
#include <sys/prctl.h>

#define BUDGET_NS INT64_C(2000000000) /* until a survivor is through: a second, and another for a busy machine */

struct report {
    _Atomic int status; /* enum ring_status */
    _Atomic uint32_t id;
    _Atomic uint32_t holds, go; /* of a holder */
};

struct helper {
    enum role role;
    pid_t process; /* 0: not started */
    struct report *report; /* shared with it */
};

__attribute__((noreturn)) static inline void be_helper(struct scene *scene, const struct helper *helper)
{
    struct ring *ring = &scene->ring;
    struct patience patience = until(monotonic_ns() + BUDGET_NS);
    enum ring_status status = RING_OK;
    uint32_t id = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    switch (helper->role) {
    case PUTTER:
        status = put_item(ring, HELPERS_ITEM, patience);
        break;
    case GETTER:
        status = take_item(ring, &id, patience);
        break;
    case JOINER:
        do {
            status = ring_join(ring, patience.deadline);
        } while (status == RING_INTERRUPTED);
        break;
    default:
        status = side_lock(ring, side_of(scene), lock_self(), AT_ONCE);
        atomic_store(&helper->report->holds, status == RING_OK ? 1 : 2);
        futex_wake(&helper->report->holds, 1);
        while (atomic_load(&helper->report->go) == 0 && monotonic_ns() < patience.deadline) {
            futex_wait(&helper->report->go, 0, patience.deadline);
        }
        if (status == RING_OK) {
            lock_release(&side_of(scene)->guard.lock, lock_self());
        }
    }
    atomic_store(&helper->report->status, status);
    atomic_store(&helper->report->id, id);
    _exit(0);
}

static inline void start_helper(struct helper *helper, struct scene *scene)
{
    struct report *report = helper->report;
    memset(report, 0, sizeof *report);
    atomic_store(&report->status, RING_BUSY);
    helper->process = fork();
    if (helper->process == 0) {
        be_helper(scene, helper);
    }
    if (helper->process < 0) {
        harness_fail("starting a helper");
    }
}

static inline bool is_asleep(pid_t process)
{
    char path[40], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (got <= 0) {
        harness_fail("looking at a helper");
    }
    close(file);
    text[got] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && name_end[2] == 'S';
}

/* Until the helper sleeps: in its operation, with the flag up or FUTEX_WAITERS set, or with the lock.  False: it has
 * already ended. */
static inline bool await_sleep(const struct helper *helper, struct scene *scene, bool for_lock)
{
    struct segment *segment = scene->ring.segment;
    struct report *report = helper->report;
    for (;;) {
        bool ready;
        if (helper->role == HOLDER) {
            ready = atomic_load(&report->holds) != 0;
        } else if (for_lock) {
            ready = atomic_load(&side_of(scene)->guard.lock) & FUTEX_WAITERS;
        } else if (helper->role == JOINER) {
            ready = atomic_load(&segment->tally.waiting) != 0;
        } else {
            ready = atomic_load(helper->role == PUTTER ? &segment->get.ledgers.waiting : &segment->put.ledgers.waiting);
        }
        if (ready && is_asleep(helper->process)) {
            return true;
        }
        siginfo_t ended = {0};
        if (waitid(P_PID, (id_t)helper->process, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid != 0) {
            return false;
        }
        sched_yield();
    }
}

#endif
