/* open.h: a handle's beginning and end, and the size of a segment's file. */
#ifndef SHMQUEUE_OPEN_H
#define SHMQUEUE_OPEN_H

#include "lease_table.h"

/* Bytes behind the header that a queue of this shape needs, 0 if there can be none.  initial 0: of fixed size. */
uint64_t ring_data_size(uint64_t initial, uint64_t capacity);

/* Takes over what ring_map() made of the file's first `mapped` bytes and checks the header against the file's size.
 * NULL, or what is wrong.  The caller keeps ring->file open as long as the ring is used. */
const char *ring_open(struct ring *ring, void *memory, size_t mapped, uint64_t size, int file);

/* Unmaps what the ring has mapped by itself. */
void ring_close(struct ring *ring);

#endif
