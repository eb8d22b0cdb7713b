/* python_put.c: records that were serialized already. */
#include "python_ring.h"

#define PARTS_MAX 40

/* The parts of one payload: a bytes object, any other contiguous buffer, or a tuple of those. */
struct payload {
    struct part parts[PARTS_MAX];
    Py_buffer buffers[PARTS_MAX];
    size_t part_count, buffer_count;
    size_t length;
};

static bool payload_add(struct payload *payload, PyObject *object)
{
    struct part *part = &payload->parts[payload->part_count];
    if (PyBytes_CheckExact(object)) {
        *part = (struct part){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
    } else {
        Py_buffer *buffer = &payload->buffers[payload->buffer_count];
        if (PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) != 0) {
            return false;
        }
        payload->buffer_count++;
        *part = (struct part){buffer->len ? buffer->buf : "", (size_t)buffer->len}; /* an empty one may have none */
    }
    payload->part_count++;
    payload->length += part->length;
    return true;
}

static void payload_release(struct payload *payload)
{
    while (payload->buffer_count > 0) {
        PyBuffer_Release(&payload->buffers[--payload->buffer_count]);
    }
}

static bool payload_from(struct payload *payload, PyObject *object)
{
    payload->part_count = payload->buffer_count = payload->length = 0;
    if (!PyTuple_CheckExact(object)) {
        return payload_add(payload, object);
    }
    if (PyTuple_GET_SIZE(object) > PARTS_MAX) {
        PyErr_Format(PyExc_ValueError, "a payload may have %d parts, not %zd", PARTS_MAX, PyTuple_GET_SIZE(object));
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); i++) {
        if (!payload_add(payload, PyTuple_GET_ITEM(object, i))) {
            payload_release(payload);
            return false;
        }
    }
    return true;
}

/* Says that the queue cannot grow, or can again, when that has changed.  False: an exception is set, perhaps that of a
 * signal handler; so only a call that has put nothing may do this. */
static bool report_growth(RingObject *self)
{
    int error = atomic_load(&self->ring.grow_error);
    if (error == self->reported && !self->is_unreported) {
        return true;
    }
    self->reported = error;
    self->is_unreported = false;
    PyObject *done = PyObject_CallFunction(self->report, "i", error);
    Py_XDECREF(done);
    return done != NULL;
}

/* As put_records().  *end: NULL at first; see ask_while_waiting(). */
static int wait_and_put(RingObject *self, const struct record_in *records, size_t count, struct patience patience,
                        PyObject **end)
{
    enum ring_status status;
    for (;;) {
        WITHOUT_GIL(self, status = ring_put(&self->ring, records, count, patience));
        if (status == RING_OK) {
            self->is_unreported = self->is_unreported || atomic_load(&self->ring.grow_error) != self->reported;
            return 1;
        }
        if (!report_growth(self)) {
            return -1;
        }
        if (atomic_load(&self->ring.grow_error) == EBADF) {
            raise_lost(self);
            return -1;
        }
        if (status == RING_FULL && *end != NULL) {
            raise_end(*end);
            return -1;
        }
        if (status == RING_FULL) {
            return 0;
        }
        if (status == RING_TOO_MANY) {
            return TOO_MANY;
        }
        if (status == RING_LOCKED) {
            raise_locked(self, true);
            return -1;
        }
        int again = after(self, status);
        if (again == 1) {
            again = ask_while_waiting(self, true, end);
        }
        if (again != 1) {
            return again;
        }
        patience.for_room = patience.for_room && *end == NULL;
    }
}

int put_records(RingObject *self, const struct record_in *records, size_t count, size_t bytes, bool block,
                PyObject *timeout)
{
    enum ring_status status;
    if (!is_still_open(self)) {
        return -1;
    }
    end_left(self); /* their bytes may be the room that is missing */
    if (block && atomic_load_explicit(&self->ring.met_full, memory_order_relaxed)) {
        WITHOUT_GIL(self, side_let_room_gather(&self->ring, bytes));
        if (!is_open(self)) {
            return -1;
        }
    }
    if (bytes < LARGE) {
        status = ring_put(&self->ring, records, count, (struct patience){0});
        if (status == RING_OK) {
            return 1;
        }
        if (status == RING_FULL && !block) {
            return report_growth(self) ? 0 : -1;
        }
        if (status == RING_TOO_MANY) {
            return TOO_MANY;
        }
    }
    struct patience patience;
    if (!patience_from(self, &block, timeout, &patience)) {
        return -1;
    }
    PyObject *end = NULL;
    int done = wait_and_put(self, records, count, patience, &end);
    Py_XDECREF(end);
    return done;
}

PyObject *Ring_put(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct payload payload;
    struct record_in record = {0};
    int block;
    if (!count_is("put", count, 4) || !method_from(args[0], &record.method) || (block = truth(args[2])) < 0 ||
        !payload_from(&payload, args[1])) {
        return NULL;
    }
    int done = -1;
    if (!is_open(self)) {
        /* an exception is set */
    } else if (!can_ever_fit(self, payload.length)) {
        raise_never_fits(self, payload.length);
    } else {
        record.length = payload.length;
        record.parts = payload.parts;
        record.part_count = payload.part_count;
        done = put_records(self, &record, 1, payload.length, block, args[3]);
    }
    payload_release(&payload);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* ---- several at once ---- */

struct batch {
    struct record_in *records;
    struct part *parts;
    Py_buffer *buffers;
    size_t count; /* of records whose buffer is held */
};

static void batch_release(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        PyBuffer_Release(&batch->buffers[i]);
    }
    PyMem_Free(batch->records);
    PyMem_Free(batch->parts);
    PyMem_Free(batch->buffers);
}

static bool batch_add(RingObject *self, struct batch *batch, PyObject *item)
{
    struct record_in *record = &batch->records[batch->count];
    struct part *part = &batch->parts[batch->count];
    Py_buffer *buffer = &batch->buffers[batch->count];
    if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 2) {
        PyErr_SetString(PyExc_TypeError, "put_many() takes tuples of (method, payload)");
        return false;
    }
    if (!method_from(PyTuple_GET_ITEM(item, 0), &record->method) ||
        PyObject_GetBuffer(PyTuple_GET_ITEM(item, 1), buffer, PyBUF_SIMPLE) != 0) {
        return false;
    }
    batch->count++;
    if (!can_ever_fit(self, (size_t)buffer->len)) {
        raise_never_fits(self, (size_t)buffer->len);
        return false;
    }
    *part = (struct part){buffer->len ? buffer->buf : "", (size_t)buffer->len};
    record->length = (uint64_t)buffer->len;
    record->parts = part;
    record->part_count = 1;
    return true;
}

static bool batch_from(RingObject *self, struct batch *batch, PyObject *sequence)
{
    size_t count = (size_t)PyTuple_GET_SIZE(sequence);
    batch->count = 0;
    batch->records = PyMem_Calloc(count, sizeof *batch->records);
    batch->parts = PyMem_Calloc(count, sizeof *batch->parts);
    batch->buffers = PyMem_Calloc(count, sizeof *batch->buffers);
    if (batch->records == NULL || batch->parts == NULL || batch->buffers == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!batch_add(self, batch, PyTuple_GET_ITEM(sequence, (Py_ssize_t)i))) {
            return false;
        }
    }
    return true;
}

PyObject *Ring_put_many(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct batch batch = {0};
    int block;
    if (!count_is("put_many", count, 3) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    PyObject *sequence = PySequence_Tuple(args[0]); /* which no other thread can change */
    if (sequence == NULL) {
        return NULL;
    }
    int done = batch_from(self, &batch, sequence) ? TOO_MANY : -1;
    PyObject *all = NULL; /* what is returned if they are put; made before the commit, which nothing takes back */
    while (done == TOO_MANY) {
        if (!is_open(self)) {
            done = -1;
            break;
        }
        size_t bytes = 0;
        size_t fitting = ring_fitting(&self->ring, batch.records, batch.count);
        for (size_t i = 0; i < fitting; i++) {
            bytes += (size_t)batch.records[i].length;
        }
        Py_XSETREF(all, PyLong_FromSize_t(fitting));
        done = -1;
        if (all != NULL) {
            done = fitting == 0 ? 0 : put_records(self, batch.records, fitting, bytes, block, args[2]);
        }
    }
    batch_release(&batch);
    Py_DECREF(sequence);
    if (done == 1) {
        return all;
    }
    Py_XDECREF(all);
    return done < 0 ? NULL : PyLong_FromLong(0);
}
