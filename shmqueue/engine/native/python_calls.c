/* python_calls.c: arguments, errors, and what a call does between its attempts. */
#include "python_ring.h"

#include <math.h>
#include <string.h>

PyObject *raise_closed(RingObject *self)
{
    PyErr_Format(state_of(self)->not_initialized_error, "queue %R is closed", self->name);
    return NULL;
}

PyObject *raise_corrupted(RingObject *self)
{
    PyErr_Format(state_of(self)->corrupted_error, "queue %R is corrupted: %s; this handle does not touch it any more",
                 self->name, atomic_load(&self->ring.corrupted));
    return NULL;
}

static PyObject *raise_shut_down(RingObject *self)
{
    PyErr_Format(state_of(self)->shut_down_error, "queue %R was shut down for all processes", self->name);
    return NULL;
}

/* Calls a function of the package.  Steals the arguments; NULL: there was no memory for them. */
static PyObject *call_of(const char *name, const char *function, PyObject *arguments)
{
    PyObject *module = arguments != NULL ? PyImport_ImportModule(name) : NULL;
    PyObject *called = module != NULL ? PyObject_GetAttrString(module, function) : NULL;
    PyObject *result = called != NULL ? PyObject_CallObject(called, arguments) : NULL;
    Py_XDECREF(called);
    Py_XDECREF(module);
    Py_XDECREF(arguments);
    return result;
}

/* What messages.py makes of these arguments; both engines say the same. */
static PyObject *call_messages(const char *function, PyObject *arguments)
{
    return call_of("shmqueue.messages", function, arguments);
}

static void raise_message(const char *function, PyObject *arguments)
{
    PyObject *error = call_messages(function, arguments);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

PyObject *raise_never_fits(RingObject *self, size_t length)
{
    raise_message("never_fits", Py_BuildValue("(OnKI)", self->name, (Py_ssize_t)length,
                                              (unsigned long long)self->ring.capacity, (unsigned int)self->ring.limit));
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

void raise_locked(RingObject *self, bool is_put)
{
    raise_message("lock_timed_out", Py_BuildValue("(Oi)", self->name, (int)is_put));
}

bool is_of_handler(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) { /* SystemExit, KeyboardInterrupt: never that of an item's code */
        return true;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *answer = call_of("shmqueue.interruptions", "is_of_handler", Py_BuildValue("(O)", error));
    bool is_another = answer == NULL && !PyErr_ExceptionMatches(PyExc_MemoryError) &&
                      !PyErr_ExceptionMatches(PyExc_RecursionError); /* a handler has raised in between */
    bool is_it = answer == Py_True || is_another;
    Py_XDECREF(answer);
    if (is_another) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
    } else {
        PyErr_Restore(type, error, traceback);
    }
    return is_it;
}

/* Adds the number alone to the exception that is set, a signal handler's.  It calls no handler. */
static void note_items_put(size_t put)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *number = PyLong_FromSize_t(put);
    if (number == NULL || PyObject_SetAttrString(error, "items_put", number) < 0) {
        PyErr_Clear(); /* there was no memory for it */
    }
    Py_XDECREF(number);
    PyErr_Restore(type, error, traceback);
}

void tell_items_put(size_t put, size_t count)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *done = call_messages("tell_items_put", Py_BuildValue("(Onn)", error, (Py_ssize_t)put, (Py_ssize_t)count));
    if (done == NULL && is_of_handler()) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        note_items_put(put);
        return;
    }
    Py_XDECREF(done);
    PyErr_Restore(type, error, traceback); /* which is what matters, whatever else there was no memory for */
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

/* How a call waits, by its arguments.  One that must not block, or has no time, still waits for a lock for a second:
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
        patience->deadline = now + (int64_t)(self->lock_patience * 1e9);
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

static void raise_no_space(RingObject *self)
{
    int error = atomic_load(&self->ring.map_error);
    PyObject *what = PyUnicode_FromFormat("no memory to map the queue, or to note what is leased: %s", strerror(error));
    PyObject *raised = what != NULL ? PyObject_CallFunction(state_of(self)->no_space_error, "iOO", error, what, self->name)
                                    : NULL;
    if (raised != NULL) {
        PyErr_SetObject(state_of(self)->no_space_error, raised);
    }
    Py_XDECREF(raised);
    Py_XDECREF(what);
}

int after(RingObject *self, enum ring_status status)
{
    if (status == RING_CORRUPTED) {
        raise_corrupted(self);
        return -1;
    }
    if (status == RING_SHUT) {
        raise_shut_down(self);
        return -1;
    }
    if (status == RING_UNMAPPED && atomic_load(&self->ring.map_error) == EBADF) {
        raise_lost(self);
        return -1;
    }
    if (status == RING_UNMAPPED) {
        raise_no_space(self);
        return -1;
    }
    if (status == RING_DEADLINE || status == RING_LOCKED) {
        return 0;
    }
    if (PyErr_CheckSignals() != 0) {
        return -1;
    }
    return is_open(self) ? 1 : -1;
}

int ask_while_waiting(RingObject *self, bool is_put, PyObject **end)
{
    PyObject *function = self->while_waiting;
    if (function == NULL || function == Py_None || *end != NULL) {
        return 1;
    }
    Py_INCREF(function);
    PyObject *answer = PyObject_CallOneArg(function, is_put ? Py_True : Py_False);
    Py_DECREF(function);
    if (answer == NULL) {
        return -1;
    }
    if (answer == Py_None) {
        Py_DECREF(answer);
    } else {
        *end = answer;
    }
    return is_open(self) ? 1 : -1;
}

void raise_end(PyObject *end)
{
    PyErr_SetObject((PyObject *)Py_TYPE(end), end);
}
