/* one_step_clock.h: for programs whose children are single-stepped: reading the clock is one step.
 *
 * libc reads it in the memory that the kernel shares with each process (the vdso), and starts again whenever the kernel
 * has updated it meanwhile: with each tick.  Under a tracer on a busy machine it starts again many times, so that no
 * two runs have the same steps, or does not end at all. */
#ifndef SHMQUEUE_TESTS_ONE_STEP_CLOCK_H
#define SHMQUEUE_TESTS_ONE_STEP_CLOCK_H

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct timespec stopped_at; /* 0: it goes on */

/* For a process whose steps must not depend on how long they take. */
static inline void stop_clock(void) { clock_gettime(CLOCK_MONOTONIC, &stopped_at); }

/* Instead of libc's. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (stopped_at.tv_sec != 0) {
        *now = stopped_at;
        return 0;
    }
#ifdef SYS_clock_gettime64 /* where an address has 32 bits; which call it is depends on libc's time_t */
    if (sizeof now->tv_sec > sizeof(long)) {
        return (int)syscall(SYS_clock_gettime64, clock, now);
    }
#endif
    return (int)syscall(SYS_clock_gettime, clock, now);
}

#endif
