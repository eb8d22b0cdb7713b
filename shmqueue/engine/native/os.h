/* os.h: what the operating system is asked for: clocks, futexes, spinning, forks, and whether a process still lives.
 *
 * Every sleep is divided into slices.  A wake-up can be lost in two ways only: the waker is killed between its commit
 * and its wake, or the woken thread is killed, is interrupted, reaches its deadline or closes its handle before it
 * acts.  Both delay the others by at most one slice.  A call that only waits and takes nothing (ring_wait) passes the
 * wake-up on.
 */
#ifndef SHMQUEUE_OS_H
#define SHMQUEUE_OS_H

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<linux/futex.h>)
#include <linux/futex.h>
#else /* a libc without the kernel's headers, like musl alone: the part of that ABI that is used here */
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_PRIVATE_FLAG 128
#define FUTEX_WAITERS 0x80000000
#define FUTEX_OWNER_DIED 0x40000000
#define FUTEX_TID_MASK 0x3fffffff
struct robust_list {
    struct robust_list *next;
};
struct robust_list_head {
    struct robust_list list;
    long futex_offset;
    struct robust_list *list_op_pending;
};
#endif

#define SPIN_ALONE 256 /* rounds, some microseconds, before a spinning thread lets others run in between */
#define WAIT_SLICE_NS INT64_C(100000000)
#define WAIT_FOREVER INT64_MAX /* a deadline that never comes */
#define WAIT_EVERYONE INT_MAX  /* for futex_wake() */

enum wait_result {
    WAIT_WOKEN,       /* woken, or the word had changed already: check again */
    WAIT_SLICE_OVER,  /* a whole slice without a wake-up */
    WAIT_DEADLINE,    /* the caller's deadline has come */
    WAIT_INTERRUPTED, /* a signal */
};

static inline int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The same clock as of its last tick, some milliseconds ago at most, which costs less. */
static inline int64_t monotonic_recent_ns(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    struct timespec tick;
    if (clock_gettime(CLOCK_MONOTONIC_COARSE, &tick) == 0) {
        return (int64_t)tick.tv_sec * 1000000000 + tick.tv_nsec;
    }
#endif
    return monotonic_ns();
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* Orders the store before it against the load after it, as both sides of "publish, then check whether the other one
 * sleeps" need it.  On x86 every caller has a locked instruction (the lock's release, an exchange) in between already,
 * which is a full barrier there. */
static inline void store_load_barrier_after_locked(void)
{
#if defined(__x86_64__) || defined(__i386__)
    atomic_signal_fence(memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Wakes up to `most` sleepers of any process; returns how many it woke. */
int futex_wake(_Atomic uint32_t *word, int most);

/* Sleeps while *word == seen, for one slice at most and not past the deadline (monotonic, ns).  Where the system denies
 * the call, it polls: such a sleep ends soon after the word has changed, but not by futex_wake(). */
enum wait_result futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline);

/* Wakes all sleepers of this process on a word that no other process sleeps on. */
void futex_wake_here(_Atomic uint32_t *word);

struct futex_word {
    _Atomic uint32_t *word;
    uint32_t seen;
    bool is_private; /* as for futex_wake_here() */
};

#define FUTEX_WORDS_MOST 128
#define FUTEX_NO_SUCH_CALL (-2)

/* Sleeps while each word is as it was seen, until `end` at most (monotonic, ns), on up to FUTEX_WORDS_MOST of them
 * (Linux 5.16).  Returns the index of the word it was woken on, -1 for none, or FUTEX_NO_SUCH_CALL. */
int futex_wait_any(const struct futex_word *words, size_t count, int64_t end);

/* Spins until *word != seen, for `budget` nanoseconds at most; true when it changed.  After a few microseconds it
 * yields between rounds: with more threads than processors, the thread it waits for may need this very processor. */
static inline bool spin_while_equal(_Atomic uint32_t *word, uint32_t seen, int64_t budget)
{
    if (budget <= 0) {
        return false;
    }
    int64_t end = 0;
    for (unsigned round = 0;; round++) {
        if (atomic_load_explicit(word, memory_order_relaxed) != seen) {
            return true;
        }
        cpu_relax();
        if (round % 16 == 15) { /* a clock read costs as much as a few pauses */
            if (round > SPIN_ALONE) {
                sched_yield();
            }
            int64_t now = monotonic_ns();
            if (end == 0) {
                end = now + budget;
            } else if (now >= end) {
                return false;
            }
        }
    }
}

/* Once per process, before anything else here.  0, or an errno. */
int os_init(void);

/* A number that differs in a forked child from its parent's. */
uint32_t os_epoch(void);

extern _Atomic uint32_t *_Atomic os_epoch_word; /* in a page that the kernel wipes in a forked child */

/* A process, told apart from a later one that has got its id, and from the program that exec() has made of it.
 * shmqueue.engine.portable_processes knows it by the same numbers. */
struct process {
    uint32_t pid;
    uint64_t started; /* the lower 48 bits: field 22 of /proc/<pid>/stat, clock ticks since boot; 0 where there is no
                       * /proc, and in a time namespace that shifts it.  The upper 16: a hash of field 28, where the
                       * stack begins; 0 where that is not told. */
};

/* The calling process; correct in a forked child, too. */
struct process os_this_process(void);

/* A number that differs after exec(), when start time and id stay the same. */
uint32_t os_image_number(void);

/* A number of 32 bits that no other call in this program image returns, and whether one of it has returned a number.
 * With glibc, `other call` is one of any copy of this library in the process. */
uint32_t os_new_handle(void);
bool os_is_handle_of_image(uint32_t handle);

/* False if it has ended, is a zombie, is another program, or its id belongs to another process.  Reads a file: not for
 * a fast path. */
bool os_is_alive(struct process process);

/* The inode of the calling process's pid namespace, in which ids are valid; 0 where there is none. */
uint64_t os_pid_namespace(void);

/* False if no thread of this id can be using the memory at `address`: there is none, it has ended, or its process does
 * not have that file mapped.  True where the system does not say.  Reads files: not for a fast path. */
bool os_may_work_on(uint32_t tid, const void *address);

#endif
