/* crash_points_model.h: what should be in a queue, told apart from what is in it.
 *
 * An item's id is its serialization method, its length, and all of its bytes, so that an item that comes out proves by
 * itself that it is whole; the model knows which ids come out in which order, and every number of the ledgers. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_MODEL_H
#define SHMQUEUE_TESTS_CRASH_POINTS_MODEL_H

#include "quick_way.h"

#define ITEMS_MAX 128
#define LARGE 0x8000u          /* of an id: the length counts in 256 bytes, all of them 0 */
#define PAYLOAD_MAX (1u << 20)
#define AT_ONCE_MAX 3          /* items in one call */
#define ITEM_LENGTH 20u        /* of most items: a long copy is many instructions that differ in nothing */
#define ITEM_SIZE (RECORD_HEADER_SIZE + ITEM_LENGTH)

struct model {
    uint32_t ids[ITEMS_MAX]; /* of all that were ever put */
    uint64_t put, get;       /* how many were put and taken */
    uint64_t dropped, done;
    uint64_t shut;
};

static inline uint32_t item_id(unsigned number, unsigned length) { return length << 16 | number; }
static inline uint32_t item_length(uint32_t id) { return id >> 16 << (id & LARGE ? 8 : 0); }
static inline unsigned char item_byte(uint32_t id, uint32_t i)
{
    return id & LARGE ? 0 : (unsigned char)((id ^ 0x5a) + 7 * i);
}

static inline void model_put(struct model *model, uint32_t id)
{
    if (model->put == ITEMS_MAX) {
        errno = E2BIG;
        harness_fail("the model");
    }
    model->ids[model->put++] = id;
}

static inline uint64_t model_position(const struct model *model, uint64_t count)
{
    uint64_t position = 0;
    for (uint64_t i = 0; i < count; i++) {
        position += RECORD_HEADER_SIZE + item_length(model->ids[i]);
    }
    return position;
}

static inline uint64_t model_used(const struct model *model)
{
    return model_position(model, model->put) - model_position(model, model->get);
}

static inline uint64_t model_unfinished(const struct model *model)
{
    return model->put - model->dropped - model->done;
}

static inline void model_clear(struct model *model)
{
    uint64_t records = model->put - model->get, left = model_unfinished(model);
    model->dropped += records < left ? records : left;
    model->get = model->put;
}

static inline bool model_equals(const struct model *model, const struct statistics *is)
{
    return is->put.count == model->put && is->get.count == model->get && is->done == model->done &&
           is->get.dropped == model->dropped && is->put.shut == model->shut &&
           is->put.position == model_position(model, model->put) &&
           is->get.position == model_position(model, model->get);
}

/* Records to put, with room for their bytes. */
struct parcel {
    unsigned char payload[AT_ONCE_MAX][PAYLOAD_MAX];
    struct part parts[AT_ONCE_MAX][2];
    struct record_in records[AT_ONCE_MAX];
};

static inline struct record_in *pack(struct parcel *parcel, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned char *payload = parcel->payload[i];
        uint32_t length = item_length(ids[i]), third = length / 3;
        for (uint32_t b = 0; b < length; b++) {
            payload[b] = item_byte(ids[i], b);
        }
        parcel->parts[i][0] = (struct part){payload, third};
        parcel->parts[i][1] = (struct part){payload + third, length - third};
        parcel->records[i] =
            (struct record_in){.method = ids[i], .length = length, .parts = parcel->parts[i], .part_count = 2};
    }
    return parcel->records;
}

/* Comes back after interruptions. */
static inline enum ring_status put_item(struct ring *ring, uint32_t id, struct patience patience)
{
    static struct parcel parcel;
    struct record_in *record = pack(&parcel, &id, 1);
    enum ring_status status;
    do {
        status = ring_put(ring, record, 1, patience);
    } while (status == RING_INTERRUPTED);
    return status;
}

static unsigned char taken_payload[AT_ONCE_MAX][PAYLOAD_MAX];

/* Takes up to `most` items in one call.  *taken: how many, with the ids that they should have. */
static inline enum ring_status take_items(struct ring *ring, uint32_t *ids, uint32_t *lengths, size_t most,
                                          size_t *taken, struct patience patience)
{
    struct take take;
    enum ring_status status;
    *taken = 0;
    do {
        status = ring_get_begin(ring, &take, patience);
        if (status == RING_EMPTY && patience.for_room) {
            status = ring_wait_items(ring, patience.deadline);
            status = status == RING_OK ? RING_INTERRUPTED : status;
        }
    } while (status == RING_INTERRUPTED);
    if (status != RING_OK) {
        return status;
    }
    do {
        ids[*taken] = take.method;
        lengths[*taken] = take.length;
        if (take.length > PAYLOAD_MAX) {
            ring_get_abort(ring, &take);
            return RING_MISMATCH;
        }
        ring_get_read(ring, &take, taken_payload[*taken]);
        (*taken)++;
    } while (*taken < most && ring_get_next(ring, &take) == RING_OK);
    ring_get_commit(ring, &take);
    return RING_OK;
}

static inline bool item_is_whole(uint32_t id, uint32_t length, const unsigned char *payload)
{
    bool whole = length == item_length(id);
    for (uint32_t i = 0; whole && i < length; i++) {
        whole = payload[i] == item_byte(id, i);
    }
    return whole;
}

/* Takes one; RING_MISMATCH if it is not the bytes that its id promises. */
static inline enum ring_status take_item(struct ring *ring, uint32_t *id, struct patience patience)
{
    uint32_t length;
    size_t taken;
    enum ring_status status = take_items(ring, id, &length, 1, &taken, patience);
    return status == RING_OK && !item_is_whole(*id, length, taken_payload[0]) ? RING_MISMATCH : status;
}

#endif
