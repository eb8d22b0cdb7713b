/* lease_crash_points_verdict.h: what must hold after a death: each item is in exactly one place, whole and in its
 * order, the survivor's own leases and reservations are what they were, and the queue has all its room.
 *
 * Each check returns NULL, or what is wrong. */
#ifndef SHMQUEUE_TESTS_LEASE_CRASH_POINTS_VERDICT_H
#define SHMQUEUE_TESTS_LEASE_CRASH_POINTS_VERDICT_H

#include "lease_crash_points.h"

static struct {
    uint64_t scenes, points, deaths, whole, not_at_all, instructions;
} counted;

static inline const char *take_all(struct scene *scene, struct contents *contents)
{
    uint32_t id;
    bool whole;
    enum ring_status status;
    contents->count = 0;
    while ((status = get(&scene->ring, &id, &whole)) == RING_OK) {
        if (!whole) {
            return "an item is not the bytes that were put";
        }
        if (contents->count == ITEMS_MAX) {
            return "there are more items than were put";
        }
        contents->ids[contents->count++] = id;
    }
    return status == RING_EMPTY || status == RING_SHUT ? NULL
           : status == RING_DEADLINE                   ? "wedged: a get does not get through"
                                                       : "a get is refused: the queue is broken";
}

static inline bool equal(const struct contents *is, const struct contents *wanted)
{
    return is->count == wanted->count && is->unfinished == wanted->unfinished &&
           memcmp(is->ids, wanted->ids, is->count * sizeof is->ids[0]) == 0;
}

/* As many items as the ring holds lie beside the survivor's leases, and more pass by. */
static inline const char *put_and_get_all_around(struct scene *scene)
{
    while (!scene->shut && put_within(scene, AT_ONCE) == RING_OK) {
    }
    for (bool is_next = !scene->shut; is_next;) {
        uint32_t id;
        bool whole;
        enum ring_status status = get(&scene->ring, &id, &whole);
        if (status == RING_OK && !whole) {
            return "an item that lies beside a lease is not whole";
        }
        is_next = status == RING_OK;
    }
    for (uint64_t moved = 0; !scene->shut && moved < 2 * (uint64_t)CAPACITY; moved += length_of(scene->next_id)) {
        uint32_t id;
        bool whole;
        put(scene);
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole || id != scene->next_id) {
            return "an item that passes by a lease is lost or not whole";
        }
    }
    return NULL;
}

/* What the survivor writes is still its own, and becomes an item once. */
static inline const char *check_writing(struct scene *scene)
{
    uint32_t id;
    bool whole;
    while (scene->writing_count > 0 && put_within(scene, AT_ONCE) == RING_OK) {
    }
    while (scene->writing_count > 0 && get(&scene->ring, &id, &whole) == RING_OK) {
        if (!whole) {
            return "an item that lies beside one that is being written is not whole";
        }
    }
    for (unsigned i = scene->writing_count; i-- > 0;) { /* the newest first */
        const struct reserving *writing = &scene->writing[i];
        if (ring_end_reservation(&scene->ring, writing, true, until(WAIT_FOREVER)) != RING_OK) {
            return "a survivor's reservation is over";
        }
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole || id != scene->writing_ids[i]) {
            return "what a survivor has written does not come, or is not whole";
        }
        if (get(&scene->ring, &id, &whole) != RING_EMPTY) {
            return "what a survivor has written comes twice";
        }
    }
    return NULL;
}

/* The survivor's own leases are still what they were, and end once. */
static inline const char *check_loans(struct scene *scene)
{
    for (unsigned i = 0; i < scene->loan_count; i++) {
        const struct loan *loan = &scene->loans[i];
        uint32_t id;
        bool whole;
        if (ring_loan_return(&scene->ring, loan, until(WAIT_FOREVER)) != RING_OK) {
            return "a survivor's lease is over";
        }
        if (scene->shut && atomic_load(&scene->ring.segment->notes.shut) != 0) {
            continue; /* requeued items are dropped now */
        }
        struct loan again;
        if (lend(&scene->ring, &again) != RING_OK || again.method != loan->method || again.attempt <= loan->attempt) {
            return "a survivor's item does not come back, or as if for the first time";
        }
        if (get(&scene->ring, &id, &whole) != RING_EMPTY) { /* after which nothing is to be undone */
            return "there are more items than were put";
        }
        if (finish_quick_first(&scene->ring, loan, false, until(WAIT_FOREVER)) != RING_MISMATCH) {
            return "a lease ends another one of the same item";
        }
        if (ring_loan_return(&scene->ring, &again, until(WAIT_FOREVER)) != RING_OK ||
            get(&scene->ring, &id, &whole) != RING_OK || !whole || id != loan->method) {
            return "a survivor's item does not come back whole";
        }
        if (finish_quick_first(&scene->ring, loan, false, until(WAIT_FOREVER)) != RING_MISMATCH) {
            return "a lease ends twice";
        }
    }
    return NULL;
}

/* Empty, and as large as when it was new. */
static inline const char *check_room(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    struct lease_statistics figures;
    struct statistics is;
    uint32_t id;
    bool whole;
    if (ring_statistics(ring, &is) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    (void)get(ring, &id, &whole); /* drops what an immediate shutdown left */
    ring_lease_statistics(ring, &figures);
    if (figures.leased != 0 || figures.returned != 0) {
        return "a lease is left over";
    }
    if (ring_statistics(ring, &is) != RING_OK || is.put.position != is.get.position || is.get.leases) {
        return "bytes are used, and nothing is in the queue";
    }
    if (is.put.shut != SHUT_NOT) {
        return NULL;
    }
    uint64_t left = ring->capacity;
    while (left >= 2 * (RECORD_HEADER_SIZE + 26)) {
        put(scene);
        left -= RECORD_HEADER_SIZE + length_of(scene->next_id);
    }
    for (uint32_t wanted = scene->next_id; get(ring, &id, &whole) == RING_OK;) {
        if (!whole || id > wanted) {
            return "an item is not the bytes that were put";
        }
        if (id == wanted) {
            return NULL;
        }
    }
    return "an item is lost";
}

/* A process opens the queue, knows nothing of it, and finishes the item that was left; then one is put. */
static inline const char *come_new(struct scene *scene)
{
    struct ring fresh = {0};
    struct loan loan;
    bool is_finished;
    attach(&fresh, scene->file);
    ring_return_dead_now(&fresh);
    is_finished = lend(&fresh, &loan) == RING_OK && loan.method == large_id &&
                  finish_quick_first(&fresh, &loan, false, until(monotonic_ns() + PATIENCE_NS)) == RING_OK;
    detach(&fresh);
    if (!is_finished) {
        return "what was requeued does not come, or not as it was";
    }
    return put_within(scene, until(monotonic_ns() + PATIENCE_NS)) == RING_OK ? NULL : "nothing can be put";
}

static inline const char *survive(struct scene *scene, bool finished)
{
    const char *late = is_of_growth(scene->operation) ? come_new(scene) : NULL;
    if (late != NULL) {
        return late;
    }
    struct contents is;
    struct statistics figures;
    struct lease_statistics leases;
    ring_return_dead(&scene->ring, 0);
    ring_lease_statistics(&scene->ring, &leases);
    if (ring_statistics(&scene->ring, &figures) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    is.unfinished = tally_unfinished(&scene->ring, &figures.put, &figures.get);
    uint64_t available = figures.put.count - figures.get.count;
    const char *why = take_all(scene, &is);
    if (why != NULL) {
        return why;
    }
    if (is_of_writers(scene->operation)) { /* an item counts until a getter has come to it */
        ring_return_dead(&scene->ring, 0);
        if (ring_statistics(&scene->ring, &figures) != RING_OK) {
            return "the figures are refused: the queue is broken";
        }
        is.unfinished = tally_unfinished(&scene->ring, &figures.put, &figures.get);
    } else if (scene->operation == FINISH_OLDEST) { /* which item the victim had is known only to itself */
        is.count = 0;
    } else if (available != is.count && !scene->shut) {
        return "qsize is not the number of items";
    }
    if (scene->shut && is.count == 0) {
        is.unfinished = scene->after.unfinished; /* that get has dropped them, if the dead process had not */
    }
    bool whole = equal(&is, &scene->after), not_at_all = equal(&is, &scene->before);
    not_at_all |= scene->between.unfinished != 0 && equal(&is, &scene->between);
    counted.whole += whole;
    counted.not_at_all += !whole && not_at_all;
    if (!whole && !not_at_all) {
        return "items are lost, doubled or out of order, or the number of unfinished ones is wrong";
    }
    if (is_finish(scene->operation) && leases.acknowledged - scene->acknowledged != (uint64_t)whole) {
        return "an item is counted as acknowledged that is not, or the other way round";
    }
    if (finished && !whole) {
        return "the operation came to its end and did not happen";
    }
    why = check_writing(scene);
    why = why != NULL ? why : put_and_get_all_around(scene);
    why = why != NULL ? why : check_loans(scene);
    return why != NULL ? why : check_room(scene);
}

#endif
