/* spilling.c: see spilling.h. */
#define _GNU_SOURCE
#include "spilling.h"

#include <fcntl.h>
#include <string.h>

#define CHUNK 4096u /* bytes of a record that are moved at once */
#define AT_ONCE_MAX 65536u /* bytes of a record that is moved by a call that waits for nothing, perhaps with the GIL */
#define TOO_MUCH 4  /* one byte in this many of an arena may be held up by a lease */
#define WINDOWS_PUNCHED_MAX (UINT64_C(16) << 20) /* bytes of the windows that are given back in one hold of the lock */

static uint64_t windows_start(const struct ring *ring) { return ring->table_start + LAYOUT_LEASE_TABLE_SIZE; }

/* ---- moving ---- */

/* Bytes of the windows: is [from, from + length) free? If not, *from becomes the end of what is in the way. */
static bool is_window_free(struct ring *ring, const struct take *take, uint64_t *from, uint64_t length)
{
    struct lease *entries = lease_entries(ring);
    for (uint32_t i = 0; i < take->entries; i++) {
        uint64_t window = GET(entries[i].window), position = GET(entries[i].position);
        if (lease_is_used(&entries[i], take->generation) && window != 0 && position < *from + length &&
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

/* Bytes of a record in the data, header and all; 0: it contradicts itself, which the getter that takes it will say. */
static uint64_t record_size(struct ring *ring, uint32_t arena, uint64_t position, uint64_t held_up)
{
    struct span span = arena_span(ring, arena);
    struct record_header head;
    if (span.bytes == NULL) {
        return 0;
    }
    const unsigned char *bytes = span.bytes + arena_offset(ring, arena, position);
    memcpy(&head, bytes, sizeof head);
    uint64_t length = head.length;
    if (head.length == RECORD_LONG) {
        memcpy(&length, bytes + sizeof head, sizeof length);
        length = length < UINT64_MAX / 2 ? length : UINT64_MAX / 2;
    }
    length += record_head(length);
    return length > held_up || length > span.size ? 0 : length;
}

enum ring_status spilling_find(struct ring *ring, const struct take *take, struct lease **entry, uint32_t *number,
                               uint64_t *size)
{
    struct lease *oldest = lease_oldest_in_data(ring, take, number);
    if (oldest == NULL || GET(ring->segment->leases.changed[1]) != 0 ||
        atomic_load_explicit(&oldest->in_place, memory_order_acquire) != BYTES_MAY_MOVE) { /* its holder has read it */
        return RING_EMPTY;
    }
    uint32_t arena = GET(oldest->arena);
    uint64_t position = GET(oldest->position), held_up = take->next.position - position;
    if (arena >= ring->arenas || (!take->makes_room && arena == take->next.arena &&
                                  held_up <= ring->arena_size[arena] / TOO_MUCH)) {
        return RING_EMPTY;
    }
    *entry = oldest;
    *size = record_size(ring, arena, position, held_up);
    return *size == 0 ? RING_EMPTY : *size > AT_ONCE_MAX && !take->waits ? RING_BUSY : RING_OK;
}

void spilling_move_if_it_holds_up(struct ring *ring, struct take *take)
{
    struct lease *oldest;
    uint32_t number;
    uint64_t length, window = 0;
    if (take->done_from != take->done_to) {
        return; /* what this call finishes has its window until the commit */
    }
    if (spilling_find(ring, take, &oldest, &number, &length) != RING_OK) {
        return;
    }
    while (window <= ring->capacity && !is_window_free(ring, take, &window, length)) {
    }
    if (window > ring->capacity || length > ring->capacity - window ||
        !copy_to_window(ring, GET(oldest->arena), GET(oldest->position), window, length)) {
        return;
    }
    struct lease *entry = lease_change(ring, take, number);
    SET(entry->position, window);
    SET(entry->window, length);
}

/* ---- giving memory back ---- */

void spilling_note_done(struct take *take, uint64_t position, uint64_t window)
{
    if (window != 0) {
        uint64_t end = position + window;
        bool is_first = take->done_from == take->done_to;
        take->done_from = is_first || position < take->done_from ? position : take->done_from;
        take->done_to = is_first || end > take->done_to ? end : take->done_to;
    }
}

/* Rule 16, under the get lock: gives back the memory of those bytes of the windows, from `start` to `end`, that no
 * entry names. */
static void punch_windows(struct ring *ring, const struct take *take, uint64_t start, uint64_t end)
{
    int file = ring_file(ring);
    struct lease *entries = lease_entries(ring);
    while (file >= 0 && start < end) {
        uint64_t gap_end = end, used_end = end;
        for (uint32_t i = 0; i < take->entries; i++) {
            struct place place;
            if (lease_is_used(&entries[i], take->generation) && lease_find_place(ring, &entries[i], &place) &&
                place.window != 0 && place.position < gap_end && place.position + place.window > start) {
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

void spilling_tidy(struct ring *ring, const struct take *done)
{
    struct take take;
    uint64_t start = done->done_from, end = done->done_to < ring->capacity ? done->done_to : ring->capacity;
    if (start < end && atomic_exchange(&ring->windows_left, false)) {
        start = 0;
        end = ring->capacity;
    }
    while (start < end) { /* in steps, for others wait for the lock */
        uint64_t step = end - start < WINDOWS_PUNCHED_MAX ? end - start : WINDOWS_PUNCHED_MAX;
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

/* ---- reading ---- */

bool spilling_read(struct ring *ring, const struct place *place, uint64_t from, uint64_t length, void *bytes)
{
    if (place->window == 0) {
        struct span span = arena_span(ring, place->arena);
        if (span.bytes == NULL) {
            return false;
        }
        memcpy(bytes, span.bytes + arena_offset(ring, place->arena, place->position) + from, (size_t)length);
        return true;
    }
    for (uint64_t done = 0; done < length;) {
        int file = ring_file(ring);
        errno = EBADF;
        off_t start = (off_t)(windows_start(ring) + place->position + from + done);
        ssize_t got = file < 0 ? -1 : pread(file, (char *)bytes + done, (size_t)(length - done), start);
        if (got <= 0) {
            atomic_store(&ring->map_error, got < 0 ? errno : EIO);
            return false;
        }
        done += (uint64_t)got;
    }
    return true;
}
