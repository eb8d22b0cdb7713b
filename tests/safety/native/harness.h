/* harness.h: a native segment without Python, for the C programs of this directory.
 *
 * Each program makes a segment in a file without a name, attaches rings to it as processes would, and prints lines
 * "figure: number" and "fault: sentence" for the Python module that runs it. */
#ifndef SHMQUEUE_TESTS_HARNESS_H
#define SHMQUEUE_TESTS_HARNESS_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first include"
#endif
#include "open.h"
#include "queue.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* After how many faults a program ends.  One is enough for a seeded fault, and a fault may take its time. */
#ifndef FAULTS_MAX
#define FAULTS_MAX 5
#endif

__attribute__((noreturn)) static inline void harness_fail(const char *what)
{
    printf("fault: the test itself: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(2);
}

/* A segment of a queue with no items; of fixed size when `initial` is 0.  Its file descriptor. */
static inline int make_segment(uint64_t initial, uint64_t capacity, uint64_t maxsize)
{
    int file = memfd_create("segment", MFD_CLOEXEC);
    uint64_t data_size = ring_data_size(initial, capacity);
    struct header header = {
        .version = LAYOUT_VERSION,
        .header_size = LAYOUT_HEADER_SIZE,
        .capacity = capacity,
        .maxsize = maxsize,
        .initial = initial,
        .data_size = data_size,
        .byte_order = LAYOUT_BYTE_ORDER,
    };
    memcpy(header.magic, LAYOUT_MAGIC, sizeof header.magic);
    memcpy(header.engine, LAYOUT_ENGINE, sizeof header.engine);
    if (file < 0 || data_size == 0 || ftruncate(file, (off_t)(LAYOUT_HEADER_SIZE + data_size)) != 0 ||
        pwrite(file, &header, sizeof header, 0) != sizeof header ||
        fallocate(file, 0, 0, (off_t)ring_first_mapping(&header)) != 0) {
        harness_fail("making a segment");
    }
    return file;
}

/* A handle of the calling process. */
static inline void attach(struct ring *ring, int file)
{
    struct stat status;
    struct header header;
    if (fstat(file, &status) != 0 || pread(file, &header, sizeof header, 0) != sizeof header) {
        harness_fail("attaching");
    }
    uint64_t mapped = ring_first_mapping(&header);
    void *memory = ring_map(file, mapped);
    const char *why = memory == MAP_FAILED ? "mmap" : ring_open(ring, memory, mapped, (uint64_t)status.st_size, file);
    if (why != NULL) {
        harness_fail(why);
    }
}

static inline void detach(struct ring *ring)
{
    void *segment = ring->segment;
    uint64_t mapped = ring_first_mapping(&ring->segment->header);
    ring_close(ring);
    ring_unmap(segment, mapped);
}

/* Wait for nothing; wait for a lock and for room until `deadline`. */
#define AT_ONCE ((struct patience){0})
static inline struct patience until(int64_t deadline)
{
    return (struct patience){.for_lock = true, .for_room = true, .deadline = deadline};
}

#endif
