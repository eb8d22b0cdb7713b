/* ring.h: one process's handle on a segment, and what all layers above it return and are given.
 *
 * Layers, from the bottom.  Each includes only what stands before it:
 *
 *   layout.h                      every byte of a segment, and the rules
 *   os, lock, ledger.h            the platform; a lock word; a ledger's snapshot and commit
 *   ring                          this file
 *   side                          one side: lock, commit and wake, sleep, how long to spin
 *   tally                         task_done() and all figures of a queue
 *   space                         arenas: where the bytes lie, growing, giving memory back
 *   take, lease_table, spilling,  the get side under its lock: a get in progress, the table and its undo, records that
 *   leases                        are moved out of the way, what a commit does to leases
 *   lending, holders, writers     an item handed out and finished; what the dead held; payloads still being written
 *   records, dropping, get        the records of the queue, one by one or all at once; getting
 *   quick_lease                   the only lease of a queue, with as little as possible
 *   reservations                  a record whose payload is written where it lies
 *   room, put                     whether there is room, and whose turn it is; putting
 *   queue, open, wait_any         the queue as a whole; opening it; waiting for many
 *
 * No Python, no signals in any of them.  Two sides, each under a lock of its own (Michael and Scott's two-lock queue,
 * PODC 1996), so that a putter and a getter never wait for each other unless the ring is full or empty.
 */
#ifndef SHMQUEUE_RING_H
#define SHMQUEUE_RING_H

#include "ledger.h"
#include "lock.h"

enum ring_status {
    RING_OK,
    RING_EMPTY,       /* nothing to take */
    RING_FULL,        /* no room now */
    RING_BUSY,        /* the side's lock is taken, or memory must be allocated, and the caller did not want to wait */
    RING_DEADLINE,    /* the deadline came while waiting for an item, for room, or for the end */
    RING_LOCKED,      /* the deadline came while waiting for a side's lock */
    RING_INTERRUPTED, /* a signal, the end of a slice, or many attempts: check for signals and call again */
    RING_MISMATCH,    /* the first record is not the one that was prepared for, or none for the quick way; or the lease
                         is over */
    RING_CORRUPTED,   /* the segment's bytes contradict themselves: this handle does not touch them any more,
                         ring->corrupted says why */
    RING_CLOSED,      /* ring_interrupt_all() was called */
    RING_UNMAPPED,    /* an arena or the lease table cannot be mapped; ring->map_error says why */
    RING_SHUT,        /* the queue was shut down; for a getter also: and nothing is left */
    RING_TOO_MANY,    /* put fewer at once: maxsize has become less than the number of these records */
    RING_RESERVED,    /* below get.h: there is a reservation, which is not an item (yet) */
};

/* Where a position lies, without a division, in a queue of fixed size: `start` is the last position up to it that lies
 * at the first byte of the arena, while that has this base. */
struct lap {
    uint64_t base, start;
};

struct ring {
    struct segment *segment;
    uint64_t capacity;
    uint32_t limit;          /* what decided that, see struct header */
    uint64_t first_maxsize;  /* as the header has it, see ring_maxsize() */
    uint64_t threshold;
    uint32_t arenas;         /* how many; 1: the queue has a fixed size */
    _Atomic int file;        /* the segment's, to allocate memory and to map more of it */
    const char *path;        /* by which it is opened again; NULL: it is not */
    uint32_t handle;         /* tells this handle's leases from those of others in this process */
    uint64_t table_start;    /* of the lease table, from the first byte of the file */
    struct lease *_Atomic table; /* NULL: not mapped yet */
    _Atomic bool windows_left;   /* the memory of some was not given back */
    _Atomic bool held_up;        /* a reservation was met, and there was no entry left for it */
    uint64_t device, inode;  /* of that file: its number may have been closed, and given to another, by the program */
    _Atomic int map_error;   /* errno of the last attempt to map or to read that failed */
    _Atomic int grow_error;  /* errno of the last attempt to grow, 0 if it went well */
    _Atomic bool met_full;   /* a put has found no room since another one last let room gather */
    _Atomic bool trim_due;   /* ring_trim() may have something to do */
    uint64_t arena_start[LAYOUT_ARENAS]; /* from the header's end */
    uint64_t arena_size[LAYOUT_ARENAS];
    unsigned char *_Atomic arena_memory[LAYOUT_ARENAS]; /* NULL: not mapped yet */
    bool may_spin;           /* there is more than one processor */
    bool is_of_here;         /* the ids in it are of this process's pid namespace: not if it is only looked at */
    _Atomic int32_t spin_for_items, spin_for_room; /* ns before sleeping, as it has paid; guesses */
    _Atomic int32_t lull;    /* ns that a getter lets pass for more items to come, see side_let_some_come(); these too */
    _Atomic uint32_t times_without_lull;
    _Atomic uint64_t taken_before_lull; /* items */
    struct snapshot get_as_seen; /* by our putters; guarded by the put lock, as is put_epoch */
    struct snapshot put_as_seen; /* by our getters; guarded by the get lock, as is get_epoch */
    struct lap put_lap, get_lap; /* of the next record of each side; guarded likewise */
    uint32_t put_epoch;      /* in which get_as_seen and put_lap were written: a fork may have copied them half written */
    uint32_t get_epoch;      /* likewise, of put_as_seen and get_lap */
    const char *_Atomic corrupted;
    _Atomic uint32_t closing;
};

/* What a call may wait for, and how long. */
struct patience {
    bool for_lock;    /* false: RING_BUSY when the lock is taken, or memory must be allocated */
    bool for_room;    /* false: RING_FULL when there is no room (ring_put only); with for_lock others' claims are ignored:
                         there is room or there is not */
    int64_t deadline; /* monotonic, ns; or WAIT_FOREVER */
};

/* Marks the handle, for good: bytes in shared memory that contradicted themselves once are not touched again.  Returns
 * RING_CORRUPTED. */
enum ring_status ring_mark_corrupted(struct ring *ring, const char *why);
static inline bool ring_is_corrupted(struct ring *ring)
{
    return atomic_load_explicit(&ring->corrupted, memory_order_relaxed) != NULL;
}

/* What cannot be true of two snapshots, when one was taken under its side's lock and the other one afterwards.  NULL:
 * they agree. */
const char *ring_contradiction(const struct ring *ring, const struct snapshot *put, const struct snapshot *get);

/* Whether ring->file still is that file: programs that close all descriptors close this one too. */
bool ring_owns_file(const struct ring *ring);
/* ring->file, opened again by its path if it is not that file any more; -1 if that cannot be done. */
int ring_file(struct ring *ring);

/* Numbers for ring->handle: that of a new handle of this process, and whether a number is one of this program image.
 * One that is not, in an entry of this process, was left by an image that exec() has replaced. */
uint32_t ring_new_handle(void);
bool ring_is_of_this_image(uint32_t handle);

/* Makes this handle's sleepers return RING_CLOSED. */
void ring_interrupt_all(struct ring *ring);

#endif
