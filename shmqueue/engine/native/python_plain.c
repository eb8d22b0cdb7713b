/* python_plain.c: see python_plain.h. */
#include "python_plain.h"

#define DEPTH_MAX 1024 /* plain.py */
#define FRAMES 8      /* kept on the stack; deeper items take memory */
#define KEY_MAX 40    /* bytes */
#define SHARED_LEAST 4096 /* bytes: a shorter string may be written more than once */
#define SEEN 16           /* objects remembered without a table */

#define INLINE_ALL __attribute__((flatten)) /* the most frequent items are small dicts: a tenth of their time */

/* A tuple is an array that begins with this, an extension of no bytes: see plain.py. */
static const unsigned char tuple_mark[3] = {0xc7, 0x00, 0xac};

/* ---- to msgpack ---- */

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
    uintptr_t *table;                     /* of 1 << table_bits objects, by address; once SEEN do not suffice */
    unsigned seen_count, table_bits;
    struct written first_frames[FRAMES];
    uintptr_t seen[SEEN];
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
        PyErr_Clear(); /* no memory: others will say so */
        return false;
    }
    writer->next = (unsigned char *)PyBytes_AS_STRING(writer->bytes) + used;
    writer->left = size - used;
    return true;
}

static inline bool has_room(struct writer *writer, size_t length)
{
    if (length <= writer->left || grow(writer, length)) {
        return true;
    }
    writer->is_full = true;
    return false;
}

static inline bool add(struct writer *writer, const void *bytes, size_t length)
{
    if (!has_room(writer, length)) {
        return false;
    }
    memcpy(writer->next, bytes, length);
    writer->next += length;
    writer->left -= length;
    return true;
}

static inline bool add_head(struct writer *writer, struct scalar_head head)
{
    if (writer->left < SCALAR_HEAD_MAX && !has_room(writer, 1u + head.width)) {
        return false;
    }
    uint32_t length = scalar_write(head, writer->next); /* perhaps beyond the limit, but not beyond PLAIN_ROOM() */
    writer->next += length;
    writer->left -= length;
    return true;
}

/* ---- what stands more than once in an item ---- */

static inline size_t place_in_table(const struct writer *writer, uintptr_t object)
{
    return (size_t)((object >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - writer->table_bits));
}

static bool enter_into_table(struct writer *writer, uintptr_t object)
{
    size_t mask = ((size_t)1 << writer->table_bits) - 1, place = place_in_table(writer, object);
    while (writer->table[place] != 0) {
        if (writer->table[place] == object) {
            return false;
        }
        place = (place + 1) & mask;
    }
    writer->table[place] = object;
    return true;
}

static bool enlarge_table(struct writer *writer)
{
    uintptr_t *old = writer->table;
    size_t count = old != NULL ? (size_t)1 << writer->table_bits : SEEN;
    uintptr_t *table = PyMem_Calloc(4 * count, sizeof *table);
    if (table == NULL) {
        return false;
    }
    writer->table_bits = old != NULL ? writer->table_bits + 2 : 6;
    writer->table = table;
    const uintptr_t *from = old != NULL ? old : writer->seen;
    for (size_t i = 0; i < count; i++) {
        if (from[i] != 0) {
            enter_into_table(writer, from[i]);
        }
    }
    PyMem_Free(old);
    return true;
}
_Static_assert(4 * SEEN == 1 << 6, "the first table has four times as many places");

static bool remember(struct writer *writer, uintptr_t object)
{
    if (writer->table == NULL) {
        for (unsigned i = 0; i < writer->seen_count; i++) {
            if (writer->seen[i] == object) {
                return false;
            }
        }
        if (writer->seen_count < SEEN) {
            writer->seen[writer->seen_count++] = object;
            return true;
        }
    }
    if ((writer->table == NULL || 2 * writer->seen_count >= 1u << writer->table_bits) && !enlarge_table(writer)) {
        return false;
    }
    writer->seen_count++;
    return enter_into_table(writer, object);
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
    return remember(writer, (uintptr_t)object);
}

/* ---- values ---- */

static inline bool add_str(struct writer *writer, PyObject *item)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(item, &length);
    if (text == NULL) { /* a lone surrogate, or no memory: others will say which */
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
        PyErr_Clear(); /* not contiguous, or released: others will say which */
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
    size_t size = DEPTH_MAX * sizeof *writer->frames;
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
    if (!is_new(writer, container) || count > UINT32_MAX - 1 || !has_room(writer, 1 + count) || /* each takes a byte */
        !add_head(writer, head)) {
        return NULL;
    }
    if (writer->depth == DEPTH_MAX || (writer->depth == FRAMES && !make_frames(writer))) {
        return NULL;
    }
    struct written *frame = &writer->frames[writer->depth++];
    frame->dict = frame->value = NULL;
#ifdef Py_GIL_DISABLED
    frame->copy = NULL;
#endif
    return frame;
}

/* The one on top is written, or given up. */
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
        PyErr_Clear(); /* no memory: others will say so */
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
        return add_head(writer, container_head(false, 1)) && add(writer, tuple_mark, sizeof tuple_mark);
    }
    return open_items(writer, tuple, ((PyTupleObject *)tuple)->ob_item, count, true) &&
           add(writer, tuple_mark, sizeof tuple_mark);
}

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
static bool add_items(struct writer *writer, struct written *frame)
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

INLINE_ALL static bool add_pairs(struct writer *writer, struct written *frame)
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

/* No Python code runs meanwhile, so what is borrowed stays; or it is of copies that nobody else has. */
static bool add_all(struct writer *writer, PyObject *item)
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
    if (writer->more_frames != NULL || writer->table != NULL) {
        PyMem_Free(writer->more_frames);
        PyMem_Free(writer->table);
    }
    return done;
}

static void begin(struct writer *writer, unsigned char *bytes, size_t left, bool as_pickle)
{
    writer->next = bytes;
    writer->left = left;
    writer->bytes = NULL;
    writer->as_pickle = as_pickle;
    writer->has_tuples = writer->is_full = false;
    writer->depth = writer->seen_count = writer->table_bits = 0;
    writer->frames = writer->first_frames;
    writer->more_frames = NULL;
    writer->table = NULL;
}

uint32_t plain_pack(unsigned char *bytes, uint32_t most, PyObject *item, bool as_pickle, uint32_t *method)
{
    struct writer writer;
    begin(&writer, bytes, most, as_pickle);
    bool done = add_all(&writer, item);
    *method = writer.has_tuples ? PLAIN_TUPLES : PLAIN_MSGPACK;
    return done ? most - (uint32_t)writer.left : writer.is_full ? PLAIN_LARGER : 0;
}

PyObject *plain_pack_large(PyObject *item, bool as_pickle, uint32_t *method)
{
    struct writer writer;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, PLAIN_ROOM(PLAIN_MOST));
    if (bytes == NULL) {
        PyErr_Clear(); /* no memory: others will say so */
        return NULL;
    }
    begin(&writer, (unsigned char *)PyBytes_AS_STRING(bytes), PLAIN_MOST, as_pickle);
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

/* ---- and back ---- */

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
    struct partial first_frames[FRAMES];
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
    size_t size = DEPTH_MAX * sizeof *reader->frames;
    struct partial *frames = reader->more_frames == NULL ? PyMem_Malloc(size) : NULL;
    if (frames != NULL) {
        memcpy(frames, reader->frames, reader->depth * sizeof *frames);
        reader->frames = reader->more_frames = frames;
    }
    return frames != NULL;
}

/* The container whose head this is, as a new frame, or as *value if it is empty.  False: it is not for us. */
static bool open_head(struct reader *reader, struct container head, bool is_key, PyObject **value)
{
    skip(reader, head.size);
    bool is_tuple = reader->has_tuples && !head.is_map && head.count > 0 && reader->left >= sizeof tuple_mark &&
                    memcmp(reader->bytes, tuple_mark, sizeof tuple_mark) == 0;
    if (is_tuple) {
        skip(reader, sizeof tuple_mark);
        head.count--;
    }
    reader->pending += head.is_map ? 2 * (uint64_t)head.count : head.count;
    if ((is_key && !is_tuple) || reader->pending > reader->left || reader->depth == DEPTH_MAX ||
        (reader->depth == FRAMES && !make_more_frames(reader))) {
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

/* The value at hand, NULL where it is a container that was opened.  False: it is not for us. */
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

INLINE_ALL static bool take_pairs(struct reader *reader, struct partial *frame)
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

/* NULL: it is not for us; perhaps an exception is set. */
static PyObject *take_all(struct reader *reader)
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
