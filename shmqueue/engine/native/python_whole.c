/* python_whole.c: those methods of Ring that move no items: about the queue as a whole. */
#include "python_ring.h"

/* As is_open(); and what ended holders had counts as requeued.  `at_once`: whenever somebody looked for them last. */
static bool is_open_after_look(RingObject *self, bool at_once)
{
    if (!is_open(self)) {
        return false;
    }
    if (!ledger_read(&self->ring.segment->get.ledgers).leases || (!at_once && !ring_look_is_due(&self->ring))) {
        return true;
    }
    WITHOUT_GIL(self, ring_return_dead(&self->ring, 0));
    return is_open(self);
}

PyObject *Ring_clear(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    uint64_t dropped = 0;
    int again = is_open_after_look(self, true) ? 1 : -1;
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_clear(&self->ring, &dropped, patience));
        if (status == RING_OK) {
            return PyLong_FromUnsignedLongLong(dropped);
        }
        again = after(self, status);
    }
    return NULL;
}

PyObject *Ring_task_done(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_open(self)) {
        return NULL;
    }
    enum ring_status status = ring_task_done(&self->ring);
    return status == RING_CORRUPTED ? raise_corrupted(self) : PyBool_FromLong(status == RING_OK);
}

PyObject *Ring_join(RingObject *self, PyObject *timeout)
{
    int64_t deadline;
    int again = 1;
    if (!deadline_from(timeout, &deadline)) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_join(&self->ring, deadline));
        if (status == RING_OK) {
            Py_RETURN_TRUE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}

PyObject *Ring_qsize(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct statistics figures;
    if (!is_open_after_look(self, false)) {
        return NULL;
    }
    if (ring_statistics(&self->ring, &figures) != RING_OK) {
        return raise_corrupted(self);
    }
    return PyLong_FromUnsignedLongLong(figures.put.count - figures.get.count);
}

PyObject *Ring_counters(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct statistics figures;
    if (!is_open_after_look(self, false)) {
        return NULL;
    }
    if (ring_statistics(&self->ring, &figures) != RING_OK) {
        return raise_corrupted(self);
    }
    return Py_BuildValue("KKKKKKKKNNN", (unsigned long long)figures.put.position, (unsigned long long)figures.put.count,
                         (unsigned long long)figures.get.position, (unsigned long long)figures.get.count,
                         (unsigned long long)figures.get.dropped, (unsigned long long)figures.done,
                         (unsigned long long)figures.high_water, (unsigned long long)figures.recoveries,
                         PyBool_FromLong(figures.putters_waiting), PyBool_FromLong(figures.getters_waiting),
                         PyBool_FromLong(figures.put.shut != SHUT_NOT));
}

PyObject *Ring_wait(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int records, again = 1;
    int64_t deadline;
    if (!count_is("wait", count, 2) || (records = truth(args[0])) < 0 || !deadline_from(args[1], &deadline)) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_wait(&self->ring, records, deadline));
        if (status == RING_OK) {
            Py_RETURN_TRUE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}

PyObject *Ring_shut_down(RingObject *self, PyObject *immediate)
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    int again = 1, at_once = truth(immediate);
    if (at_once < 0) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_shut_down(&self->ring, at_once, patience));
        if (status == RING_OK) {
            Py_RETURN_NONE;
        }
        again = after(self, status);
    }
    return NULL;
}

PyObject *Ring_prefault(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    bool is_done;
    if (!is_open(self)) {
        return NULL;
    }
    WITHOUT_GIL(self, is_done = arena_prefault(&self->ring));
    return PyBool_FromLong(is_done);
}

PyObject *Ring_maxsize(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    return is_open(self) ? PyLong_FromUnsignedLongLong(ring_maxsize(&self->ring)) : NULL;
}

PyObject *Ring_set_maxsize(RingObject *self, PyObject *number)
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    int again = 1;
    unsigned long long maxsize = PyLong_AsUnsignedLongLong(number);
    if (maxsize == (unsigned long long)-1) { /* which is one too many, too */
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_OverflowError, "maxsize must be less than 2**64 - 1");
        }
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_set_maxsize(&self->ring, maxsize, patience));
        if (status == RING_OK) {
            Py_RETURN_NONE;
        }
        again = after(self, status);
    }
    return NULL;
}
