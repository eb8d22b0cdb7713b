/* crash_points_victim.h: a process that does one operation, one instruction after the other, until it is killed. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_VICTIM_H
#define SHMQUEUE_TESTS_CRASH_POINTS_VICTIM_H

#include "breakpoint.h"
#include "crash_points_states.h"
#include "one_step_clock.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

/* How to die.  The last three run a handler of the victim's, wherever it is. */
enum death { BY_SIGKILL, BY_SIGTERM, BY_EXIT, BY_EXEC, BY_THREAD_EXIT, DEATHS };

static const char *const death_names[DEATHS] = {"SIGKILL", "SIGTERM", "exit", "exec", "the thread's exit"};

struct victim {
    pid_t process, thread; /* the thread that does the operation */
    enum death death;
    bool finished; /* the operation */
    bool gone;     /* waited for */
};

static struct scene *victims_scene;

/* ---- in the victim ---- */

static struct ring victims_ring;

static void on_exit_signal(int signal)
{
    (void)signal;
    syscall(SYS_exit_group, 0);
}

static void on_exec_signal(int signal)
{
    static char *arguments[] = {"death", NULL}, *environment[] = {NULL};
    (void)signal;
    execve("/proc/self/exe", arguments, environment);
    abort();
}

static void on_thread_exit_signal(int signal)
{
    (void)signal;
    syscall(SYS_exit, 0);
}

/* Stops before the operation and after it: any signal stops a thread that is traced. */
static inline void *be_stepped(void *unused)
{
    pid_t process = getpid(), thread = (pid_t)syscall(SYS_gettid);
    if (victims_scene->operation != PUT_FIRST) {
        (void)lock_self();
    }
    if (is_quick(victims_scene->operation)) {
        make_acquainted(&victims_ring);
    }
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
        _exit(1);
    }
    syscall(SYS_tgkill, process, thread, SIGUSR1);
    (void)operate(victims_scene->operation, &victims_ring);
    syscall(SYS_tgkill, process, thread, SIGUSR2);
    _exit(1);
    return unused;
}

__attribute__((noreturn)) static inline void be_victim(struct scene *scene, enum death death)
{
    struct sigaction action = {.sa_handler = death == BY_EXIT   ? on_exit_signal
                                             : death == BY_EXEC ? on_exec_signal
                                                                : on_thread_exit_signal};
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigaction(SIGALRM, &action, NULL);
    attach(&victims_ring, scene->file);
    prepare(scene->operation);
    if (death != BY_THREAD_EXIT) {
        be_stepped(NULL);
    } else if (pthread_create(&thread, NULL, be_stepped, NULL) == 0) {
        for (;;) {
            pause();
        }
    }
    _exit(1);
}

/* ---- in the tracer ---- */

static inline int wait_for_thread(const struct victim *victim)
{
    int status;
    if (waitpid(victim->thread, &status, __WALL) != victim->thread) {
        harness_fail("waiting for a victim");
    }
    return status;
}

/* A victim that stands right before the operation. */
static inline void start_victim(struct victim *victim, struct scene *scene, enum death death)
{
    int status;
    *victim = (struct victim){.death = death};
    victims_scene = scene;
    victim->process = fork();
    if (victim->process == 0) {
        be_victim(scene, death);
    }
    /* the thread makes itself known by its first stop */
    victim->thread = death == BY_THREAD_EXIT ? waitpid(-1, &status, __WALL) : waitpid(victim->process, &status, __WALL);
    if (victim->process < 0 || victim->thread < 0 || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGUSR1) {
        harness_fail("starting a victim (is ptrace allowed?)");
    }
    if (ptrace(PTRACE_SETOPTIONS, victim->thread, NULL, PTRACE_O_EXITKILL) != 0) {
        harness_fail("tracing a victim");
    }
}

/* Where the next instruction lies.  Victims are forked from one program: the same for all. */
static inline long next_instruction(const struct victim *victim) { return counter_of(victim->thread); }

static inline void go_on(struct victim *victim, int how)
{
    if (ptrace(how, victim->thread, NULL, NULL) != 0) {
        harness_fail("stepping");
    }
    int status = wait_for_thread(victim);
    if (!WIFSTOPPED(status) || (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGUSR2)) {
        printf("fault: %s, %s: it crashed, status %#x\n", operation_names[victims_scene->operation],
               state_names[victims_scene->state], (unsigned)status);
        fflush(stdout);
        exit(1);
    }
    victim->finished = WSTOPSIG(status) == SIGUSR2;
}

/* One instruction. */
static inline void step(struct victim *victim) { go_on(victim, PTRACE_SINGLESTEP); }

/* At least one instruction, and all up to the one at `address`, by a breakpoint. */
static inline void run_to(struct victim *victim, long address)
{
    step(victim); /* it may stand there, and the breakpoint would hold it */
    if (victim->finished || next_instruction(victim) == address) {
        return;
    }
    struct breakpoint breakpoint = set_breakpoint(victim->thread, address);
    go_on(victim, PTRACE_CONT);
    take_breakpoint_away(&breakpoint, !victim->finished);
}

/* The kernel looks at the robust list when the memory goes: before an exec stops, before a thread is waited for. */
static inline void await_death(struct victim *victim)
{
    if (!victim->gone) {
        victim->gone = true;
        (void)wait_for_thread(victim);
    }
}

static inline void make_die(struct victim *victim)
{
    if (victim->death == BY_SIGKILL) {
        kill(victim->process, SIGKILL);
    } else if (ptrace(PTRACE_CONT, victim->thread, NULL,
                      (void *)(intptr_t)(victim->death == BY_SIGTERM ? SIGTERM : SIGALRM)) != 0) {
        harness_fail("making a victim die");
    }
}

/* What lives on after an exec, or beside a thread. */
static inline void bury(struct victim *victim)
{
    await_death(victim);
    if (victim->death == BY_EXEC || victim->death == BY_THREAD_EXIT) {
        kill(victim->process, SIGKILL);
        if (waitpid(victim->process, NULL, __WALL) != victim->process) {
            harness_fail("burying a victim");
        }
    }
}

#endif
