/* python_get.c: taking records, and objects where they can be read straight out of a record. */
#include "python_plain.h"

#define COPIED_TOGETHER 4096
#define BATCH_BYTES (1 << 20) /* get_many() stops adding records after so many */
#define BUFFERS_METHOD 3      /* serialization.py: pickle whose buffers are used where they arrive */

/* What a get hands out: a Record, or the item itself where it can be read straight out of the record. */
enum form { AS_RECORD, AS_ITEM };

/* A Record (method, payload) with the payload's bytes still to be filled in at *fill. */
static PyObject *new_record(RingObject *self, uint32_t method, uint64_t length, void **fill)
{
    PyTypeObject *type = state_of(self)->record_type;
    PyObject *record = type->tp_alloc(type, 2);
    if (record == NULL) {
        return NULL;
    }
    bool writable = method == BUFFERS_METHOD;
    PyObject *number = PyLong_FromUnsignedLong(method);
    PyObject *payload = writable ? PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)length)
                                 : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (number == NULL || payload == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(payload);
        Py_DECREF(record);
        return NULL;
    }
    PyTuple_SET_ITEM(record, 0, number);
    PyTuple_SET_ITEM(record, 1, payload);
    *fill = writable ? PyByteArray_AS_STRING(payload) : PyBytes_AS_STRING(payload);
    return record;
}

/* With the get lock held: the scalar that the record at hand is. */
struct scalar scalar_at_hand(RingObject *self, const struct take *take)
{
    unsigned char head[SCALAR_HEAD_MAX];
    if (take->method != 0 || take->length > UINT32_MAX) {
        return (struct scalar){.kind = SCALAR_NONE};
    }
    ring_get_peek(&self->ring, take, 0, take->length < sizeof head ? take->length : sizeof head, head);
    struct scalar scalar = scalar_read(head, (uint32_t)take->length);
    if (scalar.size != take->length) {
        scalar.kind = SCALAR_NONE;
    }
    return scalar;
}

PyObject *bytes_at_hand(RingObject *self, const struct take *take, const struct scalar *scalar)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)scalar->body.length);
    if (bytes != NULL) {
        ring_get_peek(&self->ring, take, scalar->body.from, scalar->body.length, PyBytes_AS_STRING(bytes));
    }
    return bytes;
}

/* Whether the record at hand may be unpacked where it lies on the stack, as small ones are. */
static inline bool is_small(const struct take *take)
{
    return take->length <= PLAIN_SMALL && (take->method == PLAIN_MSGPACK || take->method == PLAIN_TUPLES);
}

/* With the get lock held: the item that a small record at hand is, or NULL.  No exception is set. */
static inline PyObject *small_at_hand(RingObject *self, const struct take *take)
{
    unsigned char plain[PLAIN_SMALL];
    PyObject *item;
    ring_get_peek(&self->ring, take, 0, take->length, plain);
    if (take->method == PLAIN_MSGPACK && plain_unpack_scalar(plain, (uint32_t)take->length, &item)) {
        if (item == NULL) {
            PyErr_Clear(); /* no memory: others will say so */
        }
        return item;
    }
    int collector = collector_off(); /* only containers make it run */
    item = plain_unpack(plain, (uint32_t)take->length, take->method, self->keys);
    collector_back(collector);
    return item;
}

PyObject *item_at_hand(RingObject *self, const struct take *take)
{
    if (take->method != PLAIN_MSGPACK && take->method != PLAIN_TUPLES) {
        return NULL;
    }
    if (take->length <= PLAIN_SMALL) {
        return small_at_hand(self, take);
    }
    struct scalar scalar = scalar_at_hand(self, take);
    PyObject *item = scalar.kind == SCALAR_BIN ? bytes_at_hand(self, take, &scalar) : NULL;
    if (item == NULL) {
        PyErr_Clear();
    }
    return item;
}

/* With the get lock held: what a get hands out for the record at hand, which it passes. NULL: an exception is set. */
static PyObject *read_one(RingObject *self, struct take *take, enum form form)
{
    PyObject *item = form == AS_ITEM ? item_at_hand(self, take) : NULL;
    if (item != NULL) {
        ring_get_pass(take);
        return item;
    }
    void *fill;
    PyObject *record = new_record(self, take->method, take->length, &fill);
    if (record != NULL) {
        ring_get_read(&self->ring, take, fill);
    }
    return record;
}

/* Steals the reference. False: an exception is set. */
static bool append(PyObject *list, PyObject *one)
{
    bool done = one != NULL && PyList_Append(list, one) == 0;
    Py_XDECREF(one);
    return done;
}

/* With the get lock held: adds small items to the list, from the record at hand on, which are copied together. How many
 * bytes of payload, perhaps none.  False: an exception is set. */
static bool read_small(RingObject *self, struct take *take, PyObject *list, Py_ssize_t most, size_t *bytes)
{
    unsigned char copy[COPIED_TOGETHER];
    uint32_t length = ring_get_copy(&self->ring, take, copy, sizeof copy), at = 0;
    *bytes = 0;
    while (PyList_GET_SIZE(list) < most && ring_get_in_copy(&self->ring, take, copy + at, length - at)) {
        const unsigned char *payload = copy + at + RECORD_HEADER_SIZE;
        uint32_t size = (uint32_t)take->length;
        PyObject *item = is_small(take) ? plain_unpack(payload, size, take->method, self->keys) : NULL;
        if (item == NULL) {
            break;
        }
        if (!append(list, item)) {
            return false;
        }
        ring_get_pass(take);
        *bytes += (size_t)take->length;
        at += RECORD_HEADER_SIZE + (uint32_t)take->length;
    }
    return true;
}

/* With the get lock held: adds what is there to the list until there are `most`, or no more. */
static enum ring_status read_many(RingObject *self, struct take *take, enum form form, PyObject *list, Py_ssize_t most)
{
    size_t bytes = 0, small;
    enum ring_status status = RING_OK;
    do {
        if (form == AS_ITEM && take->length <= PLAIN_SMALL) {
            if (!read_small(self, take, list, most, &small)) {
                return RING_INTERRUPTED; /* an exception is set */
            }
            bytes += small;
            status = PyList_GET_SIZE(list) < most ? ring_get_next(&self->ring, take) : RING_EMPTY;
        }
        if (status == RING_OK && bytes + take->length < BATCH_BYTES) {
            bytes += (size_t)take->length;
            if (!append(list, read_one(self, take, form))) {
                return RING_INTERRUPTED;
            }
            status = PyList_GET_SIZE(list) < most ? ring_get_next(&self->ring, take) : RING_EMPTY;
        }
    } while (status == RING_OK && bytes + take->length < BATCH_BYTES);
    /* That is all there is, or all that can be had now: the next call says why. */
    return status == RING_EMPTY || status == RING_SHUT || status == RING_UNMAPPED ? RING_OK : status;
}

/* With the get lock held: what to prepare for, where it is too much to be copied with the GIL held. */
static void foresee(RingObject *self, const struct take *take, enum form form)
{
    struct scalar scalar = {.kind = SCALAR_NONE};
    if (form == AS_ITEM && take->length >= LARGE) {
        scalar = scalar_at_hand(self, take);
    }
    atomic_store_explicit(&self->last.length, take->length, memory_order_relaxed);
    atomic_store_explicit(&self->last.method, take->method, memory_order_relaxed);
    uint32_t skipped = scalar.kind == SCALAR_BIN ? scalar.body.from : 0;
    atomic_store_explicit(&self->last.skipped, skipped, memory_order_relaxed);
}

/* With the get lock held, and released at the end: takes the record at hand. RING_OK with *result NULL: an exception is
 * set, nothing was taken.  RING_MISMATCH: it is too large to be copied with the GIL held. */
static enum ring_status take_at_hand(RingObject *self, struct take *take, enum form form, Py_ssize_t most,
                                     PyObject **result)
{
    enum ring_status status = RING_OK;
    foresee(self, take, form);
    *result = NULL;
    if (take->length >= LARGE) {
        ring_get_abort(&self->ring, take);
        return RING_MISMATCH;
    }
    int collector = collector_off();
    if (most == 0) {
        *result = read_one(self, take, form);
    } else {
        *result = PyList_New(0);
        if (*result != NULL) {
            status = read_many(self, take, form, *result, most);
            if (status != RING_OK) {
                Py_CLEAR(*result);
            }
        }
    }
    if (*result == NULL) {
        ring_get_abort(&self->ring, take);
        status = status == RING_BROKEN ? RING_BROKEN : RING_OK;
    } else {
        ring_get_commit(&self->ring, take);
    }
    collector_back(collector);
    return status;
}

/* One attempt with the GIL held, as take_at_hand(). */
static enum ring_status try_get(RingObject *self, enum form form, Py_ssize_t most, PyObject **result)
{
    struct take take;
    *result = NULL;
    ATTEMPT_BEGIN(self);
    enum ring_status status = ring_get_begin(&self->ring, &take, (struct patience){0});
    if (status == RING_OK) {
        status = take_at_hand(self, &take, form, most, result);
    }
    ATTEMPT_END(self);
    return status;
}

/* One attempt without the GIL: takes the first record if it is as foreseen. */
static enum ring_status take_foreseen(RingObject *self, enum form form, const struct foreseen *foreseen, void *fill,
                                      struct patience patience)
{
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    bool is_as_foreseen = take.length == foreseen->length && take.method == foreseen->method;
    if (is_as_foreseen && foreseen->skipped != 0) {
        struct scalar scalar = scalar_at_hand(self, &take);
        is_as_foreseen = scalar.kind == SCALAR_BIN && scalar.body.from == foreseen->skipped;
    }
    if (!is_as_foreseen) {
        foresee(self, &take, form);
        ring_get_abort(&self->ring, &take);
        return RING_MISMATCH;
    }
    ring_get_peek(&self->ring, &take, foreseen->skipped, take.length - foreseen->skipped, fill);
    ring_get_pass(&take);
    ring_get_commit(&self->ring, &take);
    return RING_OK;
}

/* What a record as foreseen becomes, with its bytes still to be filled in at *fill. */
static PyObject *prepare(RingObject *self, const struct foreseen *foreseen, Py_ssize_t most, void **fill)
{
    PyObject *one, *list;
    if (foreseen->skipped != 0) {
        one = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(foreseen->length - foreseen->skipped));
        *fill = one != NULL ? PyBytes_AS_STRING(one) : NULL;
    } else {
        one = new_record(self, foreseen->method, foreseen->length, fill);
    }
    if (one == NULL || most == 0) {
        return one;
    }
    list = PyList_New(1);
    if (list == NULL) {
        Py_DECREF(one);
        return NULL;
    }
    PyList_SET_ITEM(list, 0, one);
    return list;
}

/* For a large record (`status` RING_MISMATCH), or when the lock was taken: prepares for a record like the one seen
 * last, then waits for the lock. */
static enum ring_status patient_get(RingObject *self, enum ring_status status, enum form form, Py_ssize_t most,
                                    struct patience patience, PyObject **result)
{
    struct foreseen foreseen = {self->last.length, self->last.method, self->last.skipped};
    if (status != RING_MISMATCH && foreseen.length >= LARGE) {
        foreseen.length = 0; /* no need to prepare so much on a mere guess */
    }
    if (form == AS_RECORD || foreseen.skipped >= foreseen.length) {
        foreseen.skipped = 0; /* another thread, of the other form, may have changed them between our reads */
    }
    void *fill;
    *result = prepare(self, &foreseen, most, &fill);
    if (*result == NULL) {
        return RING_OK;
    }
    if (!is_open(self)) { /* a collection, before 3.12, may have run any code */
        Py_CLEAR(*result);
        return RING_OK;
    }
    WITHOUT_GIL(self, status = take_foreseen(self, form, &foreseen, fill, patience));
    if (status != RING_OK) {
        Py_CLEAR(*result);
    }
    return status;
}

/* `most` 0: one record or item; NULL without an exception if there was none in time.  Else a list of up to `most`.
 * *end: NULL at first; see ask_while_waiting(). */
static PyObject *wait_and_get(RingObject *self, enum form form, Py_ssize_t most, bool block, PyObject *timeout,
                              PyObject **end)
{
    PyObject *result;
    struct patience patience;
    int again = 1;
    enum ring_status status = try_get(self, form, most, &result);
    if (status == RING_OK) {
        return result;
    }
    if (!patience_from(self, &block, timeout, &patience)) {
        return NULL;
    }
    while (again == 1 && (status != RING_EMPTY || block)) {
        if (status == RING_EMPTY && *end != NULL) {
            raise_end(*end);
            return NULL;
        }
        if (status == RING_EMPTY) {
            WITHOUT_GIL(self, status = ring_wait_items(&self->ring, patience.deadline));
        } else {
            status = patient_get(self, status, form, most, patience, &result);
            if (status == RING_OK) {
                return result;
            }
            if (status == RING_EMPTY) {
                continue;
            }
            if (status == RING_LOCKED) {
                raise_locked(self, false);
                return NULL;
            }
        }
        again = after(self, status);
        if (again == 1) {
            again = ask_while_waiting(self, false, end);
        }
        if (again == 1) {
            status = try_get(self, form, most, &result);
            if (status == RING_OK) {
                return result;
            }
        }
    }
    return again >= 0 && most != 0 ? PyList_New(0) : NULL;
}

/* After a get that has not failed. */
static void tidy_up(RingObject *self)
{
    bool open = is_usable(self); /* or not any more, see patient_get() */
    if (open && atomic_load_explicit(&self->ring.trim_due, memory_order_relaxed)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, false));
    }
}

static PyObject *get_records(RingObject *self, enum form form, Py_ssize_t most, bool block, PyObject *timeout)
{
    PyObject *end = NULL;
    PyObject *result = wait_and_get(self, form, most, block, timeout, &end);
    Py_XDECREF(end);
    if (result != NULL || !PyErr_Occurred()) {
        tidy_up(self);
    }
    return result;
}

PyObject *Ring_get(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("get", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    PyObject *record = get_records(self, AS_RECORD, 0, block, args[1]);
    return record != NULL || PyErr_Occurred() ? record : Py_NewRef(Py_None);
}

static bool is_plain(PyObject *record, enum plain_method *method)
{
    *method = (enum plain_method)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(record, 0));
    return *method == PLAIN_MSGPACK || *method == PLAIN_TUPLES;
}

PyObject *plainly_unpacked(RingObject *self, PyObject *record)
{
    enum plain_method method;
    if (!is_plain(record, &method)) {
        return NULL;
    }
    PyObject *payload = PyTuple_GET_ITEM(record, 1);
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(payload);
    size_t length = (size_t)PyBytes_GET_SIZE(payload);
    return length <= UINT32_MAX ? plain_unpack(bytes, (uint32_t)length, (uint32_t)method, keys_without_lock(self)) : NULL;
}

/* What was taken, unpacked if that can be; else the record stays. Steals the reference. */
static PyObject *unpacked(RingObject *self, PyObject *one, PyObject *unpack)
{
    if (!is_record(self, one)) {
        return one;
    }
    enum plain_method method;
    PyObject *item = plainly_unpacked(self, one);
    if (item == NULL && is_plain(one, &method) && method == PLAIN_MSGPACK) {
        item = PyObject_CallOneArg(unpack, PyTuple_GET_ITEM(one, 1));
    } else if (item == NULL) {
        return one;
    }
    if (item == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* loading it again says why */
        return one;
    }
    Py_DECREF(one);
    return item;
}

/* Without a wait: takes the record at hand as an item. */
static enum ring_status try_get_item(RingObject *self, PyObject **result)
{
    struct take take;
    enum ring_status status = ring_get_begin(&self->ring, &take, (struct patience){0});
    if (status != RING_OK) {
        return status;
    }
    *result = is_small(&take) ? small_at_hand(self, &take) : NULL;
    if (*result == NULL) {
        return take_at_hand(self, &take, AS_ITEM, 0, result);
    }
    ring_get_pass(&take);
    ring_get_commit(&self->ring, &take);
    return RING_OK;
}

bool get_item_at_once(RingObject *self, PyObject **result)
{
    bool done = false;
    *result = NULL;
    ALONE_BEGIN(self);
    if (may_be_tried(self)) {
        ATTEMPT_BEGIN(self);
        done = try_get_item(self, result) == RING_OK;
        ATTEMPT_END(self);
    }
    if (done && *result != NULL) {
        tidy_up(self);
    }
    ALONE_END();
    return done;
}

PyObject *Ring_get_item(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("get_item", count, 3) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    PyObject *one = get_records(self, AS_ITEM, 0, block, args[1]);
    if (one == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(state_of(self)->nothing);
    }
    return unpacked(self, one, args[2]);
}

/* What most and block mean to get_many() and get_items(); false: an exception is set. */
static bool many_from(RingObject *self, PyObject *number, PyObject *truth_of_block, Py_ssize_t *most, int *block)
{
    *block = truth(truth_of_block);
    if (*block < 0) {
        return false;
    }
    *most = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (*most == -1 && PyErr_Occurred()) {
        return false;
    }
    if (*most < 1) {
        PyErr_Format(PyExc_ValueError, "max_items must be at least 1, not %zd", *most);
        return false;
    }
    return is_open(self);
}

PyObject *Ring_get_items(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    Py_ssize_t most;
    if (!count_is("get_items", count, 4)) {
        return NULL;
    }
    PyObject *entries = PyTuple_New(1); /* before anything is taken, for it may fail */
    if (entries == NULL || !many_from(self, args[0], args[1], &most, &block)) {
        Py_XDECREF(entries);
        return NULL;
    }
    PyObject *list = get_records(self, AS_ITEM, most, block, args[2]);
    bool loaded = true;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        if (!is_record(self, PyList_GET_ITEM(list, i))) {
            continue;
        }
        PyObject *one = unpacked(self, Py_NewRef(PyList_GET_ITEM(list, i)), args[3]);
        if (one == NULL) {
            Py_CLEAR(list);
            break;
        }
        loaded = loaded && !is_record(self, one);
        PyList_SetItem(list, i, one);
    }
    if (list == NULL || loaded) {
        Py_DECREF(entries);
        return list;
    }
    PyTuple_SET_ITEM(entries, 0, list);
    return entries;
}

PyObject *Ring_get_many(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    Py_ssize_t most;
    if (!count_is("get_many", count, 3) || !many_from(self, args[0], args[1], &most, &block)) {
        return NULL;
    }
    return get_records(self, AS_RECORD, most, block, args[2]);
}
