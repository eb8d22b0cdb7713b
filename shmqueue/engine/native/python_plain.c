/* python_plain.c: see python_plain.h. */
#include "python_plain.h"

#define DEPTH_MAX 8
#define KEY_MAX 40   /* bytes */
#define COUNT_MAX 64 /* items of one container; where there are more, this is no saving */

/* ---- to msgpack ---- */

struct writer {
    unsigned char *next;
    uint32_t left;
};

static bool add(struct writer *writer, const void *bytes, size_t length)
{
    if (length > writer->left) {
        return false;
    }
    memcpy(writer->next, bytes, length);
    writer->next += length;
    writer->left -= (uint32_t)length;
    return true;
}

static bool add_head(struct writer *writer, struct scalar_head head) { return add(writer, head.bytes, head.length); }

static bool add_str(struct writer *writer, PyObject *item)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: others will say which */
        PyErr_Clear();
        return false;
    }
    return length <= PLAIN_MAX && add_head(writer, scalar_of_str((uint32_t)length)) &&
           add(writer, text, (size_t)length);
}

static bool add_bytes(struct writer *writer, PyObject *item)
{
    size_t length = (size_t)PyBytes_GET_SIZE(item);
    return length <= PLAIN_MAX && add_head(writer, scalar_of_bin((uint32_t)length)) &&
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

static bool add_list(struct writer *writer, PyObject *list, int depth)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (depth == DEPTH_MAX || count > COUNT_MAX || !add_head(writer, container_head(false, (uint16_t)count))) {
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
    if (depth == DEPTH_MAX || count > COUNT_MAX || !add_head(writer, container_head(true, (uint16_t)count))) {
        return false;
    }
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (!add_item(writer, key, depth + 1) || !add_item(writer, value, depth + 1)) {
            return false;
        }
    }
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
    return PyList_CheckExact(item) && add_list(writer, item, depth);
}

uint32_t plain_pack(unsigned char *bytes, PyObject *item, bool containers)
{
    struct writer writer = {bytes, PLAIN_MAX};
    return add_item(&writer, item, containers ? 0 : DEPTH_MAX) ? PLAIN_MAX - writer.left : 0;
}

/* ---- and back ---- */

struct reader {
    const unsigned char *bytes;
    uint32_t left;
    PyObject **keys;
};

static void skip(struct reader *reader, uint32_t bytes)
{
    reader->bytes += bytes;
    reader->left -= bytes;
}

static PyObject *take_item(struct reader *reader, int depth, bool is_key);

/* A dict's key, interned, as msgpack does it. */
static PyObject *key_from(PyObject **keys, const char *text, uint32_t length)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (uint32_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    }
    PyObject **known = &keys[(hash ^ hash >> 16) % KEYS];
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
                      : PyUnicode_DecodeUTF8(body, (Py_ssize_t)scalar.body.length, NULL);
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

static PyObject *take_item(struct reader *reader, int depth, bool is_key)
{
    struct container container = container_read(reader->bytes, reader->left);
    if (!container.is_one) {
        return take_scalar(reader, is_key);
    }
    if (is_key || depth == DEPTH_MAX || container.count > reader->left - container.size) {
        return NULL;
    }
    skip(reader, container.size);
    return container.is_map ? take_dict(reader, container.count, depth) : take_list(reader, container.count, depth);
}

PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, PyObject **keys)
{
    struct reader reader = {bytes, length, keys};
    PyObject *item = take_item(&reader, 0, false);
    if (item != NULL && reader.left != 0) {
        Py_CLEAR(item);
    }
    if (item == NULL) {
        PyErr_Clear();
    }
    return item;
}
