/* crash_points_scenes.h: the operations in which a process dies, and the states of the queue in which they begin. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_SCENES_H
#define SHMQUEUE_TESTS_CRASH_POINTS_SCENES_H

#include "crash_points_model.h"

#define CAPACITY 200u                      /* of the queues of fixed size */
#define VICTIM_PATIENCE_NS INT64_C(20000000) /* of the operations that wait in vain */

enum operation {
    PUT,
    PUT_QUICK, /* as the queue classes put small items */
    PUT_FIRST, /* the first call of a process: it learns its thread id and its robust list */
    PUT_MANY,
    PUT_WAITING, /* for room that there is not */
    GET,
    GET_QUICK,
    GET_MANY,
    GET_WAITING, /* for items that there are not */
    ABORT,       /* of a get */
    CLEAR,
    TASK_DONE,
    JOIN, /* in vain */
    SHUT_DOWN,
    SHUT_DOWN_NOW,
    TRIM,
    DETACH,
    OPERATIONS,
};

static const char *const operation_names[OPERATIONS] = {
    [PUT] = "put",
    [PUT_QUICK] = "put, the quick way",
    [PUT_FIRST] = "put, the first",
    [PUT_MANY] = "put many",
    [PUT_WAITING] = "put, waiting",
    [GET] = "get",
    [GET_QUICK] = "get, the quick way",
    [GET_MANY] = "get many",
    [GET_WAITING] = "get, waiting",
    [ABORT] = "get aborted",
    [CLEAR] = "clear",
    [TASK_DONE] = "task_done",
    [JOIN] = "join",
    [SHUT_DOWN] = "shut down",
    [SHUT_DOWN_NOW] = "shut down now",
    [TRIM] = "trim",
    [DETACH] = "detach",
};

enum state {
    PLAIN,    /* nothing in it for a put, enough for a get */
    ONE_MORE, /* item */
    HEADER_WRAPS,
    PAYLOAD_WRAPS,
    FULL,
    EMPTY,
    FLAGGED,   /* sleepers have raised the flags, and died */
    ASLEEP,    /* a live process sleeps for what the operation brings */
    CONTENDED, /* a live process waits for the lock as soon as the dying one has it */
    HELD,      /* a live process has the lock */
    LEFT,      /* dead processes have left both locks, and ledgers half written */
    /* elastic queues */
    GROW, /* the first arena is full */
    GROW_LEFT,
    RESERVE, /* the arena is large enough, but not its memory */
    FOLLOW,  /* the put side has gone on to another arena */
    SPARSE,  /* a large arena with little in it */
    DRAINED, /* a large arena with nothing in it */
    DRAINED_LEFT,
    UNUSED, /* a free arena that has memory */
    STATES,
};

static const char *const state_names[STATES] = {
    [PLAIN] = "plain",
    [ONE_MORE] = "one more item",
    [HEADER_WRAPS] = "header wraps",
    [PAYLOAD_WRAPS] = "payload wraps",
    [FULL] = "full",
    [EMPTY] = "empty",
    [FLAGGED] = "flagged",
    [ASLEEP] = "asleep",
    [CONTENDED] = "contended",
    [HELD] = "held",
    [LEFT] = "left by the dead",
    [GROW] = "growing",
    [GROW_LEFT] = "growing, left by the dead",
    [RESERVE] = "reserving",
    [FOLLOW] = "following",
    [SPARSE] = "sparse",
    [DRAINED] = "drained",
    [DRAINED_LEFT] = "drained, left by the dead",
    [UNUSED] = "an unused arena",
};

/* What the live process of a state does. */
enum role { NOBODY, PUTTER, GETTER, JOINER, HOLDER };

struct scene {
    enum operation operation;
    enum state state;
    int file;
    struct ring ring;         /* the survivor's handle, */
    struct ring ring_as_new;  /* as it was before the operation; all arenas are mapped */
    struct model model;       /* before the operation */
    unsigned char *image;     /* of the file */
    uint64_t size;            /* of the file */
    uint64_t recoveries;
};

static inline bool is_put(enum operation operation) { return operation <= PUT_MANY; }
static inline bool is_quick(enum operation operation) { return operation == PUT_QUICK || operation == GET_QUICK; }
static inline bool is_get(enum operation operation)
{
    return operation == GET || operation == GET_QUICK || operation == GET_MANY || operation == ABORT ||
           operation == CLEAR;
}
static inline bool is_shut_down(enum operation operation)
{
    return operation == SHUT_DOWN || operation == SHUT_DOWN_NOW;
}

/* Which pairs there are. */
static inline bool is_possible(enum operation operation, enum state state)
{
    bool any = is_put(operation) || is_get(operation) || is_shut_down(operation);
    switch (operation) {
    case PUT_WAITING:
        return state == FULL;
    case GET_WAITING:
        return state == EMPTY;
    case TASK_DONE:
        return state == PLAIN || state == ONE_MORE || state == FLAGGED || state == ASLEEP;
    case JOIN:
        return state == PLAIN;
    case TRIM:
        return state == SPARSE || state == DRAINED || state == DRAINED_LEFT || state == UNUSED || state == FOLLOW;
    case DETACH:
        return state == PLAIN || state == FOLLOW;
    default:
        break;
    }
    switch (state) {
    case PLAIN:
    case ONE_MORE:
    case HEADER_WRAPS:
    case PAYLOAD_WRAPS:
    case FULL:
    case FLAGGED:
    case CONTENDED:
    case HELD:
    case LEFT:
        return any;
    case EMPTY:
        return is_get(operation);
    case ASLEEP:
        return any && operation != ABORT && operation != PUT_FIRST;
    case GROW:
    case GROW_LEFT:
    case RESERVE:
        return operation == PUT || operation == PUT_QUICK || operation == PUT_MANY;
    default:
        return operation == CLEAR || operation == SHUT_DOWN_NOW || operation == PUT || operation == PUT_QUICK ||
               (state == FOLLOW && operation == GET_MANY) ||
               ((state == FOLLOW || state == SPARSE) && (operation == GET || operation == GET_QUICK));
    }
}

static inline enum role role_in(const struct scene *scene)
{
    bool gets = is_get(scene->operation);
    switch (scene->state) {
    case ASLEEP:
        return scene->operation == TASK_DONE ? JOINER : gets ? PUTTER : GETTER;
    case CONTENDED:
        return gets ? GETTER : PUTTER;
    case HELD:
        return HOLDER;
    default:
        return NOBODY;
    }
}

/* The side whose lock the operation takes first. */
static inline struct side *side_of(struct scene *scene)
{
    struct segment *segment = scene->ring.segment;
    return is_get(scene->operation) ? &segment->get : &segment->put;
}

/* Ids of what the dying process puts, the live one, and the survivor. */
static inline uint32_t victims_item(unsigned i) { return item_id(100 + i, ITEM_LENGTH); }
#define HELPERS_ITEM item_id(200, ITEM_LENGTH)
static inline uint32_t survivors_item(const struct model *model, unsigned length)
{
    return item_id(1000 + (unsigned)model->put, length);
}

static inline unsigned items_moved(enum operation operation)
{
    return operation == PUT_MANY || operation == GET_MANY ? AT_ONCE_MAX : 1;
}

/* What the operation needs, made before it begins. */
static struct parcel victims_parcel;
static struct quick_record victims_record; /* the first of them */

static inline void prepare(enum operation operation)
{
    uint32_t ids[AT_ONCE_MAX];
    for (unsigned i = 0; i < AT_ONCE_MAX; i++) {
        ids[i] = victims_item(i);
    }
    const struct record_in *records = pack(&victims_parcel, ids, items_moved(operation));
    if (!shorten(&victims_record, records)) {
        harness_fail("making a short record");
    }
}

/* What a handle knows that was used before: the quick way is for such ones. */
static inline void make_acquainted(struct ring *ring)
{
    ring->put_epoch = ring->get_epoch = lock_self()->epoch;
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
}

static inline enum ring_status operate(enum operation operation, struct ring *ring)
{
    uint32_t ids[AT_ONCE_MAX], lengths[AT_ONCE_MAX];
    uint64_t dropped;
    size_t taken;
    struct take take;
    struct getting getting;
    enum ring_status status = RING_OK;
    struct patience patience = until(monotonic_ns() + VICTIM_PATIENCE_NS), no_room = patience;
    no_room.for_room = false;
    switch (operation) {
    case PUT:
    case PUT_FIRST:
    case PUT_MANY:
    case PUT_WAITING:
        return ring_put(ring, victims_parcel.records, items_moved(operation),
                        operation == PUT_WAITING ? patience : no_room);
    case PUT_QUICK:
        return ring_put_quick(ring, &victims_record.head) ? RING_OK : ring_put(ring, victims_parcel.records, 1, no_room);
    case GET_QUICK:
        status = get_quick_first(ring, &getting, no_room);
        if (status == RING_OK) {
            ring_get_read(ring, &getting.take, taken_payload[0]);
            commit_getting(ring, &getting);
        }
        return status;
    case GET:
    case GET_MANY:
    case GET_WAITING:
        return take_items(ring, ids, lengths, items_moved(operation), &taken,
                          operation == GET_WAITING ? patience : no_room);
    case ABORT:
        status = ring_get_begin(ring, &take, no_room);
        if (status == RING_OK) {
            ring_get_abort(ring, &take);
        }
        return status;
    case CLEAR:
        return ring_clear(ring, &dropped, patience);
    case TASK_DONE:
        return ring_task_done(ring);
    case JOIN:
        return ring_join(ring, patience.deadline);
    case SHUT_DOWN:
    case SHUT_DOWN_NOW:
        return ring_shut_down(ring, operation == SHUT_DOWN_NOW, patience);
    case TRIM:
        ring_trim(ring, true);
        return RING_OK;
    default:
        detach(ring);
        return RING_OK;
    }
}

/* What the operation does to the model when it has happened. */
static inline void model_operate(struct model *model, const struct scene *scene)
{
    if (scene->state == HELD) {
        return; /* it waits in vain */
    }
    switch (scene->operation) {
    case PUT:
    case PUT_QUICK:
    case PUT_FIRST:
    case PUT_MANY:
        for (unsigned i = 0; scene->state != FULL && i < items_moved(scene->operation); i++) {
            model_put(model, victims_item(i));
        }
        break;
    case GET:
    case GET_QUICK:
    case GET_MANY:
        for (unsigned i = 0; i < items_moved(scene->operation) && model->get < model->put; i++) {
            model->get++;
        }
        break;
    case CLEAR:
        model_clear(model);
        break;
    case TASK_DONE:
        model->done++;
        break;
    case SHUT_DOWN:
        model->shut = SHUT_PLAIN;
        break;
    case SHUT_DOWN_NOW:
        model->shut = SHUT_IMMEDIATE;
        model_clear(model);
        break;
    default:
        break;
    }
}

#endif
