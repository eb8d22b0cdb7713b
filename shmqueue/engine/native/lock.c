/* lock.c: what lock.h needs only now and then: learning the thread's id, waiting, and finding an owner dead. */
#define _GNU_SOURCE
#include "lock.h"

#include <pthread.h>

_Thread_local struct self lock_thread_self;

static _Thread_local struct robust_list_head own_head;

struct self *lock_self_fill(void)
{
    struct self *self = &lock_thread_self;
    size_t length = 0;
    self->epoch = os_epoch();
    self->tid = (uint32_t)syscall(SYS_gettid);
    self->process.pid = 0;
    self->robust = NULL;
    if (syscall(SYS_get_robust_list, 0, &self->robust, &length) != 0 || self->robust == NULL) {
        /* libc registered none for this thread (musl waits for a first use, a raw clone() skips it) */
        own_head.list.next = &own_head.list;
        own_head.futex_offset = 0;
        own_head.list_op_pending = NULL;
        syscall(SYS_set_robust_list, &own_head, sizeof own_head);
        self->robust = &own_head;
    }
    self->offset = self->robust->futex_offset;
    return self;
}

static void *end_with_the_word(void *word)
{
    struct self *self = lock_self();
    lock_announce(self, word);
    atomic_store((_Atomic uint32_t *)word, self->tid);
    return NULL;
}

int lock_is_marked(bool *is_marked)
{
    _Atomic uint32_t word = 0;
    pthread_t thread;
    int error = pthread_create(&thread, NULL, end_with_the_word, (void *)&word);
    if (error == 0) {
        error = pthread_join(thread, NULL); /* the kernel marks the word before it tells of the thread's end */
        *is_marked = atomic_load(&word) & FUTEX_OWNER_DIED;
    }
    return error;
}

/* The kernel marks a dead owner's word by itself.  This is for the cases in which it could not: a libc that registered
 * another robust list head behind our back, a kernel without robust futexes, an owner that was busy with another word.
 * The word tells no more than the owner's id, which may have come back: as that of a thread of a process that has
 * nothing to do with this memory, which is distinguished here, or of one that has, which finds its own id in the word
 * when it opens the queue, waits on it or wants the lock.
 *
 * Not proof against this: between the look at a thread and the mark a new thread of its id comes, opens the queue,
 * takes the word over, and another waiter sets FUTEX_WAITERS. */
static void mark_if_dead(_Atomic uint32_t *word, uint32_t seen)
{
    uint32_t tid = seen & FUTEX_TID_MASK;
    if (tid != 0 && atomic_load(word) == seen && !os_may_work_on(tid, word)) {
        atomic_compare_exchange_strong(word, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
    }
}

void lock_disown(_Atomic uint32_t *word, struct self *self)
{
    uint32_t seen = atomic_load_explicit(word, memory_order_relaxed);
    while ((seen & FUTEX_TID_MASK) == self->tid) {
        if (atomic_compare_exchange_strong(word, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED)) {
            futex_wake(word, 1);
            return;
        }
    }
}

/* At a deadline: whether this thread has met the word like this for a slice.  The deadlines of an event loop are all
 * shorter than a slice, and looking for an owner costs more than they allow. */
static bool is_taken_for_long(_Atomic uint32_t *word, uint32_t seen)
{
    static _Thread_local struct {
        _Atomic uint32_t *word;
        uint32_t seen;
        int64_t since;
    } met;
    int64_t now = monotonic_ns();
    bool is_met_again = met.word == word && met.seen == seen;
    bool is_long = is_met_again && now - met.since >= WAIT_SLICE_NS;
    if (!is_met_again || is_long) {
        met.word = word;
        met.seen = seen;
        met.since = now;
    }
    return is_long;
}

enum lock_result lock_wait(_Atomic uint32_t *word, struct self *self, int64_t deadline, int64_t spin_ns)
{
    uint32_t waiters = 0; /* once we have slept others may sleep too: take the word with FUTEX_WAITERS set */
    enum lock_result result;
    lock_announce(self, word);
    for (;;) {
        uint32_t seen = atomic_load_explicit(word, memory_order_relaxed);
        if (lock_is_free(seen, self)) {
            uint32_t mine = self->tid | (seen & FUTEX_WAITERS) | waiters;
            bool died = seen & (FUTEX_OWNER_DIED | FUTEX_TID_MASK);
            if (atomic_compare_exchange_strong_explicit(word, &seen, mine, memory_order_acquire,
                                                        memory_order_relaxed)) {
                return died ? LOCK_RECOVERED : LOCK_TAKEN;
            }
            continue;
        }
        if (waiters == 0 && spin_while_equal(word, seen, spin_ns)) {
            continue;
        }
        uint32_t marked = seen | FUTEX_WAITERS;
        if (marked != seen && !atomic_compare_exchange_strong(word, &seen, marked)) {
            continue;
        }
        waiters = FUTEX_WAITERS;
        enum wait_result waited = futex_wait(word, marked, deadline);
        if (waited == WAIT_WOKEN) {
            continue;
        }
        if (waited == WAIT_SLICE_OVER || (waited == WAIT_DEADLINE && is_taken_for_long(word, marked))) {
            mark_if_dead(word, marked);
        }
        result = waited == WAIT_DEADLINE ? LOCK_DEADLINE : LOCK_INTERRUPTED;
        break;
    }
    lock_announce(self, NULL);
    return result;
}
