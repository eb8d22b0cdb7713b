/* python_at_hand.h: with the get lock held: what a get makes of the record at hand. */
#ifndef SHMQUEUE_PYTHON_AT_HAND_H
#define SHMQUEUE_PYTHON_AT_HAND_H

#include "python_plain.h"

/* What a get hands out: a Record, or the item itself where it can be read straight out of the record. */
enum form { AS_RECORD, AS_ITEM };

/* A Record (method, payload) with the payload's bytes still to be filled in at *fill.  Needs no lock. */
PyObject *new_record(RingObject *self, uint32_t method, uint64_t length, void **fill);

/* The scalar that the record at hand is. */
struct scalar scalar_at_hand(RingObject *self, const struct take *take);

/* Whether such a record is unpacked from a copy on the stack, as small ones are. */
static inline bool is_small(uint64_t length, uint32_t method)
{
    return length <= PLAIN_SMALL && (method == PLAIN_MSGPACK || method == PLAIN_TUPLES);
}

/* The item that a copy of a small record is, or NULL.  No exception is set. */
static inline PyObject *small_unpacked(RingObject *self, const unsigned char *plain, uint32_t length, uint32_t method)
{
    PyObject *item;
    if (method == PLAIN_MSGPACK && plain_unpack_scalar(plain, length, &item)) {
        if (item == NULL) {
            PyErr_Clear(); /* no memory: the serializer reports it */
        }
        return item;
    }
    int collector = collector_off(); /* only containers make it run */
    item = plain_unpack(plain, length, method, self->keys);
    collector_back(collector);
    return item;
}

/* The item that the record at hand is, which is small; or NULL.  No exception is set. */
static inline PyObject *small_at_hand(RingObject *self, const struct take *take)
{
    unsigned char plain[PLAIN_SMALL];
    ring_get_peek(&self->ring, take, 0, take->length, plain);
    return small_unpacked(self, plain, (uint32_t)take->length, take->method);
}

/* The item that the record at hand is, NULL if it must be loaded.  No exception is set. */
PyObject *item_at_hand(RingObject *self, const struct take *take);

/* What a get hands out for the record at hand, which it passes.  NULL: an exception is set. */
PyObject *read_one(RingObject *self, struct take *take, enum form form);

/* Adds what is there to the list until there are `most`, or no more.  RING_INTERRUPTED: an exception is set. */
enum ring_status read_many(RingObject *self, struct take *take, enum form form, PyObject *list, Py_ssize_t most);

#endif
