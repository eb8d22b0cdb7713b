/* python_loan.h: what the types Loan and Lease share: one item in the hands of this process. */
#ifndef SHMQUEUE_PYTHON_LOAN_H
#define SHMQUEUE_PYTHON_LOAN_H

#include "python_ring.h"

enum hold {
    HELD,
    ENDING, /* by a call that has released the GIL, or whose signal handlers run */
    PINNED,
    LEAVING, /* to be given back when nothing looks at its bytes any more: another process may free them then */
    OVER,
};

typedef struct {
    PyObject_HEAD
    RingObject *ring;
    struct loan loan;
    uint32_t epoch;     /* of the process that took it */
    enum hold hold;
    bool may_move;
    bool is_seen; /* BYTES_SEEN was noted: close() leaves the lease alone */
    bool is_bytes;      /* the item is, and these are its contents, from byte `from` of the payload on: */
    uint32_t from, length;
    PyObject *copy;     /* of contents that were moved, or cannot be mapped; else NULL */
    Py_ssize_t exports; /* memoryviews and the like that look at the contents */
} LoanObject;

/* What lease() returns.  It is tracked by the collector only if it can be part of a cycle. */
typedef struct {
    LoanObject loan; /* first: a Lease is used as a Loan */
    PyObject *item;    /* NULL: not loaded yet, from these two: */
    PyObject *payload; /* of new_payload(); NULL once loaded */
    PyObject *load;    /* called with the method and the payload */
    PyObject *ended;   /* called after a method has ended the lease, if the ring's gets are not fast or its descriptor is
                          not true; or NULL */
    PyObject *weak_references;
} LeaseObject;

static inline bool loan_is_of_this_process(const LoanObject *loan) { return loan->epoch == os_epoch(); }

static inline bool loan_is_held(const LoanObject *loan)
{
    return loan->hold == HELD && loan_is_of_this_process(loan) && loan->ring->memory != NULL && !loan->ring->closing;
}

/* ---- python_loan.c ---- */

/* A copy of the payload, which need not stay where it lies afterwards.  NULL: an exception is set. */
PyObject *loan_payload(LoanObject *loan);

/* Nothing looks at the payload any more, so it need not stay where it lies. */
void loan_let_move(LoanObject *loan);

/* The item is done, or not.  1: it is so, 0: the loan was over already, -1: an exception is set, and it is held. */
int loan_finish(LoanObject *loan);
int loan_give_back(LoanObject *loan);

/* At the end of the object: gives the item back if it is held, and drops what the loan refers to. */
void loan_drop(LoanObject *loan);

/* ---- python_lend.c ---- */

/* What is done with the oldest record, perhaps without the GIL: takes the get lock, and releases it. */
typedef enum ring_status act_on_oldest(RingObject *self, void *with, struct patience patience);

/* Waits for an item.  1: it is done, 0: there was none in time, -1: an exception is set. */
int with_oldest(RingObject *self, act_on_oldest *act, void *with, bool block, PyObject *timeout);

/* Leases what is there, if nothing is in the way: *lease is NULL if an exception is set.  False: nothing is leased, and
 * no exception is set.  Arguments as lease_new(). */
bool lease_at_once(RingObject *self, PyObject *load, PyObject *ended, PyObject **lease);

/* ---- python_lease.c ---- */

/* A Lease that has no item yet and is over; `load` and `ended` are kept.  NULL: an exception is set. */
LeaseObject *lease_new(RingObject *ring, PyObject *load, PyObject *ended);

/* Gives it what was handed out: the item, whose reference it steals, or NULL: the payload is read.  False: an exception
 * is set. */
bool lease_fill(LeaseObject *lease, PyObject *item);

#endif
