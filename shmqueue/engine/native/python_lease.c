/* python_lease.c: items that stay in the queue while somebody works on them.
 *
 * A Loan is one item in the hands of this process: see leases.h.  Any thread may finish it or give it back.  In a forked
 * child it is a copy that means nothing: the item is its parent's.
 *
 * A Loan of a bytes item is a buffer too.  While anything looks at its bytes where they lie they stay there, even after
 * the loan was finished.
 *
 * On a free-threaded build the critical section of a loan is that of its Ring.
 */
#include "python_loan.h"

#define END_PATIENCE_NS INT64_C(1000000000) /* for the lock, where a loan ends and nothing may be raised */

void let_mapping_go(RingObject *ring)
{
    ring->views--;
    if (ring->closing && ring->views == 0 && atomic_load(&ring->users) == 0) {
        unmap(ring);
    }
}

static void trim_if_due(RingObject *ring)
{
    if (is_usable(ring) && atomic_load_explicit(&ring->ring.trim_due, memory_order_relaxed)) {
        WITHOUT_GIL(ring, ring_trim(&ring->ring, false));
    }
}

void loan_let_move(LoanObject *loan)
{
    if (!loan->may_move && loan->hold == HELD && loan_is_of_this_process(loan) && loan->ring->memory != NULL) {
        loan->may_move = true;
        ring_loan_may_move(&loan->ring->ring, &loan->loan);
    }
}

/* Waits until a call on the loan has a status, which needs the get lock. */
#define UNTIL_DONE(ring, status, again, call)                                        \
    do {                                                                             \
        struct patience patience = {0};                                              \
        status = call;                                                               \
        patience = (struct patience){.for_lock = true, .deadline = WAIT_FOREVER};    \
        again = 1;                                                                   \
        while (status == RING_BUSY || status == RING_INTERRUPTED) {                  \
            again = after(ring, status);                                             \
            if (again != 1) {                                                        \
                break;                                                               \
            }                                                                        \
            WITHOUT_GIL(ring, status = call);                                        \
        }                                                                            \
    } while (0)

/* ---- the end of a loan ---- */

typedef enum ring_status ending(struct ring *ring, const struct loan *loan, struct patience patience);

static enum ring_status finish(struct ring *ring, const struct loan *loan, struct patience patience)
{
    return ring_loan_finish(ring, loan, false, patience);
}

static enum ring_status finish_and_pin(struct ring *ring, const struct loan *loan, struct patience patience)
{
    return ring_loan_finish(ring, loan, true, patience);
}

/* With a GIL it is kept, so that this is no place at which other threads run.  Without one, nobody stops for us. */
#ifdef Py_GIL_DISABLED
#define QUIETLY(ring, statement) WITHOUT_GIL(ring, statement)
#else
#define QUIETLY(ring, statement) statement
#endif

/* Ends it where nothing may be raised: at the end of the object, or of the last look at its bytes. */
static void end_quietly(LoanObject *loan, ending *way)
{
    RingObject *ring = loan->ring;
    if (!loan_is_of_this_process(loan) || ring->memory == NULL) {
        return;
    }
    struct patience patience = {.for_lock = true, .deadline = monotonic_ns() + END_PATIENCE_NS};
    enum ring_status status;
    do {
        QUIETLY(ring, status = way(&ring->ring, &loan->loan, patience));
    } while (status == RING_INTERRUPTED && monotonic_ns() < patience.deadline);
}

static void give_back_quietly(LoanObject *loan)
{
    loan->hold = OVER;
    end_quietly(loan, ring_loan_return);
    if (loan_is_of_this_process(loan) && loan->ring->loans > 0) {
        loan->ring->loans--;
    }
}

/* Those who looked at its bytes may have gone while it was being ended. */
static void unpin_if_unseen(LoanObject *loan)
{
    if (loan->hold == PINNED && loan->exports == 0) {
        loan->hold = OVER;
        end_quietly(loan, ring_loan_unpin);
    }
    if (loan->hold == LEAVING && loan->exports == 0) {
        give_back_quietly(loan);
    }
}

/* Ends it, for the methods.  1: done, 0: it was over already, -1: an exception is set, and it is still held. */
static int end_loan(LoanObject *loan, ending *way)
{
    RingObject *ring = loan->ring;
    if (!loan_is_of_this_process(loan)) {
        PyErr_Format(state_of(ring)->error, "a lease of queue %R belongs to the process that took it, not to its child",
                     ring->name);
        return -1;
    }
    if (!is_open(ring)) {
        return -1;
    }
    if (loan->hold != HELD) {
        return 0;
    }
    enum ring_status status;
    int again;
    loan->hold = ENDING;
    UNTIL_DONE(ring, status, again, way(&ring->ring, &loan->loan, patience));
    if (again != 1 || (status != RING_OK && status != RING_MISMATCH)) {
        loan->hold = HELD;
        return again != 1 || after(ring, status) < 0 ? -1 : 0;
    }
    loan->hold = way == finish_and_pin && status == RING_OK ? PINNED : OVER;
    ring->loans--;
    unpin_if_unseen(loan);
    trim_if_due(ring);
    return status == RING_OK;
}

int loan_finish(LoanObject *loan)
{
    return end_loan(loan, loan->exports > 0 && loan->copy == NULL ? finish_and_pin : finish);
}

int loan_give_back(LoanObject *loan)
{
    if (loan_is_held(loan) && loan->exports > 0 && loan->copy == NULL) {
        loan->hold = LEAVING;
        return 1;
    }
    return end_loan(loan, ring_loan_return);
}

static PyObject *Loan_finish(LoanObject *loan, PyObject *Py_UNUSED(ignored))
{
    int done = loan_finish(loan);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *Loan_give_back(LoanObject *loan, PyObject *Py_UNUSED(ignored))
{
    int done = loan_give_back(loan);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

void loan_drop(LoanObject *loan)
{
    if (loan->hold == HELD || loan->hold == LEAVING) {
        PyObject *type_, *value, *traceback;
        PyErr_Fetch(&type_, &value, &traceback);
        ALONE_BEGIN(loan->ring);
        give_back_quietly(loan);
        ALONE_END();
        PyErr_Restore(type_, value, traceback);
    }
    Py_XDECREF(loan->copy);
    Py_XDECREF(loan->ring);
}

static void Loan_dealloc(LoanObject *loan)
{
    PyTypeObject *type = Py_TYPE(loan);
    loan_drop(loan);
    type->tp_free(loan);
    Py_DECREF(type);
}

/* ---- its bytes ---- */

static bool is_readable(LoanObject *loan)
{
    if (loan->hold != HELD) {
        PyErr_Format(state_of(loan->ring)->error, "a lease of queue %R is over", loan->ring->name);
        return false;
    }
    if (!loan_is_of_this_process(loan)) {
        PyErr_Format(state_of(loan->ring)->error,
                     "a lease of queue %R belongs to the process that took it, not to its child", loan->ring->name);
        return false;
    }
    return is_open(loan->ring);
}

/* Where it lies, if it may have been moved; from then on it stays there.  False: an exception is set. */
static bool find_again(LoanObject *loan)
{
    RingObject *ring = loan->ring;
    enum ring_status status;
    int again;
    if (!loan->may_move) {
        return true;
    }
    struct loan found = loan->loan;
    UNTIL_DONE(ring, status, again, ring_loan_find(&ring->ring, &found, patience));
    if (again != 1 || status != RING_OK) {
        if (again == 1 && status == RING_MISMATCH) {
            PyErr_Format(state_of(ring)->error, "a lease of queue %R is over", ring->name);
        } else if (again == 1) {
            after(ring, status);
        }
        return false;
    }
    loan->loan = found;
    loan->may_move = false;
    return is_readable(loan); /* another thread may have ended it meanwhile */
}

static PyObject *copy_of(LoanObject *loan, uint64_t from, uint64_t length)
{
    RingObject *ring = loan->ring;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    bool done = true;
    if (bytes == NULL || !is_readable(loan) || !find_again(loan)) {
        Py_XDECREF(bytes);
        return NULL;
    }
    if (length < LARGE) {
        done = ring_loan_read(&ring->ring, &loan->loan, from, length, PyBytes_AS_STRING(bytes));
    } else {
        WITHOUT_GIL(ring, done = ring_loan_read(&ring->ring, &loan->loan, from, length, PyBytes_AS_STRING(bytes)));
    }
    if (!done) {
        Py_DECREF(bytes);
        after(ring, RING_UNMAPPED);
        return NULL;
    }
    return bytes;
}

PyObject *loan_payload(LoanObject *loan)
{
    PyObject *payload = copy_of(loan, 0, loan->loan.length);
    if (payload != NULL && loan->exports == 0) {
        loan_let_move(loan);
    }
    return payload;
}

static PyObject *Loan_payload(LoanObject *loan, PyObject *Py_UNUSED(ignored)) { return loan_payload(loan); }

static int look_at(LoanObject *loan, Py_buffer *buffer, int flags)
{
    RingObject *ring = loan->ring;
    buffer->obj = NULL;
    if (!loan->is_bytes) {
        PyErr_Format(PyExc_BufferError, "the item of queue %R is not bytes", ring->name);
        return -1;
    }
    if (!is_readable(loan)) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_Clear();
            PyErr_Format(PyExc_BufferError, "the lease of an item of queue %R is over", ring->name);
        }
        return -1;
    }
    const void *bytes = loan->may_move ? NULL : ring_loan_place(&ring->ring, &loan->loan, loan->from);
    if (bytes == NULL && loan->copy == NULL && (loan->copy = copy_of(loan, loan->from, loan->length)) != NULL) {
        loan_let_move(loan);
    }
    if (bytes == NULL && loan->copy != NULL) {
        bytes = PyBytes_AS_STRING(loan->copy);
    }
    if (bytes == NULL ||
        PyBuffer_FillInfo(buffer, (PyObject *)loan, (void *)bytes, (Py_ssize_t)loan->length, 1, flags) != 0) {
        return -1;
    }
    if (loan->exports++ == 0) {
        ring->views++;
    }
    return 0;
}

static int Loan_getbuffer(LoanObject *loan, Py_buffer *buffer, int flags)
{
    int error;
    ALONE_BEGIN(loan->ring);
    error = look_at(loan, buffer, flags);
    ALONE_END();
    return error;
}

static void Loan_releasebuffer(LoanObject *loan, Py_buffer *Py_UNUSED(buffer))
{
    ALONE_BEGIN(loan->ring);
    if (--loan->exports == 0) {
        unpin_if_unseen(loan);
        let_mapping_go(loan->ring);
    }
    ALONE_END();
}

static PyObject *Loan_attempt(LoanObject *loan, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(loan->loan.attempt);
}

static PyObject *Loan_method(LoanObject *loan, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(loan->loan.method);
}

static PyObject *Loan_is_held(LoanObject *loan, void *Py_UNUSED(closure))
{
    bool is_held;
    ALONE_BEGIN(loan->ring);
    is_held = loan_is_held(loan);
    ALONE_END();
    return PyBool_FromLong(is_held);
}

static PyObject *Loan_contents(LoanObject *loan, PyObject *Py_UNUSED(ignored))
{
    return PyMemoryView_FromObject((PyObject *)loan);
}

ALONE_PLAIN(Loan_payload, LoanObject, self->ring)
ALONE_PLAIN(Loan_finish, LoanObject, self->ring)
ALONE_PLAIN(Loan_give_back, LoanObject, self->ring)

static PyMethodDef Loan_methods[] = { /* documented in shmqueue.engine.Loan */
    {"payload", (PyCFunction)ALONE(Loan_payload), METH_NOARGS, NULL},
    {"contents", (PyCFunction)Loan_contents, METH_NOARGS, NULL},
    {"finish", (PyCFunction)ALONE(Loan_finish), METH_NOARGS, NULL},
    {"give_back", (PyCFunction)ALONE(Loan_give_back), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Loan_attributes[] = {
    {"attempt", (getter)Loan_attempt, NULL, NULL, NULL},
    {"method", (getter)Loan_method, NULL, NULL, NULL},
    {"is_held", (getter)Loan_is_held, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot Loan_slots[] = {
    {Py_tp_doc, "One item in the hands of this process: see shmqueue.engine.Loan."},
    {Py_tp_dealloc, Loan_dealloc},
    {Py_tp_methods, Loan_methods},
    {Py_tp_getset, Loan_attributes},
    {Py_bf_getbuffer, Loan_getbuffer},
    {Py_bf_releasebuffer, Loan_releasebuffer},
    {0, NULL},
};

PyType_Spec Loan_spec = {
    .name = "shmqueue.engine.native._core.Loan",
    .basicsize = sizeof(LoanObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Loan_slots,
};

/* ---- taking one ---- */

/* What is done with the oldest record, under no GIL perhaps: gets the lock, and releases it. */
typedef enum ring_status act(RingObject *self, void *with, struct patience patience);

/* Waits for an item.  1: it is done, 0: there was none in time, -1: an exception is set. */
static int with_oldest(RingObject *self, act *act, void *with, bool block, PyObject *timeout)
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
    uint32_t epoch;
};

/* With the get lock held: hands the record at hand out and releases the lock. */
static enum ring_status lend_at_hand(RingObject *self, struct lending *lending, struct take *take)
{
    LoanObject *loan = lending->loan;
    lending->epoch = take->self->epoch;
    enum ring_status status = ring_lend(&self->ring, take, &loan->loan);
    lending->is_lent = status == RING_OK;
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

/* Without a wait, and with the GIL: hands the oldest record out, and unpacks it. */
static enum ring_status try_lend_item(RingObject *self, struct lending *lending)
{
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, (struct patience){0});
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
static int lend_to(RingObject *self, struct lending *lending, act *act, bool block, PyObject *timeout)
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
    struct lease_figures figures;
    if (!is_open(self)) {
        return NULL;
    }
    ring_lease_figures(&self->ring, &figures);
    return Py_BuildValue("kkKKd", (unsigned long)figures.leased, (unsigned long)figures.returned,
                         (unsigned long long)figures.acknowledged, (unsigned long long)figures.redelivered,
                         (double)figures.oldest_ns / 1e9);
}

/* ---- without a lease: a copy of the oldest record, and taking the very one that was copied ---- */

struct copy {
    unsigned long long number;
    unsigned long method;
    uint64_t length;
    void *payload; /* from malloc(): there may be no GIL */
};

static enum ring_status copy_oldest(RingObject *self, void *with, struct patience patience)
{
    struct copy *copy = with;
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    copy->number = ring_get_number(&take);
    copy->method = take.method;
    copy->length = take.length;
    copy->payload = malloc(take.length > 0 ? (size_t)take.length : 1);
    if (copy->payload != NULL) {
        ring_get_peek(&self->ring, &take, 0, take.length, copy->payload);
    }
    ring_get_abort(&self->ring, &take);
    return RING_OK;
}

PyObject *Ring_peek(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    struct copy copy = {0};
    if (!count_is("peek", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    int got = with_oldest(self, copy_oldest, &copy, block, args[1]);
    if (got != 1) {
        return got == 0 ? Py_NewRef(Py_None) : NULL;
    }
    if (copy.payload == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *result = Py_BuildValue("Kky#", copy.number, copy.method, copy.payload, (Py_ssize_t)copy.length);
    free(copy.payload);
    return result;
}

/* RING_MISMATCH: the oldest record has another number. */
static enum ring_status take_numbered(struct ring *ring, uint64_t number, struct patience patience)
{
    struct take take;
    enum ring_status status = ring_get_begin(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    if (ring_get_number(&take) != number) {
        ring_get_abort(ring, &take);
        return RING_MISMATCH;
    }
    ring_get_pass(&take);
    ring_get_commit(ring, &take);
    return RING_OK;
}

PyObject *Ring_take(RingObject *self, PyObject *wanted)
{
    bool block = false;
    struct patience patience;
    enum ring_status status;
    int again = 1;
    unsigned long long number = PyLong_AsUnsignedLongLong(wanted);
    if ((number == (unsigned long long)-1 && PyErr_Occurred()) || !patience_from(self, &block, Py_None, &patience)) {
        return NULL;
    }
    while (again == 1) {
        WITHOUT_GIL(self, status = take_numbered(&self->ring, number, patience));
        if (status == RING_OK) {
            trim_if_due(self);
            Py_RETURN_TRUE;
        }
        if (status == RING_MISMATCH || status == RING_EMPTY || status == RING_SHUT) {
            Py_RETURN_FALSE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}
