/* lock.h: a lock word in shared memory that outlives its owner.
 *
 * The word has the format of the kernel's robust futexes (linux/futex.h; Documentation/locking/robust-futex-ABI):
 * the owner's thread id in the low 30 bits, FUTEX_WAITERS when a thread sleeps on it, FUTEX_OWNER_DIED when the kernel
 * found its owner dead.  It is free when the thread id is 0.
 *
 * A thread tells the kernel which word it is using through `list_op_pending` of its robust list head, which is set
 * before the word is accessed and cleared after it is released.  However the thread ends (a signal, exec, its return),
 * the kernel then reads that one word.  If the word contains the thread's id, the kernel sets FUTEX_OWNER_DIED, and
 * wakes a sleeper if FUTEX_WAITERS is set.  If it contains no id, the kernel wakes one in any case.  No list is linked,
 * so there is no pointer in shared memory that a dying process could leave half written.
 *
 * A thread has one list_op_pending, so it owns one word at a time.  The head is the one that libc registered for the
 * thread; libc itself sets list_op_pending only while it locks or unlocks a robust mutex, and only the engine's own
 * code runs while a thread owns a word.  So a thread that finds its own id in a word has found one that was left by an
 * earlier thread of the same id and not marked: it is taken over like any other word of a dead owner.
 */
#ifndef SHMQUEUE_LOCK_H
#define SHMQUEUE_LOCK_H

#include "os.h"

/* The calling thread, as the kernel knows it.  Filled at a thread's first use, and again after a fork. */
struct self {
    uint32_t tid;
    uint32_t epoch;                  /* os_epoch() when this was filled; 0: never */
    struct robust_list_head *robust; /* where the kernel looks when this thread ends */
    long offset;                     /* from the address the kernel is given to the word */
    struct process process;          /* which it is a thread of; pid 0: not asked yet */
};

enum lock_result {
    LOCK_TAKEN,
    LOCK_RECOVERED, /* taken over from an owner that died */
    LOCK_BUSY,
    LOCK_DEADLINE,
    LOCK_INTERRUPTED, /* a signal, or a slice is over */
};

extern _Thread_local struct self lock_thread_self;

struct self *lock_self_fill(void);

static inline struct self *lock_self(void)
{
    struct self *self = &lock_thread_self;
    _Atomic uint32_t *word = atomic_load_explicit(&os_epoch_word, memory_order_relaxed);
    uint32_t epoch = atomic_load_explicit(word, memory_order_relaxed);
    return epoch != 0 && self->epoch == epoch ? self : lock_self_fill();
}

static inline struct process lock_process(struct self *self)
{
    if (self->process.pid == 0) {
        self->process = os_this_process();
    }
    return self->process;
}

static inline void lock_announce(struct self *self, _Atomic uint32_t *word)
{
    *(void *volatile *)&self->robust->list_op_pending = word ? (char *)word - self->offset : NULL;
    atomic_signal_fence(memory_order_seq_cst); /* only this thread's own death reads it: program order suffices */
}

/* No thread owns it, or an earlier thread of the same id did that the kernel did not mark. */
static inline bool lock_is_free(uint32_t seen, const struct self *self)
{
    return (seen & FUTEX_TID_MASK) == 0 || (seen & FUTEX_TID_MASK) == self->tid;
}

/* Takes the lock if it is free; never waits. */
static inline enum lock_result lock_try(_Atomic uint32_t *word, struct self *self)
{
    uint32_t seen = 0;
    lock_announce(self, word);
    if (atomic_compare_exchange_strong_explicit(word, &seen, self->tid, memory_order_acquire, memory_order_relaxed)) {
        return LOCK_TAKEN;
    }
    while (lock_is_free(seen, self)) {
        uint32_t mine = self->tid | (seen & FUTEX_WAITERS);
        bool died = seen & (FUTEX_OWNER_DIED | FUTEX_TID_MASK);
        if (atomic_compare_exchange_strong_explicit(word, &seen, mine, memory_order_acquire, memory_order_relaxed)) {
            return died ? LOCK_RECOVERED : LOCK_TAKEN;
        }
    }
    lock_announce(self, NULL);
    return LOCK_BUSY;
}

/* Takes the lock, waiting until the deadline (monotonic, ns).  Returns LOCK_INTERRUPTED after a signal and after each
 * slice, so that the caller may check its own conditions and call again; an owner found dead is marked before. */
enum lock_result lock_wait(_Atomic uint32_t *word, struct self *self, int64_t deadline, int64_t spin_ns);

/* A thread that holds no lock finds its id in a word: an earlier thread of that id died with it.  Marks it as the
 * kernel should have. */
void lock_disown(_Atomic uint32_t *word, struct self *self);

/* Whether the kernel marks the word of an owner that ends, tried with a thread that does: qemu-user and some sandboxes
 * have no robust futexes, and seccomp filters may deny the calls.  0, or an errno. */
int lock_is_marked(bool *is_marked);

/* A full barrier on x86; a release elsewhere. */
static inline void lock_release(_Atomic uint32_t *word, struct self *self)
{
    uint32_t was = atomic_exchange_explicit(word, 0, memory_order_release);
    if (was & FUTEX_WAITERS) {
        futex_wake(word, 1); /* killed before this line: the kernel wakes one, because the word is still announced */
    }
    lock_announce(self, NULL);
}

#endif
