/* python_ring.h: the Python type Ring around a struct ring.  module.c and the python_*.c are the only files here that
 * know Python, and share this.
 *
 * Rules for the two kinds of lock that meet here, the interpreter's (GIL) and the one in shared memory:
 *
 *   1. Never wait for a shared lock with the GIL held: try it, or release the GIL first.
 *   2. Never wait for the GIL with a shared lock held.
 *   3. Small records are copied with both held: releasing the GIL costs more than the copy.  No Python code may run
 *      then, so before 3.12, where an allocation can run the garbage collector, it is switched off meanwhile.
 *   4. All memory that a get needs is allocated before its commit: an item taken is an item delivered.
 *   5. Signal handlers run between attempts only, so a handler may use or close the very queue it interrupted.
 *   6. Arguments are converted first, which may run any code, and then is_open() is asked.
 *
 * `users` counts the calls that run without the GIL; close() waits for them before it unmaps.
 *
 * A free-threaded build has a critical section on the Ring in place of the GIL: see python_alone.h.  There, too:
 *
 *   7. `users` also counts each attempt that makes objects: a call to Python may suspend the critical section.
 *   8. What another thread may change (a list, a dict, the ring of a queue) is copied, or has a reference, while it is used.
 *   9. `keys` is used under the get lock only.
 */
#ifndef SHMQUEUE_PYTHON_RING_H
#define SHMQUEUE_PYTHON_RING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "msgpack_fast.h"
#include "python_alone.h"
#include "queue.h"

#define KEYS_BITS 7
#define KEYS (1 << KEYS_BITS)
#define LARGE 32768 /* bytes from which on the GIL is released during the copy */

/* What the descriptor of a queue says, for put(), get() and lease() of a QueueBase: they have it looked at if that is not
 * so.  shmqueue.watching sets it.  Without a GIL a call may read an older value: a thread then corrects the descriptor. */
enum descriptor { NO_DESCRIPTOR, NOT_READABLE, READABLE, BEING_CHANGED };

/* What does all that put(), get() and lease() of a queue do not do at once. */
enum slow_method { SLOW_PUT, SLOW_GET, SLOW_LEASE, SLOW_METHODS };

typedef struct {
    PyObject *value_error;
    PyObject *corrupted_error;
    PyObject *not_initialized_error;
    PyObject *shut_down_error;
    PyObject *no_space_error;
    PyObject *error;      /* what they all are */
    PyTypeObject *ring_type, *loan_type, *reservation_type, *record_type;
    PyTypeObject *queue_base_type, *coroutine_type;
    PyTypeObject *lease_type, *unloaded_lease_type; /* NULL until lease_types() was called */
    PyObject *nothing; /* the Record that stands for none */
    PyObject *slow_names[SLOW_METHODS];
    PyObject *spare_lease; /* the memory of one of lease_type, for the next; never any without a GIL */
} module_state;

/* A record that a get prepares for before it takes the lock.  Changed by threads without the GIL, under the get lock
 * or not at all: it is compared before it is relied on. */
struct foreseen {
    _Atomic uint64_t length;
    _Atomic uint32_t method;
    _Atomic uint32_t skipped; /* bytes of it that stand before the contents of a bytes object, or 0: a record as such */
};

typedef struct {
    PyObject_HEAD
    module_state *state; /* of the module that its type keeps */
    struct ring ring;
    void *memory; /* NULL once closed */
    size_t size; /* of this mapping; the ring makes others */
    PyObject *name;
    PyObject *path;   /* bytes */
    PyObject *report; /* called with an errno when the queue cannot grow */
    int reported;     /* what it was called with last */
    bool is_unreported; /* whether that has changed since: the next call that finds no room says so */
    bool closing;
    uint32_t closers;  /* calls of close() that have not ended: until then it stays mapped */
    struct left *left; /* reservations that could not be abandoned yet: python_reserve.c */
    _Atomic uint32_t users; /* changed with the GIL held; atomic because close() sleeps on it */
    uint32_t epoch;         /* of `users` and `closers`: a forked child has no calls in flight */
    struct foreseen last;   /* the record seen last: a guess at the next one */
    PyObject *keys[KEYS];   /* of dicts that came, by a hash of their text: short ones come again and again */
    Py_ssize_t views;       /* loans with buffers on their bytes, and reservations: the mapping stays while there are any */
    Py_ssize_t loans;       /* that this handle has */
    bool fast_puts, fast_gets; /* whether put(), get() of a QueueBase may pass by whatever puts and gets for it */
    unsigned char descriptor;  /* enum descriptor */
    PyObject *while_waiting;   /* see shmqueue.engine.Engine; NULL or None: nothing to ask */
    double lock_patience;      /* seconds that a call which may not block waits for a lock held by a peer */
} RingObject;

static inline module_state *state_of(const RingObject *self) { return self->state; }

/* Whether something is a Record, a tuple of (method, payload) that no item is. */
static inline bool is_record(RingObject *self, PyObject *object)
{
    return PyTuple_Check(object) && Py_TYPE(object) == state_of(self)->record_type;
}

/* ---- python_calls.c: what all calls have in common ---- */

/* Each sets an exception and returns NULL. */
PyObject *raise_closed(RingObject *self);
PyObject *raise_corrupted(RingObject *self);
PyObject *raise_lost(RingObject *self);
PyObject *raise_never_fits(RingObject *self, size_t length);

/* Says that a call could not have the lock of its side in time. */
void raise_locked(RingObject *self, bool is_put);

/* Whether the exception that is set is that of a signal handler, which reaches the caller as it is: interruptions.py.
 * True: or one that came in between, and is set instead. */
bool is_of_handler(void);

/* Adds to the exception that is set how many of several items were put before it. */
void tell_items_put(size_t put, size_t count);

/* False, or -1, always means that an exception is set. */
bool count_is(const char *method, Py_ssize_t given, Py_ssize_t wanted);
bool method_from(PyObject *number, uint32_t *method);

/* Seconds or None to a deadline on the monotonic clock.  May run any code. */
bool deadline_from(PyObject *timeout, int64_t *deadline);

/* How a call waits, by its arguments; clears `block` if there is no time to. */
bool patience_from(RingObject *self, bool *block, PyObject *timeout, struct patience *patience);

/* What a status that ends or suspends an attempt means to Python: 1 try again, 0 it was not possible in time, -1 an
 * exception is set. */
int after(RingObject *self, enum ring_status status);

/* Asks while_waiting whether a call goes on waiting.  1: try again, with *end set if that is the last attempt: the
 * exception to raise if it fails.  -1: an exception is set. */
int ask_while_waiting(RingObject *self, bool is_put, PyObject **end);

void raise_end(PyObject *end);

static inline bool is_usable(const RingObject *self) { return self->memory != NULL && !self->closing; }

static inline bool is_open(RingObject *self)
{
    if (!is_usable(self)) {
        raise_closed(self);
        return false;
    }
    return true;
}

/* block: any truth value; -1 with an exception set. */
static inline int truth(PyObject *object)
{
    return object == Py_True ? 1 : object == Py_False ? 0 : PyObject_IsTrue(object);
}

static inline int collector_off(void)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyGC_Disable();
#else
    return 0; /* it runs between bytecodes only */
#endif
}

static inline void collector_back(int was)
{
#if PY_VERSION_HEX < 0x030C0000
    if (was) {
        PyGC_Enable();
    }
#else
    (void)was;
#endif
}

/* In a forked child: the calls in flight are the parent's. */
static inline void forget_others_calls(RingObject *self)
{
    uint32_t epoch = os_epoch();
    if (self->epoch != epoch) {
        self->epoch = epoch;
        self->closers = 0;
        atomic_store(&self->users, 0);
    }
}

static inline void enter(RingObject *self)
{
    forget_others_calls(self);
    atomic_fetch_add(&self->users, 1);
}

static inline void leave(RingObject *self)
{
    if (atomic_fetch_sub(&self->users, 1) == 1 && self->closing) {
        futex_wake(&self->users, WAIT_EVERYONE);
    }
}

#define WITHOUT_GIL(self, statement) \
    do {                             \
        enter(self);                 \
        Py_BEGIN_ALLOW_THREADS       \
        statement;                   \
        Py_END_ALLOW_THREADS         \
        leave(self);                 \
    } while (0)

/* With a GIL it is kept, so that this is no place at which other threads run.  Without one, no thread stops for us. */
#ifdef Py_GIL_DISABLED
#define QUIETLY(ring, statement) WITHOUT_GIL(ring, statement)
#else
#define QUIETLY(ring, statement) statement
#endif

/* ---- python_reserve.c ---- */

/* Abandons the reservations that could not be when they were dropped, as far as the lock can be had.  With patience for
 * it other threads run meanwhile. */
void reservations_end_left(RingObject *self, struct patience patience);
/* Forgets those that are still left. */
void reservations_forget_left(RingObject *self);

static inline void end_left(RingObject *self)
{
    if (self->left != NULL && is_usable(self)) {
        reservations_end_left(self, (struct patience){0});
    }
}

/* Gives memory back after a get that has not failed, if there may be any. */
static inline void trim_if_due(RingObject *self)
{
    end_left(self);
    if (is_usable(self) && atomic_load_explicit(&self->ring.trim_due, memory_order_relaxed)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, false));
    }
}

/* An attempt without a wait, in which objects are made.  With a GIL nothing comes in between. */
#ifdef Py_GIL_DISABLED
#define ATTEMPT_BEGIN(self) enter(self)
#define ATTEMPT_END(self) leave(self)
#else
#define ATTEMPT_BEGIN(self) ((void)(self))
#define ATTEMPT_END(self) ((void)(self))
#endif

/* Whether what was open before objects were made, or released, still is; with a GIL no Python code has run in them. */
static inline bool is_still_open(RingObject *self)
{
#ifdef Py_GIL_DISABLED
    return is_open(self);
#else
    (void)self;
    return true;
#endif
}

/* For a method of a QueueBase, which has asked is_usable() before; without a GIL that means nothing. */
static inline bool may_be_tried(const RingObject *self)
{
#ifdef Py_GIL_DISABLED
    return is_usable(self) && self->left == NULL;
#else
    return self->left == NULL;
#endif
}

/* The keys that came before, for callers that do not own the get lock; NULL where only its owner may use them. */
static inline PyObject **keys_without_lock(RingObject *self)
{
#ifdef Py_GIL_DISABLED
    (void)self;
    return NULL;
#else
    return self->keys;
#endif
}

/* ---- the methods, by file ---- */

typedef PyObject *fast_method(RingObject *self, PyObject *const *args, Py_ssize_t count);

fast_method Ring_put, Ring_put_many; /* python_put.c */
fast_method Ring_put_item, Ring_put_items; /* python_items.c */
fast_method Ring_get, Ring_get_many, Ring_get_item, Ring_get_items; /* python_get.c */
fast_method Ring_lend, Ring_lease; /* python_lend.c */
fast_method Ring_peek; /* python_peek.c */
fast_method Ring_reserve; /* python_reserve.c */
fast_method Ring_wait; /* python_whole.c */

typedef PyObject *plain_method(RingObject *self, PyObject *argument);

plain_method Ring_take; /* python_peek.c */
plain_method Ring_lease_figures; /* python_lend.c */
plain_method Ring_moment, Ring_pass_on; /* python_wait.c */
plain_method Ring_clear, Ring_task_done, Ring_join, Ring_qsize, Ring_counters, Ring_shut_down; /* python_whole.c */
plain_method Ring_maxsize, Ring_set_maxsize, Ring_prefault;

/* ---- python_put.c ---- */

static inline bool can_ever_fit(const RingObject *self, size_t length)
{
    uint64_t head = record_head(length);
    return self->ring.capacity >= head && length <= self->ring.capacity - head;
}

/* Puts all the records or none: 1 done, 0 no room in time, -1 an exception is set, TOO_MANY as RING_TOO_MANY. */
#define TOO_MANY 2
int put_records(RingObject *self, const struct record_in *records, size_t count, size_t bytes, bool block,
                PyObject *timeout);

/* ---- python_items.c ---- */

/* Puts an item that needs no packer, if there is room and the lock is free.  False: it is not put, and no exception
 * is set. */
bool put_item_at_once(RingObject *self, PyObject *item, bool as_pickle);

/* ---- python_at_hand.c ---- */

/* What holds the bytes of a payload, which are still to be filled in at *fill: bytes, or, where objects may live in
 * them afterwards, a bytearray.  NULL: an exception is set.  Needs no lock. */
PyObject *new_payload(uint32_t method, uint64_t length, void **fill);

/* ---- python_get.c ---- */

/* Takes what is there, if the lock is free: an item, or a Record, or NULL with an exception set.  False:
 * it is not taken, and no exception is set. */
bool get_item_at_once(RingObject *self, PyObject **result);

/* The item of a Record; NULL, with no exception set: it must be loaded. */
PyObject *plainly_unpacked(RingObject *self, PyObject *record);

/* ---- python_ring.c ---- */

/* Whether the descriptor, if there is one, says what is so now. */
bool descriptor_is_true(RingObject *self);

/* After what has changed the queue: calls what makes the descriptor true.  Where that lacks memory, or room on the
 * stack, the descriptor's thread does it, for what was put or taken stays so.  False: another exception is set, which a
 * signal handler has raised. */
bool call_look(PyObject *look);

/* Unmaps a closed ring that nothing uses any more. */
void unmap_if_unused(RingObject *ring);
/* A loan or a reservation is over, and its bytes are not looked at any more: one mapping less is needed. */
void let_mapping_go(RingObject *ring);

/* ---- python_queue.c ---- */

/* One attempt of a coroutine, on an instance of QueueBase.  False: not done, and no exception is set; also where it is
 * time to let the loop's other tasks run.  *result: None, or the item; NULL with an exception set. */
bool queue_put_at_once(PyObject *queue, PyObject *item, PyObject **result);
bool queue_get_at_once(PyObject *queue, PyObject **result);

/* ---- the types: each python_*.c has the one of its name, and python_at_hand.c the type Record ---- */

extern PyType_Spec Anchor_spec, Bell_spec, Coroutine_spec, CoroutineMethod_spec, Loan_spec, QueueBase_spec, Record_spec,
    Reservation_spec, Ring_spec;

/* Makes the types of leases, with this base, which documents them: python_lease.c. */
PyObject *core_lease_types(PyObject *module, PyObject *base);
/* Before the state drops them. */
void lease_free_spare(module_state *state);

#endif
