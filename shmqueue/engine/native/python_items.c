/* python_items.c: putting objects, as msgpack has them.  What it does not keep is left to the caller's serializer. */
#include "python_plain.h"

#define KEPT_PAYLOAD (1 << 18) /* bytes; a packer keeps the memory of the largest item it has packed */

/* What stands for an item in a record; `body` borrows from the item, or from `owned` or `buffer`. */
struct packed {
    struct scalar_head head;
    struct part parts[2];
    size_t part_count;
    struct plain *plain; /* where there is room for one; not of the caller's to give back */
    PyObject *owned;  /* or NULL */
    Py_buffer buffer; /* .obj NULL: none */
};

static void packed_release(struct packed *packed)
{
    Py_XDECREF(packed->owned);
    if (packed->buffer.obj != NULL) {
        PyBuffer_Release(&packed->buffer);
    }
}

static size_t packed_length(const struct packed *packed)
{
    return packed->parts[0].length + (packed->part_count == 2 ? packed->parts[1].length : 0);
}

static int pack_head(struct packed *packed, struct scalar_head head)
{
    packed->head = head;
    packed->parts[0] = (struct part){packed->head.bytes, head.length};
    packed->part_count = 1;
    return 1;
}

static int pack_body(struct packed *packed, struct scalar_head head, const void *body, size_t length)
{
    pack_head(packed, head);
    packed->parts[1] = (struct part){length ? body : "", length};
    packed->part_count = 2;
    return 1;
}

static int pack_int(struct packed *packed, PyObject *item)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (overflow == 0) {
        return pack_head(packed, scalar_of_int(number));
    }
    if (overflow > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(item);
        if (large != (unsigned long long)-1 || !PyErr_Occurred()) {
            return pack_head(packed, scalar_of_unsigned(large));
        }
        PyErr_Clear();
    }
    return 0;
}

static int pack_str(struct packed *packed, PyObject *item)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: others will say which */
        PyErr_Clear();
        return 0;
    }
    return length <= (Py_ssize_t)UINT32_MAX ? pack_body(packed, scalar_of_str((uint32_t)length), text, (size_t)length)
                                            : 0;
}

static int pack_buffer(struct packed *packed, PyObject *item)
{
    if (PyObject_GetBuffer(item, &packed->buffer, PyBUF_SIMPLE) != 0) {
        PyErr_Clear(); /* not contiguous: others will say so */
        return 0;
    }
    size_t length = (size_t)packed->buffer.len;
    return length <= UINT32_MAX ? pack_body(packed, scalar_of_bin((uint32_t)length), packed->buffer.buf, length) : 0;
}

/* By a packer that is used by one call at a time: a finalizer in the middle of it may put. */
static int pack_by_packer(RingObject *self, struct packed *packed, PyObject *item, PyObject *new_packer)
{
    PyObject *pack = self->packer;
    self->packer = NULL;
    if (pack == NULL && (pack = PyObject_CallNoArgs(new_packer)) == NULL) {
        return -1;
    }
    packed->owned = PyObject_CallOneArg(pack, item);
    if (packed->owned == NULL || !PyBytes_CheckExact(packed->owned)) {
        Py_DECREF(pack); /* with what it has written of the item that it refused */
        if (packed->owned == NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    size_t length = (size_t)PyBytes_GET_SIZE(packed->owned);
    packed->parts[0] = (struct part){PyBytes_AS_STRING(packed->owned), length};
    packed->part_count = 1;
    if (self->packer == NULL && length <= KEPT_PAYLOAD) {
        self->packer = pack;
    } else {
        Py_DECREF(pack);
    }
    return 1;
}

/* 1: packed, to be released by the caller.  0: it is not for us.  -1: an exception is set. */
static int pack_item(RingObject *self, struct packed *packed, PyObject *item, PyObject *new_packer)
{
    packed->owned = packed->buffer.obj = NULL;
    if (PyLong_CheckExact(item)) {
        return pack_int(packed, item);
    }
    if (PyUnicode_CheckExact(item)) {
        return pack_str(packed, item);
    }
    if (PyFloat_CheckExact(item)) {
        return pack_head(packed, scalar_of_float(PyFloat_AS_DOUBLE(item)));
    }
    if (PyBytes_CheckExact(item)) {
        size_t length = (size_t)PyBytes_GET_SIZE(item);
        struct scalar_head head = scalar_of_bin((uint32_t)length);
        return length <= UINT32_MAX ? pack_body(packed, head, PyBytes_AS_STRING(item), length) : 0;
    }
    if (item == Py_None || item == Py_True || item == Py_False) {
        return pack_head(packed, scalar_typed(item == Py_None ? 0xc0 : item == Py_True ? 0xc3 : 0xc2, 0, 0));
    }
    if (new_packer == Py_None) {
        return 0;
    }
    if (PyByteArray_CheckExact(item) || PyMemoryView_Check(item)) {
        return pack_buffer(packed, item);
    }
    if (packed->plain != NULL && plain_pack(packed->plain, item)) {
        packed->parts[0] = (struct part){packed->plain->bytes, packed->plain->length};
        packed->part_count = 1;
        return 1;
    }
    return pack_by_packer(self, packed, item, new_packer);
}

PyObject *Ring_put_item(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct plain plain;
    struct packed packed = {.plain = &plain};
    int block, done;
    if (!count_is("put_item", count, 4) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    done = pack_item(self, &packed, args[0], args[3]);
    if (done == 1) {
        size_t length = packed_length(&packed);
        if (!is_open(self)) {
            done = -1;
        } else if (!can_ever_fit(self, length)) {
            raise_never_fits(self, length);
            done = -1;
        } else {
            struct record_in record = {
                .method = 0, .length = (uint32_t)length, .parts = packed.parts, .part_count = packed.part_count};
            done = put_records(self, &record, 1, length, block, args[2]);
        }
    } else if (done == 0) {
        packed_release(&packed);
        Py_RETURN_NONE;
    }
    packed_release(&packed);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* ---- several items at once ---- */

struct items {
    struct plain scratch;
    struct record_in *records;
    struct packed *packed;
    size_t count; /* of those that are packed */
};

static void items_release(struct items *items)
{
    for (size_t i = 0; i < items->count; i++) {
        packed_release(&items->packed[i]);
    }
    PyMem_Free(items->records);
    PyMem_Free(items->packed);
}

/* The record that the serializer makes of an item, (method, payload), as one part. */
static bool pack_by_serializer(struct packed *packed, PyObject *item, PyObject *dump, uint32_t *method)
{
    PyObject *record = PyObject_CallOneArg(dump, item);
    if (record == NULL) {
        return false;
    }
    bool done = false;
    if (!PyTuple_CheckExact(record) || PyTuple_GET_SIZE(record) != 2) {
        PyErr_SetString(PyExc_TypeError, "an item is dumped as a tuple of (method, payload)");
    } else if (method_from(PyTuple_GET_ITEM(record, 0), method)) {
        PyObject *payload = PyTuple_GET_ITEM(record, 1);
        if (PyTuple_CheckExact(payload)) {
            PyObject *separator = PyBytes_FromStringAndSize(NULL, 0);
            packed->owned = separator != NULL ? PyObject_CallMethod(separator, "join", "(O)", payload) : NULL;
            Py_XDECREF(separator);
            payload = packed->owned;
        }
        done = payload != NULL && PyObject_GetBuffer(payload, &packed->buffer, PyBUF_SIMPLE) == 0;
    }
    Py_DECREF(record);
    if (done) {
        size_t length = (size_t)packed->buffer.len;
        packed->parts[0] = (struct part){length ? packed->buffer.buf : "", length};
        packed->part_count = 1;
    }
    return done;
}

/* What was packed into the scratch, if it was, into memory of its own.  False: an exception is set. */
static bool keep_plain(struct packed *packed)
{
    if (packed->parts[0].bytes == packed->plain->bytes) {
        packed->owned = PyBytes_FromStringAndSize((const char *)packed->plain->bytes, packed->plain->length);
        packed->parts[0].bytes = packed->owned != NULL ? PyBytes_AS_STRING(packed->owned) : NULL;
    }
    return packed->parts[0].bytes != NULL;
}

static bool items_add(RingObject *self, struct items *items, PyObject *item, PyObject *new_packer, PyObject *dump)
{
    struct packed *packed = &items->packed[items->count];
    uint32_t method = 0;
    packed->plain = &items->scratch;
    int done = pack_item(self, packed, item, new_packer);
    items->count++;
    if (done < 0 || (done == 1 && !keep_plain(packed))) {
        return false;
    }
    if (done == 0) {
        packed_release(packed);
        packed->owned = packed->buffer.obj = NULL;
        if (!pack_by_serializer(packed, item, dump, &method)) {
            return false;
        }
    }
    size_t length = packed_length(packed);
    if (!can_ever_fit(self, length)) {
        raise_never_fits(self, length);
        return false;
    }
    items->records[items->count - 1] = (struct record_in){
        .method = method, .length = (uint32_t)length, .parts = packed->parts, .part_count = packed->part_count};
    return true;
}

static bool items_from(RingObject *self, struct items *items, PyObject *sequence, PyObject *new_packer, PyObject *dump)
{
    size_t count = (size_t)PyTuple_GET_SIZE(sequence);
    items->records = PyMem_Calloc(count, sizeof *items->records);
    items->packed = PyMem_Calloc(count, sizeof *items->packed);
    if (items->records == NULL || items->packed == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!items_add(self, items, PyTuple_GET_ITEM(sequence, (Py_ssize_t)i), new_packer, dump)) {
            return false;
        }
    }
    return true;
}

/* What is left of the time until a deadline, as a timeout. */
static PyObject *timeout_until(int64_t deadline)
{
    if (deadline == WAIT_FOREVER) {
        return Py_NewRef(Py_None);
    }
    int64_t left = deadline - monotonic_ns();
    return PyFloat_FromDouble(left > 0 ? (double)left / 1e9 : 0.0);
}

/* In pieces as large as the ring allows.  How many were put, -1 with an exception set. */
static Py_ssize_t put_in_pieces(RingObject *self, const struct items *items, int block, PyObject *timeout)
{
    size_t put = 0;
    int done = 1;
    int64_t deadline;
    if (!deadline_from(timeout, &deadline)) {
        return -1;
    }
    while (done == 1 && put < items->count) {
        if (!is_open(self)) {
            return -1;
        }
        size_t fitting = ring_fitting(&self->ring, items->records + put, items->count - put), bytes = 0;
        for (size_t i = put; i < put + fitting; i++) {
            bytes += items->records[i].length;
        }
        PyObject *left = timeout_until(deadline);
        if (left == NULL) {
            return -1;
        }
        done = put_records(self, items->records + put, fitting, bytes, block, left);
        Py_DECREF(left);
        put += done == 1 ? fitting : 0;
    }
    return done < 0 ? -1 : (Py_ssize_t)put;
}

PyObject *Ring_put_items(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct items items;
    int block;
    items.records = NULL;
    items.packed = NULL;
    items.count = 0;
    if (!count_is("put_items", count, 5) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    PyObject *sequence = PySequence_Tuple(args[0]); /* which nobody else can change */
    if (sequence == NULL) {
        return NULL;
    }
    Py_ssize_t put = -1;
    PyObject *all = PyLong_FromSsize_t(PyTuple_GET_SIZE(sequence)); /* before the commit, which nothing takes back */
    if (all != NULL && items_from(self, &items, sequence, args[3], args[4])) {
        put = put_in_pieces(self, &items, block, args[2]);
    }
    bool is_all = put == PyTuple_GET_SIZE(sequence);
    items_release(&items);
    Py_DECREF(sequence);
    if (is_all) {
        return all;
    }
    Py_XDECREF(all);
    return put < 0 ? NULL : PyLong_FromSsize_t(put);
}
