/* lease_crash_points.h: what the files of lease_crash_points share: the operations' names, a scene, and its items.
 *
 *      _states.h      gives make(): the queue before the operation, and in the scene what must be found afterwards
 *                     (before, between, after); and victim_prepares(): what the victim has before it.
 *      _operations.h  gives start(), step() and end(): a victim that does the operation, one instruction after the
 *                     other.  It takes what victim_prepares() has left in victims_loan and victims_item.
 *      _verdict.h     gives survive(): NULL, or what is wrong after a death, by the scene alone.
 *
 * lease_crash_points.c says when a victim dies. */
#ifndef SHMQUEUE_TESTS_LEASE_CRASH_POINTS_H
#define SHMQUEUE_TESTS_LEASE_CRASH_POINTS_H

#include "quick_way.h"

#define ITEMS_MAX 16
#define PATIENCE_NS INT64_C(2000000000)
#define CAPACITY 4096u
#define NONE 0u
#define LENGTH_MAX 8192u

enum operation {
    LEND,          /* an item that was never handed out: the first lease of the queue */
    LEND_QUICKLY,  /* another one, after that has ended */
    LEND_ANOTHER,  /* beside one of the survivor's */
    LEND_RETURNED, /* a requeued item */
    LEND_AND_MOVE, /* while a lease of the survivor's holds up the ring */
    GET_RETURNED,
    GET_BESIDE, /* an item that was never handed out, beside leases */
    GET_AND_MOVE,
    GET_MOVED_AND_MOVE, /* an item that was moved and given back, while another one holds up the ring */
    FINISH,
    FINISH_QUICKLY,
    FINISH_OLDEST, /* the survivor has a newer one */
    FINISH_NEWER,  /* the survivor has an older one */
    FINISH_PINNED,
    UNPIN,
    RETURN,
    RETURN_BESIDE,
    TAKE_OVER, /* of what a dead process had */
    TAKE_OVER_DROPPED, /* what the survivor dropped without the lock */
    MAKE_ROOM, /* for a putter, beside one of the survivor's */
    RETURN_ALL,
    CLEAR,
    SHUT_DOWN_NOW,
    GROW,            /* by a put; the next one to come opens the queue, and finds a requeued item */
    GROW_HOLDING,    /* the same, and the victim has that item */
    RESERVE,         /* an item that the victim is going to write */
    COMMIT,          /* the victim's */
    COMMIT_PASSED,   /* after a getter has come to it */
    ABANDON,         /* the victim's */
    ABANDON_PASSED,
    PASS,            /* the survivor's, which is being written */
    PASS_BESIDE,     /* and another one of them is an entry */
    PASS_ABANDONED,  /* the survivor's */
    GET_COMMITTED,   /* the survivor's */
    CLEAR_AROUND,    /* the survivor's, which is being written */
    TAKE_OVER_WRITER, /* which died when a getter had come to its item */
    OPERATIONS,
};

static const char *const names[OPERATIONS] = {
    [LEND] = "lend",
    [LEND_QUICKLY] = "lend, the quick way",
    [LEND_ANOTHER] = "lend another",
    [LEND_RETURNED] = "lend a requeued item",
    [LEND_AND_MOVE] = "lend and move",
    [GET_RETURNED] = "get a requeued item",
    [GET_BESIDE] = "get beside leases",
    [GET_AND_MOVE] = "get and move",
    [GET_MOVED_AND_MOVE] = "get what was moved, and move",
    [FINISH] = "finish",
    [FINISH_QUICKLY] = "finish, the quick way",
    [FINISH_OLDEST] = "finish the oldest",
    [FINISH_NEWER] = "finish a newer one",
    [FINISH_PINNED] = "finish and pin",
    [UNPIN] = "unpin",
    [RETURN] = "give back",
    [RETURN_BESIDE] = "give back beside leases",
    [TAKE_OVER] = "take over from the dead",
    [TAKE_OVER_DROPPED] = "take over what was dropped",
    [MAKE_ROOM] = "make room for a put",
    [RETURN_ALL] = "give all back",
    [CLEAR] = "clear",
    [SHUT_DOWN_NOW] = "shut down now",
    [GROW] = "put and grow behind a requeued item",
    [GROW_HOLDING] = "put and grow with a lease",
    [RESERVE] = "reserve",
    [COMMIT] = "commit",
    [COMMIT_PASSED] = "commit what was passed",
    [ABANDON] = "abandon",
    [ABANDON_PASSED] = "abandon what was passed",
    [PASS] = "pass what is being written",
    [PASS_BESIDE] = "pass what is being written, beside another one",
    [PASS_ABANDONED] = "pass what was abandoned",
    [GET_COMMITTED] = "get what was committed in its place",
    [CLEAR_AROUND] = "clear around what is being written",
    [TAKE_OVER_WRITER] = "take over from a dead writer",
};

/* What can be taken once the dead process's items were requeued, oldest first, and what is unfinished. */
struct contents {
    uint32_t ids[ITEMS_MAX];
    unsigned count;
    uint64_t unfinished;
};

struct scene {
    enum operation operation;
    bool elastic;
    int file;
    struct ring ring; /* the survivor's handle */
    struct loan loans[ITEMS_MAX]; /* the survivor's */
    unsigned loan_count;
    uint32_t next_id;
    struct contents before, between, after; /* between: of what has more than one commit, or nothing */
    uint64_t acknowledged; /* before the operation */
    bool shut;
    struct reserving writing[2]; /* the survivor's reservations */
    uint32_t writing_ids[2];
    unsigned writing_count;
};

/* The victim's own: victim_prepares() fills them, operate() ends them. */
static struct loan victims_loan, victims_second;
static struct reserving victims_item;

/* ---- items: the id is the method, and decides length and bytes ---- */

static uint32_t large_id, large_length; /* of an item that is longer than the others */

static inline uint32_t length_of(uint32_t id) { return id == large_id ? large_length : 20 + id % 7; }

static inline void fill_item(uint32_t id, unsigned char *bytes)
{
    for (uint32_t i = 0; i < length_of(id); i++) {
        bytes[i] = (unsigned char)(id * 31 + i);
    }
}

static inline enum ring_status put_within(struct scene *scene, struct patience patience)
{
    static unsigned char bytes[LENGTH_MAX];
    uint32_t id = scene->next_id + 1;
    fill_item(id, bytes);
    struct part part = {bytes, length_of(id)};
    struct record_in record = {.method = id, .length = length_of(id), .parts = &part, .part_count = 1};
    enum ring_status status = ring_put(&scene->ring, &record, 1, patience);
    scene->next_id += status == RING_OK;
    return status;
}

static inline void put(struct scene *scene)
{
    if (put_within(scene, until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: put");
    }
}

static inline bool is_whole(uint32_t id, uint32_t length, const unsigned char *bytes)
{
    static unsigned char wanted[LENGTH_MAX];
    fill_item(id, wanted);
    return length == length_of(id) && memcmp(bytes, wanted, length) == 0;
}

static inline enum ring_status lend(struct ring *ring, struct loan *loan)
{
    struct take take;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    enum ring_status status = ring_get_begin(ring, &take, patience);
    return status == RING_OK ? ring_lend(ring, &take, loan) : status;
}

static inline void lend_quickly(struct ring *ring, struct loan *loan)
{
    struct quick_take take;
    if (ring_can_lend_quick(ring) && ring_get_quick(ring, &take) == RING_OK) {
        ring_lend_quick(ring, &take, BYTES_IN_PLACE, loan);
    } else {
        (void)!lend(ring, loan);
    }
}

static inline enum ring_status get(struct ring *ring, uint32_t *id, bool *whole)
{
    static unsigned char bytes[LENGTH_MAX];
    struct take take;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    enum ring_status status = ring_get_begin(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    *id = take.method;
    *whole = take.length <= sizeof bytes;
    if (*whole) {
        ring_get_peek(ring, &take, 0, take.length, bytes);
        *whole = is_whole(take.method, take.length, bytes);
    }
    ring_get_pass(&take);
    ring_get_commit(ring, &take);
    return RING_OK;
}

static inline bool is_of_growth(enum operation operation) { return operation == GROW || operation == GROW_HOLDING; }

/* Reserves the next item, and writes it. */
static inline void reserve(struct scene *scene, struct reserving *reserving)
{
    static unsigned char bytes[64];
    struct record_in record;
    uint32_t id = ++scene->next_id, head = id % 5;
    fill_item(id, bytes);
    if (ring_prepare_reservation(&scene->ring, reserving, (struct part){bytes, head}, length_of(id), &record,
                                 until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: prepare a reservation");
    }
    record.method = id;
    if (ring_put(&scene->ring, &record, 1, until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: reserve");
    }
    memcpy(ring_reserved_bytes(reserving), bytes + head, length_of(id) - head);
}

static inline bool is_finish(enum operation operation) { return operation >= FINISH && operation <= FINISH_PINNED; }
static inline bool is_of_writers(enum operation operation) { return operation >= RESERVE; }

#endif
