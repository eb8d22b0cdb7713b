/* crash_points_states.h: putting a queue into a state, and back into it after each death. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_STATES_H
#define SHMQUEUE_TESTS_CRASH_POINTS_STATES_H

#include "crash_points_scenes.h"

#include <signal.h>
#include <sys/wait.h>

#define PAGE 4096u

static inline void add(struct scene *scene, uint32_t id)
{
    if (put_item(&scene->ring, id, until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: put");
    }
    model_put(&scene->model, id);
}

static inline void add_items(struct scene *scene, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        add(scene, item_id(1 + (unsigned)scene->model.put, ITEM_LENGTH));
    }
}

static inline void take(struct scene *scene, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t id;
        if (take_item(&scene->ring, &id, until(WAIT_FOREVER)) != RING_OK ||
            id != scene->model.ids[scene->model.get]) {
            harness_fail("making a state: get");
        }
        scene->model.get++;
    }
}

/* A process takes the lock, fills the slot that is not current with lies, and is killed. */
static inline void leave_lock(struct ring *ring, struct side *side)
{
    pid_t child = fork();
    if (child == 0) {
        struct ledgers *ledgers = &side->ledgers;
        unsigned slot = (atomic_load(&ledgers->sequence) + 1) & 1;
        if (side_lock(ring, side, lock_self(), AT_ONCE) == RING_OK) {
            atomic_store(&ledgers->position[slot], UINT64_MAX);
            atomic_store(&ledgers->count[slot], UINT64_MAX);
            atomic_store(&ledgers->dropped[slot], UINT64_MAX);
            atomic_store(&ledgers->arena[slot], UINT32_MAX);
        }
        raise(SIGKILL);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child) {
        harness_fail("making a state: fork");
    }
}

static inline void fill(struct scene *scene)
{
    for (uint64_t left; (left = scene->ring.capacity - model_used(&scene->model)) != 0;) {
        uint64_t size = left >= 2 * ITEM_SIZE ? ITEM_SIZE : left;
        add(scene, item_id(1 + (unsigned)scene->model.put, (unsigned)size - RECORD_HEADER_SIZE));
    }
}

static inline void drop(struct scene *scene, uint64_t items)
{
    uint64_t dropped;
    if (ring_clear(&scene->ring, &dropped, until(WAIT_FOREVER)) != RING_OK || dropped != items) {
        harness_fail("making a state: drop");
    }
    model_clear(&scene->model);
}

static inline void make_fixed(struct scene *scene)
{
    enum operation operation = scene->operation;
    enum state state = scene->state;
    struct segment *segment = scene->ring.segment;
    unsigned before = state == HEADER_WRAPS ? CAPACITY - 4 : state == PAYLOAD_WRAPS ? CAPACITY - 20 : 30;
    add(scene, item_id(1, before - RECORD_HEADER_SIZE));
    take(scene, 1); /* and it is not done: one is unfinished */
    if (state == ONE_MORE) {
        add_items(scene, 1);
        drop(scene, 1);
    }
    if (is_get(operation) || is_shut_down(operation)) {
        bool none = state == EMPTY || (state == ASLEEP && is_shut_down(operation));
        add_items(scene, none ? 0 : items_moved(operation) + (state == CONTENDED));
    }
    if (state == ONE_MORE) {
        add_items(scene, 1);
    }
    if (state == FULL || (state == ASLEEP && is_get(operation))) {
        fill(scene);
    }
    if (state == FLAGGED) {
        atomic_store(&segment->put.ledgers.waiting, 1);
        atomic_store(&segment->get.ledgers.waiting, 1);
        atomic_store(&segment->tally.waiting, 1);
    }
}

static inline void make_elastic(struct scene *scene)
{
    switch (scene->state) {
    case GROW:
    case GROW_LEFT:
        add(scene, item_id(1, 4072)); /* 16 bytes are left */
        return;
    case RESERVE:
        add(scene, item_id(LARGE | 1, 4095)); /* with its header 248 bytes less than a step of memory */
        add_items(scene, 8);
        take(scene, 1);
        return;
    case FOLLOW:
        add_items(scene, 11); /* nine fit */
        take(scene, 8);
        return;
    default:
        add(scene, item_id(1, 4072));
        add_items(scene, 1);
        take(scene, scene->state == DRAINED || scene->state == DRAINED_LEFT ? 2 : 1);
        if (scene->state == UNUSED) {
            ring_trim(&scene->ring, true); /* the put side leaves the large arena */
            take(scene, 1);
        }
    }
}

static inline bool is_elastic_state(enum state state) { return state >= GROW; }

static inline int make_file(enum state state)
{
    switch (state) {
    case RESERVE:
        return make_segment(12288, 3145728, 0); /* 1.5 MiB in the last arena but two */
    case FOLLOW:
        return make_segment(256, 1024, 0);
    default:
        return is_elastic_state(state) ? make_segment(4096, 16384, 0) : make_segment(0, CAPACITY, 0);
    }
}

/* Restoring needs every byte that the state has, and nothing that the arenas do not have memory for. */
static inline void set_scene(struct scene *scene, enum operation operation, enum state state)
{
    struct stat status;
    struct statistics figures;
    memset(scene, 0, sizeof *scene);
    scene->operation = operation;
    scene->state = state;
    scene->file = make_file(state);
    attach(&scene->ring, scene->file);
    if (is_elastic_state(state)) {
        make_elastic(scene);
    } else {
        make_fixed(scene);
    }
    if (state == LEFT || state == GROW_LEFT || state == DRAINED_LEFT) {
        leave_lock(&scene->ring, &scene->ring.segment->put);
        leave_lock(&scene->ring, &scene->ring.segment->get);
    }
    for (uint32_t arena = 0; arena < scene->ring.arenas; arena++) {
        (void)arena_span(&scene->ring, arena);
    }
    scene->ring_as_new = scene->ring;
    if (fstat(scene->file, &status) != 0 || (scene->image = malloc((size_t)status.st_size)) == NULL ||
        pread(scene->file, scene->image, (size_t)status.st_size, 0) != status.st_size ||
        ring_statistics(&scene->ring, &figures) != RING_OK || !model_equals(&scene->model, &figures)) {
        harness_fail("making a state");
    }
    scene->size = (uint64_t)status.st_size;
    scene->recoveries = figures.recoveries;
}

static inline void drop_scene(struct scene *scene)
{
    detach(&scene->ring);
    close(scene->file);
    free(scene->image);
}

/* Puts every byte of the segment back as it was before the operation, and gives memory only to what had it. */
static inline void restore(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    const struct segment *was = (const struct segment *)(const void *)scene->image;
    uint64_t first = ring_first_mapping(&was->header);
    *ring = scene->ring_as_new;
    if (first < scene->size && fallocate(scene->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first,
                                         (off_t)(scene->size - first)) != 0) {
        harness_fail("restoring: punch");
    }
    for (uint32_t arena = 1; arena < ring->arenas; arena++) {
        static const unsigned char nothing[PAGE];
        uint64_t start = LAYOUT_HEADER_SIZE + ring->arena_start[arena], reserved = was->arenas[arena].reserved;
        if (reserved != 0 && fallocate(scene->file, 0, (off_t)start, (off_t)reserved) != 0) {
            harness_fail("restoring: allocate");
        }
        for (uint64_t at = start; at < start + reserved; at += PAGE) {
            size_t length = start + reserved - at < PAGE ? (size_t)(start + reserved - at) : PAGE;
            if (memcmp(scene->image + at, nothing, length) != 0 &&
                pwrite(scene->file, scene->image + at, length, (off_t)at) != (ssize_t)length) {
                harness_fail("restoring: write");
            }
        }
    }
    memcpy(ring->segment, scene->image, (size_t)first);
}

#endif
