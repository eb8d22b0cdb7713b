/* python_calls.c: arguments, errors, and what a call does between its attempts. */
#include "python_ring.h"

#include <math.h>

#define NOWAIT_NS INT64_C(1000000000) /* how long a call that may not block waits for a lock held by a peer */

PyObject *raise_closed(RingObject *self)
{
    PyErr_Format(state_of(self)->not_initialized_error, "queue %R is closed", self->name);
    return NULL;
}

PyObject *raise_broken(RingObject *self)
{
    PyErr_Format(state_of(self)->corrupted_error, "queue %R is damaged: %s; this handle will not touch it any more",
                 self->name, atomic_load(&self->ring.broken));
    return NULL;
}

static PyObject *raise_shut_down(RingObject *self)
{
    PyErr_Format(state_of(self)->shut_down_error, "queue %R was shut down for all processes", self->name);
    return NULL;
}

PyObject *raise_never_fits(RingObject *self, size_t length)
{
    PyObject *limits = PyImport_ImportModule("shmqueue.limits");
    PyObject *error = NULL;
    if (limits != NULL) {
        error = PyObject_CallMethod(limits, "never_fits", "OnKI", self->name, (Py_ssize_t)length,
                                    (unsigned long long)self->ring.capacity, (unsigned int)self->ring.limit);
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    Py_XDECREF(limits);
    return NULL;
}

PyObject *raise_lost(RingObject *self)
{
    PyErr_Format(state_of(self)->error,
                 "queue %R needs its file, and cannot open it: this program has closed descriptors that it did not open, "
                 "and the queue's name is gone",
                 self->name);
    return NULL;
}

bool count_is(const char *method, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", method, wanted, given);
        return false;
    }
    return true;
}

bool deadline_from(PyObject *timeout, int64_t *deadline)
{
    if (timeout == Py_None) {
        *deadline = WAIT_FOREVER;
        return true;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return false;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds, not NaN");
        return false;
    }
    if (seconds > 4e9) { /* a century: 64 bits of nanoseconds end not much later */
        *deadline = WAIT_FOREVER;
    } else {
        *deadline = monotonic_ns() + (seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
    }
    return true;
}

/* How a call waits, by its arguments.  One that must not block, or has no time, still waits for a lock for NOWAIT_NS:
 * that its peer is in the middle of a copy does not make a queue empty or full.  False: an exception is set. */
bool patience_from(RingObject *self, bool *block, PyObject *timeout, struct patience *patience)
{
    int64_t now = monotonic_ns();
    *patience = (struct patience){.for_lock = true, .deadline = now};
    if (*block && !deadline_from(timeout, &patience->deadline)) {
        return false;
    }
    if (patience->deadline <= monotonic_ns()) {
        *block = false;
        patience->deadline = now + NOWAIT_NS;
    }
    patience->for_room = *block;
    return is_open(self);
}

bool method_from(PyObject *number, uint32_t *method)
{
    unsigned long value = PyLong_AsUnsignedLong(number);
    if (value == (unsigned long)-1 && PyErr_Occurred()) {
        return false;
    }
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "method must fit in 32 bits");
        return false;
    }
    *method = (uint32_t)value;
    return true;
}

int after(RingObject *self, enum ring_status status)
{
    if (status == RING_BROKEN) {
        raise_broken(self);
        return -1;
    }
    if (status == RING_SHUT) {
        raise_shut_down(self);
        return -1;
    }
    if (status == RING_KEPT) {
        PyErr_Format(state_of(self)->error, "queue %R: this thread reads an item of it in place, which must end first",
                     self->name);
        return -1;
    }
    if (status == RING_UNMAPPED && atomic_load(&self->ring.map_error) == EBADF) {
        raise_lost(self);
        return -1;
    }
    if (status == RING_UNMAPPED) {
        errno = atomic_load(&self->ring.map_error);
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, self->name);
        return -1;
    }
    if (status == RING_DEADLINE) {
        return 0;
    }
    if (PyErr_CheckSignals() != 0) {
        return -1;
    }
    return is_open(self) ? 1 : -1;
}

