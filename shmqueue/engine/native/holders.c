/* holders.c: see holders.h. */
#define _GNU_SOURCE
#include "holders.h"

#define LOOK_NS INT64_C(100000000) /* at least so long between two checks whether holders live */
#define KNOWN_ALIVE 16              /* holders of many leases take them in turn, mostly */

/* With the get lock held: gives an item back, commits and releases the lock.  True: it can be taken again. */
static bool give_back(struct ring *ring, struct take *take, uint32_t number)
{
    return lending_end_entry(ring, take, number, GET(lease_entries(ring)[number].state) == LEASE_LENT);
}

static bool is_held(const struct lease *entry)
{
    uint32_t state = GET(entry->state);
    return state == LEASE_LENT || state == LEASE_PINNED || state == LEASE_WRITING;
}

/* Rule 15: its holder could not have the lock when it dropped the lease. */
static bool is_dropped(const struct lease *entry)
{
    return is_held(entry) && GET(entry->in_place) == BYTES_DROPPED;
}

static bool is_same(struct process a, struct process b) { return a.pid == b.pid && a.started == b.started; }

/* Whose items are requeued. */
struct whose {
    struct process holder;
    uint32_t handle; /* 0: all of that process */
    bool has_ended;  /* also what is pinned or being written; else what the process still uses stays */
};

/* whose NULL: what anybody has dropped. */
static bool is_theirs(const struct lease *entry, const struct whose *whose)
{
    struct process holder = {.pid = GET(entry->pid), .started = GET(entry->started)};
    if (whose == NULL) {
        return is_dropped(entry);
    }
    bool counts = whose->has_ended ? is_held(entry)
                                   : GET(entry->state) == LEASE_LENT && GET(entry->in_place) != BYTES_SEEN;
    return counts && is_same(holder, whose->holder) && (whose->handle == 0 || whose->handle == GET(entry->handle));
}

/* Gives back the oldest such item.  RING_EMPTY: there is none.  Counts in *returned what can be taken again, for which
 * the caller wakes getters: once, when all are back. */
static enum ring_status return_one(struct ring *ring, const struct whose *whose, struct patience patience, int *returned)
{
    struct take take;
    enum ring_status status = lending_begin(ring, &take, patience);
    if (status != RING_OK) {
        return status == RING_MISMATCH ? RING_EMPTY : status;
    }
    const struct lease *entries = lease_entries(ring);
    uint32_t oldest = take.entries;
    for (uint32_t i = 0; i < take.entries; i++) {
        if (is_theirs(&entries[i], whose) &&
            (oldest == take.entries || GET(entries[i].count) < GET(entries[oldest].count))) {
            oldest = i;
        }
    }
    if (oldest == take.entries) {
        ring_get_abort(ring, &take);
        return RING_EMPTY;
    }
    *returned += give_back(ring, &take, oldest); /* a getter may take it before the next one is back */
    return RING_OK;
}

static void wake_for(struct ring *ring, int returned, struct patience patience)
{
    if (returned > 0) {
        side_wake_for_returned(ring, returned, patience);
    }
}

/* Without the lock, see rule 15. */
static void drop_what_is_held(struct ring *ring, const struct whose *ours)
{
    uint32_t entries = lease_entries_now(ring);
    struct lease *table = lease_entries(ring);
    for (uint32_t i = 0; i < entries; i++) {
        if (is_theirs(&table[i], ours)) {
            atomic_store_explicit(&table[i].in_place, BYTES_DROPPED, memory_order_release);
        }
    }
}

enum ring_status ring_return_all(struct ring *ring, struct patience patience)
{
    const struct whose ours = {.holder = os_this_process(), .handle = ring->handle};
    enum ring_status status;
    int returned = 0;
    do {
        status = return_one(ring, &ours, patience, &returned);
    } while (status == RING_OK || (status == RING_INTERRUPTED && monotonic_ns() < patience.deadline));
    wake_for(ring, returned, patience);
    if (status == RING_INTERRUPTED || status == RING_LOCKED) { /* a peer with the lock was stopped */
        drop_what_is_held(ring, &ours);
    }
    return status == RING_EMPTY ? RING_OK : status;
}

/* The number of items that can be taken again. */
static int return_earlier(struct ring *ring, struct patience patience)
{
    int returned = 0;
    uint32_t entries = lease_entries_now(ring);
    const struct lease *table = lease_entries(ring);
    struct process me = os_this_process();
    for (uint32_t i = 0; i < entries; i++) {
        struct process holder = {.pid = GET(table[i].pid), .started = GET(table[i].started)};
        const struct whose earlier = {.holder = me, .handle = GET(table[i].handle), .has_ended = true};
        while (is_held(&table[i]) && is_same(holder, me) && !ring_is_of_this_image(earlier.handle) &&
               return_one(ring, &earlier, patience, &returned) == RING_OK) {
        }
    }
    return returned;
}

bool ring_look_is_due(const struct ring *ring)
{
    return (uint64_t)monotonic_ns() - atomic_load(&ring->segment->leases.looked) >= (uint64_t)LOOK_NS;
}

/* Holders that live, by this look. */
struct known_alive {
    struct process processes[KNOWN_ALIVE];
    unsigned count;
};

static bool holder_is_alive(struct known_alive *known, struct process holder)
{
    for (unsigned i = 0; i < known->count && i < KNOWN_ALIVE; i++) {
        if (is_same(known->processes[i], holder)) {
            return true;
        }
    }
    if (!os_is_alive(holder)) {
        return false;
    }
    known->processes[known->count++ % KNOWN_ALIVE] = holder;
    return true;
}

/* False: the lock was not free each time. */
static bool return_what_the_dead_had(struct ring *ring)
{
    struct leases *leases = &ring->segment->leases;
    struct patience patience = {.for_lock = false}; /* one thread does this for many queues, perhaps an event loop */
    bool is_busy = false;
    struct take take;
    if (GET(leases->changed[0]) != 0) {
        enum ring_status status = lending_begin(ring, &take, patience);
        if (status == RING_OK) {
            ring_get_abort(ring, &take); /* a dead owner may have left an entry to be put back */
        }
        is_busy = status == RING_BUSY;
    }
    int returned = return_earlier(ring, patience);
    uint32_t entries = lease_entries_now(ring);
    const struct lease *table = lease_entries(ring);
    struct known_alive known = {.processes = {os_this_process()}, .count = 1};
    for (uint32_t i = 0; i < entries; i++) {
        struct process holder = {.pid = GET(table[i].pid), .started = GET(table[i].started)};
        const struct whose theirs = {.holder = holder, .has_ended = true}, *whose = &theirs;
        if (is_dropped(&table[i])) {
            whose = NULL;
        } else if (!is_held(&table[i]) || holder_is_alive(&known, holder)) {
            continue;
        }
        enum ring_status status = RING_OK;
        while (status == RING_OK) {
            status = return_one(ring, whose, patience, &returned);
        }
        is_busy = is_busy || status == RING_BUSY;
    }
    wake_for(ring, returned, patience);
    return !is_busy;
}

void ring_return_dead(struct ring *ring, int64_t at_least)
{
    struct leases *leases = &ring->segment->leases;
    uint64_t now = (uint64_t)monotonic_ns(), looked = atomic_load(&leases->looked);
    if (ring_is_corrupted(ring) || !ring->is_of_here) {
        return;
    }
    if (now - looked < (uint64_t)at_least || !atomic_compare_exchange_strong(&leases->looked, &looked, now)) {
        return;
    }
    if (!return_what_the_dead_had(ring)) { /* the next look is due at once */
        atomic_compare_exchange_strong(&leases->looked, &now, looked);
    }
}

void ring_return_dead_now(struct ring *ring)
{
    if (!ring_is_corrupted(ring) && ring->is_of_here) {
        (void)return_what_the_dead_had(ring);
    }
}

void ring_lease_statistics(struct ring *ring, struct lease_statistics *statistics)
{
    struct leases *leases = &ring->segment->leases;
    uint32_t entries = lease_entries_now(ring);
    const struct lease *table = lease_entries(ring);
    uint64_t now = (uint64_t)monotonic_ns(), oldest = now;
    uint64_t generation = GET(ring->segment->get.next.generation[GET(ring->segment->get.ledgers.sequence) & 1]);
    *statistics = (struct lease_statistics){.acknowledged = GET(leases->acknowledged),
                                      .redelivered = GET(leases->redelivered)};
    for (uint32_t i = 0; i < entries; i++) {
        if (GET(table[i].state) == LEASE_LENT) {
            statistics->leased++;
            oldest = GET(table[i].since) < oldest ? GET(table[i].since) : oldest;
        }
        statistics->returned += lease_is_returned(&table[i], generation);
    }
    statistics->oldest_ns = now - oldest;
}
