/* python_unpack.c: plain items from msgpack; see python_plain.h. */
#include "python_plain.h"

#define KEY_MAX 40 /* bytes */

/* A container of which some is read. */
struct partial {
    PyObject *container;
    PyObject **items; /* that come next in a list or tuple; NULL: it is a dict */
    PyObject *key;    /* of a dict, whose value comes next; or NULL */
    uint32_t left;    /* items or pairs */
};

struct reader {
    const unsigned char *bytes;
    uint32_t left;
    bool has_tuples;
    PyObject **keys;
    uint64_t pending; /* values that must come, each of a byte at least */
    unsigned depth;
    struct partial *frames, *more_frames; /* the latter: what must be freed */
    struct partial first_frames[PLAIN_FRAMES];
};

static void skip(struct reader *reader, uint32_t bytes)
{
    reader->bytes += bytes;
    reader->left -= bytes;
}

/* Whether no byte is 0x80 or more. */
static bool is_ascii(const char *text, uint32_t length)
{
    uint64_t all = 0, eight;
    uint32_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&eight, text + i, 8);
        all |= eight;
    }
    for (; i < length; i++) {
        all |= (unsigned char)text[i];
    }
    return (all & UINT64_C(0x8080808080808080)) == 0;
}

bool plain_ascii(const char *text, uint32_t length, PyObject **str)
{
    if (!is_ascii(text, length)) {
        return false;
    }
    if (length < 2) { /* there are already */
        *str = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    } else if ((*str = PyUnicode_New((Py_ssize_t)length, 127)) != NULL) {
        memcpy(PyUnicode_DATA(*str), text, length);
    }
    return true;
}

static PyObject *str_from(const char *text, uint32_t length)
{
    PyObject *str;
    return plain_ascii(text, length, &str) ? str : PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
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

/* A dict's key, perhaps one that came before.  It is not interned: some Pythons never free what is. */
static PyObject *key_from(PyObject **keys, const char *text, uint32_t length)
{
#ifdef Py_GIL_DISABLED
    if (keys == NULL) {
        return PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    }
#endif
    PyObject **known = &keys[place_of(text, length)];
    if (*known != NULL && PyUnicode_GET_LENGTH(*known) == (Py_ssize_t)length &&
        memcmp(PyUnicode_DATA(*known), text, length) == 0) {
        return Py_NewRef(*known);
    }
    PyObject *key = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    if (key != NULL && PyUnicode_IS_ASCII(key) && length <= KEY_MAX) { /* its text is its UTF-8 */
        Py_XSETREF(*known, Py_NewRef(key));
    }
    return key;
}

static inline PyObject *take_scalar(struct reader *reader, bool is_key)
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

static bool make_more_frames(struct reader *reader)
{
    size_t size = PLAIN_DEPTH_MAX * sizeof *reader->frames;
    struct partial *frames = reader->more_frames == NULL ? PyMem_Malloc(size) : NULL;
    if (frames != NULL) {
        memcpy(frames, reader->frames, reader->depth * sizeof *frames);
        reader->frames = reader->more_frames = frames;
    }
    return frames != NULL;
}

/* The container whose head this is, as a new frame, or as *value if it is empty.  False: it is left to the
 * serializer. */
static bool open_head(struct reader *reader, struct container head, bool is_key, PyObject **value)
{
    skip(reader, head.size);
    bool is_tuple = reader->has_tuples && !head.is_map && head.count > 0 && reader->left >= sizeof plain_tuple_mark &&
                    memcmp(reader->bytes, plain_tuple_mark, sizeof plain_tuple_mark) == 0;
    if (is_tuple) {
        skip(reader, sizeof plain_tuple_mark);
        head.count--;
    }
    reader->pending += head.is_map ? 2 * (uint64_t)head.count : head.count;
    if ((is_key && !is_tuple) || reader->pending > reader->left || reader->depth == PLAIN_DEPTH_MAX ||
        (reader->depth == PLAIN_FRAMES && !make_more_frames(reader))) {
        return false;
    }
    PyObject *container = head.is_map ? PyDict_New()
                          : is_tuple  ? PyTuple_New((Py_ssize_t)head.count)
                                      : PyList_New((Py_ssize_t)head.count);
    if (container == NULL || head.count == 0) {
        *value = container;
        return container != NULL;
    }
    PyObject **items = head.is_map ? NULL
                       : is_tuple  ? ((PyTupleObject *)container)->ob_item
                                   : ((PyListObject *)container)->ob_item;
    reader->frames[reader->depth++] = (struct partial){container, items, NULL, head.count};
    return true;
}

/* The value at hand, NULL where it is a container that was opened.  False: it is left to the serializer. */
static inline bool take_value(struct reader *reader, bool is_key, PyObject **value)
{
    struct container head = container_read(reader->bytes, reader->left);
    reader->pending--;
    *value = NULL;
    if (head.is_one) {
        return open_head(reader, head, is_key, value);
    }
    *value = take_scalar(reader, is_key);
    return *value != NULL;
}

/* Reads into the list or tuple on top, up to and with the head of another container in it. */
static bool take_items(struct reader *reader, struct partial *frame)
{
    PyObject *value;
    while (frame->left > 0) {
        if (!take_value(reader, false, &value)) {
            return false;
        }
        if (value == NULL) {
            return true;
        }
        *frame->items++ = value;
        frame->left--;
    }
    return true;
}

/* Adds the value of the dict's key at hand; both references are stolen. */
static bool set_value(struct partial *frame, PyObject *value)
{
    PyObject *key = frame->key;
    frame->key = NULL;
    frame->left--;
    bool done = PyDict_SetItem(frame->container, key, value) == 0;
    Py_DECREF(key);
    Py_DECREF(value);
    return done;
}

static inline bool take_pairs(struct reader *reader, struct partial *frame)
{
    PyObject *value;
    while (frame->left > 0) {
        if (frame->key == NULL) {
            if (!take_value(reader, true, &value)) {
                return false;
            }
            if (value == NULL) {
                return true; /* a tuple is the key */
            }
            frame->key = value;
        }
        if (!take_value(reader, false, &value)) {
            return false;
        }
        if (value == NULL) {
            return true;
        }
        if (!set_value(frame, value)) {
            return false;
        }
    }
    return true;
}

/* Adds a container that is complete, whose reference it steals, to the one that it is in. */
static bool deliver(struct partial *frame, PyObject *value)
{
    if (frame->items != NULL) {
        *frame->items++ = value;
        frame->left--;
        return true;
    }
    if (frame->key != NULL) {
        return set_value(frame, value);
    }
    frame->key = value;
    return true;
}

/* NULL: it is left to the serializer; perhaps an exception is set. */
INLINE_ALL static PyObject *take_all(struct reader *reader)
{
    PyObject *result;
    bool done = take_value(reader, false, &result);
    while (done && reader->depth > 0) {
        struct partial *frame = &reader->frames[reader->depth - 1];
        done = frame->items != NULL ? take_items(reader, frame) : take_pairs(reader, frame);
        while (done && reader->depth > 0 && reader->frames[reader->depth - 1].left == 0) {
            result = reader->frames[--reader->depth].container;
            if (reader->depth > 0) {
                done = deliver(&reader->frames[reader->depth - 1], result);
            }
        }
    }
    if (!done) {
        result = NULL;
    }
    while (reader->depth > 0) {
        struct partial *frame = &reader->frames[--reader->depth];
        Py_DECREF(frame->container);
        Py_XDECREF(frame->key);
    }
    if (reader->more_frames != NULL) {
        PyMem_Free(reader->more_frames);
    }
    return result;
}

PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, uint32_t method, PyObject **keys)
{
    struct reader reader;
    reader.bytes = bytes;
    reader.left = length;
    reader.has_tuples = method == PLAIN_TUPLES;
    reader.keys = keys;
    reader.pending = 1;
    reader.depth = 0;
    reader.frames = reader.first_frames;
    reader.more_frames = NULL;
    PyObject *item = take_all(&reader);
    if (item != NULL && reader.left != 0) {
        Py_CLEAR(item);
    }
    if (item == NULL) {
        PyErr_Clear();
    }
    return item;
}
