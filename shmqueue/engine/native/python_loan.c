/* python_loan.c: the type Loan: one item in the hands of this process.
 *
 * Any thread may finish it or give it back.  In a forked child it is a copy that means nothing: the item is its
 * parent's.
 *
 * A Loan of a bytes item is a buffer too.  While anything looks at its bytes where they lie they stay there, even after
 * the loan was finished.
 *
 * On a free-threaded build the critical section of a loan is that of its Ring.
 */
#include "python_loan.h"

#include "quick_lease.h"

#define LOAN_END_PATIENCE_NS INT64_C(1000000000) /* for the lock, where a loan ends and nothing may be raised */

void loan_let_move(LoanObject *loan)
{
    if (!loan->may_move && loan->hold == HELD && loan_is_of_this_process(loan) && loan->ring->memory != NULL) {
        loan->may_move = true;
        ring_loan_note(&loan->ring->ring, &loan->loan, BYTES_MAY_MOVE);
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

/* Ends it where nothing may be raised: at the end of the object, or of the last look at its bytes. */
static void end_quietly(LoanObject *loan, ending *way)
{
    RingObject *ring = loan->ring;
    if (!loan_is_of_this_process(loan) || ring->memory == NULL) {
        return;
    }
    struct patience patience = {.for_lock = true, .deadline = monotonic_ns() + LOAN_END_PATIENCE_NS};
    enum ring_status status;
    do {
        QUIETLY(ring, status = way(&ring->ring, &loan->loan, patience));
    } while (status == RING_INTERRUPTED && monotonic_ns() < patience.deadline);
    bool is_over = status != RING_INTERRUPTED && status != RING_LOCKED;
    if (!is_over && (!ring->closing || loan->is_seen)) { /* a peer with the lock was stopped; else close() has noted it */
        ring_loan_note(&ring->ring, &loan->loan, BYTES_DROPPED);
    }
    unmap_if_unused(ring);
}

static void give_back_quietly(LoanObject *loan)
{
    loan->hold = OVER;
    end_quietly(loan, ring_loan_return);
    if (loan_is_of_this_process(loan) && loan->ring->loans > 0) {
        loan->ring->loans--;
    }
}

/* The last buffer on its bytes may have been released while it was being ended. */
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
    RingObject *ring = loan->ring;
    bool is_pinned = loan->exports > 0 && loan->copy == NULL;
    if (!is_pinned && loan_is_held(loan) && ring_loan_finish_quick(&ring->ring, &loan->loan)) {
        loan->hold = OVER;
        ring->loans--;
        trim_if_due(ring);
        return 1;
    }
    return end_loan(loan, is_pinned ? finish_and_pin : finish);
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

/* A copy of bytes of the payload, as new_payload() makes it for the method. */
static PyObject *copy_of(LoanObject *loan, uint32_t method, uint64_t from, uint64_t length)
{
    RingObject *ring = loan->ring;
    void *fill;
    PyObject *bytes = new_payload(method, length, &fill);
    bool done = true;
    if (bytes == NULL || !is_readable(loan) || !find_again(loan)) {
        Py_XDECREF(bytes);
        return NULL;
    }
    if (length < LARGE) {
        done = ring_loan_read(&ring->ring, &loan->loan, from, length, fill);
    } else {
        WITHOUT_GIL(ring, done = ring_loan_read(&ring->ring, &loan->loan, from, length, fill));
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
    PyObject *payload = copy_of(loan, loan->loan.method, 0, loan->loan.length);
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
    bool is_there = !loan->may_move && loan->copy == NULL;
    const void *bytes = is_there ? ring_loan_place(&ring->ring, &loan->loan, loan->from) : NULL;
    if (bytes == NULL && loan->copy == NULL && (loan->copy = copy_of(loan, loan->loan.method, loan->from, loan->length)) != NULL) {
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
        if (loan->copy == NULL) {
            loan->is_seen = true;
            ring_loan_note(&ring->ring, &loan->loan, BYTES_SEEN);
        }
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

/* Nothing refers to its bytes any more.  At the end of its handle it was left alone because something did. */
static void unsee(LoanObject *loan)
{
    RingObject *ring = loan->ring;
    if (loan->hold != HELD || loan->copy != NULL || !loan_is_of_this_process(loan) || ring->memory == NULL) {
        return;
    }
    if (ring->closing) {
        give_back_quietly(loan);
    } else {
        loan->is_seen = false;
        ring_loan_note(&ring->ring, &loan->loan, BYTES_IN_PLACE);
    }
}

static void Loan_releasebuffer(LoanObject *loan, Py_buffer *Py_UNUSED(buffer))
{
    ALONE_BEGIN(loan->ring);
    if (--loan->exports == 0) {
        unsee(loan);
        unpin_if_unseen(loan);
        let_mapping_go(loan->ring);
    }
    ALONE_END();
}

static PyObject *Loan_contents(LoanObject *loan, PyObject *Py_UNUSED(ignored))
{
    return PyMemoryView_FromObject((PyObject *)loan);
}

/* ---- the type ---- */

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
