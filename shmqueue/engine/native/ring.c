/* ring.c: put, get, and what follows from the rules in layout.h. */
#define _GNU_SOURCE
#include "arena.h"
#include "leases.h"
#include "os.h"

#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#define LOCK_SPIN_NS 2000     /* for a lock: a critical section is a copy of a few bytes */
#define EXACT_HIGH_WATER 1024 /* items */
#define OVERTAKEN_NS 20000000 /* after which a put that others overtake claims the room that it needs */
#define OVERTAKEN_TIMES 8     /* or after so many attempts */
#define EASY_NS 1000000       /* that a put waits for more room than it needs */
#define ATTEMPTS 16           /* of a put that is woken and finds no room, before its caller may look at signals */

enum ring_status ring_poison(struct ring *ring, const char *why)
{
    const char *none = NULL;
    atomic_compare_exchange_strong(&ring->broken, &none, why);
    return RING_BROKEN;
}

/* ---- locks and wake-ups ---- */

enum ring_status ring_lock_side(struct ring *ring, struct side *side, struct self *self, struct patience patience)
{
    enum lock_result result = lock_try(&side->guard.lock, self);
    if (result == LOCK_BUSY && patience.for_lock) {
        int64_t spin = ring->may_spin ? LOCK_SPIN_NS : 0;
        result = lock_wait(&side->guard.lock, self, patience.deadline, spin);
    }
    switch (result) {
    case LOCK_RECOVERED:
        atomic_store_explicit(&side->guard.recoveries,
                              atomic_load_explicit(&side->guard.recoveries, memory_order_relaxed) + 1,
                              memory_order_relaxed);
        return RING_OK;
    case LOCK_TAKEN:
        return RING_OK;
    case LOCK_BUSY:
        return RING_BUSY;
    case LOCK_DEADLINE:
        return RING_LOCKED;
    default:
        return RING_INTERRUPTED;
    }
}

/* Commits, lets the next one in, then wakes up to `most` getters.
 *
 * The flag goes down before the commit: whoever raised it has read an older sequence, so he is either asleep and is
 * woken here, or his futex_wait fails.  It is never taken down after the commit, when it may belong to somebody who has
 * already seen the new sequence.  If every wake found a taker more may sleep, so the flag goes up again, and whoever
 * committed while it was down relied on us. */
void ring_commit_put(struct ring *ring, struct self *self, const struct view *view, int most)
{
    struct side *side = &ring->segment->put;
    struct ledgers *ledgers = &side->ledgers;
    bool asleep = atomic_load_explicit(&ledgers->waiting, memory_order_relaxed) != 0 &&
                  atomic_exchange(&ledgers->waiting, 0) != 0;
    uint32_t committed = ledger_commit(ledgers, view);
    lock_release(&side->guard.lock, self);
    store_load_barrier_after_locked();
    if (!asleep && atomic_load_explicit(&ledgers->waiting, memory_order_relaxed) == 0) {
        return;
    }
    if (futex_wake(&ledgers->sequence, most) == most) {
        atomic_exchange(&ledgers->waiting, 1);
        if (atomic_load(&ledgers->sequence) != committed) {
            futex_wake(&ledgers->sequence, WAIT_EVERYONE);
        }
    }
}

void ring_wake_putters(struct ring *ring)
{
    struct segment *segment = ring->segment;
    if (atomic_load(&segment->get.ledgers.waiting) != 0 && atomic_exchange(&segment->get.ledgers.waiting, 0) != 0) {
        atomic_fetch_add(&segment->room.bell, 1); /* for those that are about to sleep */
        futex_wake(&segment->room.bell, WAIT_EVERYONE);
    }
}

/* Rule 18.  The flags are taken down after the commit, for the bell also tells those who raise them meanwhile. */
void ring_commit_get(struct ring *ring, struct self *self, const struct view *view)
{
    struct segment *segment = ring->segment;
    ledger_commit(&segment->get.ledgers, view);
    lock_release(&segment->get.guard.lock, self);
    store_load_barrier_after_locked();
    uint32_t waiting = atomic_load_explicit(&segment->get.ledgers.waiting, memory_order_acquire);
    if (waiting == 0) {
        return;
    }
    if ((waiting & WAITING_FOR_ANY) ||
        (view->position >= atomic_load_explicit(&segment->room.position, memory_order_relaxed) &&
         view->count >= atomic_load_explicit(&segment->room.count, memory_order_relaxed))) {
        ring_wake_putters(ring);
    }
}

/* ---- put ---- */

uint64_t ring_maxsize(const struct ring *ring)
{
    uint64_t chosen = atomic_load_explicit(&ring->segment->put.guard.maxsize, memory_order_relaxed);
    return chosen != 0 ? chosen - 1 : ring->first_maxsize;
}

/* By the limits of the queue. */
static bool is_allowed(const struct ring *ring, const struct view *put, uint64_t bytes, uint64_t items)
{
    const struct view *get = &ring->get_as_seen;
    uint64_t used = put->position - get->position, maxsize = ring_maxsize(ring);
    return used <= ring->capacity - bytes && (ring->threshold == 0 || used < ring->threshold) &&
           (maxsize == 0 || put->count - get->count + items <= maxsize);
}

/* And by where its records lie. */
static bool has_room(const struct ring *ring, const struct view *put, uint64_t bytes, uint64_t items)
{
    if (ring->get_as_seen.leases && ring_maxsize(ring) != 0) {
        return false; /* an item that was given back since then has made get.count smaller: our view is no safe one */
    }
    return is_allowed(ring, put, bytes, items) && (!arena_is_elastic(ring) || arena_has_room(ring, put, bytes));
}

/* What cannot be true of two views, when ours is under our lock and the other one was read afterwards. */
static const char *contradiction(const struct ring *ring, const struct view *put, const struct view *get)
{
    if (put->arena >= ring->arenas || get->arena >= ring->arenas) {
        return "a ledger is in an arena that does not exist";
    }
    return ledgers_contradict(put, get, ring->capacity);
}

/* Under the put lock. An elastic ring may make room, if it `may_grow` (it takes its time), which moves `put`. */
static enum ring_status find_room(struct ring *ring, struct view *put, uint64_t bytes, uint64_t items, bool may_grow)
{
    if (put->arena >= ring->arenas) {
        return ring_poison(ring, contradiction(ring, put, &ring->get_as_seen));
    }
    if (put->shut != SHUT_NOT) {
        return RING_SHUT;
    }
    if (has_room(ring, put, bytes, items)) {
        return RING_OK;
    }
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    const char *why = contradiction(ring, put, &ring->get_as_seen);
    if (why != NULL) {
        return ring_poison(ring, why);
    }
    if (!is_allowed(ring, put, bytes, items)) {
        uint64_t maxsize = ring_maxsize(ring);
        return maxsize != 0 && items > maxsize ? RING_TOO_MANY : RING_FULL;
    }
    if (!arena_is_elastic(ring) || arena_has_room(ring, put, bytes)) {
        return RING_OK;
    }
    return may_grow ? arena_grow(ring, put, bytes) : RING_BUSY;
}

/* Under the put lock: most items that were ever in the queue at once. Of many, to within a 64th: a queue that grows and
 * grows would else have to look at its getters' line at every put. */
static void note_high_water(struct ring *ring, uint64_t put_count)
{
    _Atomic uint64_t *mark = &ring->segment->put.guard.high_water;
    uint64_t highest = atomic_load_explicit(mark, memory_order_relaxed);
    uint64_t margin = highest < EXACT_HIGH_WATER ? 0 : highest / 64;
    if (put_count - ring->get_as_seen.count > highest + margin) { /* perhaps: our view of the getters may be old */
        ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
        if (put_count - ring->get_as_seen.count > highest && put_count >= ring->get_as_seen.count) {
            atomic_store_explicit(mark, put_count - ring->get_as_seen.count, memory_order_relaxed);
        }
    }
}

/* A reservation, and the header and the first bytes of the record behind it.  Returns where that ends. */
static unsigned char *write_reservation(unsigned char *to, const struct record_in *record)
{
    struct reserving *reserving = record->reserving;
    const struct record_header head = {.length = (uint32_t)(record->length - sizeof reserving->who),
                                       .method = record->method};
    reserving->place = to;
    memcpy(to, &reserving->who, sizeof reserving->who);
    to += sizeof reserving->who;
    memcpy(to, &head, sizeof head);
    to += sizeof head;
    memcpy(to, reserving->head.bytes, reserving->head.length);
    return to + head.length;
}

static void write_records(struct span span, uint64_t offset, const struct record_in *records, size_t count)
{
    unsigned char *to = span.bytes + offset;
    for (size_t i = 0; i < count; i++) {
        const struct record_in *record = &records[i];
        if (record->reserving != NULL) {
            to = write_reservation(to, record);
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

/* Under the put lock: the bytes and items that another putter has claimed, if it has and they count. */
static bool is_claimed(struct ring *ring, const struct self *self, uint64_t *bytes, uint64_t *items, int64_t *left)
{
    struct guard *guard = &ring->segment->put.guard;
    uint32_t claimant = atomic_load_explicit(&guard->claimant, memory_order_relaxed);
    if (claimant == 0 || claimant == self->tid) {
        return false;
    }
    uint64_t until = atomic_load_explicit(&guard->claim_until, memory_order_relaxed), now = (uint64_t)monotonic_ns();
    if (until <= now || until - now > (uint64_t)WAIT_SLICE_NS) { /* of a dead one, or by another clock */
        atomic_compare_exchange_strong(&guard->claimant, &claimant, 0);
        return false;
    }
    *bytes = atomic_load_explicit(&guard->claim_bytes, memory_order_relaxed);
    *items = atomic_load_explicit(&guard->claim_items, memory_order_relaxed);
    *left = (int64_t)(until - now);
    return *bytes <= ring->capacity;
}

/* Under the put lock: a put that is polite goes beside a claim only if there is room for both. */
static bool is_beside_claim(struct ring *ring, const struct self *self, const struct view *put, uint64_t bytes,
                            uint64_t items, struct want *want)
{
    uint64_t claimed, claimed_items;
    if (!is_claimed(ring, self, &claimed, &claimed_items, &want->claim_left)) {
        return true;
    }
    ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    if (contradiction(ring, put, &ring->get_as_seen) != NULL || put->shut != SHUT_NOT) {
        return true; /* find_room() will say so */
    }
    uint64_t maxsize = ring_maxsize(ring), used = put->position - ring->get_as_seen.position;
    if (maxsize != 0 && claimed_items > maxsize) {
        return true; /* what it is for can be put no more */
    }
    if (ring->threshold != 0 && used + bytes >= ring->threshold) {
        return false;
    }
    return bytes <= ring->capacity - claimed && is_allowed(ring, put, bytes + claimed, items + claimed_items);
}

/* Under the put lock, when there is no room. One claim at a time: another one's must have ended, and something must have
 * been taken since: whoever takes may have to put first. */
static bool claim(struct ring *ring, const struct self *self, uint64_t bytes, uint64_t items)
{
    struct guard *guard = &ring->segment->put.guard;
    uint64_t other, other_items;
    int64_t left;
    uint64_t taken = ring->get_as_seen.position + ring->get_as_seen.count + 1;
    bool is_free = !is_claimed(ring, self, &other, &other_items, &left) &&
                   atomic_load_explicit(&guard->claim_taken, memory_order_relaxed) != taken;
    if (is_free) {
        atomic_store_explicit(&guard->claim_taken, taken, memory_order_relaxed);
        atomic_store_explicit(&guard->claim_until, (uint64_t)(monotonic_ns() + WAIT_SLICE_NS), memory_order_relaxed);
        atomic_store_explicit(&guard->claim_bytes, bytes, memory_order_relaxed);
        atomic_store_explicit(&guard->claim_items, items, memory_order_relaxed);
        atomic_store_explicit(&guard->claimant, self->tid, memory_order_relaxed);
    }
    return is_free;
}

/* Takes back this thread's claim, if it has one. True: others may have waited for that. */
static bool unclaim(struct ring *ring, const struct self *self)
{
    uint32_t claimant = atomic_load_explicit(&ring->segment->put.guard.claimant, memory_order_relaxed);
    return claimant == self->tid && atomic_compare_exchange_strong(&ring->segment->put.guard.claimant, &claimant, 0);
}

/* How far the get side must come: up to where the records fit, and, unless that is to be exact, up to where an eighth
 * of the queue is free. A putter that is woken for each item that is taken costs both sides more than the item. */
static void note_want(const struct ring *ring, const struct view *put, uint64_t bytes, uint64_t items, struct want *want)
{
    uint64_t maxsize = ring_maxsize(ring), threshold = ring->threshold, share = want->is_exact ? UINT64_MAX : 8;
    uint64_t room = ring->capacity / share > bytes ? ring->capacity / share : bytes;
    bool has_small_shares = threshold / 8 <= 1 && maxsize / 8 <= items;
    want->is_exact = want->is_exact || (ring->capacity / 8 <= bytes && has_small_shares);
    want->position = want->count = 0;
    if (!is_allowed(ring, put, bytes, items)) {
        want->position = put->position + room > ring->capacity ? put->position + room - ring->capacity : 0;
        if (threshold != 0) {
            room = threshold / share > 1 ? threshold / share : 1;
            uint64_t position = put->position + room > threshold ? put->position + room - threshold : 0;
            want->position = position > want->position ? position : want->position;
        }
        if (maxsize != 0) {
            room = maxsize / share > items ? maxsize / share : items;
            want->count = put->count + room > maxsize ? put->count + room - maxsize : 0;
        }
    } /* else it is memory that is missing, which may come with any commit */
}

/* Under the put lock, rule 17: the getter that comes so far wakes us. */
static void ask_for_room(struct segment *segment, struct want *want)
{
    uint64_t position = want->is_behind ? UINT64_MAX : want->position; /* the end of the claim wakes us */
    uint64_t count = want->is_behind ? UINT64_MAX : want->count;
    want->bell = atomic_load(&segment->room.bell);
    if (atomic_load(&segment->get.ledgers.waiting) & WAITING_FOR_ROOM) {
        uint64_t others = atomic_load_explicit(&segment->room.position, memory_order_relaxed);
        position = others < position ? others : position;
        others = atomic_load_explicit(&segment->room.count, memory_order_relaxed);
        count = others < count ? others : count;
    }
    atomic_store_explicit(&segment->room.position, position, memory_order_relaxed);
    atomic_store_explicit(&segment->room.count, count, memory_order_relaxed);
    atomic_fetch_or(&segment->get.ledgers.waiting, WAITING_FOR_ROOM);
    store_load_barrier_after_locked();
    want->has_asked = true;
}

/* One attempt. RING_FULL leaves in *want what to wait for; if it says so already, the getters are told. While there is room by
 * an older look, nothing of the getters' is read: that would make both fetch that line for every item. */
static enum ring_status try_put(struct ring *ring, const struct record_in *records, size_t count, uint64_t bytes,
                                struct patience patience, struct want *want, bool asks)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    enum ring_status status = ring_lock_side(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    if (ring->put_epoch != self->epoch) {
        ring->put_epoch = self->epoch;
        ring->get_as_seen = (struct view){0};
    }
    struct view put = ledger_read(&side->ledgers);
    want->has_asked = want->is_behind = false;
    want->put_count = want->put_count == 0 ? put.count : want->put_count;
    bool is_polite = patience.for_room || !patience.for_lock;
    if (is_polite && !is_beside_claim(ring, self, &put, bytes, count, want)) {
        want->is_behind = true;
        if (asks) {
            ask_for_room(ring->segment, want);
        }
        lock_release(&side->guard.lock, self);
        return patience.for_lock ? RING_FULL : RING_BUSY;
    }
    status = find_room(ring, &put, bytes, count, patience.for_lock);
    if (status == RING_FULL && !is_allowed(ring, &put, bytes, count)) {
        bool has_one = atomic_load_explicit(&side->guard.claimant, memory_order_relaxed) == self->tid;
        bool is_overtaken = want->claims && put.count != want->put_count;
        want->has_claim = patience.for_room && (has_one || is_overtaken) && claim(ring, self, bytes, count);
        want->claims = want->claims || want->has_claim;
    }
    if (status == RING_FULL) {
        note_want(ring, &put, bytes, count, want);
        if (asks) {
            ask_for_room(ring->segment, want);
            status = find_room(ring, &put, bytes, count, patience.for_lock);
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
            ask_for_room(ring->segment, want);
        }
        lock_release(&side->guard.lock, self);
        return patience.for_lock ? RING_FULL : RING_BUSY;
    }
    arena_start_over(ring, &put, bytes);
    write_records(span, arena_offset(ring, put.arena, put.position), records, count);
    put.position += bytes;
    put.count += count;
    note_high_water(ring, put.count);
    bool had_claim = unclaim(ring, self);
    ring_commit_put(ring, self, &put, count < (size_t)WAIT_EVERYONE ? (int)count : WAIT_EVERYONE);
    if (had_claim) {
        ring_wake_putters(ring);
    }
    return RING_OK;
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

/* Waits for room.  RING_OK: try again, asking for it if want->has_asked is false. */
static enum ring_status wait_for_room(struct ring *ring, struct want *want, struct patience patience, bool *asks)
{
    if (!*asks && !want->is_behind && ring_spin_for_room(ring, want, patience.deadline)) {
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
    enum ring_status status = ring_sleep_for_room(ring, want, most, patience.deadline);
    want->is_exact = true;
    return status;
}

enum ring_status ring_put(struct ring *ring, const struct record_in *records, size_t count, struct patience patience)
{
    uint64_t bytes = 0;
    bool trimmed = false, asks = !ring->may_spin;
    int64_t begun = 0;
    struct want want = {0};
    for (size_t i = 0; i < count; i++) {
        bytes += record_head(records[i].length) + records[i].length;
    }
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        if (ring_is_poisoned(ring)) {
            return RING_BROKEN;
        }
        enum ring_status status = try_put(ring, records, count, bytes, patience, &want, asks && patience.for_room);
        if (status == RING_FULL && patience.for_lock && !trimmed && atomic_load(&ring->grow_error) != 0) {
            trimmed = true; /* the memory is out: perhaps it is this queue that has it, and does not need it */
            ring_trim(ring, false);
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
            if (unclaim(ring, lock_self())) {
                ring_wake_putters(ring);
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
    ring_clear_the_way(ring); /* of a process that was killed while it wrote an item where it lies */
    return RING_INTERRUPTED;
}

/* ---- get ---- */

/* Under the get lock: goes on to the next arena if this one is done. */
static enum ring_status follow_to(struct ring *ring, struct take *take, const struct view *put)
{
    for (uint32_t steps = 0; arena_is_left(ring, &take->next, put); steps++) {
        take->next.arena = arena_after(ring, take->next.arena);
        if (take->next.arena >= ring->arenas || steps > ring->arenas) {
            return ring_poison(ring, "an arena is followed by one that does not exist");
        }
    }
    return RING_OK;
}

/* Under the get lock: a fresh look at the put side, when there are no records as far as we know. */
static enum ring_status look_at_put_side(struct ring *ring, const struct take *take)
{
    ring->put_as_seen = ledger_read(&ring->segment->put.ledgers);
    const char *why = contradiction(ring, &ring->put_as_seen, &take->next);
    if (why != NULL) {
        return ring_poison(ring, why);
    }
    if (ring->put_as_seen.position == take->next.position) {
        return ring->put_as_seen.shut != SHUT_NOT ? RING_SHUT : RING_EMPTY;
    }
    return RING_OK;
}

/* The length of a record that begins with these bytes, `used` of which belong to it and others; and its method.
 * False: it is longer than that, or not said as it should be. */
static inline bool read_head(const unsigned char *bytes, uint64_t used, uint64_t *length, uint32_t *method)
{
    struct record_header head;
    memcpy(&head, bytes, sizeof head);
    *length = head.length;
    *method = head.method;
    if (head.length == RECORD_LONG && used >= record_head(UINT64_MAX)) {
        memcpy(length, bytes + sizeof head, sizeof *length);
        return *length > RECORD_SHORT_MAX && *length <= used - record_head(*length);
    }
    return head.length <= RECORD_SHORT_MAX && head.length <= used - sizeof head;
}

/* Under the get lock, where there is a reservation and behind it the bytes of other records, `used` of them together:
 * goes on to its record, whose header it reads, if that is an item. */
static enum ring_status look_at_reservation(struct ring *ring, struct take *take, const unsigned char *bytes,
                                            uint64_t used, struct record_header *head)
{
    struct reservation *reservation = &take->reservation;
    if (used < sizeof *reservation + sizeof *head) {
        return ring_poison(ring, "a reservation is longer than the bytes in the queue");
    }
    memcpy(reservation, bytes, sizeof *reservation);
    memcpy(head, bytes + sizeof *reservation, sizeof *head);
    if (head->length > RECORD_SHORT_MAX || head->length > used - sizeof *reservation - sizeof *head) {
        return ring_poison(ring, "a reserved record is longer than the bytes in the queue");
    }
    take->length = head->length;
    switch (reservation->state) {
    case RESERVATION_COMMITTED:
        take->next.position += sizeof *reservation;
        return RING_OK;
    case RESERVATION_OPEN:
    case RESERVATION_ABANDONED:
        return RING_RESERVED;
    default:
        return ring_poison(ring, "a reservation is in no state that there is");
    }
}

/* Under the get lock: the record at take->next, which is checked before anybody uses it. */
static enum ring_status look_at_record(struct ring *ring, struct take *take)
{
    if (take->next.leases) {
        enum ring_status status = leases_look(ring, take);
        if (status != RING_EMPTY) {
            return status;
        }
    }
    if (ring->put_as_seen.position <= take->next.position) {
        enum ring_status status = look_at_put_side(ring, take);
        if (status != RING_OK) {
            return status;
        }
    }
    if (arena_is_elastic(ring) && follow_to(ring, take, &ring->put_as_seen) != RING_OK) {
        return RING_BROKEN;
    }
    struct span span = arena_span(ring, take->next.arena);
    if (span.bytes == NULL) {
        return RING_UNMAPPED;
    }
    uint64_t used = ring->put_as_seen.position - take->next.position;
    struct record_header head;
    if (used < sizeof head || used > ring->capacity || take->next.count >= ring->put_as_seen.count) {
        return ring_poison(ring, "the get ledger contradicts the put ledger");
    }
    const unsigned char *bytes = span.bytes + arena_offset(ring, take->next.arena, take->next.position);
    memcpy(&head, bytes, sizeof head);
    if (head.length == RECORD_RESERVED) {
        enum ring_status status = look_at_reservation(ring, take, bytes, used, &head);
        if (status != RING_OK) {
            return status;
        }
        bytes += sizeof(struct reservation);
        used -= sizeof(struct reservation);
    }
    if (!read_head(bytes, used, &take->length, &take->method) || take->length > span.size - record_head(take->length)) {
        return ring_poison(ring, "a record is longer than the bytes in the queue");
    }
    return RING_OK;
}

/* Under the get lock: where the first reservation that is open lies among the records up to `put`.  RING_EMPTY: there is
 * none. */
static enum ring_status find_open(struct ring *ring, const struct take *take, const struct view *put, struct view *found)
{
    struct take at = *take;
    while (at.next.count < put->count) {
        struct record_header head;
        if (arena_is_elastic(ring) && follow_to(ring, &at, put) != RING_OK) {
            return RING_BROKEN;
        }
        struct span span = arena_span(ring, at.next.arena);
        if (span.bytes == NULL) {
            return RING_UNMAPPED;
        }
        uint64_t used = put->position - at.next.position;
        if (used < sizeof head || used > ring->capacity) {
            return ring_poison(ring, "the get ledger contradicts the put ledger");
        }
        const unsigned char *bytes = span.bytes + arena_offset(ring, at.next.arena, at.next.position);
        memcpy(&head, bytes, sizeof head);
        if (head.length == RECORD_RESERVED) {
            *found = at.next;
            enum ring_status status = look_at_reservation(ring, &at, bytes, used, &head);
            if (status == RING_RESERVED && at.reservation.state == RESERVATION_OPEN) {
                return RING_OK;
            }
            if (status != RING_OK && status != RING_RESERVED) {
                return status;
            }
            at.next.position = found->position + sizeof(struct reservation);
            bytes += sizeof(struct reservation);
            used -= sizeof(struct reservation);
        }
        if (!read_head(bytes, used, &at.length, &at.method)) {
            return ring_poison(ring, "a record is longer than the bytes in the queue");
        }
        at.next.position += record_head(at.length) + at.length;
        at.next.count++;
    }
    return RING_EMPTY;
}

/* Under the get lock: takes and drops all records that are not leased, up to `put`.  Returns how many there were. */
static uint64_t drop_all(struct ring *ring, const struct view *put, struct take *take)
{
    struct view *get = &take->next;
    uint64_t records = put->count - get->count;
    if (get->leases) {
        records += take->returned;
        leases_drop_returned(ring, take);
    }
    struct view all = ledger_read(&ring->segment->put.ledgers);
    uint64_t left = tally_unfinished(ring, &all, get); /* fewer, if task_done() was called before an item was taken */
    get->position = put->position;
    get->count = put->count;
    get->arena = put->arena;
    get->dropped += records < left ? records : left;
    return records;
}

/* As drop_all(), and leaves in the queue what lies behind an open reservation: RING_RESERVED, there is one. */
static enum ring_status drop_up_to_open(struct ring *ring, const struct view *put, struct take *take, uint64_t *dropped)
{
    struct view end = *put, open;
    enum ring_status status = RING_EMPTY;
    if (atomic_load(&ring->segment->notes.reserves) != 0) {
        status = find_open(ring, take, put, &open);
        end = status == RING_OK ? open : *put;
    }
    if (status != RING_OK && status != RING_EMPTY) {
        return status;
    }
    *dropped += drop_all(ring, &end, take);
    return status == RING_OK ? RING_RESERVED : RING_OK;
}

/* Commits what was taken, releases the lock, and wakes putters. */
static void commit_taken(struct ring *ring, struct take *take)
{
    struct view view = take->next.leases ? leases_settle(ring, take) : take->next;
    ring_commit_get(ring, take->self, &view);
    if (take->next.leases) {
        leases_tidy(ring, take);
    }
}

/* Under the get lock, when the queue is shut down or about to be: does what a killed one may have left undone.
 * RING_OK: go on, there may be records.  RING_SHUT, RING_INTERRUPTED: the lock is free, and in the second case there may
 * be more to do. */
static enum ring_status finish_shut_down(struct ring *ring, struct take *take)
{
    struct view put = ledger_read(&ring->segment->put.ledgers);
    const char *why = contradiction(ring, &put, &take->next);
    if (why != NULL) {
        return ring_poison(ring, why);
    }
    bool is_empty = put.count == take->next.count && (!take->next.leases || take->returned == 0);
    if (put.shut != SHUT_IMMEDIATE || is_empty) {
        return RING_OK;
    }
    uint64_t dropped = 0;
    enum ring_status status = drop_up_to_open(ring, &put, take, &dropped);
    if ((status != RING_OK && status != RING_RESERVED) || (status == RING_RESERVED && dropped == 0)) {
        return status == RING_RESERVED ? RING_OK : status;
    }
    commit_taken(ring, take);
    tally_wake_if_finished(ring);
    return status == RING_RESERVED ? RING_INTERRUPTED : RING_SHUT;
}

enum ring_status ring_get_lock(struct ring *ring, struct take *take, struct patience patience)
{
    struct side *side = &ring->segment->get;
    take->self = lock_self();
    enum ring_status status = ring_lock_side(ring, side, take->self, patience);
    if (status != RING_OK) {
        return status;
    }
    if (ring->get_epoch != take->self->epoch) {
        ring->get_epoch = take->self->epoch;
        ring->put_as_seen = (struct view){0};
    }
    take->next = ledger_read(&side->ledgers);
    take->arena = take->next.arena;
    return RING_OK;
}

/* As ring_get_begin().  RING_RESERVED: there is a reservation, and the lock is held. */
static enum ring_status begin_get(struct ring *ring, struct take *take, struct patience patience)
{
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    enum ring_status status = ring_get_lock(ring, take, patience);
    if (status == RING_OK && take->next.leases && ring_look_is_due(ring)) {
        ring_get_abort(ring, take); /* what a dead holder had may be the oldest item */
        ring_return_dead(ring, 0);
        status = ring_get_lock(ring, take, patience);
    }
    if (status != RING_OK) {
        return status;
    }
    if (take->arena >= ring->arenas) {
        status = ring_poison(ring, "a ledger is in an arena that does not exist");
    } else if (take->next.leases) {
        status = leases_enter(ring, take);
    }
    if (status == RING_OK && atomic_load_explicit(&ring->segment->notes.shut, memory_order_relaxed) != 0) {
        status = finish_shut_down(ring, take);
        if (status == RING_SHUT || status == RING_INTERRUPTED) {
            return status; /* the lock is free again */
        }
    }
    if (status == RING_OK) {
        status = look_at_record(ring, take);
    }
    if (status == RING_EMPTY && arena_is_elastic(ring) && arena_trim_is_due(ring, take)) {
        atomic_store_explicit(&ring->trim_due, true, memory_order_relaxed);
    }
    if (status != RING_OK && status != RING_RESERVED) {
        ring_get_abort(ring, take);
    }
    return status;
}

enum ring_status ring_get_begin(struct ring *ring, struct take *take, struct patience patience)
{
    enum ring_status status;
    while ((status = begin_get(ring, take, patience)) == RING_RESERVED) {
        status = leases_pass_reservation(ring, take);
        if (status == RING_FULL) { /* for now: this getter waits for it */
            atomic_store(&ring->held_up, true);
            return RING_EMPTY;
        }
        if (status != RING_OK) {
            return status;
        }
    }
    return status;
}

static bool is_of_entry(const struct take *take) { return take->next.leases && take->at != NOT_RETURNED; }

uint64_t ring_get_number(const struct take *take)
{
    return is_of_entry(take) ? take->number : take->next.count;
}

void ring_get_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes)
{
    if (is_of_entry(take)) {
        leases_peek(ring, take, from, length, bytes);
        return;
    }
    struct span span = arena_span(ring, take->next.arena);
    uint64_t offset = arena_offset(ring, take->next.arena, take->next.position);
    memcpy(bytes, span.bytes + offset + record_head(take->length) + from, (size_t)length);
}

uint32_t ring_get_copy(struct ring *ring, const struct take *take, void *bytes, uint32_t room)
{
    uint32_t arena = take->next.arena;
    uint64_t begin = take->next.position, end = ring->put_as_seen.position;
    if (arena != ring->put_as_seen.arena) {
        end = atomic_load_explicit(&ring->segment->arenas[arena].end, memory_order_relaxed);
    }
    if (end < begin || end > ring->put_as_seen.position || is_of_entry(take)) {
        return 0; /* ring_get_next() will say what is wrong */
    }
    struct span span = arena_span(ring, arena);
    uint64_t length = end - begin < room ? end - begin : room;
    length = length < span.size ? length : span.size;
    memcpy(bytes, span.bytes + arena_offset(ring, arena, begin), (size_t)length);
    return (uint32_t)length;
}

bool ring_get_in_copy(const struct ring *ring, struct take *take, const void *bytes, uint32_t length)
{
    struct record_header head;
    if (length < sizeof head || take->next.count >= ring->put_as_seen.count) {
        return false;
    }
    memcpy(&head, bytes, sizeof head);
    take->length = head.length;
    take->method = head.method;
    return head.length <= length - sizeof head; /* which is less than RECORD_SHORT_MAX */
}

void ring_get_pass(struct take *take)
{
    if (is_of_entry(take)) {
        take->taken = true;
        take->returned--;
        return;
    }
    take->next.position += record_head(take->length) + take->length;
    take->next.count++;
}

void ring_get_read(struct ring *ring, struct take *take, void *payload)
{
    ring_get_peek(ring, take, 0, take->length, payload);
    ring_get_pass(take);
}

enum ring_status ring_get_next(struct ring *ring, struct take *take)
{
    if (take->next.leases && take->taken) {
        return RING_EMPTY; /* one entry is changed with each commit */
    }
    enum ring_status status = look_at_record(ring, take);
    return status == RING_RESERVED ? RING_EMPTY : status; /* the next call passes it */
}

void ring_get_commit(struct ring *ring, struct take *take)
{
    if (arena_is_elastic(ring) && arena_trim_is_due(ring, take)) {
        atomic_store_explicit(&ring->trim_due, true, memory_order_relaxed);
    }
    commit_taken(ring, take);
}

void ring_get_abort(struct ring *ring, struct take *take)
{
    lock_release(&ring->segment->get.guard.lock, take->self);
}

/* Drops all up to an open reservation: RING_RESERVED, there is one. */
static enum ring_status clear_once(struct ring *ring, uint64_t *dropped, struct patience patience)
{
    struct take take;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    struct view put = ledger_read(&ring->segment->put.ledgers);
    const char *why = contradiction(ring, &put, &take.next);
    status = why != NULL ? ring_poison(ring, why) : take.next.leases ? leases_enter(ring, &take) : RING_OK;
    if (status == RING_OK && (why = contradiction(ring, &put, &take.next)) != NULL) {
        status = ring_poison(ring, why); /* what is handed out next has its own position and count */
    }
    status = status == RING_OK ? drop_up_to_open(ring, &put, &take, dropped) : status;
    if (status != RING_OK && status != RING_RESERVED) {
        ring_get_abort(ring, &take);
        return status;
    }
    commit_taken(ring, &take);
    tally_wake_if_finished(ring);
    return status;
}

enum ring_status ring_clear(struct ring *ring, uint64_t *dropped, struct patience patience)
{
    uint64_t end = ledger_read(&ring->segment->put.ledgers).count; /* what is put from now on may stay */
    enum ring_status status;
    *dropped = 0;
    while ((status = clear_once(ring, dropped, patience)) == RING_RESERVED) {
        struct take take;
        status = begin_get(ring, &take, patience);
        if (status == RING_OK) {
            ring_get_abort(ring, &take); /* it is an item by now: the next round drops it */
        } else if (status == RING_RESERVED) {
            bool is_old = take.next.count < end;
            status = is_old ? leases_pass_reservation(ring, &take) : RING_EMPTY;
            if (!is_old) {
                ring_get_abort(ring, &take);
            }
        }
        if (status != RING_OK) {
            break;
        }
    }
    if (status == RING_EMPTY || status == RING_SHUT || status == RING_FULL) {
        status = RING_OK;
    }
    if (status == RING_OK) {
        ring_trim(ring, false);
    }
    return status;
}

/* ---- reservations ---- */

enum ring_status ring_prepare_reservation(struct ring *ring, struct reserving *reserving, struct part head,
                                          uint32_t length, struct record_in *record, struct patience patience)
{
    static _Atomic uint32_t tokens;
    struct process me = os_this_process();
    enum ring_status status = leases_prepare(ring, patience);
    if (status != RING_OK) {
        return status;
    }
    atomic_store(&ring->segment->notes.reserves, 1); /* before it is put: clear() looks at the put ledger first */
    *reserving = (struct reserving){
        .who = {.length = RECORD_RESERVED,
                .state = RESERVATION_OPEN,
                .pid = me.pid,
                .handle = ring->handle,
                .started = me.started,
                .token = os_image_number() + atomic_fetch_add(&tokens, 1)},
        .head = head,
    };
    *record = (struct record_in){.length = (uint32_t)sizeof reserving->who + length, .reserving = reserving};
    return RING_OK;
}

enum ring_status ring_end_reservation(struct ring *ring, const struct reserving *reserving, bool commit,
                                      struct patience patience)
{
    struct take take;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    status = take.next.leases ? leases_enter(ring, &take) : RING_OK;
    if (status != RING_OK) {
        ring_get_abort(ring, &take);
        return status;
    }
    bool is_shut = ledger_read(&ring->segment->put.ledgers).shut != SHUT_NOT; /* getters may have gone already */
    bool is_put = commit && !is_shut;
    status = commit && is_shut ? RING_SHUT : RING_OK;
    if (leases_end_reservation(ring, &take, &reserving->who, is_put)) {
        return status;
    }
    *(volatile uint8_t *)(reserving->place + offsetof(struct reservation, state)) =
        is_put ? RESERVATION_COMMITTED : RESERVATION_ABANDONED;
    ring_get_abort(ring, &take);
    atomic_thread_fence(memory_order_seq_cst);
    if (!is_put) {
        ring_clear_the_way(ring);
    } else if (atomic_load(&ring->segment->put.ledgers.waiting) != 0) {
        leases_wake_getter(ring); /* one that slept when it was put, and was not woken yet */
    }
    return status;
}

void ring_clear_the_way(struct ring *ring)
{
    struct take take;
    if (atomic_load(&ring->segment->notes.reserves) == 0 || ring_is_poisoned(ring)) {
        return;
    }
    if (ring_get_begin(ring, &take, (struct patience){0}) == RING_OK) {
        ring_get_abort(ring, &take);
    }
    ring_return_dead(ring, WAIT_SLICE_NS / 2);
}

/* ---- the end ---- */

enum ring_status ring_set_maxsize(struct ring *ring, uint64_t maxsize, struct patience patience)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    enum ring_status status = ring_lock_side(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    atomic_store_explicit(&side->guard.maxsize, maxsize + 1, memory_order_relaxed);
    lock_release(&side->guard.lock, self);
    ring_wake_putters(ring);
    return RING_OK;
}

enum ring_status ring_shut_down(struct ring *ring, bool immediate, struct patience patience)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    uint64_t dropped, wanted = immediate ? SHUT_IMMEDIATE : SHUT_PLAIN;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    atomic_store(&ring->segment->notes.shut, 1); /* before the commit: getters look at it first */
    enum ring_status status = ring_lock_side(ring, side, self, patience);
    if (status != RING_OK) {
        return status;
    }
    struct view put = ledger_read(&side->ledgers);
    put.shut = put.shut > wanted ? put.shut : wanted;
    ring_commit_put(ring, self, &put, WAIT_EVERYONE);
    ring_wake_putters(ring); /* a putter that asks for room later does so under the lock, and sees the commit */
    if (immediate) {
        struct patience none = {0}; /* a getter has the lock: whoever has it next drops what is left */
        status = ring_clear(ring, &dropped, none);
    }
    return status == RING_BUSY ? RING_OK : status;
}

/* ---- the handle ---- */

const char *ring_open(struct ring *ring, void *memory, size_t mapped, uint64_t size, int file)
{
    struct segment *segment = memory;
    struct header copy, *header = &copy; /* once: somebody may be changing the other one */
    if (mapped < LAYOUT_HEADER_SIZE) {
        return "not a segment of the native engine";
    }
    memcpy(header, memory, sizeof copy);
    if (memcmp(header->magic, LAYOUT_MAGIC, sizeof header->magic) != 0 ||
        memcmp(header->engine, LAYOUT_ENGINE, sizeof header->engine) != 0) {
        return "not a segment of the native engine";
    }
    if (header->version != LAYOUT_VERSION || header->header_size != LAYOUT_HEADER_SIZE ||
        header->byte_order != LAYOUT_BYTE_ORDER) {
        return "a segment of another version or machine";
    }
    static _Atomic uint32_t handles;
    uint64_t data_size = ring_data_size(header->initial, header->capacity);
    if (data_size == 0 || data_size != header->data_size || data_size != size - LAYOUT_HEADER_SIZE ||
        mapped != ring_first_mapping(header)) {
        return "the file's size is not what its header says";
    }
    struct stat status;
    if (fstat(file, &status) != 0) {
        return "its file cannot be examined";
    }
    cpu_set_t processors;
    bool alone = sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) == 1;
    memset(ring, 0, sizeof *ring);
    if (!arena_cut(ring, header->initial, header->capacity)) {
        return "there is no queue of this shape";
    }
    ring->segment = segment;
    ring->arena_memory[0] = (unsigned char *)memory + arena_data_start();
    ring->capacity = header->capacity;
    ring->limit = header->limit;
    ring->first_maxsize = header->maxsize;
    ring->threshold = header->threshold;
    ring->file = file;
    uint32_t number = os_image_number() + atomic_fetch_add(&handles, 1);
    ring->handle = number != 0 ? number : UINT32_MAX / 2; /* 0 stands for all handles of a process */
    ring->device = status.st_dev;
    ring->inode = status.st_ino;
    ring->may_spin = !alone;
    ring->spin_for_items = ring->spin_for_room = alone ? 0 : SPIN_MOST_NS;
    lock_disown(&segment->put.guard.lock, lock_self());
    lock_disown(&segment->get.guard.lock, lock_self());
    return NULL;
}

void ring_interrupt_all(struct ring *ring)
{
    atomic_store(&ring->closing, 1);
    futex_wake(&ring->segment->put.ledgers.sequence, WAIT_EVERYONE);
    futex_wake(&ring->segment->room.bell, WAIT_EVERYONE);
    futex_wake(&ring->segment->tally.sequence, WAIT_EVERYONE);
}
