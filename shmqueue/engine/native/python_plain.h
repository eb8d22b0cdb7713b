/* python_plain.h: scalars, and lists, dicts and tuples of scalars and of such, to msgpack and back.
 *
 * What is written are the very bytes of msgpack's packer as plain.py uses it, what is read is what its unpacker makes of
 * them.  Anything else (other types, what stands in an item more than once, too deep, damaged) is left to those two.
 * Nothing here recurses: how deep an item is makes no difference to the stack.  No Python code runs in here, except on
 * a free-threaded build: there lists and dicts are copied before they are packed, and finalizers may run with the copies.
 */
#ifndef SHMQUEUE_PYTHON_PLAIN_H
#define SHMQUEUE_PYTHON_PLAIN_H

#include "python_ring.h"

#define PLAIN_SMALL 1024 /* bytes that are packed on the stack, or unpacked under the get lock */
#define PLAIN_MOST 65536 /* bytes that are packed as_pickle: pickle is as fast with more */
#define PLAIN_ROOM(most) ((most) + SCALAR_HEAD_MAX)
#define PLAIN_LARGER UINT32_MAX

/* serialization.py: methods of the records that this is about. */
enum plain_method {
    PLAIN_MSGPACK = 0,
    PLAIN_TUPLES = 2, /* tuples stand in it, as arrays that begin with a mark */
};

/* Packs into `most` bytes, of PLAIN_ROOM(most) that are the caller's.  Into how many; 0: the item is not for us;
 * PLAIN_LARGER: it may be, with more room.  No exception is set.  as_pickle: bytearrays and memoryviews, which arrive as
 * bytes, are not for us.  A container that stands twice in the item never is. */
uint32_t plain_pack(unsigned char *bytes, uint32_t most, PyObject *item, bool as_pickle, uint32_t *method);

/* Packs an item of any size.  NULL: it is not for us, and no exception is set. */
PyObject *plain_pack_large(PyObject *item, bool as_pickle, uint32_t *method);

/* NULL: it is not for us, and no exception is set. `keys`: KEYS strings or NULLs, for the dicts' keys; or NULL, where
 * keys_without_lock() gives no others. */
PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, uint32_t method, PyObject **keys);

#endif
