/* python_pack.c: plain items to msgpack; see python_plain.h. */
#include "python_plain.h"
#include "python_seen.h"

#define SHARED_LEAST 4096 /* bytes: a shorter string may be written more than once */

/* A container of which some is written. */
struct written {
    PyObject *dict;   /* NULL: it is a list or tuple */
    PyObject **items; /* that are left; of a list or tuple */
    Py_ssize_t position, left;
    PyObject *value; /* that follows the dict's key; or NULL */
#ifdef Py_GIL_DISABLED
    PyObject *copy; /* of the container, which another thread may change; or NULL */
#endif
};

struct writer {
    unsigned char *next;
    size_t left;
    PyObject *bytes; /* that `next` points into, and that may grow up to `most`; or NULL */
    size_t most;
    bool as_pickle, has_tuples, is_full;
    unsigned depth;
    struct written *frames, *more_frames; /* the latter: what must be freed */
    struct written first_frames[PLAIN_FRAMES];
    struct seen seen;
};

static bool grow(struct writer *writer, size_t length)
{
    if (writer->bytes == NULL) {
        return false;
    }
    size_t used = (size_t)(writer->next - (unsigned char *)PyBytes_AS_STRING(writer->bytes));
    size_t size = used + writer->left, wanted = used + length;
    if (wanted > writer->most) {
        return false;
    }
    size = wanted > 2 * size ? wanted : 2 * size > writer->most ? writer->most : 2 * size;
    if (_PyBytes_Resize(&writer->bytes, (Py_ssize_t)PLAIN_ROOM(size)) != 0) {
        PyErr_Clear(); /* no memory: the serializer reports it */
        return false;
    }
    writer->next = (unsigned char *)PyBytes_AS_STRING(writer->bytes) + used;
    writer->left = size - used;
    return true;
}

static inline bool has_space(struct writer *writer, size_t length)
{
    if (length <= writer->left || grow(writer, length)) {
        return true;
    }
    writer->is_full = true;
    return false;
}

static inline bool add(struct writer *writer, const void *bytes, size_t length)
{
    if (!has_space(writer, length)) {
        return false;
    }
    memcpy(writer->next, bytes, length);
    writer->next += length;
    writer->left -= length;
    return true;
}

static inline bool add_head(struct writer *writer, struct scalar_head head)
{
    if (writer->left < SCALAR_HEAD_MAX && !has_space(writer, 1u + head.width)) {
        return false;
    }
    uint32_t length = scalar_write(head, writer->next); /* perhaps beyond the limit, but not beyond PLAIN_ROOM() */
    writer->next += length;
    writer->left -= length;
    return true;
}

/* Whether an object has not been written yet.  One that a single reference leads to cannot have been.  Without a GIL
 * our copies refer to it, too, and one that another thread has released may give a new one its address: then an item is
 * left to others that we could have packed. */
static inline bool is_new(struct writer *writer, PyObject *object)
{
#ifndef Py_GIL_DISABLED
    if (Py_REFCNT(object) == 1) {
        return true;
    }
#endif
    return remember(&writer->seen, (uintptr_t)object);
}

/* ---- values ---- */

static inline bool add_str(struct writer *writer, PyObject *item)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: the serializer reports it */
        PyErr_Clear();
        return false;
    }
    return ((size_t)length < SHARED_LEAST || is_new(writer, item)) && (size_t)length <= UINT32_MAX &&
           add_head(writer, scalar_of_str((uint32_t)length)) && add(writer, text, (size_t)length);
}

static bool add_bin(struct writer *writer, const void *bytes, size_t length)
{
    return length <= UINT32_MAX && add_head(writer, scalar_of_bin((uint32_t)length)) && add(writer, bytes, length);
}

static bool add_bytes(struct writer *writer, PyObject *item)
{
    size_t length = (size_t)PyBytes_GET_SIZE(item);
    return (length < SHARED_LEAST || is_new(writer, item)) && add_bin(writer, PyBytes_AS_STRING(item), length);
}

/* A bytearray or memoryview, which arrives as bytes. */
static bool add_buffer(struct writer *writer, PyObject *item)
{
    Py_buffer buffer;
    if (writer->as_pickle) {
        return false;
    }
    if (PyObject_GetBuffer(item, &buffer, PyBUF_SIMPLE) != 0) {
        PyErr_Clear(); /* not contiguous, or released: the serializer reports it */
        return false;
    }
    bool done = add_bin(writer, buffer.len > 0 ? buffer.buf : "", (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    return done;
}

static inline bool add_int(struct writer *writer, PyObject *item)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (overflow == 0) {
        return add_head(writer, scalar_of_int(number));
    }
    unsigned long long large = overflow > 0 ? PyLong_AsUnsignedLongLong(item) : 0;
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return overflow > 0 && add_head(writer, scalar_of_unsigned(large));
}

/* ---- containers ---- */

static bool make_frames(struct writer *writer)
{
    size_t size = PLAIN_DEPTH_MAX * sizeof *writer->frames;
    struct written *frames = writer->more_frames == NULL ? PyMem_Malloc(size) : NULL;
    if (frames != NULL) {
        memcpy(frames, writer->frames, writer->depth * sizeof *frames);
        writer->frames = writer->more_frames = frames;
    }
    return frames != NULL;
}

/* Writes a container's head; what is in it comes next.  NULL: it has been written, or is too large or deep. */
static inline struct written *open_container(struct writer *writer, PyObject *container, struct scalar_head head, size_t count)
{
    if (!is_new(writer, container) || count > UINT32_MAX - 1 || !has_space(writer, 1 + count) || /* each takes a byte */
        !add_head(writer, head)) {
        return NULL;
    }
    if (writer->depth == PLAIN_DEPTH_MAX || (writer->depth == PLAIN_FRAMES && !make_frames(writer))) {
        return NULL;
    }
    struct written *frame = &writer->frames[writer->depth++];
    frame->dict = frame->value = NULL;
#ifdef Py_GIL_DISABLED
    frame->copy = NULL;
#endif
    return frame;
}

/* The one on top is written, or dropped. */
static inline void close_container(struct writer *writer)
{
    writer->depth--;
#ifdef Py_GIL_DISABLED
    Py_XDECREF(writer->frames[writer->depth].copy);
#endif
}

static inline bool open_dict_itself(struct writer *writer, PyObject *container, PyObject *dict)
{
    size_t count = (size_t)PyDict_GET_SIZE(dict);
    struct written *frame = open_container(writer, container, container_head(true, (uint32_t)count), count);
    if (frame == NULL) {
        return false;
    }
    frame->dict = dict;
    frame->position = 0;
    return true;
}

static bool open_items(struct writer *writer, PyObject *container, PyObject **items, size_t count, bool is_tuple)
{
    uint32_t more = is_tuple ? 1 : 0;
    struct written *frame = open_container(writer, container, container_head(false, (uint32_t)count + more), count);
    if (frame == NULL) {
        return false;
    }
    frame->items = items;
    frame->left = (Py_ssize_t)count;
    return true;
}

#ifdef Py_GIL_DISABLED

/* Gives the copy to the container that was opened from it. */
static bool keep_copy(struct writer *writer, PyObject *copy, bool is_open)
{
    if (!is_open) {
        Py_DECREF(copy);
        return false;
    }
    writer->frames[writer->depth - 1].copy = copy;
    return true;
}

static bool open_dict(struct writer *writer, PyObject *dict)
{
    PyObject *copy = PyDict_Copy(dict);
    if (copy == NULL) {
        PyErr_Clear(); /* no memory: the serializer reports it */
        return false;
    }
    return keep_copy(writer, copy, open_dict_itself(writer, dict, copy));
}

static bool open_list(struct writer *writer, PyObject *list)
{
    PyObject *copy = PyList_AsTuple(list);
    if (copy == NULL) {
        PyErr_Clear();
        return false;
    }
    PyObject **items = ((PyTupleObject *)copy)->ob_item;
    return keep_copy(writer, copy, open_items(writer, list, items, (size_t)PyTuple_GET_SIZE(copy), false));
}

#else

static inline bool open_dict(struct writer *writer, PyObject *dict) { return open_dict_itself(writer, dict, dict); }

static bool open_list(struct writer *writer, PyObject *list)
{
    return open_items(writer, list, ((PyListObject *)list)->ob_item, (size_t)PyList_GET_SIZE(list), false);
}

#endif

static bool open_tuple(struct writer *writer, PyObject *tuple)
{
    size_t count = (size_t)PyTuple_GET_SIZE(tuple);
    writer->has_tuples = true;
    if (count == 0) { /* there is only one, wherever it stands */
        return add_head(writer, container_head(false, 1)) && add(writer, plain_tuple_mark, sizeof plain_tuple_mark);
    }
    return open_items(writer, tuple, ((PyTupleObject *)tuple)->ob_item, count, true) &&
           add(writer, plain_tuple_mark, sizeof plain_tuple_mark);
}

/* ---- all of an item ---- */

/* Writes a value, or opens it. */
static inline bool add_item(struct writer *writer, PyObject *item)
{
    if (PyLong_CheckExact(item)) {
        return add_int(writer, item);
    }
    if (PyUnicode_CheckExact(item)) {
        return add_str(writer, item);
    }
    if (PyFloat_CheckExact(item)) {
        return add_head(writer, scalar_of_float(PyFloat_AS_DOUBLE(item)));
    }
    if (PyBytes_CheckExact(item)) {
        return add_bytes(writer, item);
    }
    if (item == Py_None || item == Py_True || item == Py_False) {
        return add_head(writer, scalar_typed(item == Py_None ? 0xc0 : item == Py_True ? 0xc3 : 0xc2, 0, 0));
    }
    if (PyDict_CheckExact(item)) {
        return open_dict(writer, item);
    }
    if (PyList_CheckExact(item)) {
        return open_list(writer, item);
    }
    if (PyTuple_CheckExact(item)) {
        return open_tuple(writer, item);
    }
    return (PyByteArray_CheckExact(item) || PyMemoryView_Check(item)) && add_buffer(writer, item);
}

/* What is left of a container, up to and with another container in it, which is opened. */
static inline bool add_items(struct writer *writer, struct written *frame)
{
    unsigned depth = writer->depth;
    while (frame->left > 0) {
        frame->left--;
        if (!add_item(writer, *frame->items++)) {
            return false;
        }
        if (writer->depth != depth) {
            return true;
        }
    }
    close_container(writer);
    return true;
}

static inline bool add_pairs(struct writer *writer, struct written *frame)
{
    unsigned depth = writer->depth;
    PyObject *key, *value = frame->value;
    for (;;) {
        if (value == NULL) {
            if (!PyDict_Next(frame->dict, &frame->position, &key, &value)) {
                close_container(writer);
                return true;
            }
            frame->value = value;
            if (!add_item(writer, key)) {
                return false;
            }
            if (writer->depth != depth) {
                return true; /* a tuple is the key */
            }
        }
        frame->value = NULL;
        if (!add_item(writer, value)) {
            return false;
        }
        if (writer->depth != depth) {
            return true;
        }
        value = NULL;
    }
}

/* No Python code runs meanwhile, so what is borrowed stays; or it is of copies that no other thread has. */
INLINE_ALL static bool add_all(struct writer *writer, PyObject *item)
{
    bool done = add_item(writer, item);
    while (done && writer->depth > 0) {
        struct written *frame = &writer->frames[writer->depth - 1];
        done = frame->dict != NULL ? add_pairs(writer, frame) : add_items(writer, frame);
    }
#ifdef Py_GIL_DISABLED
    while (writer->depth > 0) {
        close_container(writer);
    }
#endif
    if (writer->more_frames != NULL || writer->seen.table != NULL) {
        PyMem_Free(writer->more_frames);
        PyMem_Free(writer->seen.table);
    }
    return done;
}

static void begin_writing(struct writer *writer, unsigned char *bytes, size_t left, bool as_pickle)
{
    writer->next = bytes;
    writer->left = left;
    writer->bytes = NULL;
    writer->as_pickle = as_pickle;
    writer->has_tuples = writer->is_full = false;
    writer->depth = writer->seen.count = writer->seen.bits = 0;
    writer->frames = writer->first_frames;
    writer->more_frames = NULL;
    writer->seen.table = NULL;
}

uint32_t plain_pack(unsigned char *bytes, uint32_t most, PyObject *item, bool as_pickle, uint32_t *method)
{
    struct writer writer;
    begin_writing(&writer, bytes, most, as_pickle);
    bool done = add_all(&writer, item);
    *method = writer.has_tuples ? PLAIN_TUPLES : PLAIN_MSGPACK;
    return done ? most - (uint32_t)writer.left : writer.is_full ? PLAIN_LARGER : 0;
}

PyObject *plain_pack_large(PyObject *item, bool as_pickle, uint32_t *method)
{
    struct writer writer;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, PLAIN_ROOM(PLAIN_MOST));
    if (bytes == NULL) {
        PyErr_Clear(); /* no memory: the serializer reports it */
        return NULL;
    }
    begin_writing(&writer, (unsigned char *)PyBytes_AS_STRING(bytes), PLAIN_MOST, as_pickle);
    writer.bytes = bytes;
    writer.most = as_pickle ? PLAIN_MOST : UINT32_MAX;
    bool done = add_all(&writer, item);
    *method = writer.has_tuples ? PLAIN_TUPLES : PLAIN_MSGPACK;
    if (!done) {
        Py_XDECREF(writer.bytes);
        return NULL;
    }
    if (_PyBytes_Resize(&writer.bytes, writer.next - (unsigned char *)PyBytes_AS_STRING(writer.bytes)) != 0) {
        PyErr_Clear();
    }
    return writer.bytes;
}
