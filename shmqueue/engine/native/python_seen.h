/* python_seen.h: which objects stand in an item already, by their addresses. */
#ifndef SHMQUEUE_PYTHON_SEEN_H
#define SHMQUEUE_PYTHON_SEEN_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#define SEEN 16 /* objects remembered without a table */

struct seen {
    uintptr_t *table; /* of 1 << bits objects; once SEEN do not suffice.  To be freed with PyMem_Free() */
    unsigned count, bits;
    uintptr_t first[SEEN];
};

static inline size_t place_in_table(const struct seen *seen, uintptr_t object)
{
    return (size_t)((object >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - seen->bits));
}

static inline bool enter_into_table(struct seen *seen, uintptr_t object)
{
    size_t mask = ((size_t)1 << seen->bits) - 1, place = place_in_table(seen, object);
    while (seen->table[place] != 0) {
        if (seen->table[place] == object) {
            return false;
        }
        place = (place + 1) & mask;
    }
    seen->table[place] = object;
    return true;
}

static inline bool enlarge_table(struct seen *seen)
{
    uintptr_t *old = seen->table;
    size_t count = old != NULL ? (size_t)1 << seen->bits : SEEN;
    uintptr_t *table = PyMem_Calloc(4 * count, sizeof *table);
    if (table == NULL) {
        return false;
    }
    seen->bits = old != NULL ? seen->bits + 2 : 6;
    seen->table = table;
    const uintptr_t *from = old != NULL ? old : seen->first;
    for (size_t i = 0; i < count; i++) {
        if (from[i] != 0) {
            enter_into_table(seen, from[i]);
        }
    }
    PyMem_Free(old);
    return true;
}
_Static_assert(4 * SEEN == 1 << 6, "the first table has four times as many places");

/* Notes an object.  False: it was noted before, or there is no memory. */
static inline bool remember(struct seen *seen, uintptr_t object)
{
    if (seen->table == NULL) {
        for (unsigned i = 0; i < seen->count; i++) {
            if (seen->first[i] == object) {
                return false;
            }
        }
        if (seen->count < SEEN) {
            seen->first[seen->count++] = object;
            return true;
        }
    }
    if ((seen->table == NULL || 2 * seen->count >= 1u << seen->bits) && !enlarge_table(seen)) {
        return false;
    }
    seen->count++;
    return enter_into_table(seen, object);
}

#endif
