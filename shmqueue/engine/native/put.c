/* put.c: see put.h. */
#define _GNU_SOURCE
#include "put.h"

#include <string.h>

#include "leases.h"

#define EXACT_HIGH_WATER 1024 /* items */
#define OVERTAKEN_NS 20000000 /* after which a put that others overtake claims the room that it needs */
#define OVERTAKEN_TIMES 8     /* or after this many attempts */
#define EASY_NS 1000000       /* that a put waits for more room than it needs */
#define ATTEMPTS 16           /* of a put that is woken and finds no room, before its caller may look at signals */

/* ---- writing records ---- */

__attribute__((noinline)) static void look_for_high_water(struct ring *ring, uint64_t put_count, uint64_t highest)
{
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    if (put_count - ring->get_as_seen.count > highest && put_count >= ring->get_as_seen.count) {
        atomic_store_explicit(&ring->segment->put.guard.high_water, put_count - ring->get_as_seen.count,
                              memory_order_relaxed);
    }
}

/* Under the put lock: most items that were ever in the queue at once. Of many, to within a 64th: a queue that grows and
 * grows would else have to look at its getters' line at every put. */
static inline void note_high_water(struct ring *ring, uint64_t put_count)
{
    uint64_t highest = atomic_load_explicit(&ring->segment->put.guard.high_water, memory_order_relaxed);
    uint64_t margin = highest < EXACT_HIGH_WATER ? 0 : highest / 64;
    if (put_count - ring->get_as_seen.count > highest + margin) { /* perhaps: our snapshot of the getters may be old */
        look_for_high_water(ring, put_count, highest);
    }
}

/* A reservation, and the header and the first bytes of the record behind it.  Returns where that ends. */
static unsigned char *write_reservation(unsigned char *to, uint64_t position, const struct record_in *record)
{
    struct reserving *reserving = record->reserving;
    const struct record_header head = {.length = (uint32_t)(record->length - sizeof reserving->who),
                                       .method = record->method};
    reserving->place = to;
    reserving->position = position;
    memcpy(to, &reserving->who, sizeof reserving->who);
    to += sizeof reserving->who;
    memcpy(to, &head, sizeof head);
    to += sizeof head;
    memcpy(to, reserving->head.bytes, reserving->head.length);
    return to + head.length;
}

static void write_records(struct span span, uint64_t offset, uint64_t position, const struct record_in *records,
                          size_t count)
{
    unsigned char *to = span.bytes + offset;
    for (size_t i = 0; i < count; i++) {
        const struct record_in *record = &records[i];
        if (record->reserving != NULL) {
            to = write_reservation(to, position, record); /* it is the only one */
            continue;
        }
        bool is_short = record->length <= RECORD_SHORT_MAX;
        struct record_header head = {.length = is_short ? (uint32_t)record->length : RECORD_LONG,
                                     .method = record->method};
        memcpy(to, &head, sizeof head);
        to += sizeof head;
        if (!is_short) {
            memcpy(to, &record->length, sizeof record->length);
            to += sizeof record->length;
        }
        for (size_t p = 0; p < record->part_count; p++) {
            memcpy(to, record->parts[p].bytes, record->parts[p].length);
            to += record->parts[p].length;
        }
    }
}

/* ---- attempts ---- */

/* One attempt.  RING_FULL leaves in *want what to wait for; if it says so already, getters wake this one.  While there
 * is room by an older look, nothing of the getters' is read: that would make both fetch that line for every item. */
static enum ring_status try_put(struct ring *ring, const struct record_in *records, size_t count, uint64_t bytes,
                                struct patience patience, struct want *want, bool asks)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    enum ring_status status = side_lock(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    if (ring->put_epoch != self->epoch) {
        ring->put_epoch = self->epoch;
        ring->get_as_seen = (struct snapshot){0};
        ring->put_lap = (struct lap){0};
    }
    struct snapshot put = ledger_read_own(&side->ledgers);
    want->has_asked = want->is_behind = false;
    want->put_count = want->put_count == 0 ? put.count : want->put_count;
    bool is_polite = patience.for_room || !patience.for_lock;
    if (is_polite && !room_is_beside_claim(ring, self, &put, bytes, count, want)) {
        want->is_behind = true;
        if (asks) {
            room_ask(ring->segment, want);
        }
        lock_release(&side->guard.lock, self);
        return patience.for_lock ? RING_FULL : RING_BUSY;
    }
    status = room_find(ring, &put, bytes, count, patience.for_lock);
    if (status == RING_FULL && !room_is_allowed(ring, &put, bytes, count)) {
        bool has_one = atomic_load_explicit(&side->guard.claimant, memory_order_relaxed) == self->tid;
        bool is_overtaken = want->claims && put.count != want->put_count;
        want->has_claim = patience.for_room && (has_one || is_overtaken) && room_claim(ring, self, bytes, count);
        want->claims = want->claims || want->has_claim;
    }
    if (status == RING_FULL) {
        atomic_store_explicit(&ring->met_full, true, memory_order_relaxed);
        room_note_want(ring, &put, bytes, count, want);
        if (asks) {
            room_ask(ring->segment, want);
            status = room_find(ring, &put, bytes, count, patience.for_lock);
        }
    }
    if (status != RING_OK) {
        lock_release(&side->guard.lock, self);
        return status;
    }
    struct span span = arena_span(ring, put.arena);
    if (span.bytes == NULL) { /* no addresses are left: the same to us as no memory */
        atomic_store(&ring->grow_error, atomic_load(&ring->map_error));
        want->position = want->count = 0;
        if (asks) {
            room_ask(ring->segment, want);
        }
        lock_release(&side->guard.lock, self);
        return patience.for_lock ? RING_FULL : RING_BUSY;
    }
    arena_start_over(ring, &put, bytes);
    write_records(span, arena_offset(ring, put.arena, put.position), put.position, records, count);
    put.position += bytes;
    put.count += count;
    note_high_water(ring, put.count);
    bool had_claim = room_unclaim(ring, self);
    side_commit_put(ring, self, &put, count < (size_t)WAIT_EVERYONE ? (int)count : WAIT_EVERYONE);
    if (had_claim) {
        side_wake_putters(ring);
    }
    return RING_OK;
}

bool ring_put_quick(struct ring *ring, const struct record_header *record)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    uint64_t bytes = RECORD_HEADER_SIZE + record->length;
    if (ring_is_corrupted(ring) || side_lock(ring, side, self, (struct patience){0}) != RING_OK) {
        return false;
    }
    struct snapshot put = ledger_read_own(&side->ledgers);
    bool is_usual = put.arena < ring->arenas && put.shut == SHUT_NOT && ring->put_epoch == self->epoch &&
                    atomic_load_explicit(&side->guard.claimant, memory_order_relaxed) == 0 &&
                    room_is_known(ring, &put, bytes, 1);
    unsigned char *arena = is_usual ? atomic_load_explicit(&ring->arena_memory[put.arena], memory_order_acquire) : NULL;
    if (arena == NULL) {
        lock_release(&side->guard.lock, self);
        return false;
    }
    memcpy(arena + arena_offset_in(ring, &ring->put_lap, put.arena, put.position), record, (size_t)bytes);
    note_high_water(ring, put.count + 1);
    bool asleep = side_claim_sleeping_getter(&side->ledgers);
    uint32_t committed =
        ledger_write(&side->ledgers, put.sequence, put.position + bytes, put.count + 1, put.shut, put.arena);
    side_end_put(ring, self, committed, asleep, 1);
    return true;
}

size_t ring_fitting(const struct ring *ring, const struct record_in *records, size_t count)
{
    uint64_t bytes = 0, maxsize = ring_maxsize(ring);
    size_t most = maxsize != 0 && maxsize < count ? (size_t)maxsize : count;
    for (size_t i = 0; i < most; i++) {
        bytes += record_head(records[i].length) + records[i].length;
        if (bytes > ring->capacity) {
            return i;
        }
    }
    return most;
}

/* Whether it is bytes that are missing, or their memory, and not only the number of items that is too high. */
static bool lacks_bytes(struct ring *ring, const struct want *want)
{
    if (want->is_behind) {
        return false; /* it is another one's turn */
    }
    return want->position != 0 ? want->position > ledger_read(&ring->segment->get.ledgers).position : want->count == 0;
}

/* Waits for room.  RING_OK: try again, asking for it if want->has_asked is false. */
static enum ring_status wait_for_room(struct ring *ring, struct want *want, struct patience patience, bool *asks)
{
    if (!*asks && !want->is_behind && side_spin_for_room(ring, want, patience.deadline)) {
        return RING_OK;
    }
    if (!*asks) {
        *asks = true;
        return RING_OK;
    }
    int64_t most = want->is_behind    ? want->claim_left
                   : !want->is_exact  ? EASY_NS
                   : !want->claims    ? OVERTAKEN_NS
                   : !want->has_claim ? WAIT_SLICE_NS
                                      : WAIT_SLICE_NS / 2; /* to renew it */
    enum ring_status status = side_sleep_for_room(ring, want, most, patience.deadline);
    want->is_exact = true;
    return status;
}

enum ring_status ring_put(struct ring *ring, const struct record_in *records, size_t count, struct patience patience)
{
    uint64_t bytes = 0;
    bool trimmed = false, made_room = false, cleared = false, asks = !ring->may_spin;
    int64_t begun = 0;
    struct want want = {0};
    for (size_t i = 0; i < count; i++) {
        bytes += record_head(records[i].length) + records[i].length;
    }
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (ring_is_corrupted(ring)) {
            return RING_CORRUPTED;
        }
        enum ring_status status = try_put(ring, records, count, bytes, patience, &want, asks && patience.for_room);
        if (status == RING_FULL && patience.for_lock && !trimmed && atomic_load(&ring->grow_error) != 0) {
            trimmed = true; /* the memory is out: perhaps it is this queue that has it, and does not need it */
            ring_trim(ring, false);
            continue;
        }
        if (status == RING_FULL && (patience.for_room || !made_room) && lacks_bytes(ring, &want)) {
            enum ring_status made = leases_make_room(ring, patience.for_lock);
            if (made == RING_OK) {
                made_room = true;
                continue;
            }
            if (made == RING_BUSY && !patience.for_lock) {
                return RING_BUSY;
            }
        }
        if (status == RING_FULL && !patience.for_room && !cleared && ring_clear_what_is_over(ring)) {
            cleared = true;
            continue;
        }
        if (status != RING_FULL || !patience.for_room) {
            return status;
        }
        begun = begun == 0 ? monotonic_ns() : begun;
        status = wait_for_room(ring, &want, patience, &asks);
        if (status == RING_DEADLINE) { /* there may be room for these records, if not as much as we waited for */
            patience.for_room = false;
            status = try_put(ring, records, count, bytes, patience, &want, false);
            status = status == RING_FULL || status == RING_LOCKED ? RING_DEADLINE : status;
        }
        if (status == RING_DEADLINE || status == RING_CLOSED) {
            if (room_unclaim(ring, lock_self())) {
                side_wake_putters(ring);
            }
        }
        if (status == RING_INTERRUPTED) {
            break;
        }
        if (status != RING_OK || !patience.for_room) {
            return status;
        }
        int64_t waited = monotonic_ns() - begun;
        want.claims = want.claims || waited >= OVERTAKEN_NS || attempt >= OVERTAKEN_TIMES;
        if (waited >= WAIT_SLICE_NS) {
            break;
        }
    }
    ring_clear_the_way(ring); /* of a process that was killed while it wrote an item, or looked at one, where it lies */
    return RING_INTERRUPTED;
}
