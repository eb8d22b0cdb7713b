/* crash_points_survivor.h: what must be true after a death, and what a survivor must be able to do.
 *
 * Each function returns NULL, or what is wrong. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_SURVIVOR_H
#define SHMQUEUE_TESTS_CRASH_POINTS_SURVIVOR_H

#include "crash_points_states.h"

#define BLOCK 512u /* of st_blocks */

/* Rule 10: what is reserved has memory.  *more: pages that have memory and need none. */
static inline const char *check_memory(struct scene *scene, uint64_t *more)
{
    struct ring *ring = &scene->ring;
    struct stat status;
    uint64_t needed = 0, next = 0; /* pages; up to which they are counted */
    for (uint32_t arena = 0; arena < ring->arenas; arena++) {
        uint64_t start = LAYOUT_HEADER_SIZE + ring->arena_start[arena];
        uint64_t bytes = arena == 0 ? ring->arena_size[0] : atomic_load(&ring->segment->arenas[arena].reserved);
        uint64_t from = arena == 0 ? 0 : start / PAGE, to = (start + bytes + PAGE - 1) / PAGE;
        if (bytes > ring->arena_size[arena]) {
            return "more is reserved than an arena holds";
        }
        if (bytes != 0 && to > next) {
            needed += to - (from > next ? from : next);
            next = to;
        }
    }
    if (fstat(scene->file, &status) != 0) {
        harness_fail("counting memory");
    }
    uint64_t has = (uint64_t)status.st_blocks * BLOCK / PAGE;
    *more = has > needed ? has - needed : 0;
    return has < needed ? "an arena says that it has memory, and it has none" : NULL;
}

/* Rules 7 to 9: from get.arena one comes to put.arena, and positions grow on the way. */
static inline const char *check_arenas(struct scene *scene, const struct statistics *is)
{
    const struct arena *arenas = scene->ring.segment->arenas;
    uint64_t position = is->get.position;
    uint32_t arena = is->get.arena;
    for (uint32_t steps = 0; arena != is->put.arena; steps++) {
        if (arena >= scene->ring.arenas || steps > scene->ring.arenas) {
            return "no way leads from the get side's arena to the put side's";
        }
        uint64_t end = arenas[arena].end;
        arena = arenas[arena].next;
        if (end < position || end > is->put.position || arena >= scene->ring.arenas || arenas[arena].base != end) {
            return "an arena does not begin where the one before it ends";
        }
        position = end;
    }
    return NULL;
}

static inline const char *check_figures(struct scene *scene, const struct model *model, struct statistics *is)
{
    if (ring_statistics(&scene->ring, is) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    if (!model_equals(model, is)) {
        return "the figures are not what they were a moment ago, and what was done since";
    }
    return check_arenas(scene, is);
}

static inline const char *survivor_puts(struct scene *scene, struct model *model, unsigned length,
                                        struct patience patience)
{
    uint32_t id = survivors_item(model, length);
    enum ring_status status = put_item(&scene->ring, id, patience);
    if (model->shut != SHUT_NOT) {
        return status == RING_SHUT ? NULL : "a put after the shutdown is not refused";
    }
    if (status == RING_BUSY) {
        return "a put finds the lock taken, and everybody is gone";
    }
    if (status == RING_DEADLINE || status == RING_LOCKED) {
        return "wedged: a put does not get through";
    }
    if (status == RING_FULL) {
        return "a put finds no room, and there is room";
    }
    if (status != RING_OK) {
        return "a put is refused: the queue is broken";
    }
    model_put(model, id);
    return NULL;
}

static inline const char *survivor_takes(struct scene *scene, struct model *model, struct patience patience)
{
    uint32_t id = 0;
    enum ring_status status;
    patience.for_room = false;
    status = take_item(&scene->ring, &id, patience);
    if (model->get == model->put || model->shut == SHUT_IMMEDIATE) {
        enum ring_status wanted = model->shut != SHUT_NOT ? RING_SHUT : RING_EMPTY;
        return status == wanted ? NULL : "a get where there is nothing to get does not say so";
    }
    if (status == RING_BUSY) {
        return "a get finds the lock taken, and everybody is gone";
    }
    if (status == RING_DEADLINE || status == RING_LOCKED) {
        return "wedged: a get does not get through";
    }
    if (status == RING_MISMATCH) {
        return "an item is not the bytes that were put";
    }
    if (status == RING_EMPTY) {
        return "an item is lost";
    }
    if (status != RING_OK) {
        return "a get is refused: the queue is broken";
    }
    if (id != model->ids[model->get]) {
        return "an item comes out of its order";
    }
    model->get++;
    return NULL;
}

/* A put and a get, whatever is in the queue: the first thing that a survivor does. */
static inline const char *survivor_goes_on(struct scene *scene, struct model *model, struct patience patience)
{
    bool full = scene->ring.capacity - model_used(model) < ITEM_SIZE;
    const char *why = full ? survivor_takes(scene, model, patience) : NULL;
    why = why != NULL ? why : survivor_puts(scene, model, ITEM_LENGTH, patience);
    return why != NULL || full ? why : survivor_takes(scene, model, patience);
}

static inline const char *survivor_drains(struct scene *scene, struct model *model, struct patience patience)
{
    const char *why = NULL;
    while (why == NULL && model->get < model->put && model->shut != SHUT_IMMEDIATE) {
        why = survivor_takes(scene, model, patience);
    }
    why = why != NULL ? why : survivor_takes(scene, model, patience); /* there is nothing more */
    if (why == NULL && model->shut == SHUT_IMMEDIATE) {
        model_clear(model); /* that get has done it, if the dead one had not */
    }
    return why;
}

/* The arithmetic that the user is promised: exactly `capacity` bytes fit. */
static inline const char *survivor_fills(struct scene *scene, struct model *model, struct patience patience)
{
    uint64_t capacity = scene->ring.capacity, size = capacity / 7;
    for (uint64_t left; (left = capacity - model_used(model)) != 0;) {
        uint64_t now = left >= 2 * size ? size : left;
        const char *why = survivor_puts(scene, model, (unsigned)now - RECORD_HEADER_SIZE, patience);
        if (why != NULL) {
            return why;
        }
    }
    patience.for_room = false;
    if (put_item(&scene->ring, survivors_item(model, 1), patience) != RING_FULL) {
        return "more fits than there is room for";
    }
    return NULL;
}

static inline const char *survivor_is_done(struct scene *scene, struct model *model)
{
    while (model_unfinished(model) != 0) {
        if (ring_task_done(&scene->ring) != RING_OK) {
            return "fewer items are unfinished than there should be";
        }
        model->done++;
    }
    if (ring_task_done(&scene->ring) != RING_EMPTY) {
        return "more items are unfinished than there should be";
    }
    return ring_join(&scene->ring, 0) == RING_OK ? NULL : "a join does not see that all is done";
}

static inline const char *check_locks(struct scene *scene)
{
    const struct segment *segment = scene->ring.segment;
    return segment->put.guard.lock == 0 && segment->get.guard.lock == 0 ? NULL : "a lock is left taken";
}

/* All that must be possible once everybody else is gone. */
static inline const char *survivor_lives(struct scene *scene, struct model *model, struct patience patience,
                                         uint64_t *pages_left)
{
    struct statistics is;
    uint64_t more;
    const char *why = survivor_drains(scene, model, patience);
    why = why != NULL ? why : check_figures(scene, model, &is);
    why = why != NULL ? why : check_memory(scene, &more);
    if (why == NULL && arena_is_elastic(&scene->ring)) {
        ring_trim(&scene->ring, true);
        why = check_memory(scene, pages_left);
    }
    if (why == NULL && model->shut == SHUT_NOT && scene->ring.capacity <= 16384) {
        why = survivor_fills(scene, model, patience);
        why = why != NULL ? why : survivor_drains(scene, model, patience);
    }
    why = why != NULL ? why : survivor_is_done(scene, model);
    why = why != NULL ? why : check_figures(scene, model, &is);
    return why != NULL ? why : check_locks(scene);
}

#endif
