/* ring.c: the state of a handle; see ring.h. */
#define _GNU_SOURCE
#include "ring.h"

#include <fcntl.h>
#include <sys/stat.h>

enum ring_status ring_mark_corrupted(struct ring *ring, const char *why)
{
    const char *none = NULL;
    atomic_compare_exchange_strong(&ring->corrupted, &none, why);
    return RING_CORRUPTED;
}

const char *ring_contradiction(const struct ring *ring, const struct snapshot *put, const struct snapshot *get)
{
    if (put->arena >= ring->arenas || get->arena >= ring->arenas) {
        return "a ledger is in an arena that does not exist";
    }
    return ledgers_contradict(put, get, ring->capacity);
}

static bool is_ours(const struct ring *ring, int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && status.st_dev == ring->device && status.st_ino == ring->inode;
}

bool ring_owns_file(const struct ring *ring) { return is_ours(ring, atomic_load(&ring->file)); }

int ring_file(struct ring *ring)
{
    int file = atomic_load(&ring->file);
    if (is_ours(ring, file)) {
        return file;
    }
    int again = ring->path != NULL ? open(ring->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (again >= 0 && (!is_ours(ring, again) || !atomic_compare_exchange_strong(&ring->file, &file, again))) {
        close(again); /* its name is gone, or a thread on the other side was faster */
        return is_ours(ring, file) ? file : -1;
    }
    return again;
}

#define HANDLE_FOR_0 (UINT32_MAX / 2) /* 0 stands for all handles of a process */

uint32_t ring_new_handle(void)
{
    uint32_t number = os_new_handle();
    return number != 0 ? number : HANDLE_FOR_0;
}

bool ring_is_of_this_image(uint32_t handle)
{
    return os_is_handle_of_image(handle) || handle == HANDLE_FOR_0;
}

void ring_interrupt_all(struct ring *ring)
{
    atomic_store(&ring->closing, 1);
    futex_wake(&ring->segment->put.ledgers.sequence, WAIT_EVERYONE);
    futex_wake(&ring->segment->room.bell, WAIT_EVERYONE);
    futex_wake(&ring->segment->tally.sequence, WAIT_EVERYONE);
}
