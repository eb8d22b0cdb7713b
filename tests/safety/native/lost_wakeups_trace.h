/* lost_wakeups_trace.h: children that are stopped where it matters, and seen to be asleep. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_TRACE_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_TRACE_H

#include "lost_wakeups_beds.h"
#include "one_step_clock.h"

#include <sys/ptrace.h>

#ifndef FUTEX_CMD_MASK /* without the kernel's headers, as with musl */
#define FUTEX_CMD_MASK (~(128 | 256))
#endif

/* Forks; in the child it returns 0.  The child does not outlive the test. */
static inline pid_t start_child(void)
{
    fflush(stdout);
    pid_t parent = getpid(), child = fork();
    if (child < 0) {
        harness_fail("fork");
    }
    if (child == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)) {
        _exit(100);
    }
    return child;
}

static inline int reap(pid_t child)
{
    int status;
    while (waitpid(child, &status, __WALL) != child) {
        if (errno != EINTR) {
            harness_fail("waiting for a child");
        }
    }
    return status;
}

/* Killed and gone for good: the kernel has looked at its locks. */
static inline void kill_child(pid_t child)
{
    kill(child, SIGKILL);
    while (!WIFSIGNALED(reap(child))) { /* a stop may have been on its way */
    }
}

/* In the child: to be traced from here on. */
static inline void ask_for_trace(void)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0 || raise(SIGSTOP) != 0) {
        _exit(101);
    }
}

/* Waits for the stop in ask_for_trace(). */
static inline void await_traced(pid_t child)
{
    if (!WIFSTOPPED(reap(child)) ||
        ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) != 0) {
        harness_fail("tracing a child (is ptrace allowed?)");
    }
}

/* To the next stop.  False: it has ended. */
static inline bool resume_traced(pid_t child, bool step, int *status)
{
    if (ptrace(step ? PTRACE_SINGLESTEP : PTRACE_SYSCALL, child, NULL, NULL) != 0) {
        harness_fail("resuming a child");
    }
    *status = reap(child);
    return WIFSTOPPED(*status);
}

static inline bool is_futex(uint64_t number)
{
#ifdef SYS_futex_time64 /* where an address has 32 bits */
    if (number == SYS_futex_time64) {
        return true;
    }
#endif
    return number == SYS_futex;
}

/* Whether the child has come to a futex call of this kind on this word. */
static inline bool is_at_futex(pid_t child, int status, _Atomic uint32_t *word, int operation)
{
    struct __ptrace_syscall_info info;
    return WSTOPSIG(status) == (SIGTRAP | 0x80) &&
           ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info) > 0 &&
           info.op == PTRACE_SYSCALL_INFO_ENTRY && is_futex(info.entry.nr) &&
           info.entry.args[0] == (uintptr_t)word && (info.entry.args[1] & FUTEX_CMD_MASK) == (uint64_t)operation;
}

/* To the entry of such a call, which has not been executed yet.  False: it has ended before. */
static inline bool run_to_futex(pid_t child, _Atomic uint32_t *word, int operation)
{
    int status;
    while (resume_traced(child, false, &status)) {
        if (is_at_futex(child, status, word, operation)) {
            return true;
        }
    }
    return false;
}

/* At the stop behind a futex call: whether it was woken, and not timed out. */
static inline bool was_woken(pid_t child)
{
    struct __ptrace_syscall_info info;
    return ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info) > 0 &&
           info.op == PTRACE_SYSCALL_INFO_EXIT && info.exit.rval == 0;
}

/* To the end. */
static inline void run_to_end(pid_t child)
{
    if (ptrace(PTRACE_DETACH, child, NULL, NULL) != 0 || !WIFEXITED(reap(child))) {
        harness_fail("letting a child go on");
    }
}

/* Waits until the child sleeps on the word.  False: its call is through, or it did not within a second. */
static inline bool await_asleep(pid_t child, _Atomic uint32_t *word, const struct sleeper *sleeper)
{
    char path[40], text[128];
    int64_t end = monotonic_ns() + WEDGED_NS;
    snprintf(path, sizeof path, "/proc/%d/syscall", child);
    while (atomic_load(&sleeper->done) == 0 && monotonic_ns() < end) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
        long number;
        unsigned long on, operation;
        close(file);
        text[got > 0 ? got : 0] = '\0';
        if (sscanf(text, "%ld %lx %lx", &number, &on, &operation) == 3 &&
            (is_futex((uint64_t)number) || number == SYS_restart_syscall) && on == (uintptr_t)word &&
            (operation & FUTEX_CMD_MASK) == FUTEX_WAIT) {
            return true;
        }
        usleep(50);
    }
    return false;
}

#endif
