/* lease_crash_points_operations.h: a process that does the operation, one instruction after the other, until it is
 * killed. */
#ifndef SHMQUEUE_TESTS_LEASE_CRASH_POINTS_OPERATIONS_H
#define SHMQUEUE_TESTS_LEASE_CRASH_POINTS_OPERATIONS_H

#include "breakpoint.h"
#include "lease_crash_points_states.h"
#include "one_step_clock.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

static inline void operate(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    struct loan loan;
    uint32_t id;
    bool whole;
    uint64_t dropped;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    switch (scene->operation) {
    case LEND:
    case LEND_ANOTHER:
    case LEND_RETURNED:
    case LEND_AND_MOVE:
        (void)!lend(ring, &loan);
        break;
    case LEND_QUICKLY:
        lend_quickly(ring, &loan);
        break;
    case GET_RETURNED:
    case GET_BESIDE:
    case GET_AND_MOVE:
    case GET_MOVED_AND_MOVE:
        (void)!get(ring, &id, &whole);
        break;
    case FINISH:
    case FINISH_OLDEST:
    case FINISH_NEWER:
        (void)!ring_loan_finish(ring, &victims_loan, false, patience);
        break;
    case FINISH_QUICKLY:
        if (!ring_loan_finish_quick(ring, &victims_loan)) {
            (void)!ring_loan_finish(ring, &victims_loan, false, patience);
        }
        break;
    case FINISH_PINNED:
        (void)!ring_loan_finish(ring, &victims_loan, true, patience);
        break;
    case UNPIN:
        (void)!ring_loan_unpin(ring, &victims_loan, patience);
        break;
    case RETURN:
    case RETURN_BESIDE:
        (void)!ring_loan_return(ring, &victims_loan, patience);
        break;
    case TAKE_OVER:
    case TAKE_OVER_DROPPED:
    case TAKE_OVER_WRITER:
        ring_return_dead(ring, 0);
        break;
    case MAKE_ROOM:
        (void)!leases_make_room(ring, true);
        break;
    case GROW:
    case GROW_HOLDING:
        scene->next_id--;
        (void)!put_within(scene, patience);
        break;
    case RESERVE:
        scene->next_id--;
        reserve(scene, &victims_item);
        break;
    case COMMIT:
    case COMMIT_PASSED:
    case ABANDON:
    case ABANDON_PASSED: {
        bool is_put = scene->operation == COMMIT || scene->operation == COMMIT_PASSED;
        (void)!ring_end_reservation(ring, &victims_item, is_put, patience);
        break;
    }
    case PASS:
    case PASS_BESIDE:
    case PASS_ABANDONED:
    case GET_COMMITTED:
        (void)!get(ring, &id, &whole);
        break;
    case RETURN_ALL:
        (void)!ring_return_all(ring, patience);
        break;
    case CLEAR:
    case CLEAR_AROUND:
        (void)!ring_clear(ring, &dropped, patience);
        break;
    default:
        (void)!ring_shut_down(ring, true, patience);
        break;
    }
}

struct victim {
    pid_t process;
    bool finished;
};

static inline void start(struct victim *victim, struct scene *scene)
{
    int status;
    struct lease_statistics figures;
    ring_lease_statistics(&scene->ring, &figures);
    scene->acknowledged = figures.acknowledged;
    *victim = (struct victim){.process = fork()};
    if (victim->process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        scene->ring.put_epoch = scene->ring.get_epoch = lock_self()->epoch; /* it is used for the first time no more */
        scene->ring.handle = ring_new_handle();
        victim_prepares(scene);
        stop_clock();
        atomic_store(&scene->ring.segment->leases.looked, (uint64_t)monotonic_ns()); /* no other look is due */
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(1);
        }
        raise(SIGUSR1);
        operate(scene);
        raise(SIGUSR2);
        _exit(1);
    }
    if (victim->process < 0 || waitpid(victim->process, &status, 0) != victim->process || !WIFSTOPPED(status) ||
        WSTOPSIG(status) != SIGUSR1 || ptrace(PTRACE_SETOPTIONS, victim->process, NULL, PTRACE_O_EXITKILL) != 0) {
        harness_fail("starting a victim (is ptrace allowed?)");
    }
    if (scene->operation == FINISH_OLDEST) {
        survivor_leases(scene); /* after the victim's */
        scene->before.count = scene->after.count = 0;
    }
}

static inline void go_on(struct victim *victim, int how)
{
    int status;
    if (ptrace(how, victim->process, NULL, NULL) != 0 ||
        waitpid(victim->process, &status, 0) != victim->process) {
        harness_fail("stepping");
    }
    if (!WIFSTOPPED(status) || (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGUSR2)) {
        printf("fault: a victim crashed, status %#x\n", (unsigned)status);
        fflush(stdout);
        exit(1);
    }
    victim->finished = WSTOPSIG(status) == SIGUSR2;
}

/* One instruction. */
static inline void step(struct victim *victim) { go_on(victim, PTRACE_SINGLESTEP); }

/* All instructions up to the one at `address`, where it must not be yet. */
static inline void run_to(struct victim *victim, long address)
{
    struct breakpoint breakpoint = set_breakpoint(victim->process, address);
    go_on(victim, PTRACE_CONT);
    take_breakpoint_away(&breakpoint, !victim->finished);
}

static inline void end(struct victim *victim)
{
    kill(victim->process, SIGKILL);
    if (waitpid(victim->process, NULL, 0) != victim->process) {
        harness_fail("burying a victim");
    }
}

#endif
