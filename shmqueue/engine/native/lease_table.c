/* lease_table.c: see lease_table.h. */
#define _GNU_SOURCE
#include "lease_table.h"

#include <sys/mman.h>

#define PAGE 4096u

/* ---- its memory ---- */

static uint64_t round_up(uint64_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

/* Whatever the data's size is, so that no other shape has a file of this size only because something was rounded. */
uint64_t leases_size(uint64_t capacity) { return PAGE + LAYOUT_LEASE_TABLE_SIZE + capacity; }

uint64_t leases_start(uint64_t end) { return round_up(end); }

/* Where the table is mapped, which is done when it is first asked for; pages may be larger than ours. */
static off_t table_mapping(const struct ring *ring, size_t *length, size_t *into)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    *into = (size_t)(ring->table_start % page);
    *length = LAYOUT_LEASE_TABLE_SIZE + *into;
    return (off_t)(ring->table_start - *into);
}

struct lease *lease_table(struct ring *ring)
{
    struct lease *known = atomic_load_explicit(&ring->table, memory_order_acquire), *none = NULL;
    if (known != NULL) {
        return known;
    }
    size_t length, into;
    off_t start = table_mapping(ring, &length, &into);
    int file = ring_file(ring);
    if (file < 0) {
        atomic_store(&ring->map_error, EBADF);
        return NULL;
    }
    unsigned char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, start);
    if (memory == MAP_FAILED) {
        atomic_store(&ring->map_error, errno);
        return NULL;
    }
    struct lease *mapped = (struct lease *)(void *)(memory + into);
    if (!atomic_compare_exchange_strong(&ring->table, &none, mapped)) {
        munmap(memory, length); /* another thread was faster */
        return none;
    }
    return mapped;
}

void lease_table_close(struct ring *ring)
{
    struct lease *mapped = atomic_exchange(&ring->table, NULL);
    if (mapped != NULL) {
        size_t length, into;
        (void)table_mapping(ring, &length, &into);
        munmap((unsigned char *)mapped - into, length);
    }
}

bool lease_table_reserve(struct ring *ring, uint32_t entries)
{
    static const unsigned char zeros[PAGE];
    struct leases *leases = &ring->segment->leases;
    uint32_t reserved = GET(leases->reserved) / PAGE * PAGE;
    while (reserved < entries * sizeof(struct lease)) {
        int file = ring_file(ring);
        if (file < 0) {
            atomic_store(&ring->map_error, EBADF);
            return false;
        }
        if (pwrite(file, zeros, PAGE, (off_t)(ring->table_start + reserved)) != (ssize_t)PAGE) {
            atomic_store(&ring->map_error, errno);
            return false;
        }
        reserved += PAGE;
        atomic_store(&leases->reserved, reserved);
    }
    return true;
}

/* ---- its entries ---- */

bool lease_find_place(struct ring *ring, const struct lease *entry, struct place *place)
{
    *place = (struct place){.position = GET(entry->position), .window = GET(entry->window), .arena = GET(entry->arena)};
    if (place->window != 0) {
        return place->window <= ring->capacity && place->position <= ring->capacity - place->window &&
               place->arena < ring->arenas;
    }
    return place->arena < ring->arenas;
}

struct lease *lease_oldest_in_data(struct ring *ring, const struct take *take, uint32_t *number)
{
    struct lease *entries = atomic_load(&ring->table), *oldest = NULL;
    for (uint32_t i = 0; i < take->entries; i++) {
        if (lease_is_used(&entries[i], take->generation) && GET(entries[i].window) == 0 &&
            (oldest == NULL || GET(entries[i].count) < GET(oldest->count))) {
            oldest = &entries[i];
            *number = i;
        }
    }
    return oldest;
}

uint32_t lease_entries_now(struct ring *ring)
{
    struct segment *segment = ring->segment;
    struct snapshot get = ledger_read(&segment->get.ledgers);
    uint32_t entries = GET(segment->get.next.entries[get.sequence & 1]);
    bool has_memory = entries * sizeof(struct lease) <= GET(segment->leases.reserved);
    return get.leases && entries <= LAYOUT_LEASES && has_memory && lease_table(ring) != NULL ? entries : 0;
}

/* ---- undo (rule 13) ---- */

static void copy_entry(struct lease *to, const struct lease *from)
{
    SET(to->state, GET(from->state));
    SET(to->position, GET(from->position));
    SET(to->count, GET(from->count));
    SET(to->window, GET(from->window));
    SET(to->started, GET(from->started));
    SET(to->since, GET(from->since));
    SET(to->pid, GET(from->pid));
    SET(to->handle, GET(from->handle));
    SET(to->arena, GET(from->arena));
    SET(to->attempt, GET(from->attempt));
}

/* What was saved is valid from here on, and the change comes after it. */
static void note_change(struct leases *leases, unsigned slot, uint32_t changed)
{
    if (slot == 0) {
        SET(leases->acknowledged_before, GET(leases->acknowledged));
        SET(leases->redelivered_before, GET(leases->redelivered));
    }
    atomic_store_explicit(&leases->changed[slot], changed, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

struct lease *lease_change(struct ring *ring, const struct take *take, uint32_t number)
{
    struct leases *leases = &ring->segment->leases;
    struct lease *entry = &atomic_load(&ring->table)[number];
    if (number < take->entries_before) {
        unsigned slot = GET(leases->changed[0]) == 0 ? 0 : 1;
        SET(leases->sequence, take->next.sequence);
        copy_entry(&leases->before[slot], entry);
        SET(leases->before[slot].in_place, GET(entry->in_place));
        note_change(leases, slot, number + 1);
    }
    return entry;
}

void lease_change_figures(struct ring *ring, uint32_t sequence)
{
    struct leases *leases = &ring->segment->leases;
    SET(leases->sequence, sequence);
    note_change(leases, 0, LEASES_FIGURES);
}

static void undo_changes(struct ring *ring, const struct take *take)
{
    struct leases *leases = &ring->segment->leases;
    for (int slot = 1; slot >= 0; slot--) { /* the last change first: both may be of one entry */
        uint32_t changed = GET(leases->changed[slot]);
        bool is_uncommitted = changed != 0 && GET(leases->sequence) == take->next.sequence;
        if (is_uncommitted && changed <= LAYOUT_LEASES) {
            struct lease *entry = &atomic_load(&ring->table)[changed - 1];
            copy_entry(entry, &leases->before[slot]);
            uint32_t in_place = GET(leases->before[slot].in_place), state = GET(entry->state);
            if (in_place == BYTES_DROPPED || state == LEASE_RETURNED || state == LEASE_FREE) {
                SET(entry->in_place, in_place); /* else its holder may have changed it (rule 15) */
            }
        }
        if (is_uncommitted && slot == 0) {
            SET(leases->acknowledged, GET(leases->acknowledged_before));
            SET(leases->redelivered, GET(leases->redelivered_before));
        }
        atomic_store_explicit(&leases->changed[slot], 0, memory_order_release);
    }
}

void lease_forget_changes(struct ring *ring)
{
    atomic_store_explicit(&ring->segment->leases.changed[0], 0, memory_order_release);
    atomic_store_explicit(&ring->segment->leases.changed[1], 0, memory_order_release);
}

/* ---- a call's beginning ---- */

static void prepare_take(struct take *take)
{
    take->at = NOT_RETURNED;
    take->taken = take->makes_room = false;
    take->done_from = take->done_to = 0;
}

enum ring_status leases_enter(struct ring *ring, struct take *take)
{
    struct next *next = &ring->segment->get.next;
    unsigned slot = take->next.sequence & 1;
    uint64_t available = take->next.count;
    take->entries_before = take->entries = GET(next->entries[slot]);
    if (take->entries == 0 || take->entries > LAYOUT_LEASES ||
        take->entries * sizeof(struct lease) > GET(ring->segment->leases.reserved)) {
        return ring_mark_corrupted(ring, "the lease table is larger than it can be");
    }
    if (lease_table(ring) == NULL) {
        return RING_UNMAPPED;
    }
    undo_changes(ring, take);
    uint64_t free_up_to = take->next.position;
    take->next.position = GET(next->position[slot]);
    take->next.count = GET(next->count[slot]);
    take->next.arena = take->arena = GET(next->arena[slot]);
    take->generation = GET(next->generation[slot]);
    take->returned = (uint32_t)(take->next.count - available);
    prepare_take(take);
    if (take->next.count - available > take->entries || take->next.position < free_up_to ||
        take->next.arena >= ring->arenas) {
        return ring_mark_corrupted(ring, "the get ledger contradicts what is handed out next");
    }
    return RING_OK;
}

/* A free entry; take->entries if all of those are used. */
static uint32_t find_free(struct ring *ring, const struct take *take)
{
    struct lease *entries = atomic_load(&ring->table);
    uint32_t i = 0;
    while (i < take->entries && lease_is_used(&entries[i], take->generation)) {
        i++;
    }
    return i;
}

enum ring_status lease_choose(struct ring *ring, struct take *take, uint32_t *number)
{
    if (!take->next.leases) { /* the first */
        take->entries_before = take->entries = take->returned = 0;
        take->generation = 0;
        prepare_take(take);
        lease_forget_changes(ring);
        if (lease_table(ring) == NULL) {
            return RING_UNMAPPED;
        }
    }
    *number = take->at != NOT_RETURNED ? (uint32_t)take->at : find_free(ring, take);
    if (*number == LAYOUT_LEASES) {
        return RING_FULL;
    }
    return lease_table_reserve(ring, *number + 1) ? RING_OK : RING_UNMAPPED;
}
