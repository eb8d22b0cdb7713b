/* python_peek.c: without a lease: a copy of the oldest record, and taking the very one that was copied. */
#include "python_loan.h"

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
    copy->payload = malloc(take.length > 0 ? take.length : 1);
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
