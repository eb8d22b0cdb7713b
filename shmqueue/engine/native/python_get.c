/* python_get.c: taking records, and objects where they can be read straight out of a record. */
#include "python_at_hand.h"

/* ---- attempts ---- */

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
        status = status == RING_CORRUPTED ? RING_CORRUPTED : RING_OK;
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
static PyObject *prepare_foreseen(RingObject *self, const struct foreseen *foreseen, Py_ssize_t most, void **fill)
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
    *result = prepare_foreseen(self, &foreseen, most, &fill);
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

/* ---- waiting ---- */

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

static PyObject *get_records(RingObject *self, enum form form, Py_ssize_t most, bool block, PyObject *timeout)
{
    PyObject *end = NULL;
    PyObject *result = wait_and_get(self, form, most, block, timeout, &end);
    Py_XDECREF(end);
    if (result != NULL || !PyErr_Occurred()) {
        trim_if_due(self); /* it may have been closed meanwhile, see patient_get() */
    }
    return result;
}

/* ---- items ---- */

static bool is_of_msgpack(PyObject *record, enum plain_method *method)
{
    *method = (enum plain_method)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(record, 0));
    return *method == PLAIN_MSGPACK || *method == PLAIN_TUPLES;
}

PyObject *plainly_unpacked(RingObject *self, PyObject *record)
{
    enum plain_method method;
    if (!is_of_msgpack(record, &method)) {
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
    if (item == NULL && is_of_msgpack(one, &method) && method == PLAIN_MSGPACK) {
        item = PyObject_CallOneArg(unpack, PyTuple_GET_ITEM(one, 1));
    } else if (item == NULL) {
        return one;
    }
    if (item == NULL && !is_of_handler()) {
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
    *result = is_small(take.length, take.method) ? small_at_hand(self, &take) : NULL;
    if (*result == NULL) {
        return take_at_hand(self, &take, AS_ITEM, 0, result);
    }
    ring_get_pass(&take);
    ring_get_commit(&self->ring, &take);
    return RING_OK;
}

/* The same by the quick way, if a small one is at hand. */
static inline __attribute__((always_inline)) enum ring_status try_get_quick(RingObject *self, PyObject **result)
{
    struct quick_take take;
    enum ring_status status = ring_get_quick(&self->ring, &take);
    if (status != RING_OK) {
        return status == RING_MISMATCH ? try_get_item(self, result) : status;
    }
    if (is_small(take.head.length, take.head.method)) {
        unsigned char plain[PLAIN_SMALL];
        memcpy(plain, take.payload, take.head.length);
        *result = small_unpacked(self, plain, take.head.length, take.head.method);
    }
    if (*result == NULL) {
        struct take whole;
        ring_get_of_quick(&take, &whole);
        return take_at_hand(self, &whole, AS_ITEM, 0, result);
    }
    ring_get_quick_commit(&self->ring, &take);
    return RING_OK;
}

bool get_item_at_once(RingObject *self, PyObject **result)
{
    bool done = false;
    *result = NULL;
    ALONE_BEGIN(self);
    if (may_be_tried(self)) {
        ATTEMPT_BEGIN(self);
        done = try_get_quick(self, result) == RING_OK;
        ATTEMPT_END(self);
    }
    if (done && *result != NULL) {
        trim_if_due(self);
    }
    ALONE_END();
    return done;
}

/* ---- the methods ---- */

PyObject *Ring_get(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    if (!count_is("get", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    PyObject *record = get_records(self, AS_RECORD, 0, block, args[1]);
    return record != NULL || PyErr_Occurred() ? record : Py_NewRef(Py_None);
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
    *most = PyNumber_AsSsize_t(number, NULL); /* more than a size can be: as many as there are */
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
