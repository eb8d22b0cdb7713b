/* python_plain.h: scalars, and small lists and dicts of scalars and of such, to msgpack and back.
 *
 * What is written are the very bytes of msgpack's packer, what is read is what its unpacker makes of them.  Anything
 * else (other types, too large, too deep, damaged) is left to those two.  No Python code runs in here.
 */
#ifndef SHMQUEUE_PYTHON_PLAIN_H
#define SHMQUEUE_PYTHON_PLAIN_H

#include "python_ring.h"

#define PLAIN_MAX 1024 /* bytes */
#define PLAIN_ROOM (PLAIN_MAX + SCALAR_HEAD_MAX)

/* Packs into PLAIN_MAX bytes at most, of PLAIN_ROOM that are the caller's.  Into how many; 0: the item is not for us,
 * and no exception is set.  as_pickle: only what comes back as from pickle, in which a list or dict that stands twice
 * in an item is one afterwards, too. */
uint32_t plain_pack(unsigned char *bytes, PyObject *item, bool as_pickle);

/* NULL: it is not for us, and no exception is set. `keys`: KEYS strings or NULLs, for the dicts' keys. */
PyObject *plain_unpack(const unsigned char *bytes, uint32_t length, PyObject **keys);

#endif
