/* module.c: the Python type Ring around a struct ring. The only file here that knows Python.
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
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <fcntl.h>
#include <math.h>
#include <sys/mman.h>

#include "ring.h"

#define LARGE 32768                        /* bytes from which on the GIL is released during the copy */
#define BATCH_BYTES (1 << 20)              /* get_many() stops adding records after so many */
#define NOWAIT_NS INT64_C(1000000000)      /* how long a call that may not block waits for a lock held by a peer */
#define PARTS_MAX 16

typedef struct {
    PyObject *value_error;
    PyObject *corrupted_error;
    PyObject *not_initialized_error;
    PyObject *shut_down_error;
} module_state;

typedef struct {
    PyObject_HEAD
    struct ring ring;
    void *memory; /* NULL once closed */
    size_t size; /* of this mapping; the ring makes others */
    int file; /* of an elastic queue, to allocate memory; else -1 */
    PyObject *name;
    PyObject *report; /* called with an errno when the queue cannot grow */
    int reported;     /* what it was called with last */
    bool closing;
    _Atomic uint32_t users; /* changed with the GIL held; atomic because close() sleeps on it */
    uint32_t epoch;         /* of `users`: a forked child has no calls in flight */
    _Atomic uint32_t last_length; /* of the record seen last: a guess at the next one */
    _Atomic uint32_t last_method;
} RingObject;

/* ---- errors and arguments ---- */

static module_state *state_of(RingObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static PyObject *raise_closed(RingObject *self)
{
    PyErr_Format(state_of(self)->not_initialized_error, "queue %R was shut down", self->name);
    return NULL;
}

static PyObject *raise_broken(RingObject *self)
{
    PyErr_Format(state_of(self)->corrupted_error, "queue %R is damaged: %s; this handle will not touch it any more",
                 self->name, atomic_load(&self->ring.broken));
    return NULL;
}

static PyObject *raise_shut_down(RingObject *self)
{
    PyErr_Format(state_of(self)->shut_down_error, "queue %R was shut down for all", self->name);
    return NULL;
}

static PyObject *raise_never_fits(RingObject *self, size_t length)
{
    PyErr_Format(state_of(self)->value_error,
                 "item of %zu bytes can never fit: queue %R holds %llu bytes (buffer_size), of which a record's header "
                 "takes 8",
                 length, self->name, (unsigned long long)self->ring.capacity);
    return NULL;
}

static bool is_open(RingObject *self)
{
    if (self->memory == NULL || self->closing) {
        raise_closed(self);
        return false;
    }
    return true;
}

static bool count_is(const char *method, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", method, wanted, given);
        return false;
    }
    return true;
}

/* Seconds or None to a deadline on the monotonic clock.  May run any code. */
static bool deadline_from(PyObject *timeout, int64_t *deadline)
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
static bool patience_from(RingObject *self, bool *block, PyObject *timeout, struct patience *patience)
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

static bool method_from(PyObject *number, uint32_t *method)
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

static int collector_off(void)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyGC_Disable();
#else
    return 0; /* it runs between bytecodes only */
#endif
}

static void collector_back(int was)
{
#if PY_VERSION_HEX < 0x030C0000
    if (was) {
        PyGC_Enable();
    }
#else
    (void)was;
#endif
}

/* block: any truth value; -1 with an exception set. */
static int truth(PyObject *object)
{
    return object == Py_True ? 1 : object == Py_False ? 0 : PyObject_IsTrue(object);
}

/* ---- calls without the GIL ---- */

static void enter(RingObject *self)
{
    uint32_t epoch = lock_epoch();
    if (self->epoch != epoch) {
        self->epoch = epoch;
        atomic_store(&self->users, 0);
    }
    atomic_fetch_add(&self->users, 1);
}

static void leave(RingObject *self)
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

/* What a status that ends or suspends an attempt means to Python: 1 try again, 0 it was not possible in time, -1 an
 * exception is set. */
static int after(RingObject *self, enum ring_status status)
{
    if (status == RING_BROKEN) {
        raise_broken(self);
        return -1;
    }
    if (status == RING_SHUT) {
        raise_shut_down(self);
        return -1;
    }
    if (status == RING_UNMAPPED) {
        errno = atomic_load(&self->ring.map_error);
        PyErr_SetFromErrno(PyExc_OSError);
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

/* ---- put ---- */

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

static bool can_ever_fit(RingObject *self, size_t length)
{
    return length <= RECORD_LENGTH_MAX && length <= self->ring.capacity - RECORD_HEADER_SIZE;
}

/* Says that the queue cannot grow, or can again, when that has changed.  False: an exception is set. */
static bool report_growth(RingObject *self)
{
    int error = atomic_load(&self->ring.grow_error);
    if (error == self->reported) {
        return true;
    }
    self->reported = error;
    PyObject *done = PyObject_CallFunction(self->report, "i", error);
    Py_XDECREF(done);
    return done != NULL;
}

/* The item is put, whatever a report has raised. */
static void forgive_report(RingObject *self)
{
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(self->report);
    } else if (PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_SetInterrupt(); /* a Ctrl-C came in it: once more, when we are back */
    }
}

/* Puts all the records or none: 1 done, 0 no room in time, -1 an exception is set. */
static int put_records(RingObject *self, const struct record_in *records, size_t count, size_t bytes, bool block,
                       PyObject *timeout)
{
    enum ring_status status;
    if (bytes < LARGE) {
        status = ring_put(&self->ring, records, count, (struct patience){0});
        if (status == RING_OK) {
            return 1;
        }
        if (status == RING_FULL && !block) {
            return 0;
        }
    }
    struct patience patience;
    if (!patience_from(self, &block, timeout, &patience)) {
        return -1;
    }
    for (;;) {
        WITHOUT_GIL(self, status = ring_put(&self->ring, records, count, patience));
        if (!report_growth(self) && status != RING_OK) {
            return -1;
        }
        if (status == RING_OK) {
            forgive_report(self);
            return 1;
        }
        if (status == RING_FULL) {
            return 0;
        }
        int again = after(self, status);
        if (again != 1) {
            return again;
        }
    }
}

static PyObject *Ring_put(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct payload payload;
    struct record_in record;
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
        record.length = (uint32_t)payload.length;
        record.parts = payload.parts;
        record.part_count = payload.part_count;
        done = put_records(self, &record, 1, payload.length, block, args[3]);
    }
    payload_release(&payload);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

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
    record->length = (uint32_t)buffer->len;
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

static PyObject *Ring_put_many(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct batch batch = {0};
    int block;
    if (!count_is("put_many", count, 3) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    PyObject *sequence = PySequence_Tuple(args[0]); /* which nobody else can change */
    if (sequence == NULL) {
        return NULL;
    }
    int done = -1;
    size_t fitting = 0;
    if (batch_from(self, &batch, sequence) && is_open(self)) {
        size_t bytes = 0;
        fitting = ring_fitting(&self->ring, batch.records, batch.count);
        for (size_t i = 0; i < fitting; i++) {
            bytes += batch.records[i].length;
        }
        done = fitting == 0 ? 0 : put_records(self, batch.records, fitting, bytes, block, args[2]);
    }
    batch_release(&batch);
    Py_DECREF(sequence);
    return done < 0 ? NULL : PyLong_FromSize_t(done ? fitting : 0);
}

/* ---- get ---- */

/* A tuple (method, payload) with the payload's bytes still to be filled in at *fill. */
static PyObject *new_record(uint32_t method, uint32_t length, void **fill)
{
    PyObject *record = PyTuple_New(2);
    if (record == NULL) {
        return NULL;
    }
    PyObject *number = PyLong_FromUnsignedLong(method);
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (number == NULL || payload == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(payload);
        Py_DECREF(record);
        return NULL;
    }
    PyTuple_SET_ITEM(record, 0, number);
    PyTuple_SET_ITEM(record, 1, payload);
    *fill = PyBytes_AS_STRING(payload);
    return record;
}

/* With the get lock held: adds records to the list until there are `most`, or no more. */
static enum ring_status read_many(RingObject *self, struct take *take, PyObject *list, Py_ssize_t most)
{
    size_t bytes = 0;
    enum ring_status status;
    do {
        void *fill;
        PyObject *record = new_record(take->method, take->length, &fill);
        if (record == NULL || PyList_Append(list, record) != 0) {
            Py_XDECREF(record);
            return RING_INTERRUPTED; /* an exception is set */
        }
        Py_DECREF(record);
        bytes += take->length;
        ring_get_read(&self->ring, take, fill);
        status = PyList_GET_SIZE(list) < most ? ring_get_next(&self->ring, take) : RING_EMPTY;
    } while (status == RING_OK && bytes + take->length < BATCH_BYTES);
    /* That is all there is, or all that can be had now: the next call says why. */
    return status == RING_EMPTY || status == RING_SHUT || status == RING_UNMAPPED ? RING_OK : status;
}

/* One attempt with the GIL held. RING_OK with *result NULL: an exception is set, nothing was taken.  RING_MISMATCH: the
 * first record is too large to be copied like this. */
static enum ring_status try_get_locked(RingObject *self, Py_ssize_t most, PyObject **result)
{
    struct take take;
    void *fill = NULL;
    *result = NULL;
    enum ring_status status = ring_get_begin(&self->ring, &take, (struct patience){0});
    if (status != RING_OK) {
        return status;
    }
    self->last_length = take.length;
    self->last_method = take.method;
    if (take.length >= LARGE) {
        ring_get_abort(&self->ring, &take);
        return RING_MISMATCH;
    }
    if (most == 0) {
        *result = new_record(take.method, take.length, &fill);
        if (*result != NULL) {
            ring_get_read(&self->ring, &take, fill);
        }
    } else {
        *result = PyList_New(0);
        if (*result != NULL) {
            status = read_many(self, &take, *result, most);
            if (status != RING_OK) {
                Py_CLEAR(*result);
            }
        }
    }
    if (*result == NULL) {
        ring_get_abort(&self->ring, &take);
        return status == RING_BROKEN ? RING_BROKEN : RING_OK;
    }
    ring_get_commit(&self->ring, &take);
    return RING_OK;
}

static enum ring_status try_get(RingObject *self, Py_ssize_t most, PyObject **result)
{
    int collector = collector_off();
    enum ring_status status = try_get_locked(self, most, result);
    collector_back(collector);
    return status;
}

/* One attempt without the GIL: takes the first record if it is as long, and of the method, as foreseen. */
static enum ring_status take_foreseen(RingObject *self, uint32_t length, uint32_t method, void *fill,
                                      struct patience patience)
{
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    if (take.length != length || take.method != method) {
        self->last_length = take.length;
        self->last_method = take.method;
        ring_get_abort(&self->ring, &take);
        return RING_MISMATCH;
    }
    ring_get_read(&self->ring, &take, fill);
    ring_get_commit(&self->ring, &take);
    return RING_OK;
}

/* For a large record (`status` RING_MISMATCH), or when the lock was taken: prepares for a record like the one seen
 * last, then waits for the lock. */
static enum ring_status patient_get(RingObject *self, enum ring_status status, Py_ssize_t most,
                                    struct patience patience, PyObject **result)
{
    uint32_t length = self->last_length, method = self->last_method;
    if (status != RING_MISMATCH && length >= LARGE) {
        length = 0; /* no need to prepare so much on a mere guess */
    }
    void *fill;
    PyObject *record = new_record(method, length, &fill);
    *result = record;
    if (record != NULL && most != 0) {
        *result = PyList_New(1);
        if (*result != NULL) {
            PyList_SET_ITEM(*result, 0, record);
        } else {
            Py_DECREF(record);
        }
    }
    if (*result == NULL) {
        return RING_OK;
    }
    WITHOUT_GIL(self, status = take_foreseen(self, length, method, fill, patience));
    if (status != RING_OK) {
        Py_CLEAR(*result);
    }
    return status;
}

/* `most` 0: one record as a tuple, or None. Else a list of up to `most`. */
static PyObject *wait_and_get(RingObject *self, Py_ssize_t most, bool block, PyObject *timeout)
{
    PyObject *result;
    struct patience patience;
    int again = 1;
    enum ring_status status = try_get(self, most, &result);
    if (status == RING_OK) {
        return result;
    }
    if (!patience_from(self, &block, timeout, &patience)) {
        return NULL;
    }
    while (again == 1 && (status != RING_EMPTY || block)) {
        if (status == RING_EMPTY) {
            WITHOUT_GIL(self, status = ring_wait_items(&self->ring, patience.deadline));
        } else {
            status = patient_get(self, status, most, patience, &result);
            if (status == RING_OK) {
                return result;
            }
            if (status == RING_EMPTY) {
                continue;
            }
        }
        again = after(self, status);
        if (again == 1) {
            status = try_get(self, most, &result);
            if (status == RING_OK) {
                return result;
            }
        }
    }
    if (again < 0) {
        return NULL;
    }
    if (most != 0) {
        return PyList_New(0);
    }
    Py_RETURN_NONE;
}

static PyObject *get_records(RingObject *self, Py_ssize_t most, bool block, PyObject *timeout)
{
    PyObject *result = wait_and_get(self, most, block, timeout);
    if (result != NULL && atomic_load_explicit(&self->ring.trim_due, memory_order_relaxed)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, false));
    }
    return result;
}

static PyObject *Ring_get(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("get", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    return get_records(self, 0, block, args[1]);
}

static PyObject *Ring_get_many(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("get_many", count, 3) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    Py_ssize_t most = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (most == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (most < 1) {
        PyErr_SetString(PyExc_ValueError, "get_many() takes at least one record");
        return NULL;
    }
    return is_open(self) ? get_records(self, most, block, args[2]) : NULL;
}

/* ---- the rest ---- */

static PyObject *Ring_clear(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    uint64_t dropped = 0;
    int again = 1;
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

static PyObject *Ring_task_done(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_open(self)) {
        return NULL;
    }
    enum ring_status status = ring_task_done(&self->ring);
    return status == RING_BROKEN ? raise_broken(self) : PyBool_FromLong(status == RING_OK);
}

static PyObject *Ring_join(RingObject *self, PyObject *timeout)
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

static PyObject *Ring_qsize(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct figures figures;
    if (!is_open(self)) {
        return NULL;
    }
    if (ring_figures(&self->ring, &figures) != RING_OK) {
        return raise_broken(self);
    }
    return PyLong_FromUnsignedLongLong(figures.put.count - figures.get.count);
}

static PyObject *Ring_counters(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct figures figures;
    if (!is_open(self)) {
        return NULL;
    }
    if (ring_figures(&self->ring, &figures) != RING_OK) {
        return raise_broken(self);
    }
    return Py_BuildValue("KKKKKKKKNNN", (unsigned long long)figures.put.position, (unsigned long long)figures.put.count,
                         (unsigned long long)figures.get.position, (unsigned long long)figures.get.count,
                         (unsigned long long)figures.get.dropped, (unsigned long long)figures.done,
                         (unsigned long long)figures.high_water, (unsigned long long)figures.recoveries,
                         PyBool_FromLong(figures.putters_waiting), PyBool_FromLong(figures.getters_waiting),
                         PyBool_FromLong(figures.put.shut != SHUT_NOT));
}

static PyObject *Ring_wait(RingObject *self, PyObject *const *args, Py_ssize_t count)
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

static PyObject *Ring_shut_down(RingObject *self, PyObject *immediate)
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

static void unmap(RingObject *self)
{
    if (self->memory != NULL) {
        ring_close(&self->ring);
        munmap(self->memory, self->size);
        self->memory = NULL;
    }
    if (self->file >= 0) {
        if (ring_owns_file(&self->ring)) {
            close(self->file);
        }
        self->file = -1;
    }
}

static PyObject *Ring_close(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->memory == NULL) {
        Py_RETURN_NONE;
    }
    if (!self->closing && !ring_is_poisoned(&self->ring)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, true));
    }
    self->closing = true;
    enter(self); /* also forgets calls of the parent after a fork */
    atomic_fetch_sub(&self->users, 1);
    ring_interrupt_all(&self->ring);
    for (uint32_t users; (users = atomic_load(&self->users)) != 0;) {
        Py_BEGIN_ALLOW_THREADS
        futex_wait(&self->users, users, WAIT_FOREVER);
        Py_END_ALLOW_THREADS
    }
    unmap(self);
    Py_RETURN_NONE;
}

static PyObject *Ring_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int file;
    Py_ssize_t size;
    PyObject *name, *report;
    if (!PyArg_ParseTuple(args, "inUO:Ring", &file, &size, &name, &report)) {
        return NULL;
    }
    RingObject *self = (RingObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->name = Py_NewRef(name);
    self->report = Py_NewRef(report);
    self->file = -1;
    struct header header = {0};
    if (pread(file, &header, sizeof header, 0) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    uint64_t mapped = ring_first_mapping(&header);
    self->size = (size_t)(mapped < (uint64_t)size ? mapped : (uint64_t)size); /* ring_open() judges it */
    void *memory = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    self->memory = memory;
    const char *wrong = ring_open(&self->ring, memory, self->size, (uint64_t)size, file);
    if (wrong == NULL && self->ring.arenas > 1) {
        self->file = self->ring.file = fcntl(file, F_DUPFD_CLOEXEC, 0);
        if (self->file < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_DECREF(self);
            return NULL;
        }
    }
    if (wrong != NULL) {
        PyErr_Format(state_of(self)->corrupted_error, "queue %R: %s", name, wrong);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void Ring_dealloc(RingObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    unmap(self);
    Py_XDECREF(self->name);
    Py_XDECREF(self->report);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))Ring_##name, METH_FASTCALL, NULL}

static PyMethodDef Ring_methods[] = { /* documented once, in shmqueue.engine.Engine */
    FAST(put),
    FAST(put_many),
    FAST(get),
    FAST(get_many),
    FAST(wait),
    {"clear", (PyCFunction)Ring_clear, METH_NOARGS, NULL},
    {"task_done", (PyCFunction)Ring_task_done, METH_NOARGS, NULL},
    {"join", (PyCFunction)Ring_join, METH_O, NULL},
    {"qsize", (PyCFunction)Ring_qsize, METH_NOARGS, NULL},
    {"counters", (PyCFunction)Ring_counters, METH_NOARGS, NULL},
    {"shut_down", (PyCFunction)Ring_shut_down, METH_O, NULL},
    {"close", (PyCFunction)Ring_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Ring_slots[] = {
    {Py_tp_doc, "Ring(fd, size, name, report): the native engine's handle on a segment; see shmqueue.engine.Engine."},
    {Py_tp_new, Ring_new},
    {Py_tp_dealloc, Ring_dealloc},
    {Py_tp_methods, Ring_methods},
    {0, NULL},
};

static PyType_Spec Ring_spec = {
    .name = "shmqueue.engine.native._core.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Ring_slots,
};

/* ---- the module ---- */

static PyObject *core_data_size(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long initial, capacity;
    if (!PyArg_ParseTuple(args, "KK:data_size", &initial, &capacity)) {
        return NULL;
    }
    uint64_t size = ring_data_size(initial, capacity);
    if (size == 0 || size > (uint64_t)PY_SSIZE_T_MAX - LAYOUT_HEADER_SIZE) {
        PyErr_Format(PyExc_ValueError, "there is no queue that grows from %llu to %llu bytes", initial, capacity);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(size);
}

static PyMethodDef module_methods[] = {
    {"data_size", core_data_size, METH_VARARGS, "data_size(initial, capacity): see shmqueue.engine.data_size."},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    PyObject *exceptions = PyImport_ImportModule("shmqueue.exceptions");
    if (exceptions == NULL) {
        return -1;
    }
    state->value_error = PyObject_GetAttrString(exceptions, "ShmQueueValueError");
    state->corrupted_error = PyObject_GetAttrString(exceptions, "ShmQueueCorruptedError");
    state->not_initialized_error = PyObject_GetAttrString(exceptions, "ShmQueueNotInitializedError");
    state->shut_down_error = PyObject_GetAttrString(exceptions, "ShmQueueShutDown");
    Py_DECREF(exceptions);
    if (state->value_error == NULL || state->corrupted_error == NULL || state->not_initialized_error == NULL ||
        state->shut_down_error == NULL) {
        return -1;
    }
    int error = lock_init();
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &Ring_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->value_error);
    Py_VISIT(state->corrupted_error);
    Py_VISIT(state->not_initialized_error);
    Py_VISIT(state->shut_down_error);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->value_error);
    Py_CLEAR(state->corrupted_error);
    Py_CLEAR(state->not_initialized_error);
    Py_CLEAR(state->shut_down_error);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmqueue.engine.native._core",
    .m_doc = "The native engine. See layout.h.",
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
