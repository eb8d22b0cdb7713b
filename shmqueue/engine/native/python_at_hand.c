/* python_at_hand.c: see python_at_hand.h; and the type Record. */
#include "python_at_hand.h"

#define COPIED_TOGETHER 4096
#define BATCH_BYTES (1 << 20) /* get_many() stops adding records after so many */
#define BUFFERS_METHOD 3      /* serialization.py: pickle whose buffers are used where they arrive */

PyObject *new_payload(uint32_t method, uint64_t length, void **fill)
{
    bool writable = method == BUFFERS_METHOD;
    PyObject *payload = writable ? PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)length)
                                 : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (payload != NULL) {
        *fill = writable ? PyByteArray_AS_STRING(payload) : PyBytes_AS_STRING(payload);
    }
    return payload;
}

PyObject *new_record(RingObject *self, uint32_t method, uint64_t length, void **fill)
{
    PyTypeObject *type = state_of(self)->record_type;
    PyObject *record = type->tp_alloc(type, 2);
    if (record == NULL) {
        return NULL;
    }
    PyObject *number = PyLong_FromUnsignedLong(method), *payload = new_payload(method, length, fill);
    if (number == NULL || payload == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(payload);
        Py_DECREF(record);
        return NULL;
    }
    PyTuple_SET_ITEM(record, 0, number);
    PyTuple_SET_ITEM(record, 1, payload);
    return record;
}

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

/* Its contents, if it is bytes, or NULL. */
static PyObject *bytes_at_hand(RingObject *self, const struct take *take, const struct scalar *scalar)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)scalar->body.length);
    if (bytes != NULL) {
        ring_get_peek(&self->ring, take, scalar->body.from, scalar->body.length, PyBytes_AS_STRING(bytes));
    }
    return bytes;
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

PyObject *read_one(RingObject *self, struct take *take, enum form form)
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

/* Adds small items to the list, from the record at hand on, which are copied together. How many
 * bytes of payload, perhaps none.  False: an exception is set. */
static bool read_small(RingObject *self, struct take *take, PyObject *list, Py_ssize_t most, size_t *bytes)
{
    unsigned char copy[COPIED_TOGETHER];
    uint32_t length = ring_get_copy(&self->ring, take, copy, sizeof copy), at = 0;
    *bytes = 0;
    while (PyList_GET_SIZE(list) < most && ring_get_in_copy(&self->ring, take, copy + at, length - at)) {
        const unsigned char *payload = copy + at + RECORD_HEADER_SIZE;
        uint32_t size = (uint32_t)take->length;
        PyObject *item = is_small(take->length, take->method) ? plain_unpack(payload, size, take->method, self->keys) : NULL;
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

enum ring_status read_many(RingObject *self, struct take *take, enum form form, PyObject *list, Py_ssize_t most)
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

/* ---- the type Record ---- */

/* A tuple's does not visit the type, which keeps the module, which keeps the Record that stands for none. */
static int Record_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return PyTuple_Type.tp_traverse(self, visit, arg);
}

static PyType_Slot Record_slots[] = {
    {Py_tp_traverse, Record_traverse},
    {Py_tp_doc, "A record that must be loaded, (method, payload): a type of its own, for an item may be a tuple."},
    {0, NULL},
};

PyType_Spec Record_spec = {
    .name = "shmqueue.engine.native._core.Record",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, /* the sizes are those of a tuple */
    .slots = Record_slots,
};
