/* python_lend.c: handing items out, as a Loan or a Lease. */
#include "python_loan.h"

#include "python_at_hand.h"
#include "quick_lease.h"

int with_oldest(RingObject *self, act_on_oldest *act, void *with, bool block, PyObject *timeout)
{
    struct patience patience;
    enum ring_status status = act(self, with, (struct patience){0});
    if (status == RING_OK) {
        return 1;
    }
    if (!patience_from(self, &block, timeout, &patience)) {
        return -1;
    }
    int again = 1;
    while (again == 1 && (status != RING_EMPTY || block)) {
        if (status == RING_EMPTY) {
            WITHOUT_GIL(self, status = ring_wait_items(&self->ring, patience.deadline));
            again = after(self, status);
            if (again != 1) {
                break;
            }
        }
        WITHOUT_GIL(self, status = act(self, with, patience));
        if (status == RING_OK) {
            return 1;
        }
        if (status == RING_LOCKED) {
            raise_locked(self, false);
            return -1;
        }
        again = status == RING_EMPTY ? 1 : after(self, status);
    }
    return again < 0 ? -1 : 0;
}

/* As Ring_lend() or Ring_lease() is asked for. */
struct lending {
    LoanObject *loan;
    bool bytes_only;
    PyObject *item;  /* that was unpacked on the way, or NULL */
    bool is_refused; /* the item is not bytes */
    bool is_lent;
    bool has_looked; /* for holders that have ended, when all entries were used */
    uint32_t epoch;
};

/* With the get lock held: hands the record at hand out and releases the lock. */
static enum ring_status lend_at_hand(RingObject *self, struct lending *lending, struct take *take)
{
    LoanObject *loan = lending->loan;
    lending->epoch = take->self->epoch;
    enum ring_status status = ring_lend(&self->ring, take, &loan->loan);
    lending->is_lent = status == RING_OK;
    if (status == RING_FULL && !lending->has_looked) {
        lending->has_looked = true;
        ring_return_dead(&self->ring, 0);
        return RING_INTERRUPTED; /* once more */
    }
    return status == RING_FULL ? RING_OK : status; /* see raise_not_lent() */
}

/* An act for a Loan. */
static enum ring_status lend(RingObject *self, void *with, struct patience patience)
{
    struct lending *lending = with;
    LoanObject *loan = lending->loan;
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    struct scalar scalar = scalar_at_hand(self, &take);
    loan->is_bytes = scalar.kind == SCALAR_BIN;
    loan->from = scalar.body.from;
    loan->length = scalar.body.length;
    lending->is_refused = lending->bytes_only && !loan->is_bytes;
    if (lending->is_refused) {
        ring_get_abort(&self->ring, &take);
        return RING_OK;
    }
    return lend_at_hand(self, lending, &take);
}

/* With the GIL, and the get lock held: hands a small record out by the quick way.  False: it is still held. */
static bool lend_quickly(RingObject *self, struct lending *lending, const struct quick_take *take)
{
    LoanObject *loan = lending->loan;
    unsigned char plain[PLAIN_SMALL];
    if (!is_small(take->head.length, take->head.method) || !ring_can_lend_quick(&self->ring)) {
        return false;
    }
    memcpy(plain, take->payload, take->head.length);
    lending->item = small_unpacked(self, plain, take->head.length, take->head.method);
    if (lending->item == NULL) {
        return false;
    }
    loan->may_move = true;
    lending->epoch = take->self->epoch;
    lending->is_lent = true;
    ring_lend_quick(&self->ring, take, BYTES_MAY_MOVE, &loan->loan);
    return true;
}

/* Without a wait, and with the GIL: hands the oldest record out, and unpacks it. */
static enum ring_status try_lend_item(RingObject *self, struct lending *lending)
{
    struct quick_take quick;
    struct take take;
    enum ring_status status = ring_get_quick(&self->ring, &quick);
    if (status == RING_OK) {
        if (lend_quickly(self, lending, &quick)) {
            return RING_OK;
        }
        ring_get_of_quick(&quick, &take);
    } else if (status == RING_MISMATCH) {
        status = ring_get_begin(&self->ring, &take, (struct patience){0});
    }
    if (status != RING_OK) {
        return status;
    }
    int collector = collector_off();
    PyObject *item = take.length < LARGE ? item_at_hand(self, &take) : NULL;
    status = lend_at_hand(self, lending, &take);
    collector_back(collector);
    if (lending->is_lent) {
        lending->item = item;
    } else {
        Py_XDECREF(item);
    }
    return status;
}

/* An act for a Lease, whose item is unpacked on the way.  The first attempt of with_oldest(), which waits for nothing,
 * is the one that has the GIL. */
static enum ring_status lend_item(RingObject *self, void *with, struct patience patience)
{
    struct take take;
    if (!patience.for_lock) {
        enum ring_status status;
        ATTEMPT_BEGIN(self);
        status = try_lend_item(self, with);
        ATTEMPT_END(self);
        return status;
    }
    enum ring_status status = ring_get_begin(&self->ring, &take, patience);
    return status == RING_OK ? lend_at_hand(self, with, &take) : status;
}

static void raise_not_lent(RingObject *self, const struct lending *lending)
{
    if (lending->is_refused) {
        PyErr_Format(PyExc_TypeError, "the oldest item of queue %R is not bytes: take it with get()", self->name);
    } else {
        PyErr_Format(state_of(self)->error, "queue %R: %u items are leased, which is the most that can be", self->name,
                     LAYOUT_LEASES);
    }
}

/* Notes in the object that the loan is held, once it was lent to it. */
static void hold(RingObject *self, const struct lending *lending)
{
    lending->loan->epoch = lending->epoch;
    lending->loan->hold = HELD;
    self->loans++;
}

/* Hands out what is asked for.  1: it is in the hands of lending->loan, 0: there was none in time, -1: an exception is
 * set. */
static int lend_to(RingObject *self, struct lending *lending, act_on_oldest *act, bool block, PyObject *timeout)
{
    int got = with_oldest(self, act, lending, block, timeout);
    if (got == 1 && lending->is_lent) {
        hold(self, lending);
        return 1;
    }
    if (got == 1) {
        raise_not_lent(self, lending);
        return -1;
    }
    return got;
}

PyObject *Ring_lend(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block, bytes_only;
    PyTypeObject *type = state_of(self)->loan_type;
    if (!count_is("lend", count, 3) || (block = truth(args[0])) < 0 || (bytes_only = truth(args[2])) < 0) {
        return NULL;
    }
    LoanObject *loan = (LoanObject *)type->tp_alloc(type, 0); /* before anything is taken, for it may fail */
    if (loan == NULL) {
        return NULL;
    }
    loan->ring = (RingObject *)Py_NewRef(self);
    loan->hold = OVER;
    struct lending lending = {.loan = loan, .bytes_only = bytes_only};
    int got = is_open(self) ? lend_to(self, &lending, lend, block, args[1]) : -1;
    if (got == 1) {
        return (PyObject *)loan;
    }
    Py_DECREF(loan);
    return got == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *Ring_lease(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("lease", count, 4) || (block = truth(args[0])) < 0) {
        return NULL;
    }
    LeaseObject *lease = lease_new(self, args[2], args[3]);
    if (lease == NULL) {
        return NULL;
    }
    struct lending lending = {.loan = &lease->loan};
    int got = is_open(self) ? lend_to(self, &lending, lend_item, block, args[1]) : -1;
    if (got == 1 && lease_fill(lease, lending.item)) {
        return (PyObject *)lease;
    }
    Py_DECREF(lease);
    return got == 0 ? Py_NewRef(Py_None) : NULL;
}

bool lease_at_once(RingObject *self, PyObject *load, PyObject *ended, PyObject **result)
{
    LeaseObject *lease = lease_new(self, load, ended);
    bool is_filled = false;
    *result = (PyObject *)lease;
    if (lease == NULL) {
        return true;
    }
    struct lending lending = {.loan = &lease->loan};
    ALONE_BEGIN(self);
    if (is_usable(self) && /* still: a collection, before 3.12, may run any code */
        lend_item(self, &lending, (struct patience){0}) == RING_OK && lending.is_lent) {
        hold(self, &lending);
        is_filled = lease_fill(lease, lending.item);
    }
    ALONE_END();
    if (!is_filled) {
        Py_CLEAR(*result);
    }
    return lending.is_lent;
}

PyObject *Ring_lease_figures(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct lease_statistics figures;
    if (!is_open(self)) {
        return NULL;
    }
    ring_lease_statistics(&self->ring, &figures);
    return Py_BuildValue("kkKKd", (unsigned long)figures.leased, (unsigned long)figures.returned,
                         (unsigned long long)figures.acknowledged, (unsigned long long)figures.redelivered,
                         (double)figures.oldest_ns / 1e9);
}
