/* fuzz_calls.h: the calls of a trial of fuzz.c, and what must be true of each, whatever the bytes are. */
#ifndef SHMQUEUE_TESTS_FUZZ_CALLS_H
#define SHMQUEUE_TESTS_FUZZ_CALLS_H

#include "fuzz_leases.h"

#define PAYLOAD_MAX 3000
#define LATE_NS (INT64_C(3) * 1000000000) /* behind its deadline no call may be so much late: a wedge, not noise */
#define SHORT_NS 30000
#define LONG_NS (INT64_C(250) * 1000000)  /* long enough that a dead owner's lock is taken over */

static _Atomic uint64_t calls;
static int64_t worst_late_ns;

static enum ring_status call_get(struct handle *handle, struct patience patience);

/* As ring_put() of one record, whose payload is written in the queue; if anything is, it is put or abandoned. */
static enum ring_status put_in_place(struct handle *handle, const struct record_in *record, struct patience patience)
{
    struct trial *trial = handle->trial;
    const unsigned char *payload = record->parts[0].bytes;
    struct reserving reserving;
    struct record_in reserved;
    uint32_t head = record->length < 3 ? record->length : 3;
    enum ring_status status = ring_prepare_reservation(&handle->ring, &reserving, (struct part){payload, head},
                                                       record->length, &reserved, patience);
    if (status == RING_OK && ring_fitting(&handle->ring, &reserved, 1) == 0) {
        return RING_INTERRUPTED; /* with its reservation it can never fit: it is not tried */
    }
    reserved.method = record->method;
    status = status == RING_OK ? ring_put(&handle->ring, &reserved, 1, patience) : status;
    if (status != RING_OK) {
        return status;
    }
    if (!trial->model.is_exact && below(&trial->source, 2) == 0) {
        (void)!call_get(handle, patience); /* which comes to it, or to others */
    }
    memcpy(ring_reserved_bytes(&reserving), payload + head, record->length - head);
    bool is_put = trial->model.is_exact || below(&trial->source, 4) != 0;
    status = ring_end_reservation(&handle->ring, &reserving, is_put, patience);
    bool may_be_over = !trial->model.is_exact; /* wrong bytes say that its process is dead */
    return status == RING_MISMATCH && may_be_over ? RING_FULL : status;
}

static enum ring_status call_put(struct handle *handle, struct patience patience)
{
    struct trial *trial = handle->trial;
    struct model *model = &trial->model;
    static unsigned char bytes[4][PAYLOAD_MAX];
    struct record_in records[4];
    struct part parts[4];
    size_t count = below(&trial->source, 3) == 0 ? 1 + below(&trial->source, 4) : 1;
    for (size_t i = 0; i < count; i++) {
        uint64_t number = model->next + i;
        uint32_t length = (uint32_t)below(&trial->source, below(&trial->source, 8) == 0 ? PAYLOAD_MAX : 40);
        for (size_t at = 0; at < length; at++) {
            bytes[i][at] = filling(number, at);
        }
        parts[i] = (struct part){bytes[i], length};
        records[i] = (struct record_in){.method = (uint32_t)number, .length = length, &parts[i], 1};
    }
    count = ring_fitting(&handle->ring, records, count);
    if (count == 0 || model->next + count - oldest_known(model) > ITEMS_MAX) {
        return RING_FULL;
    }
    /* One that cannot be ended because of a lock that was left would hold up an exact model. */
    bool is_in_place = count == 1 && (trial->kind == NOTHING || !model->is_exact) && below(&trial->source, 4) == 0;
    bool is_quick = count == 1 && below(&trial->source, 2) == 0;
    enum ring_status status = is_in_place ? put_in_place(handle, &records[0], patience)
                              : is_quick  ? put_quick_first(&handle->ring, &records[0], patience)
                                          : ring_put(&handle->ring, records, count, patience);
    if (status == RING_OK && model->is_exact && model->is_shut) {
        fault("a put into a queue that is shut down");
    }
    if (status == RING_OK) {
        for (size_t i = 0; i < count; i++) {
            model->leases[model->next % ITEMS_MAX] = NOT_LEASED;
            model->lengths[model->next++ % ITEMS_MAX] = records[i].length;
        }
    } else if (model->is_exact && (status == RING_SHUT) != model->is_shut && status != RING_INTERRUPTED) {
        fault("a put had status %d", (int)status);
    }
    return status;
}

/* One record of a get. */
static void read_record(struct handle *handle, struct take *take, uint64_t number)
{
    struct model *model = &handle->trial->model;
    uint64_t length = take->length;
    if (length > handle->ring.capacity - RECORD_HEADER_SIZE) {
        fault("a record of %llu bytes in a queue of %llu", (unsigned long long)length,
              (unsigned long long)handle->ring.capacity);
        return;
    }
    unsigned char *payload = malloc(length);
    ring_get_read(&handle->ring, take, payload);
    if (model->is_exact) {
        bool is_right = number < model->next && length == model->lengths[number % ITEMS_MAX] &&
                        take->method == (uint32_t)number;
        for (size_t at = 0; is_right && at < length; at++) {
            is_right = payload[at] == filling(number, at);
        }
        if (!is_right) {
            fault("an item is not the one that was put");
        }
    }
    free(payload);
}

static enum ring_status call_get(struct handle *handle, struct patience patience)
{
    struct trial *trial = handle->trial;
    struct model *model = &trial->model;
    struct getting getting = {.is_quick = false};
    struct take *take = &getting.take;
    uint64_t most = 1 + below(&trial->source, 5) / 3 * 3, available, number = item_at_hand(model, &available);
    enum ring_status status = below(&trial->source, 2) == 0 ? get_quick_first(&handle->ring, &getting, patience)
                                                            : ring_get_begin(&handle->ring, take, patience);
    if (status != RING_OK) {
        if (model->is_exact && (status == RING_EMPTY || status == RING_SHUT) && available != 0) {
            fault("a get found nothing where %llu items are", (unsigned long long)available);
        }
        return status;
    }
    if (getting.is_quick && trial->kind == LEDGER && below(&trial->source, 2) == 0) { /* after it was looked at */
        corrupt(&trial->source, trial->whole, LEDGER, &trial->around);
    }
    uint64_t begun = number;
    do {
        read_record(handle, take, number++);
    } while (number - begun < most && (status = ring_get_next(&handle->ring, take)) == RING_OK);
    if (status == RING_CORRUPTED || below(&trial->source, 8) == 0) {
        ring_get_abort(&handle->ring, take);
        return status == RING_CORRUPTED ? status : RING_OK;
    }
    getting.is_quick = getting.is_quick && number - begun == 1;
    commit_getting(&handle->ring, &getting);
    for (uint64_t taken = begun; taken < number; taken++) {
        note_taken(model, taken);
    }
    return RING_OK;
}

static enum ring_status call_clear(struct handle *handle, struct patience patience)
{
    struct model *model = &handle->trial->model;
    uint64_t dropped = 0, available;
    (void)item_at_hand(model, &available);
    bool had_leases = ledger_read(&handle->ring.segment->get.ledgers).leases || handle->trial->is_raced;
    enum ring_status status = ring_clear(&handle->ring, &dropped, patience);
    if (status == RING_OK) {
        if ((!had_leases && dropped > handle->ring.capacity / RECORD_HEADER_SIZE) ||
            (model->is_exact && dropped != available)) {
            fault("a clear dropped %llu items", (unsigned long long)dropped);
        }
        note_dropped(model);
    }
    return status;
}

/* Whatever the bytes are: at most one record for each 8 bytes. */
static bool are_possible(const struct statistics *figures, uint64_t capacity)
{
    uint64_t used = figures->put.position - figures->get.position, records = figures->put.count - figures->get.count;
    if (figures->get.leases) {
        return used <= capacity && figures->get.count <= figures->put.count;
    }
    return used <= capacity && records <= used / RECORD_HEADER_SIZE && (records != 0 || used == 0);
}

static enum ring_status call_figures(struct handle *handle)
{
    struct model *model = &handle->trial->model;
    struct statistics figures;
    enum ring_status status = ring_statistics(&handle->ring, &figures);
    if (status == RING_OK && !handle->trial->is_raced && !are_possible(&figures, handle->ring.capacity)) {
        fault("the figures contradict each other");
    }
    uint64_t available;
    (void)item_at_hand(model, &available);
    if (status == RING_OK && model->is_exact && figures.put.count - figures.get.count != available) {
        fault("the figures are wrong");
    }
    return status;
}

static enum ring_status call_shut_down(struct handle *handle, struct patience patience)
{
    struct model *model = &handle->trial->model;
    bool immediate = below(&handle->trial->source, 2) == 0;
    enum ring_status status = ring_shut_down(&handle->ring, immediate, patience);
    model->is_shut = model->is_shut || status == RING_OK;
    model->is_shut_at_once = model->is_shut_at_once || immediate;
    if (status != RING_OK || immediate) { /* it may have been done in part */
        model->is_exact = model->is_exact && status == RING_OK;
        note_dropped(model);
    }
    return status;
}

/* ---- what a handle may find ---- */

/* As a fork may copy what a handle knows: of another epoch, and half written. */
static void become_as_forked(struct handle *handle)
{
    struct source *source = &handle->trial->source;
    struct ring *ring = &handle->ring;
    struct snapshot seen = ledger_read(&ring->segment->put.ledgers);
    seen.position += below(source, 64);
    seen.count += below(source, 4);
    ring->put_epoch = ring->get_epoch = 0;
    ring->put_as_seen = ring->get_as_seen = seen;
    ring->put_lap = ring->get_lap = (struct lap){.start = seen.position - below(source, ring->arena_size[0])};
}

/* While another putter claims all the room. */
static void put_beside_claim(struct handle *handle)
{
    struct guard *guard = &handle->ring.segment->put.guard;
    struct {
        struct record_header head;
        unsigned char payload[8];
    } record = {.head = {.length = 8}};
    atomic_store(&guard->claim_bytes, handle->ring.capacity);
    atomic_store(&guard->claim_until, (uint64_t)(monotonic_ns() + WAIT_SLICE_NS));
    atomic_store(&guard->claimant, 1);
    if (ring_put_quick(&handle->ring, &record.head)) {
        fault("a put took the room that another one claims");
    }
    atomic_store(&guard->claimant, 0);
}

/* ---- any call ---- */

static struct patience draw_patience(struct trial *trial)
{
    uint64_t chance = below(&trial->source, 256);
    bool is_long = chance < (trial->kind == LOCK && !trial->is_raced ? 2 : 0);
    int64_t length = is_long ? LONG_NS : chance < 200 ? 0 : SHORT_NS;
    return (struct patience){
        .for_lock = is_long || chance % 4 != 0,
        .for_room = chance % 8 != 0,
        .deadline = monotonic_ns() + length,
    };
}

static enum ring_status call_one(struct handle *handle, struct patience patience)
{
    struct ring *ring = &handle->ring;
    bool is_lease = handle->trial->is_leasing && below(&handle->trial->source, 2) == 0;
    switch (is_lease ? 20 + below(&handle->trial->source, 8) : below(&handle->trial->source, 28)) {
    default:
        return call_put(handle, patience);
    case 6 ... 11:
        return call_get(handle, patience);
    case 12:
        return call_clear(handle, patience);
    case 13:
        return call_figures(handle);
    case 14:
        return ring_task_done(ring);
    case 15:
        return ring_join(ring, patience.deadline);
    case 16:
        return ring_wait_items(ring, patience.deadline);
    case 17:
        return ring_wait(ring, patience.for_room, patience.deadline);
    case 18:
        ring_trim(ring, patience.for_room);
        return ring_is_corrupted(ring) ? RING_CORRUPTED : RING_OK;
    case 20 ... 22:
        return call_lend(handle, patience);
    case 23 ... 25:
        return call_end(handle, patience);
    case 26:
        if (below(&handle->trial->source, 2) == 0) {
            return call_return_all(handle, patience);
        }
        ring_return_dead(ring, 0);
        return RING_OK;
    case 27:
        return call_lease_figures(handle);
    case 19:
        return below(&handle->trial->source, 8) == 0 ? call_shut_down(handle, patience) : RING_OK;
    }
}

/* ---- what must be true of each call ---- */

static bool keeps_a_lock(const struct trial *trial, struct ring *ring)
{
    uint32_t me = lock_self()->tid;
    return !trial->is_raced && ((atomic_load(&ring->segment->put.guard.lock) & FUTEX_TID_MASK) == me ||
                                (atomic_load(&ring->segment->get.guard.lock) & FUTEX_TID_MASK) == me);
}

static void call(struct handle *handle)
{
    static unsigned char before[1 << 18];
    struct trial *trial = handle->trial;
    bool was_poisoned = ring_is_corrupted(&handle->ring);
    bool is_compared = was_poisoned && !trial->is_raced && trial->size <= sizeof before;
    if (is_compared) {
        memcpy(before, trial->whole, trial->size);
    }
    if (below(&trial->source, 16) == 0) {
        become_as_forked(handle);
    }
    if (trial->kind == NOTHING && below(&trial->source, 8) == 0) {
        put_beside_claim(handle);
    }
    struct patience patience = draw_patience(trial);
    enum ring_status status = call_one(handle, patience);
    int64_t late = monotonic_ns() - patience.deadline;
    atomic_fetch_add(&calls, 1);
    worst_late_ns = late > worst_late_ns ? late : worst_late_ns;
    if (late > LATE_NS) {
        fault("a call came back %lld ms after its deadline", (long long)(late / 1000000));
    }
    if (status > RING_TOO_MANY || status == RING_CLOSED || status == RING_UNMAPPED || status == RING_MISMATCH) {
        fault("a call had status %d", (int)status);
    }
    if (status == RING_CORRUPTED && !ring_is_corrupted(&handle->ring)) {
        fault("a call reported corruption, and the handle is still usable");
    }
    if (trial->model.is_exact && ring_is_corrupted(&handle->ring)) {
        fault("a handle is unusable without corruption: %s", atomic_load(&handle->ring.corrupted));
    }
    if (keeps_a_lock(trial, &handle->ring)) {
        fault("a lock was kept");
    }
    if (is_compared && memcmp(before, trial->whole, trial->size) != 0) {
        fault("an unusable handle wrote to the segment");
    }
}

#endif
