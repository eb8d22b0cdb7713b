/* trimming.c: giving memory back; see space.h. */
#define _GNU_SOURCE
#include "space.h"

#include <fcntl.h>

#define PUNCH_MAX (UINT64_C(64) << 20)  /* bytes that are given back in one hold of the put lock */
#define SPARSE 16                       /* an arena is too large when less than one byte in this many is used */
#define GETS_BETWEEN_LOOKS 64           /* while records are left in it */
#define CALM_NS UINT64_C(100000000)     /* how long to wait after the last time, at least */
#define CALM_NS_PER_BYTE 10             /* and this long: some twenty times what touching the memory anew costs */

/* Rule 8: is it time to leave a large arena?  Under the put lock by snapshots of one moment; elsewhere it is a
 * guess. */
static bool is_too_large(const struct ring *ring, const struct snapshot *put, const struct snapshot *get, bool at_once)
{
    struct notes *notes = &ring->segment->notes;
    if (put->arena == 0 || put->arena != get->arena) {
        return false;
    }
    uint64_t reserved = arena_reserved(ring, put->arena);
    if (put->position - get->position > reserved / SPARSE) {
        return false;
    }
    if (at_once || atomic_load_explicit(&notes->starved, memory_order_relaxed) != 0) {
        return true;
    }
    uint64_t calm = reserved * CALM_NS_PER_BYTE > CALM_NS ? reserved * CALM_NS_PER_BYTE : CALM_NS;
    return (uint64_t)monotonic_ns() - atomic_load(&notes->lowered) >= calm;
}

bool arena_trim_is_due(struct ring *ring, struct snapshot *get, uint32_t before)
{
    if (get->arena != 0 && get->position >= ring->put_as_seen.position) {
        ring->put_as_seen = ledger_read(&ring->segment->put.ledgers); /* it was old, or the queue is empty */
    }
    if (get->arena != 0 && arena_is_left(ring, get, &ring->put_as_seen)) {
        uint32_t next = arena_after(ring, get->arena);
        get->arena = next < ring->arenas ? next : get->arena;
    }
    if (get->arena != before) {
        return true;
    }
    bool is_empty = get->position == ring->put_as_seen.position;
    bool is_turn = is_empty || get->count % GETS_BETWEEN_LOOKS == 0; /* a look may read the clock */
    return get->arena != 0 && is_turn && is_too_large(ring, &ring->put_as_seen, get, false);
}

/* Both sides at one moment, under either lock.  False: they contradict each other, or an arena does not exist. */
static bool look_at_both(struct ring *ring, struct snapshot *put, struct snapshot *get)
{
    *get = ledger_read(&ring->segment->get.ledgers);
    *put = ledger_read(&ring->segment->put.ledgers);
    return get->arena < ring->arenas && put->arena < ring->arenas &&
           ledgers_contradict(put, get, ring->capacity) == NULL;
}

/* Never waits: a putter may be copying a large item, and one thread trims many queues. */
static bool lock_to_trim(struct ring *ring, struct side *side, struct self *self)
{
    return side_lock(ring, side, self, (struct patience){.for_lock = false}) == RING_OK;
}

static bool leave_large_arena(struct ring *ring, struct self *self, bool at_once)
{
    struct side *side = &ring->segment->put;
    struct snapshot put, get;
    if (!lock_to_trim(ring, side, self)) {
        return false;
    }
    if (look_at_both(ring, &put, &get) && is_too_large(ring, &put, &get, at_once)) {
        arena_enter(ring, &put, 0);
        atomic_store(&ring->segment->notes.lowered, (uint64_t)monotonic_ns());
        ledger_commit(&side->ledgers, &put); /* nothing was put: no getter needs to be woken, and the flag stays set */
    }
    lock_release(&side->guard.lock, self);
    return true;
}

static bool follow(struct ring *ring, struct self *self)
{
    struct side *side = &ring->segment->get;
    struct snapshot put, get;
    if (!lock_to_trim(ring, side, self)) {
        return false;
    }
    bool is_left = look_at_both(ring, &put, &get) && !get.leases && arena_is_left(ring, &get, &put);
    if (is_left && arena_after(ring, get.arena) < ring->arenas) {
        get.arena = arena_after(ring, get.arena);
        side_commit_get(ring, self, &get); /* a putter that wants to grow may find memory soon */
    } else {
        lock_release(&side->guard.lock, self);
    }
    return true;
}

/* Under the put lock: a free arena that has memory; ring->arenas if there is none. */
static uint32_t find_unused(struct ring *ring)
{
    struct snapshot put, get;
    bool occupied[LAYOUT_ARENAS] = {false};
    if (!look_at_both(ring, &put, &get)) {
        return ring->arenas;
    }
    uint32_t arena = get.arena;
    occupied[put.arena] = true;
    for (uint32_t i = 0; i < ring->arenas && arena < ring->arenas && arena != put.arena; i++) {
        occupied[arena] = true;
        arena = arena_after(ring, arena);
    }
    if (arena != put.arena) {
        return ring->arenas; /* the chain is corrupted: the getter that follows it will say so */
    }
    arena = 1;
    while (arena < ring->arenas && (occupied[arena] || arena_reserved(ring, arena) == 0)) {
        arena++;
    }
    return arena;
}

/* Returns some of the memory of one free arena.  False: there was none, or the lock was not free. */
static bool punch(struct ring *ring, struct self *self)
{
    struct side *side = &ring->segment->put;
    if (!lock_to_trim(ring, side, self)) {
        atomic_store(&ring->trim_due, true);
        return false;
    }
    uint32_t arena = find_unused(ring);
    bool found = arena < ring->arenas && ring_file(ring) >= 0;
    if (found) {
        uint64_t reserved = arena_reserved(ring, arena);
        uint64_t kept = reserved > PUNCH_MAX ? reserved - PUNCH_MAX : 0;
        off_t start = (off_t)(LAYOUT_HEADER_SIZE + ring->arena_start[arena] + kept);
        off_t length = (off_t)(ring->arena_size[arena] - kept); /* to its end, with what a killed one left */
        atomic_store(&ring->segment->arenas[arena].reserved, kept);
        (void)!fallocate(ring->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length);
    }
    lock_release(&side->guard.lock, self);
    if (found && atomic_load_explicit(&ring->segment->notes.starved, memory_order_relaxed) != 0) {
        side_wake_putters(ring); /* those that wait for memory */
    }
    return found;
}

/* Whether any arena but the first has memory.  A hint, under no lock. */
static bool has_grown(const struct ring *ring)
{
    uint32_t arena = 1;
    while (arena < ring->arenas && arena_reserved(ring, arena) == 0) {
        arena++;
    }
    return arena < ring->arenas;
}

void ring_trim(struct ring *ring, bool at_once)
{
    struct self *self = lock_self();
    atomic_store(&ring->trim_due, false);
    if (!arena_is_elastic(ring) || !has_grown(ring) || ring_is_corrupted(ring)) {
        return;
    }
    if (!leave_large_arena(ring, self, at_once) || !follow(ring, self)) {
        atomic_store(&ring->trim_due, true);
        return;
    }
    while (punch(ring, self)) {
    }
}
