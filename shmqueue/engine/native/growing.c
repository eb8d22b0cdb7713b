/* growing.c: room in an arena, its memory, and the next arena; see space.h. */
#define _GNU_SOURCE
#include "space.h"

#include <fcntl.h>

#define LARGE_RECORD (UINT64_C(64) << 10) /* bytes; beside such a copy a look at the getters' line costs nothing */
#define STEP (UINT64_C(1) << 20) /* bytes of memory that are allocated together */
#define ALLOCATED_AT_ONCE (UINT64_C(4) << 20)

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- room ---- */

uint64_t arena_reserved(const struct ring *ring, uint32_t arena)
{
    uint64_t size = ring->arena_size[arena];
    return arena == 0 ? size : least(size, atomic_load(&ring->segment->arenas[arena].reserved));
}

/* Bytes from the arena's start that are touched once `bytes` more, which it can hold, are put. */
static uint64_t touched(const struct ring *ring, uint32_t arena, uint64_t position, uint64_t bytes)
{
    uint64_t size = ring->arena_size[arena], used = position - arena_base(ring, arena);
    return used < size - bytes ? used + bytes : size; /* a base beyond the position must not wrap to a small number */
}

static bool fits_free_bytes(const struct ring *ring, uint32_t arena, uint64_t position, uint64_t bytes)
{
    const struct snapshot *get = &ring->get_as_seen;
    uint64_t size = ring->arena_size[arena];
    uint64_t used = position - arena_base(ring, arena); /* if the get side has not come here yet */
    uint64_t queued = position - get->position;
    if (get->arena == arena && queued < used) {
        used = queued;
    }
    return used <= size && bytes <= size - used;
}

bool arena_has_room(const struct ring *ring, uint32_t arena, uint64_t position, uint64_t bytes)
{
    return fits_free_bytes(ring, arena, position, bytes) &&
           (arena == 0 || touched(ring, arena, position, bytes) <= arena_reserved(ring, arena));
}

void arena_start_over(struct ring *ring, const struct snapshot *put, uint64_t bytes)
{
    if (bytes < LARGE_RECORD || ring->arena_size[put->arena] < LARGE_ARENA ||
        arena_offset(ring, put->arena, put->position) == 0) {
        return;
    }
    struct snapshot get = ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    if (get.position == put->position && get.arena == put->arena && !get.leases) { /* nothing here is read any more */
        atomic_store_explicit(&ring->segment->arenas[put->arena].base, put->position, memory_order_relaxed);
    }
}

/* ---- more ---- */

/* For file systems that cannot reserve memory (ramfs, some of FUSE): what is written has it.  0, or an errno. */
static int write_zeros(int file, off_t start, off_t end)
{
    static const char zeros[1 << 16];
    while (start < end) {
        size_t length = (size_t)least(sizeof zeros, (uint64_t)(end - start));
        ssize_t written = pwrite(file, zeros, length, start);
        if (written <= 0) {
            return written < 0 ? errno : ENOSPC;
        }
        start += written;
    }
    return 0;
}

/* Bytes [from, to) of an arena hold no records yet. */
static int allocate(const struct ring *ring, uint32_t arena, uint64_t from, uint64_t to)
{
    off_t start = (off_t)(LAYOUT_HEADER_SIZE + ring->arena_start[arena] + from);
    if (fallocate(ring->file, 0, start, (off_t)(to - from)) == 0) {
        return 0;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) {
        return write_zeros(ring->file, start, start + (off_t)(to - from));
    }
    return errno;
}

/* Gives the first `bytes` of an arena their memory, in steps, each of which is kept: a signal interrupts fallocate() on
 * older kernels and undoes what it did, and a large item would never come to an end.  0, or an errno. */
static int reserve_exactly(struct ring *ring, uint32_t arena, uint64_t bytes)
{
    uint64_t reserved = arena_reserved(ring, arena);
    int error = 0;
    while (error == 0 && reserved < bytes) {
        uint64_t next = least(bytes, reserved + ALLOCATED_AT_ONCE);
        error = allocate(ring, arena, reserved, next);
        if (error == 0) {
            atomic_store(&ring->segment->arenas[arena].reserved, next);
            reserved = next;
        }
    }
    return error;
}

/* The same, and some more if there is memory. */
static int reserve(struct ring *ring, uint32_t arena, uint64_t bytes)
{
    if (bytes <= arena_reserved(ring, arena)) {
        return 0;
    }
    if (ring_file(ring) < 0) {
        return EBADF;
    }
    int error = reserve_exactly(ring, arena, least(ring->arena_size[arena], (bytes + STEP - 1) / STEP * STEP));
    return error == 0 || error == EINTR ? error : reserve_exactly(ring, arena, bytes);
}

/* Rule 7: makes `arena` the one that `put` goes on in. */
void arena_enter(struct ring *ring, struct snapshot *put, uint32_t arena)
{
    struct arena *arenas = ring->segment->arenas;
    atomic_store_explicit(&arenas[put->arena].end, put->position, memory_order_relaxed);
    atomic_store_explicit(&arenas[put->arena].next, arena, memory_order_relaxed);
    atomic_store_explicit(&arenas[arena].base, put->position, memory_order_relaxed);
    put->arena = arena;
}

/* The smallest arena above the current one that is free and large enough; ring->arenas if there is none. */
static uint32_t choose_above(const struct ring *ring, const struct snapshot *put, uint64_t bytes)
{
    uint32_t arena = put->arena + 1;
    while (arena < ring->arenas && (ring->arena_size[arena] < bytes || arena == ring->get_as_seen.arena)) {
        arena++;
    }
    return arena;
}

enum ring_status arena_grow(struct ring *ring, struct snapshot *put, uint64_t bytes)
{
    struct notes *notes = &ring->segment->notes;
    int error;
    if (fits_free_bytes(ring, put->arena, put->position, bytes)) {
        error = reserve(ring, put->arena, touched(ring, put->arena, put->position, bytes));
    } else {
        uint32_t above = choose_above(ring, put, bytes);
        if (above == ring->arenas) {
            return ring_mark_corrupted(ring, "there is no arena left below the limit");
        }
        error = reserve(ring, above, bytes);
        if (error == 0) {
            arena_enter(ring, put, above);
        }
    }
    if (error == EINTR) {
        return RING_INTERRUPTED;
    }
    atomic_store(&ring->grow_error, error);
    if (error == 0) {
        atomic_store_explicit(&notes->starved, 0, memory_order_relaxed);
        return RING_OK;
    }
    if (error == ENOSPC || error == ENOMEM || error == EDQUOT) {
        atomic_store_explicit(&notes->starved, 1, memory_order_relaxed);
    }
    if (put->arena != 0 && ring->get_as_seen.arena == put->arena && bytes <= ring->arena_size[0]) {
        arena_enter(ring, put, 0); /* rule 8: which gives this arena's memory back as soon as it is drained */
        return RING_OK;
    }
    return RING_FULL;
}
