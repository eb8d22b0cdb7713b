/* lease_crash_points_states.h: the queue before the operation, what the victim has of it, and what must be found after
 * a death. */
#ifndef SHMQUEUE_TESTS_LEASE_CRASH_POINTS_STATES_H
#define SHMQUEUE_TESTS_LEASE_CRASH_POINTS_STATES_H

#include "lease_crash_points.h"

#include <sys/wait.h>

/* The survivor leases the next item; what lies there may be moved. */
static inline void survivor_leases(struct scene *scene)
{
    struct loan *loan = &scene->loans[scene->loan_count++];
    if (lend(&scene->ring, loan) != RING_OK) {
        harness_fail("making a state: lend");
    }
    ring_loan_note(&scene->ring, loan, BYTES_MAY_MOVE);
}

static inline void survivor_leases_two_and_returns_one(struct scene *scene)
{
    survivor_leases(scene);
    survivor_leases(scene);
    if (ring_loan_return(&scene->ring, &scene->loans[--scene->loan_count], until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: return");
    }
}

/* A process that leases two items and ends. */
static inline void let_one_die(struct scene *scene)
{
    pid_t child = fork();
    if (child == 0) {
        struct loan loan;
        _exit(lend(&scene->ring, &loan) == RING_OK && lend(&scene->ring, &loan) == RING_OK ? 0 : 1);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        harness_fail("making a state: a dead holder");
    }
}

/* Puts and gets until the oldest lease holds up more than it may. */
static inline void hold_up(struct scene *scene)
{
    uint64_t limit = scene->ring.arena_size[0] / 4;
    for (uint64_t moved = 0; moved <= limit; moved += RECORD_HEADER_SIZE + length_of(scene->next_id)) {
        uint32_t id;
        bool whole;
        struct ledgers *ledgers = &scene->ring.segment->get.ledgers;
        atomic_store(&ledgers->waiting, 0);
        put(scene);
        atomic_store(&atomic_load(&scene->ring.table)[scene->loans[0].entry].in_place, 1); /* not yet */
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole) {
            harness_fail("making a state: hold up");
        }
    }
    ring_loan_note(&scene->ring, &scene->loans[0], BYTES_MAY_MOVE);
}

/* The survivor has two: the older one is moved, then given back, and the other one holds up the ring. */
static inline void move_one_of_two(struct scene *scene)
{
    struct lease *table;
    uint32_t id;
    bool whole;
    survivor_leases(scene);
    survivor_leases(scene);
    table = atomic_load(&scene->ring.table);
    atomic_store(&table[scene->loans[1].entry].in_place, 1); /* not yet */
    for (int i = 0; i < 2; i++) {
        (void)!get(&scene->ring, &id, &whole);
    }
    hold_up(scene);
    put(scene);
    (void)!get(&scene->ring, &id, &whole);
    if (atomic_load(&table[scene->loans[0].entry].window) == 0 ||
        ring_loan_return(&scene->ring, &scene->loans[0], until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: move");
    }
    scene->loans[0] = scene->loans[--scene->loan_count];
    ring_loan_note(&scene->ring, &scene->loans[0], BYTES_MAY_MOVE);
}

/* `first`, if it is not NONE, and all items from `from` on. */
static inline struct contents items(const struct scene *scene, uint32_t first, uint32_t from, uint64_t unfinished)
{
    struct contents contents = {.unfinished = unfinished};
    if (first != NONE) {
        contents.ids[contents.count++] = first;
    }
    for (uint32_t id = from; id <= scene->next_id; id++) {
        contents.ids[contents.count++] = id;
    }
    return contents;
}

/* Takes all that is there, and so comes to what is being written. */
static inline void get_all(struct scene *scene)
{
    uint32_t id;
    bool whole;
    while (get(&scene->ring, &id, &whole) == RING_OK) {
    }
}

static inline void survivor_reserves(struct scene *scene)
{
    reserve(scene, &scene->writing[scene->writing_count]);
    scene->writing_ids[scene->writing_count++] = scene->next_id;
}

/* A process that reserves an item, and ends. */
static inline void let_a_writer_die(struct scene *scene)
{
    pid_t child = fork();
    int status;
    if (child == 0) {
        reserve(scene, &victims_item);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        harness_fail("making a state: a dead writer");
    }
    scene->next_id++;
}

static inline void make_for_writers(struct scene *scene, uint64_t gone, uint32_t first)
{
    struct ring *ring = &scene->ring;
    uint32_t victims = scene->next_id + 1;
    switch (scene->operation) {
    case RESERVE:
    case ABANDON:
        scene->before = scene->after = items(scene, NONE, first, gone + 4);
        scene->next_id++; /* the victim's */
        break;
    case COMMIT:
        scene->before = items(scene, NONE, first, gone + 4);
        scene->next_id++;
        scene->after = items(scene, NONE, first, gone + 5);
        break;
    case COMMIT_PASSED:
    case ABANDON_PASSED:
        scene->before = scene->after = (struct contents){.unfinished = gone + 4};
        scene->next_id++;
        if (scene->operation == COMMIT_PASSED) {
            scene->after = items(scene, NONE, victims, gone + 5);
        }
        break;
    case PASS:
    case PASS_BESIDE:
    case PASS_ABANDONED:
    case GET_COMMITTED: {
        get_all(scene);
        survivor_reserves(scene);
        if (scene->operation == PASS_BESIDE) {
            get_all(scene);
            survivor_reserves(scene);
        }
        put(scene);
        bool is_put = scene->operation == GET_COMMITTED;
        scene->before = items(scene, NONE, is_put ? scene->next_id - 1 : scene->next_id, scene->next_id);
        scene->after = items(scene, NONE, is_put ? scene->next_id : scene->next_id + 1, scene->next_id);
        if (scene->operation == PASS_ABANDONED || is_put) {
            scene->writing_count = 0;
        }
        if (is_put) {
            (void)!ring_end_reservation(ring, &scene->writing[0], true, until(WAIT_FOREVER));
        } else if (scene->operation == PASS_ABANDONED) { /* as one that dies before it clears the way */
            scene->writing[0].place[offsetof(struct reservation, state)] = RESERVATION_ABANDONED;
            scene->before.unfinished--;
            scene->after.unfinished--;
        }
        break;
    }
    case CLEAR_AROUND:
        survivor_reserves(scene);
        put(scene);
        put(scene);
        scene->before = items(scene, NONE, first, gone + 7);
        for (unsigned i = 4; i + 1 < scene->before.count; i++) { /* but what is being written */
            scene->before.ids[i] = scene->before.ids[i + 1];
        }
        scene->before.count--;
        scene->between = items(scene, NONE, scene->next_id - 1, gone + 3);
        scene->after = (struct contents){.unfinished = gone + 1};
        break;
    default: /* take over */
        let_a_writer_die(scene);
        get_all(scene);
        put(scene);
        scene->before = scene->after = items(scene, NONE, scene->next_id, gone + 5);
        break;
    }
}

/* One item is left, in an arena that is not the first, which it fills: the survivor's, and requeued, or the victim's. */
static inline void make_for_growth(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    while (scene->elastic && ledger_read(&ring->segment->put.ledgers).arena == 0) {
        put(scene);
    }
    get_all(scene);
    uint32_t arena = ledger_read(&ring->segment->put.ledgers).arena;
    large_id = scene->next_id + 1;
    large_length = scene->elastic ? (uint32_t)ring->arena_size[arena] - 2 * RECORD_HEADER_SIZE : 40;
    if (large_length > LENGTH_MAX) {
        harness_fail("making a state: the arenas are larger than was thought");
    }
    put(scene);
    if (ledger_read(&ring->segment->put.ledgers).arena != arena) {
        harness_fail("making a state: the queue has grown");
    }
    if (scene->operation == GROW) {
        survivor_leases(scene);
        if (ring_loan_return(ring, &scene->loans[--scene->loan_count], until(WAIT_FOREVER)) != RING_OK) {
            harness_fail("making a state: return");
        }
    }
    scene->next_id++; /* the victim's */
    uint32_t later = scene->next_id + 1; /* that survive() puts */
    scene->before = (struct contents){.ids = {later}, .count = 1, .unfinished = scene->next_id - 1};
    scene->after = (struct contents){.ids = {later - 1, later}, .count = 2, .unfinished = scene->next_id};
}

/* What the victim has before the operation. */
static inline void victim_prepares(struct scene *scene)
{
    switch (scene->operation) {
    case FINISH:
    case FINISH_QUICKLY:
    case FINISH_NEWER:
    case FINISH_OLDEST:
    case FINISH_PINNED:
    case UNPIN:
    case RETURN:
    case RETURN_BESIDE:
    case RETURN_ALL:
    case GROW_HOLDING:
        (void)!lend(&scene->ring, &victims_loan);
        break;
    default:
        break;
    }
    if (scene->operation == RETURN_ALL) {
        (void)!lend(&scene->ring, &victims_second);
    }
    if (scene->operation >= COMMIT && scene->operation <= ABANDON_PASSED) {
        scene->next_id--;
        reserve(scene, &victims_item);
    }
    if (scene->operation == COMMIT_PASSED || scene->operation == ABANDON_PASSED) {
        get_all(scene);
    }
    if (scene->operation == FINISH_OLDEST) { /* a newer one is already the survivor's: see make() */
        return;
    }
    if (scene->operation == UNPIN) {
        (void)!ring_loan_finish(&scene->ring, &victims_loan, true, until(WAIT_FOREVER));
    }
}

static inline void make(struct scene *scene, enum operation operation, bool elastic)
{
    memset(scene, 0, sizeof *scene);
    large_id = NONE;
    scene->operation = operation;
    scene->elastic = elastic;
    scene->file = elastic ? make_segment(1024, 16384, 0) : make_segment(0, CAPACITY, 0);
    attach(&scene->ring, scene->file);
    if (elastic) {
        uint32_t id;
        bool whole;
        for (int i = 0; i < 20; i++) { /* somewhere in the ring, so that records wrap now and then */
            put(scene);
            (void)!get(&scene->ring, &id, &whole);
        }
    }
    uint64_t gone = scene->next_id; /* and unfinished */
    uint32_t first = scene->next_id + 1;
    for (int i = 0; i < 4; i++) {
        put(scene);
    }
    if (is_of_growth(operation)) {
        make_for_growth(scene);
        return;
    }
    if (is_of_writers(operation)) {
        make_for_writers(scene, gone, first);
        return;
    }
    switch (operation) {
    case LEND:
    case RETURN:
    case RETURN_ALL:
        scene->before = scene->after = items(scene, NONE, first, gone + 4);
        break;
    case LEND_QUICKLY:
        survivor_leases(scene);
        if (ring_loan_finish(&scene->ring, &scene->loans[--scene->loan_count], false, until(WAIT_FOREVER)) != RING_OK) {
            harness_fail("making a state: finish");
        }
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 3);
        break;
    case LEND_ANOTHER:
    case RETURN_BESIDE:
        survivor_leases(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case LEND_RETURNED:
        survivor_leases_two_and_returns_one(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case GET_RETURNED:
        survivor_leases_two_and_returns_one(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 4);
        break;
    case GET_BESIDE:
        survivor_leases(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 4);
        break;
    case LEND_AND_MOVE:
    case GET_AND_MOVE: {
        survivor_leases(scene);
        uint32_t id;
        bool whole;
        for (int i = 0; i < 3; i++) {
            (void)!get(&scene->ring, &id, &whole);
        }
        hold_up(scene);
        first = scene->next_id + 1;
        put(scene);
        put(scene);
        scene->before = items(scene, NONE, first, scene->next_id);
        scene->after = items(scene, NONE, operation == LEND_AND_MOVE ? first : first + 1, scene->next_id);
        break;
    }
    case GET_MOVED_AND_MOVE: {
        uint32_t moved = first;
        move_one_of_two(scene);
        first = scene->next_id + 1;
        put(scene);
        put(scene);
        scene->before = items(scene, moved, first, scene->next_id);
        scene->after = items(scene, NONE, first, scene->next_id);
        break;
    }
    case FINISH:
    case FINISH_QUICKLY:
    case FINISH_OLDEST:
    case FINISH_PINNED:
        scene->before = items(scene, NONE, first, gone + 4);
        scene->after = items(scene, NONE, first + 1, gone + 3);
        break;
    case FINISH_NEWER:
        survivor_leases(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 3);
        break;
    case UNPIN:
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 3);
        break;
    case TAKE_OVER:
        survivor_leases(scene);
        let_one_die(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case TAKE_OVER_DROPPED:
        survivor_leases(scene);
        survivor_leases(scene);
        ring_loan_note(&scene->ring, &scene->loans[--scene->loan_count], BYTES_DROPPED);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case MAKE_ROOM:
        survivor_leases(scene);
        get_all(scene);
        put(scene);
        scene->before = scene->after = items(scene, NONE, scene->next_id, gone + 5);
        break;
    default: /* clear, shut down */
        survivor_leases_two_and_returns_one(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = (struct contents){.unfinished = gone + 1};
        scene->shut = operation == SHUT_DOWN_NOW;
        break;
    }
}

#endif
