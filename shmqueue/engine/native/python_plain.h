/* python_plain.h: small lists and dicts of scalars, and of such, to msgpack and back.
 *
 * What is written are the very bytes of msgpack's packer, what is read is what its unpacker makes of them.  Anything
 * else (other types, too large, too deep, damaged) is left to those two.  No Python code runs in here.
 */
#ifndef SHMQUEUE_PYTHON_PLAIN_H
#define SHMQUEUE_PYTHON_PLAIN_H

#include "python_ring.h"

#define PLAIN_MAX 1024 /* bytes */

struct plain {
    unsigned char bytes[PLAIN_MAX];
    uint32_t length;
};

/* False: it is not for us, and no exception is set. */
bool plain_pack(struct plain *plain, PyObject *item);

/* NULL: it is not for us, and no exception is set. `keys`: KEYS strings or NULLs, for the dicts' keys. */
PyObject *plain_unpack(const struct plain *plain, PyObject **keys);

#endif
