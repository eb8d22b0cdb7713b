/* space.c: how the file is cut into arenas, and how it is mapped; see space.h. */
#define _GNU_SOURCE
#include "space.h"

#include <sys/mman.h>

#define CAPACITY_MAX (UINT64_C(1) << 55)

/* ---- the cut ---- */

static uint64_t whole_pages(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

uint64_t arena_data_start(void) { return whole_pages(LAYOUT_HEADER_SIZE); }

static bool add_arena(struct ring *ring, uint64_t size, uint64_t *total)
{
    if (ring->arenas == LAYOUT_ARENAS) {
        return false;
    }
    ring->arena_start[ring->arenas] = *total;
    ring->arena_size[ring->arenas++] = size;
    *total += size;
    return true;
}

/* Arenas are whole pages; how many bytes of records may be in them is the capacity's to say. */
uint64_t arena_cut(struct ring *ring, uint64_t initial, uint64_t capacity)
{
    uint64_t total = arena_data_start() - LAYOUT_HEADER_SIZE;
    ring->arenas = 0;
    if (capacity <= RECORD_HEADER_SIZE || capacity > CAPACITY_MAX || initial > capacity) {
        return 0;
    }
    if (initial != 0 && initial <= RECORD_HEADER_SIZE) {
        return 0; /* a record's header must fit whatever arena a ledger says that it lies in */
    }
    uint64_t largest_size = whole_pages(capacity);
    for (uint64_t size = whole_pages(initial); size != 0 && size < largest_size; size *= 2) {
        if (!add_arena(ring, size, &total)) {
            return 0;
        }
    }
    int largest = initial == 0 ? 1 : 2;
    for (int i = 0; i < largest; i++) {
        if (!add_arena(ring, largest_size, &total)) {
            return 0;
        }
    }
    return total;
}

/* ---- mapping ---- */

/* Maps `before` bytes of the file from `start` on and the `size` bytes behind them, and these once more behind that, so
 * that a record that goes on at the arena's beginning lies in one piece.  MAP_FAILED: errno says why. */
static void *map_mirrored(int file, off_t start, uint64_t before, uint64_t size)
{
    if (size > (SIZE_MAX / 2 - before) / 2) { /* more addresses than there are */
        errno = ENOMEM;
        return MAP_FAILED;
    }
    size_t length = (size_t)(before + size), whole = length + (size_t)size;
    unsigned char *memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED, file, start);
    if (memory == MAP_FAILED || size == 0) {
        return memory;
    }
    void *again = mmap(memory + length, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
                       start + (off_t)before);
    if (again == MAP_FAILED) {
        int error = errno;
        munmap(memory, whole);
        errno = error;
        return MAP_FAILED;
    }
    return memory;
}

/* Of the first `first` bytes of a file, those that are mapped again behind them. */
static uint64_t mirrored_of(uint64_t first)
{
    return first > arena_data_start() && whole_pages(first) == first ? first - arena_data_start() : 0;
}

void *ring_map(int file, uint64_t first)
{
    uint64_t mirrored = mirrored_of(first);
    return map_mirrored(file, 0, first - mirrored, mirrored);
}

void ring_unmap(void *memory, uint64_t first) { munmap(memory, (size_t)(first + mirrored_of(first))); }

uint64_t ring_first_mapping(const struct header *header)
{
    return arena_data_start() + whole_pages(header->initial != 0 ? header->initial : header->capacity);
}

unsigned char *arena_map(struct ring *ring, uint32_t arena)
{
    uint64_t size = ring->arena_size[arena];
    int file = ring_file(ring);
    if (file < 0) {
        atomic_store(&ring->map_error, EBADF);
        return NULL;
    }
    unsigned char *bytes = map_mirrored(file, (off_t)(LAYOUT_HEADER_SIZE + ring->arena_start[arena]), 0, size);
    if (bytes == MAP_FAILED) {
        atomic_store(&ring->map_error, errno);
        return NULL;
    }
    unsigned char *seen = NULL;
    if (!atomic_compare_exchange_strong(&ring->arena_memory[arena], &seen, bytes)) {
        munmap(bytes, 2 * (size_t)size); /* a thread on the other side was faster */
        return seen;
    }
    return bytes;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* of Linux 5.14, which is younger than some systems' headers */
#endif

bool arena_prefault(struct ring *ring)
{
    struct span span = arena_span(ring, 0);
    return madvise(span.bytes, 2 * (size_t)span.size, MADV_POPULATE_WRITE) == 0; /* it is mapped twice */
}

void arena_unmap_all(struct ring *ring)
{
    for (uint32_t arena = 1; arena < ring->arenas; arena++) {
        unsigned char *bytes = atomic_exchange(&ring->arena_memory[arena], NULL);
        if (bytes != NULL) {
            munmap(bytes, 2 * (size_t)ring->arena_size[arena]);
        }
    }
}
