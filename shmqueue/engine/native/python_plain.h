/* python_plain.h: scalars, and lists, dicts and tuples of scalars and of such, to msgpack and back.
 *
 * What is written are the very bytes of msgpack's packer as plain.py uses it, what is read is what its unpacker makes
 * of them.  Anything else (other types, repeated parts of an item, too deep, corrupted) is left to those two.
 * Nothing here recurses: how deep an item is makes no difference to the stack.  No Python code runs in here, except on
 * a free-threaded build: there lists and dicts are copied before they are packed, and finalizers may run with the
 * copies.
 */
#ifndef SHMQUEUE_PYTHON_PLAIN_H
#define SHMQUEUE_PYTHON_PLAIN_H

#include "python_ring.h"

#define PLAIN_SMALL 1024 /* bytes that are packed on the stack, or unpacked under the get lock */
#define PLAIN_MOST 65536 /* bytes that are packed as_pickle: pickle is as fast with more */
#define PLAIN_ROOM(most) ((most) + SCALAR_HEAD_MAX)
#define PLAIN_LARGER UINT32_MAX
#define PLAIN_DEPTH_MAX 1024 /* plain.py */
#define PLAIN_FRAMES 8       /* kept on the stack; deeper items take memory */

#define INLINE_ALL __attribute__((flatten)) /* the most frequent items are small dicts: an eighth of their time */

/* A tuple is an array that begins with this, an extension of no bytes: see plain.py. */
static const unsigned char plain_tuple_mark[3] = {0xc7, 0x00, 0xac};

/* serialization.py: methods of the records that this is about. */
enum plain_method {
    PLAIN_MSGPACK = 0,
    PLAIN_TUPLES = 2, /* tuples stand in it, as arrays that begin with a mark */
};

/* Packs into `most` bytes, of PLAIN_ROOM(most) that are the caller's.  Into how many; 0: the item is left to the
 * serializer; PLAIN_LARGER: it may be, with more room.  No exception is set.  as_pickle: bytearrays and memoryviews,
 * which arrive as bytes, are left to it.  A container that occurs twice in the item always is. */
uint32_t plain_pack(unsigned char *bytes, uint32_t most, PyObject *item, bool as_pickle, uint32_t *method);

/* An int that Python keeps in one digit. */
static inline bool plain_small_int(PyObject *item, int64_t *number)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)item)) {
        return false;
    }
    *number = PyUnstable_Long_CompactValue((PyLongObject *)item);
#else
    Py_ssize_t size = Py_SIZE(item); /* negative in a negative int */
    if (size < -1 || size > 1) {
        return false;
    }
    *number = size == 0 ? 0 : size * (int64_t)((PyLongObject *)item)->ob_digit[0];
#endif
    return true;
}

static inline uint32_t plain_pack_body(unsigned char *bytes, uint32_t most, const void *body, size_t length,
                                       struct scalar_head (*head)(uint32_t length))
{
    if (length + SCALAR_HEAD_MAX > most) {
        return 0;
    }
    uint32_t at = scalar_write(head((uint32_t)length), bytes);
    memcpy(bytes + at, body, length);
    return at + (uint32_t)length;
}

/* Packs an item of any size.  NULL: it is left to the serializer, and no exception is set. */
PyObject *plain_pack_large(PyObject *item, bool as_pickle, uint32_t *method);

/* Packs a scalar that is ordinary: an int of 64 bits, a float, None, a bool, bytes or ASCII text up to `most` bytes
 * with what stands before them.  As plain_pack(), without its general writer, and also 0 where that has to decide. */
static inline uint32_t plain_pack_scalar(unsigned char *bytes, uint32_t most, PyObject *item)
{
    PyTypeObject *type = Py_TYPE(item);
    if (type == &PyLong_Type) {
        int64_t number;
        int overflow = 0;
        if (!plain_small_int(item, &number)) {
            number = PyLong_AsLongLongAndOverflow(item, &overflow);
        }
        return overflow == 0 ? scalar_write(scalar_of_int(number), bytes) : 0;
    }
    if (type == &PyUnicode_Type && PyUnicode_IS_COMPACT_ASCII(item)) {
        return plain_pack_body(bytes, most, PyUnicode_DATA(item), (size_t)PyUnicode_GET_LENGTH(item), scalar_of_str);
    }
    if (type == &PyBytes_Type) {
        return plain_pack_body(bytes, most, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item), scalar_of_bin);
    }
    if (type == &PyFloat_Type) {
        return scalar_write(scalar_of_float(PyFloat_AS_DOUBLE(item)), bytes);
    }
    if (item == Py_None || item == Py_True || item == Py_False) {
        bytes[0] = item == Py_None ? 0xc0 : item == Py_True ? 0xc3 : 0xc2;
        return 1;
    }
    return 0;
}

/* Whether it is ASCII; then *str is the text, or NULL with an exception set. */
bool plain_ascii(const char *text, uint32_t length, PyObject **str);

static inline bool plain_unpack_byte(unsigned char byte, PyObject **item)
{
    if (byte < 0x80 || byte >= 0xe0) {
        *item = PyLong_FromLong((int8_t)byte);
        return true;
    }
    *item = byte == 0xc0 ? Py_None : byte == 0xc2 ? Py_False : byte == 0xc3 ? Py_True : NULL;
    Py_XINCREF(*item);
    return *item != NULL;
}

/* Whether the bytes are one ordinary scalar, to the last of them, without a general reader.  *item: the scalar; NULL
 * with an exception set.  Nothing is allocated that makes the collector run, as an error in UTF-8 would be. */
static inline bool plain_unpack_scalar(const unsigned char *bytes, uint32_t length, PyObject **item)
{
    if (length < 2) {
        return length == 1 && plain_unpack_byte(bytes[0], item);
    }
    unsigned char type = bytes[0];
    if (type >= 0xa0 && type < 0xc0 && length == 1u + (type & 31u)) {
        return plain_ascii((const char *)bytes + 1, length - 1, item);
    }
    if (type == 0xd9 && length == 2u + bytes[1]) {
        return plain_ascii((const char *)bytes + 2, length - 2, item);
    }
    if (type == 0xc4 && length == 2u + bytes[1]) {
        *item = PyBytes_FromStringAndSize((const char *)bytes + 2, (Py_ssize_t)length - 2);
        return true;
    }
    if (type >= 0xcc && type < 0xd4) { /* 1, 2, 4 or 8 bytes of an unsigned one, or of a signed one */
        unsigned width = 1u << (type & 3u);
        if (length != 1 + width) {
            return false;
        }
        uint64_t number = width == 1   ? bytes[1]
                          : width == 2 ? scalar_number(bytes + 1, 2)
                          : width == 4 ? scalar_number(bytes + 1, 4)
                                       : scalar_number(bytes + 1, 8);
        if (type >= 0xd0) {
            unsigned unused = 64 - 8 * width;
            number = (uint64_t)((int64_t)(number << unused) >> unused);
        } else if (number > INT64_MAX) {
            *item = PyLong_FromUnsignedLongLong(number);
            return true;
        }
        *item = PyLong_FromLongLong((int64_t)number);
        return true;
    }
    if (type == 0xcb && length == 9) {
        double real;
        uint64_t bits = scalar_number(bytes + 1, 8);
        memcpy(&real, &bits, sizeof real);
        *item = PyFloat_FromDouble(real);
        return true;
    }
    return false; /* no scalar, or a longer one */
}

/* NULL: it is left to the serializer, and no exception is set. `keys`: KEYS strings or NULLs, for the dicts' keys; or
 * NULL, where keys_without_lock() gives no others. */
PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, uint32_t method, PyObject **keys);

#endif
