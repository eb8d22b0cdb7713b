/* open.c: see open.h. */
#define _GNU_SOURCE
#include "open.h"

#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#include "holders.h"

uint64_t ring_data_size(uint64_t initial, uint64_t capacity)
{
    struct ring ring;
    uint64_t total = arena_cut(&ring, initial, capacity);
    return total == 0 ? 0 : total + leases_size(capacity);
}

const char *ring_open(struct ring *ring, void *memory, size_t mapped, uint64_t size, int file)
{
    struct segment *segment = memory;
    struct header copy, *header = &copy; /* read once: another process may be changing the other one */
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
    uint64_t total = arena_cut(ring, header->initial, header->capacity);
    if (total == 0) {
        return "there is no queue of this shape";
    }
    ring->table_start = leases_start(LAYOUT_HEADER_SIZE + total);
    ring->segment = segment;
    ring->arena_memory[0] = (unsigned char *)memory + arena_data_start();
    ring->capacity = header->capacity;
    ring->limit = header->limit;
    ring->first_maxsize = header->maxsize;
    ring->threshold = header->threshold;
    ring->file = file;
    ring->handle = ring_new_handle();
    ring->device = status.st_dev;
    ring->inode = status.st_ino;
    ring->may_spin = !alone;
    ring->spin_for_items = ring->spin_for_room = alone ? 0 : SPIN_MOST_NS;
    uint64_t namespace = os_pid_namespace();
    ring->is_of_here = namespace == 0 || copy.pid_namespace == 0 || copy.pid_namespace == namespace;
    if (ring->is_of_here) {
        lock_disown(&segment->put.guard.lock, lock_self());
        lock_disown(&segment->get.guard.lock, lock_self());
        ring_return_dead_now(ring); /* what they had may be all that this handle is opened for */
    }
    return NULL;
}

void ring_close(struct ring *ring)
{
    arena_unmap_all(ring);
    lease_table_close(ring);
}
