/* leases.c: handing items out, finishing them, giving them back; see leases.h. */
#define _GNU_SOURCE
#include "leases.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "arena.h"
#include "os.h"

#define PAGE 4096u
#define CHUNK 4096u  /* bytes of a record that are moved at once */
#define TOO_MUCH 4   /* one in so many bytes of an arena may be held up by a lease */
#define LOOK_NS INT64_C(100000000) /* at least so long between two looks whether holders live */
#define WAKE_PATIENCE_NS INT64_C(10000000)
#define PUNCH_MAX (UINT64_C(16) << 20) /* bytes of the windows that are given back in one hold of the lock */

#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)

/* ---- the table ---- */

static uint64_t round_up(uint64_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

/* Whatever the data's size is, so that no other shape has a file of this size only because something was rounded. */
uint64_t leases_size(uint64_t capacity) { return PAGE + LAYOUT_LEASE_TABLE_SIZE + capacity; }

uint64_t leases_start(uint64_t end) { return round_up(end); }

static uint64_t windows_start(const struct ring *ring) { return ring->table_start + LAYOUT_LEASE_TABLE_SIZE; }

/* Where the table is mapped, which is done when it is first asked for; pages may be larger than ours. */
static off_t table_mapping(const struct ring *ring, size_t *length, size_t *into)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    *into = (size_t)(ring->table_start % page);
    *length = LAYOUT_LEASE_TABLE_SIZE + *into;
    return (off_t)(ring->table_start - *into);
}

static struct lease *table(struct ring *ring)
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

void leases_close(struct ring *ring)
{
    struct lease *mapped = atomic_exchange(&ring->table, NULL);
    if (mapped != NULL) {
        size_t length, into;
        (void)table_mapping(ring, &length, &into);
        munmap((unsigned char *)mapped - into, length);
    }
}

/* Gives the entries below `entries` their memory, page by page: touching a hole without any left would be SIGBUS. */
static bool reserve_table(struct ring *ring, uint32_t entries)
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

/* Whether an entry names an item. */
static bool is_used(const struct lease *entry, uint64_t generation)
{
    uint32_t state = GET(entry->state);
    return state != LEASE_FREE && (state != LEASE_RETURNED || GET(entry->started) == generation);
}

static bool is_returned(const struct lease *entry, uint64_t generation)
{
    return GET(entry->state) == LEASE_RETURNED && GET(entry->started) == generation;
}

/* Where the record of an entry lies, which is inside of the file.  It is read once: somebody may be changing it. */
static bool find_place(struct ring *ring, const struct lease *entry, struct place *place)
{
    *place = (struct place){.position = GET(entry->position), .window = GET(entry->window), .arena = GET(entry->arena)};
    if (place->window != 0) {
        return place->window <= ring->capacity && place->position <= ring->capacity - place->window &&
               place->arena < ring->arenas;
    }
    return place->arena < ring->arenas;
}

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
    SET(to->attempt, GET(from->attempt)); /* not in_place: its holder may have cleared it meanwhile (rule 15) */
}

/* ---- undo ---- */

/* Rule 13, before an entry is changed. */
static struct lease *change(struct ring *ring, const struct take *take, uint32_t number)
{
    struct leases *leases = &ring->segment->leases;
    struct lease *entry = &atomic_load(&ring->table)[number];
    if (number < take->entries_before) {
        unsigned slot = GET(leases->changed[0]) == 0 ? 0 : 1;
        SET(leases->sequence, take->next.sequence);
        copy_entry(&leases->before[slot], entry);
        atomic_store_explicit(&leases->changed[slot], number + 1, memory_order_release);
        atomic_signal_fence(memory_order_seq_cst);
    }
    return entry;
}

static void undo(struct ring *ring, const struct take *take)
{
    struct leases *leases = &ring->segment->leases;
    for (int slot = 1; slot >= 0; slot--) { /* the last change first: both may be of one entry */
        uint32_t changed = GET(leases->changed[slot]);
        if (changed != 0 && changed <= LAYOUT_LEASES && GET(leases->sequence) == take->next.sequence) {
            copy_entry(&atomic_load(&ring->table)[changed - 1], &leases->before[slot]);
        }
        atomic_store_explicit(&leases->changed[slot], 0, memory_order_release);
    }
}

static void forget_changes(struct ring *ring)
{
    atomic_store_explicit(&ring->segment->leases.changed[0], 0, memory_order_release);
    atomic_store_explicit(&ring->segment->leases.changed[1], 0, memory_order_release);
}

/* ---- under the get lock: a call's beginning and end ---- */

/* Notes bytes of the windows whose memory may go after the commit. */
static void note_done(struct take *take, uint64_t position, uint64_t window)
{
    if (window != 0) {
        uint64_t end = position + window;
        bool is_first = take->done_from == take->done_to;
        take->done_from = is_first || position < take->done_from ? position : take->done_from;
        take->done_to = is_first || end > take->done_to ? end : take->done_to;
    }
}

static void prepare(struct take *take)
{
    take->at = NOT_RETURNED;
    take->taken = false;
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
        return ring_poison(ring, "the lease table is larger than it can be");
    }
    if (table(ring) == NULL) {
        return RING_UNMAPPED;
    }
    undo(ring, take);
    uint64_t free_up_to = take->next.position;
    take->next.position = GET(next->position[slot]);
    take->next.count = GET(next->count[slot]);
    take->next.arena = take->arena = GET(next->arena[slot]);
    take->generation = GET(next->generation[slot]);
    take->returned = (uint32_t)(take->next.count - available);
    prepare(take);
    if (take->next.count - available > take->entries || take->next.position < free_up_to ||
        take->next.arena >= ring->arenas) {
        return ring_poison(ring, "the get ledger contradicts what is handed out next");
    }
    return RING_OK;
}

/* The oldest item whose bytes lie in the data; NULL if there is none. */
static struct lease *oldest_in_data(struct ring *ring, const struct take *take, uint32_t *number)
{
    struct lease *entries = atomic_load(&ring->table), *oldest = NULL;
    for (uint32_t i = 0; i < take->entries; i++) {
        if (is_used(&entries[i], take->generation) && GET(entries[i].window) == 0 &&
            (oldest == NULL || GET(entries[i].count) < GET(oldest->count))) {
            oldest = &entries[i];
            *number = i;
        }
    }
    return oldest;
}

static void move_if_it_holds_up(struct ring *ring, struct take *take);

struct view leases_settle(struct ring *ring, struct take *take)
{
    struct lease *entries = atomic_load(&ring->table);
    struct next *next = &ring->segment->get.next;
    unsigned slot = (take->next.sequence + 1) & 1;
    if (take->taken) {
        SET(change(ring, take, (uint32_t)take->at)->state, LEASE_FREE);
        note_done(take, take->place.position, take->place.window);
    }
    while (take->entries > 0 && !is_used(&entries[take->entries - 1], take->generation)) {
        take->entries--;
    }
    struct view view = take->next;
    view.leases = take->entries > 0;
    if (!view.leases) {
        return view;
    }
    move_if_it_holds_up(ring, take);
    uint32_t number;
    struct lease *oldest = oldest_in_data(ring, take, &number);
    SET(next->position[slot], take->next.position);
    SET(next->count[slot], take->next.count);
    SET(next->arena[slot], take->next.arena);
    SET(next->entries[slot], take->entries);
    SET(next->generation[slot], take->generation);
    if (oldest != NULL) {
        view.position = GET(oldest->position);
        view.arena = GET(oldest->arena);
    }
    view.count = take->next.count - take->returned;
    return view;
}

/* ---- moving ---- */

/* Bytes of the windows: is [from, from + length) free? If not, *from becomes the end of what is in the way. */
static bool is_free(struct ring *ring, const struct take *take, uint64_t *from, uint64_t length)
{
    struct lease *entries = atomic_load(&ring->table);
    for (uint32_t i = 0; i < take->entries; i++) {
        uint64_t window = GET(entries[i].window), position = GET(entries[i].position);
        if (is_used(&entries[i], take->generation) && window != 0 && position < *from + length &&
            *from < position + window) {
            *from = position + window;
            return false;
        }
    }
    return true;
}

static bool copy_to_window(struct ring *ring, uint32_t arena, uint64_t position, uint64_t window, uint64_t length)
{
    unsigned char chunk[CHUNK];
    struct span span = arena_span(ring, arena);
    uint64_t offset = arena_offset(ring, arena, position);
    int file = ring_file(ring);
    if (span.bytes == NULL || length > span.size || file < 0) {
        return false;
    }
    for (uint64_t done = 0; done < length;) {
        size_t part = length - done < sizeof chunk ? (size_t)(length - done) : sizeof chunk;
        memcpy(chunk, span.bytes + offset + done, part);
        ssize_t written = pwrite(file, chunk, part, (off_t)(windows_start(ring) + window + done));
        if (written <= 0) {
            return false;
        }
        done += (uint64_t)written;
    }
    return true;
}

/* Rule 14. One record at most; if it cannot be moved, it goes on holding up the ring. */
static void move_if_it_holds_up(struct ring *ring, struct take *take)
{
    uint32_t number;
    struct lease *oldest = oldest_in_data(ring, take, &number);
    if (take->done_from != take->done_to) {
        return; /* what this call finishes has its window until the commit */
    }
    if (oldest == NULL || GET(ring->segment->leases.changed[1]) != 0 ||
        atomic_load_explicit(&oldest->in_place, memory_order_acquire) != 0) { /* acquire: the holder has read its bytes */
        return;
    }
    uint32_t arena = GET(oldest->arena);
    uint64_t position = GET(oldest->position), held_up = take->next.position - position;
    if (arena >= ring->arenas ||
        (arena == take->next.arena && held_up <= ring->arena_size[arena] / TOO_MUCH)) {
        return;
    }
    struct span span = arena_span(ring, arena);
    struct record_header head;
    if (span.bytes == NULL) {
        return;
    }
    const unsigned char *bytes = span.bytes + arena_offset(ring, arena, position);
    memcpy(&head, bytes, sizeof head);
    uint64_t length = head.length, window = 0;
    if (head.length == RECORD_LONG) {
        memcpy(&length, bytes + sizeof head, sizeof length);
        length = length < UINT64_MAX / 2 ? length : UINT64_MAX / 2;
    }
    length += record_head(length);
    if (length > held_up || length > span.size) {
        return; /* it contradicts itself: who takes it will say so */
    }
    while (window <= ring->capacity && !is_free(ring, take, &window, length)) {
    }
    if (window > ring->capacity || length > ring->capacity - window ||
        !copy_to_window(ring, arena, position, window, length)) {
        return;
    }
    struct lease *entry = change(ring, take, number);
    SET(entry->position, window);
    SET(entry->window, length);
}

/* Rule 16, under the get lock: gives back the memory of those bytes of the windows, from `start` to `end`, that no entry
 * names. */
static void punch_windows(struct ring *ring, const struct take *take, uint64_t start, uint64_t end)
{
    int file = ring_file(ring);
    struct lease *entries = atomic_load(&ring->table);
    while (file >= 0 && start < end) {
        uint64_t gap_end = end, used_end = end;
        for (uint32_t i = 0; i < take->entries; i++) {
            struct place place;
            if (is_used(&entries[i], take->generation) && find_place(ring, &entries[i], &place) && place.window != 0 &&
                place.position < gap_end && place.position + place.window > start) {
                gap_end = place.position > start ? place.position : start;
                used_end = place.position + place.window;
            }
        }
        if (gap_end > start) {
            off_t at = (off_t)(windows_start(ring) + start);
            (void)!fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)(gap_end - start));
        }
        start = used_end;
    }
}

void leases_tidy(struct ring *ring, const struct take *done)
{
    struct take take;
    uint64_t start = done->done_from, end = done->done_to < ring->capacity ? done->done_to : ring->capacity;
    if (start < end && atomic_exchange(&ring->windows_left, false)) {
        start = 0;
        end = ring->capacity;
    }
    while (start < end) { /* in steps, for others wait for the lock */
        uint64_t step = end - start < PUNCH_MAX ? end - start : PUNCH_MAX;
        if (ring_get_lock(ring, &take, (struct patience){0}) != RING_OK) {
            atomic_store(&ring->windows_left, true); /* the next time */
            return;
        }
        take.entries = 0;
        if (!take.next.leases || leases_enter(ring, &take) == RING_OK) {
            punch_windows(ring, &take, start, start + step);
        }
        ring_get_abort(ring, &take);
        start += step;
    }
}

/* ---- what was given back ---- */

static bool read_bytes(struct ring *ring, const struct place *place, uint64_t from, uint64_t length, void *bytes)
{
    if (place->window == 0) {
        struct span span = arena_span(ring, place->arena);
        if (span.bytes == NULL) {
            return false;
        }
        memcpy(bytes, span.bytes + arena_offset(ring, place->arena, place->position) + from, length);
        return true;
    }
    for (uint64_t done = 0; done < length;) {
        int file = ring_file(ring);
        errno = EBADF;
        off_t start = (off_t)(windows_start(ring) + place->position + from + done);
        ssize_t got = file < 0 ? -1 : pread(file, (char *)bytes + done, length - done, start);
        if (got <= 0) {
            atomic_store(&ring->map_error, got < 0 ? errno : EIO);
            return false;
        }
        done += (uint64_t)got;
    }
    return true;
}

/* The record at take->place, checked. */
static enum ring_status read_header(struct ring *ring, struct take *take)
{
    struct record_header head;
    const struct place *place = &take->place;
    if (!read_bytes(ring, place, 0, sizeof head, &head)) {
        return RING_UNMAPPED;
    }
    uint64_t length = head.length;
    if (head.length == RECORD_LONG && !read_bytes(ring, place, sizeof head, sizeof length, &length)) {
        return RING_UNMAPPED;
    }
    uint64_t size = ring->arena_size[place->arena], most = size < ring->capacity ? size : ring->capacity;
    uint64_t room = place->window != 0 ? place->window : most;
    if (record_head(length) > room || length > room - record_head(length) ||
        (place->window != 0 && length != place->window - record_head(length)) ||
        (head.length > RECORD_SHORT_MAX) != (head.length == RECORD_LONG && length > RECORD_SHORT_MAX)) {
        return ring_poison(ring, "a leased record is longer than its place");
    }
    take->length = length;
    take->method = head.method;
    return RING_OK;
}

enum ring_status leases_look(struct ring *ring, struct take *take)
{
    struct lease *entries = atomic_load(&ring->table);
    take->at = NOT_RETURNED;
    if (take->returned == 0) {
        return RING_EMPTY;
    }
    for (uint32_t i = 0; i < take->entries; i++) {
        if (is_returned(&entries[i], take->generation) &&
            (take->at == NOT_RETURNED || GET(entries[i].count) < GET(entries[take->at].count))) {
            take->at = (int32_t)i;
        }
    }
    if (take->at == NOT_RETURNED) {
        return ring_poison(ring, "an item that was given back cannot be found");
    }
    take->number = GET(entries[take->at].count);
    if (!find_place(ring, &entries[take->at], &take->place)) {
        return ring_poison(ring, "a leased record lies where none can be");
    }
    return read_header(ring, take);
}

enum ring_status leases_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes)
{
    bool done = read_bytes(ring, &take->place, record_head(take->length) + from, length, bytes);
    return done ? RING_OK : RING_UNMAPPED;
}

void leases_drop_returned(struct ring *ring, struct take *take)
{
    struct lease *entries = atomic_load(&ring->table);
    for (uint32_t i = 0; i < take->entries && take->returned > 0; i++) {
        struct place place;
        if (is_returned(&entries[i], take->generation) && find_place(ring, &entries[i], &place)) {
            note_done(take, place.position, place.window);
        }
    }
    take->generation++;
    take->returned = 0;
    take->at = NOT_RETURNED;
}

/* ---- lending ---- */

/* A free entry; take->entries if all of those are used. */
static uint32_t find_free(struct ring *ring, const struct take *take)
{
    struct lease *entries = atomic_load(&ring->table);
    uint32_t i = 0;
    while (i < take->entries && is_used(&entries[i], take->generation)) {
        i++;
    }
    return i;
}

static enum ring_status choose_entry(struct ring *ring, struct take *take, uint32_t *number)
{
    if (!take->next.leases) { /* the first */
        take->entries_before = take->entries = take->returned = 0;
        take->generation = 0;
        prepare(take);
        forget_changes(ring);
        if (table(ring) == NULL) {
            return RING_UNMAPPED;
        }
    }
    *number = take->at != NOT_RETURNED ? (uint32_t)take->at : find_free(ring, take);
    if (*number == LAYOUT_LEASES) {
        return RING_FULL;
    }
    return reserve_table(ring, *number + 1) ? RING_OK : RING_UNMAPPED;
}

enum ring_status ring_lend(struct ring *ring, struct take *take, struct loan *loan)
{
    struct leases *leases = &ring->segment->leases;
    struct process me = os_this_process();
    uint32_t number;
    enum ring_status status = choose_entry(ring, take, &number);
    if (status != RING_OK) {
        ring_get_abort(ring, take);
        return status;
    }
    struct lease *entry = change(ring, take, number);
    if (take->at == NOT_RETURNED) {
        take->place = (struct place){.position = take->next.position, .arena = take->next.arena};
        take->number = take->next.count;
        SET(entry->position, take->next.position);
        SET(entry->window, 0);
        SET(entry->count, take->next.count);
        SET(entry->arena, take->next.arena);
        SET(entry->attempt, 1);
        ring_get_pass(take);
    } else {
        bool is_first = GET(entry->attempt) == 0; /* it was being written when others were handed out */
        SET(entry->attempt, GET(entry->attempt) + 1);
        SET(leases->redelivered, GET(leases->redelivered) + !is_first);
        take->returned--;
    }
    SET(entry->in_place, 1);
    SET(entry->pid, me.pid);
    SET(entry->started, me.started);
    SET(entry->handle, ring->handle);
    SET(entry->since, (uint64_t)monotonic_ns());
    SET(entry->state, LEASE_LENT);
    if (number >= take->entries) {
        take->entries = number + 1;
    }
    *loan = (struct loan){.entry = number,
                          .attempt = GET(entry->attempt),
                          .count = take->number,
                          .place = take->place,
                          .length = take->length,
                          .method = take->method};
    take->next.leases = true;
    take->taken = false;
    take->at = NOT_RETURNED;
    ring_get_commit(ring, take);
    return RING_OK;
}

const void *ring_loan_place(struct ring *ring, const struct loan *loan, uint64_t from)
{
    const struct place *place = &loan->place;
    struct span span = arena_span(ring, place->arena);
    if (place->window != 0 || span.bytes == NULL) {
        return NULL;
    }
    uint64_t offset = arena_offset(ring, place->arena, place->position);
    return span.bytes + offset + record_head(loan->length) + from;
}

bool ring_loan_read(struct ring *ring, const struct loan *loan, uint64_t from, uint64_t length, void *bytes)
{
    return read_bytes(ring, &loan->place, record_head(loan->length) + from, length, bytes);
}

void ring_loan_may_move(struct ring *ring, const struct loan *loan)
{
    if (!ring_is_poisoned(ring)) {
        atomic_store_explicit(&atomic_load(&ring->table)[loan->entry].in_place, 0, memory_order_release);
    }
}

/* ---- the end of a lease ---- */

/* Takes the get lock.  RING_MISMATCH: nothing is leased; the lock is free. */
static enum ring_status begin(struct ring *ring, struct take *take, struct patience patience)
{
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    enum ring_status status = ring_get_lock(ring, take, patience);
    if (status != RING_OK) {
        return status;
    }
    status = take->next.leases ? leases_enter(ring, take) : RING_MISMATCH;
    if (status != RING_OK) {
        ring_get_abort(ring, take);
    }
    return status;
}

/* As begin(), and finds the entry of a loan. */
static enum ring_status begin_with(struct ring *ring, struct take *take, const struct loan *loan,
                                   enum lease_state state, struct patience patience)
{
    struct process me = os_this_process();
    enum ring_status status = begin(ring, take, patience);
    if (status != RING_OK) {
        return status;
    }
    const struct lease *entry = &atomic_load(&ring->table)[loan->entry];
    if (loan->entry < take->entries && GET(entry->state) == (uint32_t)state && GET(entry->count) == loan->count &&
        GET(entry->attempt) == loan->attempt && GET(entry->pid) == me.pid && GET(entry->started) == me.started &&
        GET(entry->handle) == ring->handle) {
        return RING_OK;
    }
    ring_get_abort(ring, take);
    return RING_MISMATCH;
}

enum ring_status ring_loan_find(struct ring *ring, struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status != RING_OK) {
        return status;
    }
    struct lease *entry = &atomic_load(&ring->table)[loan->entry];
    if (!find_place(ring, entry, &take.place)) {
        status = ring_poison(ring, "a leased record lies where none can be");
    } else if ((status = read_header(ring, &take)) == RING_OK && take.length != loan->length) {
        status = ring_poison(ring, "a leased record has changed its length");
    }
    if (status == RING_OK) {
        atomic_store(&entry->in_place, 1);
        loan->place = take.place;
    }
    ring_get_abort(ring, &take);
    return status;
}

/* The item counts as done, unless task_done() was called for all. */
static void count_as_done(struct ring *ring, struct take *take)
{
    struct view put = ledger_read(&ring->segment->put.ledgers);
    if (tally_unfinished(ring, &put, &take->next) > 0) {
        take->next.dropped++;
    }
}

enum ring_status ring_loan_finish(struct ring *ring, const struct loan *loan, bool pinned, struct patience patience)
{
    struct take take;
    struct leases *leases = &ring->segment->leases;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status != RING_OK) {
        return status;
    }
    struct lease *entry = change(ring, &take, loan->entry);
    struct place place;
    if (find_place(ring, entry, &place)) {
        note_done(&take, place.position, place.window);
    }
    SET(entry->state, pinned ? LEASE_PINNED : LEASE_FREE);
    count_as_done(ring, &take);
    SET(leases->acknowledged, GET(leases->acknowledged) + 1);
    ring_get_commit(ring, &take);
    tally_wake_if_finished(ring);
    return RING_OK;
}

enum ring_status ring_loan_unpin(struct ring *ring, const struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_PINNED, patience);
    if (status == RING_OK) {
        SET(change(ring, &take, loan->entry)->state, LEASE_FREE);
        ring_get_commit(ring, &take);
    }
    return status;
}

/* Getters sleep on the put side's sequence, so that one moves, though nothing was put. */
void leases_wake_getter(struct ring *ring)
{
    struct side *side = &ring->segment->put;
    struct self *self = lock_self();
    struct patience patience = {.for_lock = true, .deadline = monotonic_ns() + WAKE_PATIENCE_NS};
    if (ring_lock_side(ring, side, self, patience) == RING_OK) {
        struct view put = ledger_read(&side->ledgers);
        ring_commit_put(ring, self, &put, 1);
    } else { /* whoever has it moves the sequence, or dies: then the slice ends the wait */
        futex_wake(&side->ledgers.sequence, 1);
    }
}

/* With the get lock held: ends an entry, commits and releases the lock.  `again`: the item is to be handed out, unless the
 * queue was shut down and what was left dropped. */
static void end_entry(struct ring *ring, struct take *take, uint32_t number, bool again)
{
    struct lease *entry = change(ring, take, number);
    bool was_writing = GET(entry->state) == LEASE_WRITING;
    bool is_dropped = again && ledger_read(&ring->segment->put.ledgers).shut == SHUT_IMMEDIATE;
    again = again && !is_dropped;
    if (again) {
        SET(entry->pid, 0);
        SET(entry->started, take->generation);
        SET(entry->attempt, was_writing ? 0 : GET(entry->attempt));
        take->returned++;
    } else if (was_writing || is_dropped) {
        count_as_done(ring, take);
    }
    SET(entry->in_place, 0);
    SET(entry->state, again ? LEASE_RETURNED : LEASE_FREE);
    ring_get_commit(ring, take);
    if (again) {
        leases_wake_getter(ring);
    } else if (was_writing || is_dropped) {
        tally_wake_if_finished(ring);
    }
}

/* With the get lock held: gives an item back, commits and releases the lock. */
static void give_back(struct ring *ring, struct take *take, uint32_t number)
{
    end_entry(ring, take, number, GET(atomic_load(&ring->table)[number].state) == LEASE_LENT);
}

enum ring_status ring_loan_return(struct ring *ring, const struct loan *loan, struct patience patience)
{
    struct take take;
    enum ring_status status = begin_with(ring, &take, loan, LEASE_LENT, patience);
    if (status == RING_OK) {
        give_back(ring, &take, loan->entry);
    }
    return status;
}

static bool is_held(const struct lease *entry)
{
    uint32_t state = GET(entry->state);
    return state == LEASE_LENT || state == LEASE_PINNED || state == LEASE_WRITING;
}

/* Gives back the oldest item of the process (`handle` 0) or of one of its handles.  RING_EMPTY: there is none. */
static enum ring_status return_one(struct ring *ring, struct process holder, uint32_t handle,
                                   struct patience patience)
{
    struct take take;
    enum ring_status status = begin(ring, &take, patience);
    if (status != RING_OK) {
        return status == RING_MISMATCH ? RING_EMPTY : status;
    }
    const struct lease *entries = atomic_load(&ring->table);
    uint32_t oldest = take.entries;
    for (uint32_t i = 0; i < take.entries; i++) {
        bool is_theirs = handle == 0 ? is_held(&entries[i]) /* else what is pinned stays, for it is still looked at */
                                     : GET(entries[i].state) == LEASE_LENT && GET(entries[i].handle) == handle;
        if (is_theirs && GET(entries[i].pid) == holder.pid && GET(entries[i].started) == holder.started &&
            (oldest == take.entries || GET(entries[i].count) < GET(entries[oldest].count))) {
            oldest = i;
        }
    }
    if (oldest == take.entries) {
        ring_get_abort(ring, &take);
        return RING_EMPTY;
    }
    give_back(ring, &take, oldest); /* a getter may take it before the next one is back */
    return RING_OK;
}

enum ring_status ring_return_all(struct ring *ring, struct patience patience)
{
    enum ring_status status;
    do {
        status = return_one(ring, os_this_process(), ring->handle, patience);
    } while (status == RING_OK || (status == RING_INTERRUPTED && monotonic_ns() < patience.deadline));
    return status == RING_EMPTY ? RING_OK : status;
}

/* A snapshot of the table's size under no lock; 0 if it cannot be looked at. */
static uint32_t entries_now(struct ring *ring)
{
    struct segment *segment = ring->segment;
    struct view get = ledger_read(&segment->get.ledgers);
    uint32_t entries = GET(segment->get.next.entries[get.sequence & 1]);
    bool has_memory = entries * sizeof(struct lease) <= GET(segment->leases.reserved);
    return get.leases && entries <= LAYOUT_LEASES && has_memory && table(ring) != NULL ? entries : 0;
}

/* ---- reservations ---- */

enum ring_status leases_prepare(struct ring *ring, struct patience patience)
{
    struct take take;
    if (ring_is_poisoned(ring)) {
        return RING_BROKEN;
    }
    if (GET(ring->segment->leases.reserved) > 0 && table(ring) != NULL) { /* now: later the file may be gone */
        return RING_OK;
    }
    enum ring_status status = ring_get_lock(ring, &take, patience);
    if (status == RING_OK) {
        status = table(ring) != NULL && reserve_table(ring, 1) ? RING_OK : RING_UNMAPPED;
        ring_get_abort(ring, &take);
    }
    return status;
}

static void make_writing(struct ring *ring, struct take *take, uint32_t number)
{
    const struct reservation *reservation = &take->reservation;
    struct lease *entry = change(ring, take, number);
    SET(entry->position, take->next.position + sizeof *reservation);
    SET(entry->window, 0);
    SET(entry->count, take->next.count);
    SET(entry->arena, take->next.arena);
    SET(entry->attempt, reservation->token);
    SET(entry->in_place, 1);
    SET(entry->pid, reservation->pid);
    SET(entry->started, reservation->started);
    SET(entry->handle, reservation->handle);
    SET(entry->since, (uint64_t)monotonic_ns());
    SET(entry->state, LEASE_WRITING);
    if (number >= take->entries) {
        take->entries = number + 1;
    }
    take->next.leases = true;
}

enum ring_status leases_pass_reservation(struct ring *ring, struct take *take)
{
    bool is_open = take->reservation.state == RESERVATION_OPEN;
    if (is_open) {
        uint32_t number;
        take->at = NOT_RETURNED;
        enum ring_status status = choose_entry(ring, take, &number);
        if (status != RING_OK) {
            ring_get_abort(ring, take);
            return status;
        }
        make_writing(ring, take, number);
    } else {
        count_as_done(ring, take);
    }
    take->next.position += sizeof take->reservation + record_head(take->length) + take->length;
    take->next.count++;
    ring_get_commit(ring, take);
    if (!is_open) {
        tally_wake_if_finished(ring);
    }
    return RING_OK;
}

bool leases_end_reservation(struct ring *ring, struct take *take, const struct reservation *reservation, bool commit)
{
    const struct lease *entries = atomic_load(&ring->table);
    for (uint32_t i = 0; take->next.leases && i < take->entries; i++) {
        if (GET(entries[i].state) == LEASE_WRITING && GET(entries[i].pid) == reservation->pid &&
            GET(entries[i].started) == reservation->started && GET(entries[i].handle) == reservation->handle &&
            GET(entries[i].attempt) == reservation->token) {
            end_entry(ring, take, i, commit);
            return true;
        }
    }
    return false;
}

/* ---- the dead ---- */

bool ring_look_is_due(const struct ring *ring)
{
    return (uint64_t)monotonic_ns() - atomic_load(&ring->segment->leases.looked) >= (uint64_t)LOOK_NS;
}

void ring_return_dead(struct ring *ring, int64_t at_least)
{
    struct leases *leases = &ring->segment->leases;
    uint64_t now = (uint64_t)monotonic_ns(), looked = atomic_load(&leases->looked);
    if (ring_is_poisoned(ring)) {
        return;
    }
    if (now - looked < (uint64_t)at_least || !atomic_compare_exchange_strong(&leases->looked, &looked, now)) {
        return;
    }
    struct patience patience = {.for_lock = false}; /* one thread does this for many queues, an event loop perhaps */
    bool is_busy = false;
    struct take take;
    if (GET(leases->changed[0]) != 0) {
        enum ring_status status = begin(ring, &take, patience);
        if (status == RING_OK) {
            ring_get_abort(ring, &take); /* one of the dead may have left it to us to put an entry back */
        }
        is_busy = status == RING_BUSY;
    }
    uint32_t entries = entries_now(ring);
    const struct lease *table = atomic_load(&ring->table);
    struct process alive = os_this_process();
    for (uint32_t i = 0; i < entries; i++) {
        struct process holder = {.pid = GET(table[i].pid), .started = GET(table[i].started)};
        if (!is_held(&table[i]) || (holder.pid == alive.pid && holder.started == alive.started)) {
            continue;
        }
        if (os_is_alive(holder)) {
            alive = holder; /* who has several has them in a row, mostly */
            continue;
        }
        enum ring_status status = RING_OK;
        while (status == RING_OK) {
            status = return_one(ring, holder, 0, patience);
        }
        is_busy = is_busy || status == RING_BUSY;
    }
    if (is_busy) { /* the next look is due at once */
        atomic_compare_exchange_strong(&leases->looked, &now, looked);
    }
}

void ring_lease_figures(struct ring *ring, struct lease_figures *figures)
{
    struct leases *leases = &ring->segment->leases;
    uint32_t entries = entries_now(ring);
    const struct lease *table = atomic_load(&ring->table);
    uint64_t now = (uint64_t)monotonic_ns(), oldest = now;
    uint64_t generation = GET(ring->segment->get.next.generation[GET(ring->segment->get.ledgers.sequence) & 1]);
    *figures = (struct lease_figures){.acknowledged = GET(leases->acknowledged),
                                      .redelivered = GET(leases->redelivered)};
    for (uint32_t i = 0; i < entries; i++) {
        if (GET(table[i].state) == LEASE_LENT) {
            figures->leased++;
            oldest = GET(table[i].since) < oldest ? GET(table[i].since) : oldest;
        }
        figures->returned += is_returned(&table[i], generation);
    }
    figures->oldest_ns = now - oldest;
}
