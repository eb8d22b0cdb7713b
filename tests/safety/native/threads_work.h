/* threads_work.h: what the threads of threads.c do. */
#ifndef SHMQUEUE_TESTS_THREADS_WORK_H
#define SHMQUEUE_TESTS_THREADS_WORK_H

#include "quick_way.h"

#include <pthread.h>
#include <sched.h>

#define PUTTERS 2
#define GETTERS 2
#define HANDLES (PUTTERS + GETTERS + 2)
#define BATCH 4
#define LOANS 4 /* of a getter, at once */
#define ID_SIZE sizeof(uint64_t)
#define WEDGED_NS (INT64_C(90) * 1000000000) /* far above what a slow tool on a busy machine needs */

enum ending { DRAINED, SHUT_DOWN, SHUT_DOWN_IMMEDIATELY };

struct shape {
    uint64_t initial, capacity, maxsize;
    uint32_t payload_max;
    bool one_handle;  /* else each thread has its own */
    bool own_mapping; /* else all have the same */
    bool clears;      /* the onlooker drops items */
    bool leases;      /* getters take items by lease, too */
    enum ending ending;
};

struct round {
    const struct shape *shape;
    struct ring rings[HANDLES];
    struct lease *table; /* in the one mapping */
    uint32_t items; /* of each putter */
    _Atomic unsigned char *seen[PUTTERS];
    _Atomic bool is_over;
};

struct worker {
    struct round *round;
    struct ring *ring;
    uint32_t number;
    uint64_t random;
    uint64_t moved;   /* items put, taken or dropped */
    uint64_t finished, returned; /* leased items */
    uint64_t windows; /* those that lay in the windows in the end */
    uint64_t looks;
    pthread_t thread;
};

static _Atomic int64_t worst_ns;

/* The end: others may be waiting for what the thread that found it does not do any more. */
static void fault(const char *what, enum ring_status status)
{
    printf("fault: threads: %s (status %d)\n", what, (int)status);
    fflush(stdout);
    _exit(1);
}

static uint64_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static unsigned char filling(uint64_t id, size_t at) { return (unsigned char)(id * 31 + (id >> 32) * 7 + at); }

static void note_time(int64_t since)
{
    int64_t took = monotonic_ns() - since, worst = atomic_load_explicit(&worst_ns, memory_order_relaxed);
    while (took > worst && !atomic_compare_exchange_weak_explicit(&worst_ns, &worst, took, memory_order_relaxed,
                                                                  memory_order_relaxed)) {
    }
}

/* ---- putters ---- */

/* As ring_put() of one record, whose payload is written in the queue. */
static enum ring_status put_in_place(struct ring *ring, const struct record_in *record, int64_t deadline)
{
    const unsigned char *payload = record->parts[0].bytes;
    struct reserving reserving;
    struct record_in reserved;
    enum ring_status status;
    do {
        status = ring_prepare_reservation(ring, &reserving, (struct part){payload, ID_SIZE}, record->length, &reserved,
                                          until(deadline));
    } while (status == RING_INTERRUPTED);
    if (status != RING_OK || ring_fitting(ring, &reserved, 1) == 0) {
        return status == RING_OK ? RING_TOO_MANY : status;
    }
    reserved.method = record->method;
    do {
        status = ring_put(ring, &reserved, 1, until(deadline));
    } while (status == RING_INTERRUPTED);
    if (status == RING_OK) {
        memcpy(ring_reserved_bytes(&reserving), payload + ID_SIZE, record->length - ID_SIZE);
        do {
            status = ring_end_reservation(ring, &reserving, true, until(deadline));
        } while (status == RING_INTERRUPTED);
        status = status == RING_SHUT ? RING_OK : status; /* it was put, and dropped */
    }
    return status;
}

static void *put_items(void *argument)
{
    struct worker *me = argument;
    const struct shape *shape = me->round->shape;
    unsigned char *bytes = malloc((size_t)BATCH * (ID_SIZE + shape->payload_max));
    while (me->moved < me->round->items) {
        struct record_in records[BATCH];
        struct part parts[BATCH];
        size_t count = draw(&me->random) % 3 == 0 ? 1 + draw(&me->random) % BATCH : 1;
        for (size_t i = 0; i < count; i++) {
            uint64_t id = (uint64_t)me->number << 32 | (me->moved + i);
            uint32_t length = (uint32_t)(ID_SIZE + draw(&me->random) % shape->payload_max);
            unsigned char *payload = bytes + i * (ID_SIZE + shape->payload_max);
            memcpy(payload, &id, ID_SIZE);
            for (size_t at = ID_SIZE; at < length; at++) {
                payload[at] = filling(id, at);
            }
            parts[i] = (struct part){payload, length};
            records[i] = (struct record_in){.method = me->number, .length = length, &parts[i], 1};
        }
        count = ring_fitting(me->ring, records, count);
        if (count > me->round->items - me->moved) {
            count = me->round->items - me->moved;
        }
        int64_t start = monotonic_ns();
        enum ring_status status = RING_TOO_MANY;
        if (count == 1 && draw(&me->random) % 4 == 0) {
            status = put_in_place(me->ring, records, start + WEDGED_NS);
        }
        while (status == RING_TOO_MANY || status == RING_INTERRUPTED) {
            status = count == 1 ? put_quick_first(me->ring, records, until(start + WEDGED_NS))
                                : ring_put(me->ring, records, count, until(start + WEDGED_NS));
        }
        if (status == RING_SHUT && shape->ending == SHUT_DOWN_IMMEDIATELY) {
            break;
        }
        if (status != RING_OK) {
            fault("a put failed", status);
            break;
        }
        note_time(start);
        me->moved += count;
    }
    free(bytes);
    return NULL;
}

/* ---- getters ---- */

static void look_at_item(struct worker *me, const unsigned char *bytes, uint32_t length, uint32_t method,
                         int64_t *newest)
{
    uint64_t id;
    memcpy(&id, bytes, ID_SIZE);
    uint32_t putter = (uint32_t)(id >> 32), number = (uint32_t)id;
    if (length < ID_SIZE || putter >= PUTTERS || number >= me->round->items || method != putter) {
        fault("an item that nobody put", RING_OK);
        return;
    }
    for (size_t at = ID_SIZE; at < length; at++) {
        if (bytes[at] != filling(id, at)) {
            fault("an item's bytes are not those that were put", RING_OK);
            return;
        }
    }
    if (atomic_exchange_explicit(&me->round->seen[putter][number], 1, memory_order_relaxed) != 0) {
        fault("an item was taken twice", RING_OK);
    }
    if (!me->round->shape->leases && number <= newest[putter]) {
        fault("an item came before one that was put earlier", RING_OK);
    }
    newest[putter] = number;
}

/* Takes up to `most` items, at least one.  How many: 0 is the end. */
static uint32_t take_items(struct worker *me, uint32_t most, unsigned char *bytes, size_t stride, int64_t *newest)
{
    struct getting getting;
    struct take *take = &getting.take;
    uint32_t lengths[BATCH], methods[BATCH], count = 0;
    int64_t start = monotonic_ns();
    enum ring_status status = get_quick_first(me->ring, &getting, until(start + WEDGED_NS));
    while (status == RING_EMPTY || status == RING_INTERRUPTED) {
        if (status == RING_EMPTY) {
            status = ring_wait_items(me->ring, start + WEDGED_NS);
        }
        if (status == RING_OK || status == RING_INTERRUPTED) {
            status = get_quick_first(me->ring, &getting, until(start + WEDGED_NS));
        }
    }
    if (status != RING_OK) {
        if (status != RING_SHUT) {
            fault("a get failed", status);
        }
        return 0;
    }
    do {
        if (take->length > stride) {
            fault("an item is longer than any that was put", RING_OK);
            ring_get_abort(me->ring, take);
            return 0;
        }
        lengths[count] = take->length;
        methods[count] = take->method;
        ring_get_read(me->ring, take, bytes + count++ * stride);
    } while (count < most && (status = ring_get_next(me->ring, take)) == RING_OK);
    if (draw(&me->random) % 16 == 0) {
        ring_get_abort(me->ring, take); /* nothing has happened then */
        return UINT32_MAX;
    }
    getting.is_quick = getting.is_quick && count == 1;
    commit_getting(me->ring, &getting);
    note_time(start);
    for (uint32_t i = 0; i < count; i++) {
        look_at_item(me, bytes + i * stride, lengths[i], methods[i], newest);
    }
    return count;
}

/* Takes nothing until an elastic queue has had to grow. */
static void let_it_grow(struct worker *me)
{
    const struct shape *shape = me->round->shape;
    struct statistics figures = {0};
    while (shape->initial != 0 && figures.put.count < me->round->items / 2 && figures.put.shut == SHUT_NOT &&
           figures.put.position - figures.get.position < shape->capacity / 4) {
        if (ring_statistics(me->ring, &figures) != RING_OK) {
            break;
        }
        sched_yield();
    }
}

/* ---- leases ---- */

struct held {
    struct loan loan;
    bool may_move;
};

static void copy_loan(struct worker *me, const struct loan *loan, unsigned char *bytes)
{
    const unsigned char *place = ring_loan_place(me->ring, loan, 0);
    if (place != NULL) {
        memcpy(bytes, place, loan->length);
    } else if (!ring_loan_read(me->ring, loan, 0, loan->length, bytes)) {
        fault("a leased item cannot be read", RING_OK);
    }
}

#define UNTIL_DONE(status, call)                     \
    do {                                             \
        while ((status = call) == RING_INTERRUPTED) { \
        }                                            \
        if (status != RING_OK) {                     \
            fault("a lease: " #call, status);        \
        }                                            \
    } while (0)

/* Gives it back, or finishes it, and perhaps looks at its bytes after that. */
static void end_loan(struct worker *me, struct held *held, unsigned char *bytes, int64_t *newest)
{
    struct loan *loan = &held->loan;
    struct patience patience = until(monotonic_ns() + WEDGED_NS);
    enum ring_status status;
    if (held->may_move) {
        UNTIL_DONE(status, ring_loan_find(me->ring, loan, patience));
        me->windows += loan->place.window != 0;
    }
    copy_loan(me, loan, bytes);
    if (draw(&me->random) % 4 == 0) {
        UNTIL_DONE(status, ring_loan_return(me->ring, loan, patience));
        me->returned++;
        return;
    }
    bool is_pinned = loan->place.window == 0 && draw(&me->random) % 2 == 0;
    UNTIL_DONE(status, finish_quick_first(me->ring, loan, is_pinned, patience));
    if (is_pinned) {
        copy_loan(me, loan, bytes);
        UNTIL_DONE(status, ring_loan_unpin(me->ring, loan, patience));
    }
    me->finished++;
    look_at_item(me, bytes, loan->length, loan->method, newest);
}

/* Takes an item by lease, if there is one now. */
static enum ring_status lend_item(struct worker *me, struct held *held, unsigned char *bytes)
{
    struct getting getting;
    enum ring_status status = get_quick_first(me->ring, &getting, until(monotonic_ns() + WEDGED_NS));
    if (status != RING_OK) {
        return status;
    }
    status = lend_getting(me->ring, &getting, &held->loan);
    if (status != RING_OK) {
        fault("an item could not be leased", status);
    }
    held->may_move = draw(&me->random) % 2 == 0;
    if (held->may_move) {
        copy_loan(me, &held->loan, bytes);
        ring_loan_note(me->ring, &held->loan, BYTES_MAY_MOVE);
    }
    return status;
}

/* Holds several at a time, and none while it waits: a join would never end.  False: there is nothing any more. */
static bool lend_items(struct worker *me, unsigned char *bytes, int64_t *newest)
{
    struct held held[LOANS];
    unsigned count = 0;
    enum ring_status status = RING_OK;
    for (uint64_t steps = draw(&me->random) % 64; steps > 0 || count > 0; steps -= steps > 0) {
        bool ends = count == LOANS || steps == 0 || (count > 0 && draw(&me->random) % 2 == 0);
        if (ends) {
            unsigned chosen = (unsigned)(draw(&me->random) % count);
            end_loan(me, &held[chosen], bytes, newest);
            held[chosen] = held[--count];
        } else if ((status = lend_item(me, &held[count], bytes)) == RING_OK) {
            count++;
        } else {
            steps = 1;
        }
    }
    return status != RING_SHUT || me->round->shape->ending != SHUT_DOWN_IMMEDIATELY;
}

static void *get_items(void *argument)
{
    struct worker *me = argument;
    const struct shape *shape = me->round->shape;
    size_t stride = ID_SIZE + shape->payload_max;
    unsigned char *bytes = malloc(BATCH * stride);
    int64_t newest[PUTTERS] = {-1, -1};
    let_it_grow(me);
    uint32_t count;
    while ((!shape->leases || lend_items(me, bytes, newest)) &&
           (count = take_items(me, 1 + draw(&me->random) % BATCH, bytes, stride, newest)) != 0) {
        if (count == UINT32_MAX) {
            continue;
        }
        me->moved += count;
        for (uint32_t i = 0; i < count; i++) {
            enum ring_status status = ring_task_done(me->ring);
            if (status != RING_OK) {
                fault("task_done() failed", status);
            }
        }
        if (atomic_load_explicit(&me->ring->trim_due, memory_order_relaxed)) {
            ring_trim(me->ring, false);
        }
    }
    free(bytes);
    return NULL;
}

/* ---- the onlooker ---- */

static void *look_on(void *argument)
{
    struct worker *me = argument;
    uint64_t before = 0;
    while (!atomic_load_explicit(&me->round->is_over, memory_order_relaxed)) {
        struct statistics figures;
        enum ring_status status = ring_statistics(me->ring, &figures);
        if (status != RING_OK || figures.put.count < before) {
            fault("the figures contradict each other", status);
            break;
        }
        before = figures.put.count;
        if (me->round->shape->leases) {
            struct lease_statistics leases;
            ring_lease_statistics(me->ring, &leases);
            if (leases.leased > GETTERS * LOANS || leases.returned > GETTERS * LOANS) {
                fault("the figures of leases are impossible", RING_OK);
            }
            ring_return_dead(me->ring, 0); /* nobody is dead */
        }
        me->looks++;
        if (draw(&me->random) % 4 == 0) {
            ring_trim(me->ring, draw(&me->random) % 2 == 0);
        }
        if (me->round->shape->clears && draw(&me->random) % 8 == 0) {
            uint64_t dropped = 0;
            status = ring_clear(me->ring, &dropped, until(monotonic_ns() + WEDGED_NS));
            me->moved += dropped;
            if (status != RING_OK && status != RING_INTERRUPTED) {
                fault("a clear failed", status);
            }
        }
        (void)ring_wait(me->ring, draw(&me->random) % 2 == 0, monotonic_ns() + 1000000);
    }
    return NULL;
}

#endif
