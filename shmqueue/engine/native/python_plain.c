/* python_plain.c: see python_plain.h. */
#include "python_plain.h"

#define DEPTH_MAX 8
#define KEY_MAX 40   /* bytes */
#define COUNT_MAX (PLAIN_MOST / 4) /* items of one container: more would hardly find room */
#define CONTAINERS_MAX 16
#define EXTENSION_TUPLE (-84) /* serialization.py */

/* ---- to msgpack ---- */

struct writer {
    unsigned char *next;
    uint32_t left;
    bool as_pickle, has_tuples, is_full;
    unsigned count; /* of containers, with as_pickle */
    const PyObject *containers[CONTAINERS_MAX];
};

static bool has_room(struct writer *writer, size_t length)
{
    writer->is_full = writer->is_full || length > writer->left;
    return length <= writer->left;
}

static bool add(struct writer *writer, const void *bytes, size_t length)
{
    if (!has_room(writer, length)) {
        return false;
    }
    memcpy(writer->next, bytes, length);
    writer->next += length;
    writer->left -= (uint32_t)length;
    return true;
}

static bool add_head(struct writer *writer, struct scalar_head head)
{
    uint32_t length = scalar_write(head, writer->next); /* perhaps beyond the limit, but not beyond PLAIN_ROOM() */
    if (!has_room(writer, length)) {
        return false;
    }
    writer->next += length;
    writer->left -= length;
    return true;
}

static bool add_str(struct writer *writer, PyObject *item)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: others will say which */
        PyErr_Clear();
        return false;
    }
    return length <= PLAIN_MOST && add_head(writer, scalar_of_str((uint32_t)length)) &&
           add(writer, text, (size_t)length);
}

static bool add_bytes(struct writer *writer, PyObject *item)
{
    size_t length = (size_t)PyBytes_GET_SIZE(item);
    return length <= PLAIN_MOST && add_head(writer, scalar_of_bin((uint32_t)length)) &&
           add(writer, PyBytes_AS_STRING(item), length);
}

static bool add_int(struct writer *writer, PyObject *item)
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

static bool add_item(struct writer *writer, PyObject *item, int depth);

/* What a list or dict begins with; false where it is too large or deep, or as_pickle and not the only one. */
static bool add_container(struct writer *writer, const PyObject *container, bool is_map, Py_ssize_t count, int depth)
{
    if (writer->as_pickle) {
        for (unsigned i = 0; i < writer->count; i++) {
            if (writer->containers[i] == container) {
                return false;
            }
        }
        if (writer->count == CONTAINERS_MAX) {
            return false;
        }
        writer->containers[writer->count++] = container;
    }
    return depth < DEPTH_MAX && count <= COUNT_MAX && has_room(writer, 1 + (size_t)count) && /* each takes a byte */
           add_head(writer, container_head(is_map, (uint16_t)count));
}

static bool add_list(struct writer *writer, PyObject *list, int depth)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (!add_container(writer, list, false, count, depth)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!add_item(writer, PyList_GET_ITEM(list, i), depth + 1)) {
            return false;
        }
    }
    return true;
}

static bool add_dict(struct writer *writer, PyObject *dict, int depth)
{
    PyObject *key, *value;
    Py_ssize_t position = 0, count = PyDict_GET_SIZE(dict);
    if (!add_container(writer, dict, true, count, depth)) {
        return false;
    }
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (!add_item(writer, key, depth + 1) || !add_item(writer, value, depth + 1)) {
            return false;
        }
    }
    return true;
}

/* An extension of what a list of the same would be.  Its head is written when its length is known. */
static bool add_tuple(struct writer *writer, PyObject *tuple, int depth)
{
    unsigned char *start = writer->next, gap[EXTENSION_HEAD_MAX] = {0};
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    writer->has_tuples = true;
    if (!add(writer, gap, sizeof gap) || !add_container(writer, tuple, false, count, depth)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!add_item(writer, PyTuple_GET_ITEM(tuple, i), depth + 1)) {
            return false;
        }
    }
    uint32_t length = (uint32_t)(writer->next - start) - EXTENSION_HEAD_MAX;
    if (length > UINT16_MAX) {
        return false;
    }
    uint32_t head = extension_write(start, EXTENSION_TUPLE, length);
    memmove(start + head, start + EXTENSION_HEAD_MAX, length);
    writer->next -= EXTENSION_HEAD_MAX - head;
    writer->left += EXTENSION_HEAD_MAX - head;
    return true;
}

static bool add_item(struct writer *writer, PyObject *item, int depth)
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
        return add_dict(writer, item, depth);
    }
    if (PyList_CheckExact(item)) {
        return add_list(writer, item, depth);
    }
    return PyTuple_CheckExact(item) && add_tuple(writer, item, depth);
}

uint32_t plain_pack(unsigned char *bytes, uint32_t most, PyObject *item, bool as_pickle, uint32_t *method)
{
    struct writer writer;
    writer.next = bytes;
    writer.left = most;
    writer.as_pickle = as_pickle;
    writer.has_tuples = writer.is_full = false;
    writer.count = 0;
    bool done = add_item(&writer, item, 0);
    *method = writer.has_tuples ? PLAIN_TUPLES : PLAIN_MSGPACK;
    return done ? most - writer.left : writer.is_full ? PLAIN_LARGER : 0;
}

/* ---- and back ---- */

struct reader {
    const unsigned char *bytes;
    uint32_t left;
    bool has_tuples;
    PyObject **keys;
};

static void skip(struct reader *reader, uint32_t bytes)
{
    reader->bytes += bytes;
    reader->left -= bytes;
}

static PyObject *take_item(struct reader *reader, int depth, bool is_key);

static PyObject *str_from(const char *text, uint32_t length)
{
    unsigned char all = 0;
    for (uint32_t i = 0; i < length; i++) {
        all |= (unsigned char)text[i];
    }
    if (length < 2 || all >= 0x80) { /* the shortest there are already */
        return PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    }
    PyObject *str = PyUnicode_New((Py_ssize_t)length, 127);
    if (str != NULL) {
        memcpy(PyUnicode_DATA(str), text, length);
    }
    return str;
}

/* Which place in a table of KEYS a text has, by its first and last bytes; in as few loads as can be. */
static unsigned place_of(const char *text, uint32_t length)
{
    uint64_t first = 0, last = 0;
    if (length >= 8) {
        memcpy(&first, text, 8);
        memcpy(&last, text + length - 8, 8);
    } else if (length >= 4) {
        uint32_t half[2];
        memcpy(&half[0], text, 4);
        memcpy(&half[1], text + length - 4, 4);
        first = half[0];
        last = half[1];
    } else if (length > 0) {
        first = (unsigned char)text[0];
        last = (uint64_t)(unsigned char)text[length / 2] << 8 | (unsigned char)text[length - 1];
    }
    return (unsigned)((first + 3 * last + length) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - KEYS_BITS));
}

/* A dict's key, interned, as msgpack does it. */
static PyObject *key_from(PyObject **keys, const char *text, uint32_t length)
{
    PyObject **known = &keys[place_of(text, length)];
    if (*known != NULL && PyUnicode_GET_LENGTH(*known) == (Py_ssize_t)length &&
        memcmp(PyUnicode_DATA(*known), text, length) == 0) {
        return Py_NewRef(*known);
    }
    PyObject *key = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    if (key != NULL) {
        PyUnicode_InternInPlace(&key);
        if (PyUnicode_IS_ASCII(key) && length <= KEY_MAX) { /* its text is its UTF-8 */
            Py_XSETREF(*known, Py_NewRef(key));
        }
    }
    return key;
}

static PyObject *take_scalar(struct reader *reader, bool is_key)
{
    struct scalar scalar = scalar_read(reader->bytes, reader->left);
    bool has_body = scalar.kind == SCALAR_STR || scalar.kind == SCALAR_BIN;
    const char *body = (const char *)reader->bytes + (has_body ? scalar.body.from : 0);
    PyObject *item = NULL;
    switch (scalar.kind) {
    case SCALAR_NONE:
        return NULL;
    case SCALAR_NIL:
        item = Py_NewRef(Py_None);
        break;
    case SCALAR_FALSE:
        item = Py_NewRef(Py_False);
        break;
    case SCALAR_TRUE:
        item = Py_NewRef(Py_True);
        break;
    case SCALAR_INT:
        item = PyLong_FromLongLong(scalar.number);
        break;
    case SCALAR_UINT:
        item = PyLong_FromUnsignedLongLong(scalar.unsigned_number);
        break;
    case SCALAR_FLOAT:
        item = PyFloat_FromDouble(scalar.real);
        break;
    case SCALAR_STR:
        item = is_key ? key_from(reader->keys, body, scalar.body.length)
                      : str_from(body, scalar.body.length);
        break;
    case SCALAR_BIN:
        item = PyBytes_FromStringAndSize(body, (Py_ssize_t)scalar.body.length);
        break;
    }
    skip(reader, scalar.size);
    return item;
}

static PyObject *take_list(struct reader *reader, uint32_t count, int depth)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = take_item(reader, depth + 1, false);
        if (item == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        }
    }
    return list;
}

static PyObject *take_dict(struct reader *reader, uint32_t count, int depth)
{
    PyObject *dict = PyDict_New();
    for (uint32_t i = 0; dict != NULL && i < count; i++) {
        PyObject *key = take_item(reader, depth + 1, true);
        PyObject *value = key != NULL ? take_item(reader, depth + 1, false) : NULL;
        if (value == NULL || PyDict_SetItem(dict, key, value) != 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

/* The tuple that an extension of `length` bytes is, all of them, to the last. */
static PyObject *take_tuple(struct reader *reader, uint32_t length, int depth)
{
    struct reader inner = {reader->bytes, length, true, reader->keys};
    struct container container = container_read(inner.bytes, inner.left);
    if (!container.is_one || container.is_map || depth == DEPTH_MAX || container.count > length - container.size) {
        return NULL;
    }
    skip(&inner, container.size);
    PyObject *tuple = PyTuple_New((Py_ssize_t)container.count);
    for (uint32_t i = 0; tuple != NULL && i < container.count; i++) {
        PyObject *item = take_item(&inner, depth + 1, false);
        if (item == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
        }
    }
    if (inner.left != 0) {
        Py_CLEAR(tuple);
    }
    skip(reader, length);
    return tuple;
}

static PyObject *take_item(struct reader *reader, int depth, bool is_key)
{
    struct container container = container_read(reader->bytes, reader->left);
    if (!container.is_one) {
        struct extension extension = {.code = 0};
        if (reader->has_tuples) {
            extension = extension_read(reader->bytes, reader->left);
        }
        if (extension.code == EXTENSION_TUPLE) {
            skip(reader, extension.size);
            return take_tuple(reader, extension.length, depth);
        }
        return take_scalar(reader, is_key);
    }
    if (is_key || depth == DEPTH_MAX || container.count > reader->left - container.size) {
        return NULL;
    }
    skip(reader, container.size);
    return container.is_map ? take_dict(reader, container.count, depth) : take_list(reader, container.count, depth);
}

PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, uint32_t method, PyObject **keys)
{
    struct reader reader = {bytes, length, method == PLAIN_TUPLES, keys};
    PyObject *item = take_item(&reader, 0, false);
    if (item != NULL && reader.left != 0) {
        Py_CLEAR(item);
    }
    if (item == NULL) {
        PyErr_Clear();
    }
    return item;
}
