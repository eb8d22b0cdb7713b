/* os.c: futexes of each platform, and processes as /proc and kill() tell of them; see os.h. */
#define _GNU_SOURCE
#include "os.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"

#define FIRST_STEP_NS INT64_C(50000) /* between two looks at a word where the futex call is denied */
#define LAST_STEP_NS INT64_C(5000000)

/* What the kernel takes for a time, whatever libc calls time_t. */
struct kernel_time {
    __kernel_long_t seconds, nanoseconds;
};
struct kernel_time64 {
    int64_t seconds, nanoseconds;
};

/* The system call; `length`: ns, FUTEX_WAIT only.  A 32-bit platform has one for each size of time, or the second one
 * only; an old kernel has not heard of that one. */
static long futex(_Atomic uint32_t *word, int operation, uint32_t value, int64_t length)
{
    long result = -1;
    errno = ENOSYS;
#ifdef SYS_futex_time64
    struct kernel_time64 time64 = {.nanoseconds = length};
    result = syscall(SYS_futex_time64, word, operation, value, &time64, NULL, 0);
#endif
#ifdef SYS_futex
    if (result < 0 && errno == ENOSYS) {
        struct kernel_time time = {.nanoseconds = (__kernel_long_t)length};
        result = syscall(SYS_futex, word, operation, value, &time, NULL, 0);
    }
#endif
    return result;
}

int futex_wake(_Atomic uint32_t *word, int most)
{
    long woken = futex(word, FUTEX_WAKE, (uint32_t)most, 0);
    return woken < 0 ? 0 : (int)woken;
}

/* For a system that denies the call (seccomp filters, gVisor): looks at the word now and then, less and less often. */
static enum wait_result poll_word(_Atomic uint32_t *word, uint32_t seen, int64_t length)
{
    int64_t end = monotonic_ns() + length;
    for (int64_t step = FIRST_STEP_NS;; step = 2 * step < LAST_STEP_NS ? 2 * step : LAST_STEP_NS) {
        int64_t left = end - monotonic_ns();
        if (atomic_load(word) != seen) {
            return WAIT_WOKEN;
        }
        if (left <= 0) {
            return WAIT_SLICE_OVER;
        }
        struct timespec pause = {.tv_nsec = (long)(left < step ? left : step)};
        if (nanosleep(&pause, NULL) != 0 && errno == EINTR) {
            return WAIT_INTERRUPTED;
        }
    }
}

enum wait_result futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline)
{
    int64_t length = WAIT_SLICE_NS;
    if (deadline != WAIT_FOREVER) {
        int64_t left = deadline - monotonic_ns();
        if (left <= 0) {
            return WAIT_DEADLINE;
        }
        length = left < length ? left : length;
    }
    _Static_assert(WAIT_SLICE_NS < 1000000000, "a slice fits in the nanoseconds");
    enum wait_result result = WAIT_SLICE_OVER;
    if (futex(word, FUTEX_WAIT, seen, length) == 0 || errno == EAGAIN) {
        return WAIT_WOKEN;
    }
    if (errno == EINTR) {
        return WAIT_INTERRUPTED;
    }
    if (errno != ETIMEDOUT) {
        result = poll_word(word, seen, length);
    }
    return result == WAIT_SLICE_OVER && length < WAIT_SLICE_NS ? WAIT_DEADLINE : result;
}

enum found { FOUND, GONE, UNKNOWN };

/* Whether a process has ended, and its start time.  The name, in parentheses, may hold anything, so the fields are counted
 * from its end.  A zombie that has several threads is a process whose first thread has ended, and no other. */
static enum found read_stat(uint32_t pid, bool *has_ended, uint64_t *started)
{
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return UNKNOWN;
    }
    ssize_t got = read(file, text, sizeof text - 1);
    int error = errno;
    close(file);
    if (got <= 0) {
        return got < 0 && error == ESRCH ? GONE : UNKNOWN;
    }
    text[got] = '\0';
    char *field = strrchr(text, ')');
    if (field == NULL || field[1] != ' ') {
        return UNKNOWN;
    }
    field += 2;
    char state = *field;
    long threads = 1;
    for (int number = 3; number < 22; number++) {
        field = strchr(field, ' ');
        if (field == NULL) {
            return UNKNOWN;
        }
        field++;
        if (number + 1 == 20) {
            threads = strtol(field, NULL, 10);
        }
    }
    *has_ended = (state == 'Z' || state == 'X') && threads <= 1;
    *started = strtoull(field, NULL, 10);
    return FOUND;
}

struct process os_this_process(void)
{
    static _Atomic uint32_t known_in, pid; /* the epoch in which they were read */
    static _Atomic uint64_t started;
    uint32_t epoch = lock_epoch();
    if (atomic_load(&known_in) == epoch) { /* first: in a forked child the other two may still be the parent's */
        return (struct process){.pid = atomic_load(&pid), .started = atomic_load(&started)};
    }
    bool has_ended;
    struct process process = {.pid = (uint32_t)getpid()};
    if (read_stat(process.pid, &has_ended, &process.started) != FOUND) {
        process.started = 0;
    }
    atomic_store(&pid, process.pid);
    atomic_store(&started, process.started);
    atomic_store(&known_in, epoch);
    return process;
}

bool os_is_alive(struct process process)
{
    bool has_ended;
    uint64_t started;
    switch (read_stat(process.pid, &has_ended, &started)) {
    case FOUND:
        return !has_ended && (process.started == 0 || started == process.started);
    case GONE:
        return false;
    default:
        return process.pid != 0 && (kill((pid_t)process.pid, 0) == 0 || errno != ESRCH);
    }
}
