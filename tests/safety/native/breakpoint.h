/* breakpoint.h: run a process that is traced, and stopped, to an instruction. */
#ifndef SHMQUEUE_TESTS_BREAKPOINT_H
#define SHMQUEUE_TESTS_BREAKPOINT_H

#include "harness.h"

#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#ifdef __i386__
#define PROGRAM_COUNTER offsetof(struct user, regs.eip)
#else
#define PROGRAM_COUNTER offsetof(struct user, regs.rip)
#endif

struct breakpoint {
    pid_t thread;
    long address, word; /* what lay there before */
};

/* Where a thread's next instruction lies. */
static inline long counter_of(pid_t thread) { return ptrace(PTRACE_PEEKUSER, thread, (void *)PROGRAM_COUNTER, NULL); }

/* Not where the thread is: it would stop there at once. */
static inline struct breakpoint set_breakpoint(pid_t thread, long address)
{
    struct breakpoint breakpoint = {.thread = thread, .address = address};
    errno = 0;
    breakpoint.word = ptrace(PTRACE_PEEKTEXT, thread, (void *)address, NULL);
    long trap = (breakpoint.word & ~0xffL) | 0xcc; /* int3 */
    if (errno != 0 || ptrace(PTRACE_POKETEXT, thread, (void *)address, (void *)trap) != 0) {
        harness_fail("setting a breakpoint");
    }
    return breakpoint;
}

/* The thread has run into it, or, if not `reached`, has stopped somewhere else. */
static inline void take_breakpoint_away(const struct breakpoint *breakpoint, bool reached)
{
    void *where = (void *)breakpoint->address;
    if (ptrace(PTRACE_POKETEXT, breakpoint->thread, where, (void *)breakpoint->word) != 0 ||
        (reached && ptrace(PTRACE_POKEUSER, breakpoint->thread, (void *)PROGRAM_COUNTER, where) != 0)) {
        harness_fail("taking a breakpoint away");
    }
}

#endif
