/* python_items.c: putting objects, as msgpack has them.  What it does not keep is left to the caller's serializer. */
#include "python_plain.h"

/* What stands for an item in a record. */
struct packed {
    struct part parts[2];
    size_t part_count;
    uint32_t method;
    unsigned char head[SCALAR_HEAD_MAX]; /* parts may point to it */
    PyObject *owner;                     /* of what else they point to, unless that is the item itself; or NULL */
};

static size_t packed_length(const struct packed *packed)
{
    return packed->parts[0].length + (packed->part_count == 2 ? packed->parts[1].length : 0);
}

static int pack_whole(struct packed *packed, const void *bytes, size_t length)
{
    packed->parts[0] = (struct part){length ? bytes : "", length};
    packed->part_count = 1;
    return 1;
}

static int pack_body(struct packed *packed, struct scalar_head head, const void *body, size_t length)
{
    packed->parts[0] = (struct part){packed->head, scalar_write(head, packed->head)};
    packed->parts[1] = (struct part){length ? body : "", length};
    packed->part_count = 2;
    return 1;
}

static int pack_str(struct packed *packed, PyObject *item)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(item);
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: the serializer reports it */
        PyErr_Clear();
        return 0;
    }
    return (size_t)length <= UINT32_MAX ? pack_body(packed, scalar_of_str((uint32_t)length), text, (size_t)length) : 0;
}

/* 0: msgpack cannot say how long they are. */
static int pack_bytes(struct packed *packed, const void *bytes, size_t length)
{
    return length <= UINT32_MAX ? pack_body(packed, scalar_of_bin((uint32_t)length), bytes, length) : 0;
}

/* Bytes that an object has, in one piece; an exception is set where there are none. */
static const Py_buffer *buffer_of(struct packed *packed, PyObject *item)
{
    packed->owner = PyMemoryView_FromObject(item);
    const Py_buffer *buffer = packed->owner != NULL ? PyMemoryView_GET_BUFFER(packed->owner) : NULL;
    if (buffer != NULL && !PyBuffer_IsContiguous(buffer, 'C')) {
        PyErr_SetString(PyExc_BufferError, "the bytes do not lie one after the other");
        return NULL;
    }
    return buffer;
}

/* 1: packed, perhaps into `plain`, which has PLAIN_ROOM(PLAIN_SMALL) bytes; packed->owner is the caller's to give back.
 * 0: it is left to the serializer. */
static int pack_item(struct packed *packed, PyObject *item, bool as_pickle, unsigned char *plain)
{
    packed->owner = NULL;
    uint32_t length = plain_pack(plain, PLAIN_SMALL, item, as_pickle, &packed->method);
    if (length > 0 && length != PLAIN_LARGER) {
        return pack_whole(packed, plain, length);
    }
    if (PyUnicode_CheckExact(item)) {
        return pack_str(packed, item);
    }
    if (PyBytes_CheckExact(item)) {
        return pack_bytes(packed, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
    }
    if (!as_pickle && (PyByteArray_CheckExact(item) || PyMemoryView_Check(item))) {
        const Py_buffer *buffer = buffer_of(packed, item);
        PyErr_Clear(); /* not contiguous: the serializer reports it */
        return buffer != NULL ? pack_bytes(packed, buffer->buf, (size_t)buffer->len) : 0;
    }
    if (length == PLAIN_LARGER) {
        packed->owner = plain_pack_large(item, as_pickle, &packed->method);
    }
    return packed->owner != NULL
               ? pack_whole(packed, PyBytes_AS_STRING(packed->owner), (size_t)PyBytes_GET_SIZE(packed->owner))
               : 0;
}

PyObject *Ring_put_item(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    unsigned char plain[PLAIN_ROOM(PLAIN_SMALL)];
    struct packed packed;
    int block, as_pickle;
    if (!count_is("put_item", count, 4) || (block = truth(args[1])) < 0 || (as_pickle = truth(args[3])) < 0) {
        return NULL;
    }
    bool packs = pack_item(&packed, args[0], as_pickle, plain);
    int done = 0;
    if (packs) {
        size_t length = packed_length(&packed);
        if (!is_open(self)) {
            done = -1;
        } else if (!can_ever_fit(self, length)) {
            raise_never_fits(self, length);
            done = -1;
        } else {
            struct record_in record = {.method = packed.method,
                                       .length = length,
                                       .parts = packed.parts,
                                       .part_count = packed.part_count};
            done = put_records(self, &record, 1, length, block, args[2]);
        }
    }
    Py_XDECREF(packed.owner);
    if (!packs) {
        Py_RETURN_NONE;
    }
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* One attempt to put what is packed, which waits for nothing. */
static bool put_record_at_once(RingObject *self, const struct record_in *record)
{
    bool is_put;
    ALONE_BEGIN(self);
    is_put = may_be_tried(self) && can_ever_fit(self, (size_t)record->length) &&
             ring_put(&self->ring, record, 1, (struct patience){0}) == RING_OK;
    ALONE_END();
    return is_put;
}

/* The same for one with its header in front of it. */
static inline bool put_quick_at_once(RingObject *self, const struct record_header *record)
{
    bool is_put;
    ALONE_BEGIN(self);
    is_put = may_be_tried(self) && can_ever_fit(self, record->length) && ring_put_quick(&self->ring, record);
    ALONE_END();
    return is_put;
}

/* put_item_at_once() for bytes that are too many to be packed on the stack, and not so many that the GIL should be
 * released. */
static bool put_bytes_at_once(RingObject *self, PyObject *item)
{
    struct packed packed = {.method = PLAIN_MSGPACK};
    pack_bytes(&packed, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
    size_t length = packed_length(&packed);
    struct record_in record = {
        .method = packed.method, .length = length, .parts = packed.parts, .part_count = packed.part_count};
    return length < LARGE && put_record_at_once(self, &record);
}

_Static_assert(PLAIN_SMALL <= RECORD_QUICK_MAX, "what is packed on the stack can be put by the quick way");

bool put_item_at_once(RingObject *self, PyObject *item, bool as_pickle)
{
    struct {
        struct record_header head;
        unsigned char payload[PLAIN_ROOM(PLAIN_SMALL)];
    } record;
    uint32_t method = PLAIN_MSGPACK, length = plain_pack_scalar(record.payload, PLAIN_SMALL, item);
    if (length == 0 && PyBytes_CheckExact(item)) {
        return put_bytes_at_once(self, item);
    }
    if (length == 0) {
        length = plain_pack(record.payload, PLAIN_SMALL, item, as_pickle, &method);
    }
    if (length == 0 || length == PLAIN_LARGER) {
        return false;
    }
    record.head = (struct record_header){.length = length, .method = method};
    if (put_quick_at_once(self, &record.head)) {
        return true;
    }
    struct part part = {record.payload, length};
    struct record_in whole = {.method = method, .length = length, .parts = &part, .part_count = 1};
    return put_record_at_once(self, &whole);
}

/* ---- several items at once ---- */

/* Memory that what is packed lies in. */
struct block {
    struct block *previous;
    size_t used;
    unsigned char bytes[16 * PLAIN_SMALL];
};

struct items {
    struct block *block;
    struct record_in *records;
    struct packed *packed;
    size_t count; /* of those that are packed */
};

static void items_release(struct items *items)
{
    for (size_t i = 0; i < items->count; i++) {
        Py_XDECREF(items->packed[i].owner);
    }
    while (items->block != NULL) {
        struct block *previous = items->block->previous;
        PyMem_Free(items->block);
        items->block = previous;
    }
    PyMem_Free(items->records);
    PyMem_Free(items->packed);
}

/* Where PLAIN_ROOM(PLAIN_SMALL) bytes may be written; NULL with an exception set. */
static unsigned char *room_in_block(struct items *items)
{
    struct block *block = items->block;
    if (block == NULL || block->used > sizeof block->bytes - PLAIN_ROOM(PLAIN_SMALL)) {
        block = PyMem_Malloc(sizeof *block);
        if (block == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        block->previous = items->block;
        block->used = 0;
        items->block = block;
    }
    return block->bytes + block->used;
}

/* Before parts are joined, which copies them.  False: an exception is set. */
static bool parts_can_fit(RingObject *self, PyObject *parts)
{
    size_t length = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        Py_buffer buffer;
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(parts, i), &buffer, PyBUF_SIMPLE) != 0) {
            return false;
        }
        length += (size_t)buffer.len;
        PyBuffer_Release(&buffer);
    }
    if (!can_ever_fit(self, length)) {
        raise_never_fits(self, length);
        return false;
    }
    return true;
}

/* The record that the serializer makes of an item, (method, payload), as one part. */
static bool pack_by_serializer(RingObject *self, struct packed *packed, PyObject *item, PyObject *dump)
{
    PyObject *record = PyObject_CallOneArg(dump, item);
    if (record == NULL) {
        return false;
    }
    const Py_buffer *buffer = NULL;
    if (!PyTuple_CheckExact(record) || PyTuple_GET_SIZE(record) != 2) {
        PyErr_SetString(PyExc_TypeError, "an item is dumped as a tuple of (method, payload)");
    } else if (method_from(PyTuple_GET_ITEM(record, 0), &packed->method)) {
        PyObject *payload = Py_NewRef(PyTuple_GET_ITEM(record, 1));
        if (PyTuple_CheckExact(payload)) {
            PyObject *separator = parts_can_fit(self, payload) ? PyBytes_FromStringAndSize(NULL, 0) : NULL;
            PyObject *joined = separator != NULL ? PyObject_CallMethod(separator, "join", "(O)", payload) : NULL;
            Py_XDECREF(separator);
            Py_SETREF(payload, joined);
        }
        buffer = payload != NULL ? buffer_of(packed, payload) : NULL;
        Py_XDECREF(payload);
    }
    Py_DECREF(record);
    return buffer != NULL && pack_whole(packed, buffer->buf, (size_t)buffer->len);
}

static bool items_add(RingObject *self, struct items *items, PyObject *item, bool as_pickle, PyObject *dump)
{
    struct packed *packed = &items->packed[items->count];
    unsigned char *plain = room_in_block(items);
    if (plain == NULL) {
        return false;
    }
    bool packs = pack_item(packed, item, as_pickle, plain);
    items->count++;
    if (!packs) {
        Py_CLEAR(packed->owner);
        if (!pack_by_serializer(self, packed, item, dump)) {
            return false;
        }
    }
    size_t length = packed_length(packed);
    if (packed->parts[0].bytes == plain) {
        items->block->used += length;
    }
    if (!can_ever_fit(self, length)) {
        raise_never_fits(self, length);
        return false;
    }
    items->records[items->count - 1] = (struct record_in){
        .method = packed->method, .length = length, .parts = packed->parts, .part_count = packed->part_count};
    return true;
}

static bool items_from(RingObject *self, struct items *items, PyObject *sequence, bool as_pickle, PyObject *dump)
{
    size_t count = (size_t)PyTuple_GET_SIZE(sequence);
    items->records = PyMem_New(struct record_in, count);
    items->packed = PyMem_New(struct packed, count);
    if (items->records == NULL || items->packed == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!items_add(self, items, PyTuple_GET_ITEM(sequence, (Py_ssize_t)i), as_pickle, dump)) {
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
    while (done > 0 && put < items->count) { /* TOO_MANY: again, with fewer */
        if (!is_open(self)) {
            done = -1;
            break;
        }
        size_t fitting = ring_fitting(&self->ring, items->records + put, items->count - put), bytes = 0;
        for (size_t i = put; i < put + fitting; i++) {
            bytes += (size_t)items->records[i].length;
        }
        PyObject *left = timeout_until(deadline);
        if (left == NULL) {
            done = -1;
            break;
        }
        done = put_records(self, items->records + put, fitting, bytes, block, left);
        Py_DECREF(left);
        put += done == 1 ? fitting : 0;
    }
    if (done < 0 && put > 0) {
        tell_items_put(put, items->count);
    }
    return done < 0 ? -1 : (Py_ssize_t)put;
}

PyObject *Ring_put_items(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct items items = {0};
    int block, as_pickle;
    if (!count_is("put_items", count, 5) || (block = truth(args[1])) < 0 || (as_pickle = truth(args[3])) < 0) {
        return NULL;
    }
    PyObject *sequence = PySequence_Tuple(args[0]); /* which no other thread can change */
    if (sequence == NULL) {
        return NULL;
    }
    Py_ssize_t put = -1;
    PyObject *all = PyLong_FromSsize_t(PyTuple_GET_SIZE(sequence)); /* before the commit, which nothing takes back */
    if (all != NULL && items_from(self, &items, sequence, as_pickle, args[4])) {
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
