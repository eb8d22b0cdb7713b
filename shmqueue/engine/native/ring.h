/* ring.h: records in, records out.  A plain C library: no Python, no files, no signals.
 *
 * Two sides, each under a lock of its own (Michael and Scott's two-lock queue, PODC 1996), so that a putter and a
 * getter never wait for each other unless the ring is full or empty.
 */
#ifndef SHMQUEUE_RING_H
#define SHMQUEUE_RING_H

#include "ledger.h"
#include "lock.h"

#define SPIN_MOST_NS 50000 /* for an item or for room: two who wake each other in turn come out of that by themselves */

enum ring_status {
    RING_OK,
    RING_EMPTY,       /* nothing to take */
    RING_FULL,        /* no room now */
    RING_BUSY,        /* the side's lock is taken, or memory must be allocated, and the caller did not want to wait */
    RING_DEADLINE,    /* the deadline came while waiting for an item, for room, or for the end */
    RING_LOCKED,      /* the deadline came while waiting for a side's lock */
    RING_INTERRUPTED, /* a signal, a slice is over, or it took many attempts: look around and call again */
    RING_MISMATCH,    /* the first record is not the one that was prepared for */
    RING_BROKEN,      /* the segment's bytes contradict themselves: this handle is poisoned, ring->broken says why */
    RING_CLOSED,      /* ring_interrupt_all() was called */
    RING_UNMAPPED,    /* an arena cannot be mapped; ring->map_error says why */
    RING_SHUT,        /* the queue was shut down for all; for a getter also: and nothing is left */
    RING_TOO_MANY,    /* put fewer at once: maxsize has become less than the number of these records */
    RING_RESERVED,    /* within ring.c: there is a reservation, which is not an item (yet) */
};

/* One process's handle on a segment. */
struct ring {
    struct segment *segment;
    uint64_t capacity;
    uint32_t limit;          /* who decided that, see struct header */
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
    _Atomic bool trim_due;   /* ring_trim() may have something to do */
    uint64_t arena_start[LAYOUT_ARENAS]; /* from the header's end */
    uint64_t arena_size[LAYOUT_ARENAS];
    unsigned char *_Atomic arena_memory[LAYOUT_ARENAS]; /* NULL: not mapped yet */
    bool may_spin;           /* there is more than one processor */
    _Atomic int32_t spin_for_items, spin_for_room; /* ns before sleeping, as it has paid; guesses */
    _Atomic int32_t lull;    /* ns that a getter lets pass for more items to come, see let_some_come(); these too */
    _Atomic uint32_t times_without_lull;
    _Atomic uint64_t taken_before_lull; /* items */
    struct view get_as_seen; /* by our putters; guarded by the put lock, as is put_epoch */
    struct view put_as_seen; /* by our getters; guarded by the get lock, as is get_epoch */
    uint32_t put_epoch;      /* in which get_as_seen was read: a fork may have copied it half written */
    uint32_t get_epoch;
    const char *_Atomic broken;
    _Atomic uint32_t closing;
};

struct part {
    const void *bytes;
    size_t length;
};

/* A record to put: the payload is its parts, one after the other. */
struct record_in {
    uint32_t method;
    uint64_t length; /* of all parts together */
    const struct part *parts;
    size_t part_count;
    struct reserving *reserving; /* NULL; else see ring_prepare_reservation() */
};

/* A record whose payload is written later, where it lies. */
struct reserving {
    struct reservation who;
    struct part head;     /* of the payload, written at once */
    unsigned char *place; /* where the reservation lies, once it is put */
};

/* Where a leased record lies. */
struct place {
    uint64_t position; /* in the data, or in the windows */
    uint64_t window;   /* 0: in the data; else its bytes, header and all */
    uint32_t arena;
};

/* Getting under way: the get lock is held from a successful ring_get_begin() to ring_get_commit() or _abort(). */
struct take {
    struct self *self;
    struct view next; /* what the get ledger becomes on commit; where there are leases, what is handed out next */
    uint32_t arena;   /* where it was before */
    uint32_t method;  /* of the record at hand */
    uint64_t length;  /* bytes of its payload */
    /* where next.leases says that there are leases: */
    bool taken;              /* the item that was given back is */
    int32_t at;              /* which entry the record at hand is of, NOT_RETURNED if it was never handed out */
    uint32_t entries;        /* of the table */
    uint32_t entries_before; /* the same as the ledger has it */
    uint64_t generation;
    uint32_t returned; /* items that were given back and wait */
    struct place place; /* of that entry's record, checked */
    uint64_t number;    /* which of all items that is */
    uint64_t done_from, done_to; /* bytes of the windows some of whose memory is not needed after the commit */
    struct reservation reservation; /* which stands before the record, of RING_RESERVED */
};

#define NOT_RETURNED (-1)

/* What a call may wait for, and how long. */
struct patience {
    bool for_lock;    /* false: RING_BUSY when the lock is taken, or memory must be allocated */
    bool for_room;    /* false: RING_FULL when there is no room (ring_put only); with for_lock others' claims are ignored:
                         there is room or there is not */
    int64_t deadline; /* monotonic, ns; or WAIT_FOREVER */
};

struct figures {
    struct view put, get; /* of one moment */
    uint64_t done;
    uint64_t high_water;
    uint64_t recoveries;
    bool putters_waiting, getters_waiting;
};

/* Maps the first `first` bytes of a file, and the arena in them once more behind that.  MAP_FAILED: errno says why. */
void *ring_map(int file, uint64_t first);
void ring_unmap(void *memory, uint64_t first);

/* Takes over what ring_map() made of the file's first `mapped` bytes and checks the header against the file's size.
 * NULL, or what is wrong.  The caller keeps ring->file open as long as the ring is used. */
const char *ring_open(struct ring *ring, void *memory, size_t mapped, uint64_t size, int file);

/* Bytes that ring_open() wants mapped, of a file with this header. */
uint64_t ring_first_mapping(const struct header *header);

/* Unmaps what the ring has mapped by itself. */
void ring_close(struct ring *ring);

/* Whether ring->file still is that file: programs that close all descriptors close this one too. */
bool ring_owns_file(const struct ring *ring);

/* ring->file, opened again by its path if it is not that file any more; -1 if that cannot be done. */
int ring_file(struct ring *ring);

/* Bytes of data that a queue of this shape needs, 0 if there can be none.  initial 0: of fixed size. */
uint64_t ring_data_size(uint64_t initial, uint64_t capacity);

/* Puts all the records or none, in one commit.  The caller has made sure that they can fit an empty ring; if they
 * cannot any more, RING_TOO_MANY. */
enum ring_status ring_put(struct ring *ring, const struct record_in *records, size_t count, struct patience patience);

/* Makes `record` one that reserves `length` bytes of payload, which begin with `head`; ring_put() puts it, as the only
 * one.  Its bytes behind the head, from ring_reserved_bytes() on, are the caller's to write until it is ended, as long
 * as the ring is not closed. */
enum ring_status ring_prepare_reservation(struct ring *ring, struct reserving *reserving, struct part head,
                                          uint32_t length, struct record_in *record, struct patience patience);
static inline unsigned char *ring_reserved_bytes(const struct reserving *reserving)
{
    return reserving->place + sizeof(struct reservation) + RECORD_HEADER_SIZE + reserving->head.length;
}
/* Makes it an item like others, or nothing.  RING_SHUT: the queue was shut down meanwhile, so it is nothing.  When it
 * returns neither this nor RING_OK, nothing has changed: call it again. */
enum ring_status ring_end_reservation(struct ring *ring, const struct reserving *reserving, bool commit,
                                      struct patience patience);
/* For who waits: passes what is not an item, if it is the oldest, and gives back what dead processes have. */
void ring_clear_the_way(struct ring *ring);

/* Most items that may be in the queue, 0 for as many as fit.  Another one may hold a moment later, unless the caller
 * owns the put lock. */
uint64_t ring_maxsize(const struct ring *ring);
/* Changes it for all, and wakes the putters.  When it returns something else than RING_OK, call it again. */
enum ring_status ring_set_maxsize(struct ring *ring, uint64_t maxsize, struct patience patience);

/* How many of the records, from the first, can fit an empty ring together; 0 when the first one never can. */
size_t ring_fitting(const struct ring *ring, const struct record_in *records, size_t count);

/* Takes the get lock and looks at the first record.  RING_EMPTY leaves the lock free. */
enum ring_status ring_get_begin(struct ring *ring, struct take *take, struct patience patience);
/* Which of all items that were ever put the one at hand is. */
uint64_t ring_get_number(const struct take *take);
/* Copies `length` bytes of the payload at hand, from its byte `from` on; they must be within it. */
void ring_get_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes);
/* Copies all of it, and is done with it. */
void ring_get_read(struct ring *ring, struct take *take, void *payload);
/* Copies the queue's bytes from this record on, headers and all, `room` at most, as far as they lie in one arena.  How
 * many; the last record may be cut off. */
uint32_t ring_get_copy(struct ring *ring, const struct take *take, void *bytes, uint32_t room);
/* Whether there is a record, as far as is known, of `length` bytes of such a copy; then it is the one at hand. */
bool ring_get_in_copy(const struct ring *ring, struct take *take, const void *bytes, uint32_t length);
/* Is done with it without copying. */
void ring_get_pass(struct take *take);
/* Moves on to the next record, RING_EMPTY if there is none. */
enum ring_status ring_get_next(struct ring *ring, struct take *take);
/* Takes the get lock and reads the ledger, no more. */
enum ring_status ring_get_lock(struct ring *ring, struct take *take, struct patience patience);
void ring_get_commit(struct ring *ring, struct take *take);
void ring_get_abort(struct ring *ring, struct take *take);

/* Sleeps until there seems to be something to take, or the end: RING_OK says look, and promises nothing. */
enum ring_status ring_wait_items(struct ring *ring, int64_t deadline);
/* Sleeps until there are records (true) or none (false), or the queue is shut down. */
enum ring_status ring_wait(struct ring *ring, bool records, int64_t deadline);

/* Refuses all puts from now on, wakes everybody, and with `immediate` drops what is in the queue.  When it returns
 * something else than RING_OK, call it again: it goes on where it was. */
enum ring_status ring_shut_down(struct ring *ring, bool immediate, struct patience patience);

/* Gives memory back that an elastic queue does not need any more; `at_once`: even if it was busy just now.  While another
 * thread has a lock that this needs, it does nothing, and does not wait: `trim_due` says so. */
void ring_trim(struct ring *ring, bool at_once);

/* Takes and drops all records at once; they count as done. */
enum ring_status ring_clear(struct ring *ring, uint64_t *dropped, struct patience patience);

/* RING_EMPTY: nothing is unfinished, task_done() was called too many times. */
enum ring_status ring_task_done(struct ring *ring);
/* Items put, by these ledgers, that are neither dropped nor done. */
uint64_t tally_unfinished(struct ring *ring, const struct view *put, const struct view *get);
/* Wakes the joiners if nothing is unfinished. */
void tally_wake_if_finished(struct ring *ring);
/* Sleeps until nothing is unfinished. */
enum ring_status ring_join(struct ring *ring, int64_t deadline);

/* A snapshot without a lock: both ledgers as they were at one moment.  RING_OK or RING_BROKEN. */
enum ring_status ring_figures(struct ring *ring, struct figures *figures);

/* For ring.c, arena.c and leases.c: takes a side's lock; commits, releases the lock, and wakes up to `most` getters, or
 * the putters if they have the room they want. */
enum ring_status ring_lock_side(struct ring *ring, struct side *side, struct self *self, struct patience patience);
void ring_commit_put(struct ring *ring, struct self *self, const struct view *view, int most);
void ring_commit_get(struct ring *ring, struct self *self, const struct view *view);
/* Wakes the putters, whatever they wait for. */
void ring_wake_putters(struct ring *ring);

/* What a put waits for: a get ledger that has come so far. */
struct want {
    uint64_t position, count;
    uint32_t bell; /* before the flag was raised */
    bool is_exact; /* no more than the records need; else enough for some others, too */
    bool has_asked; /* the flag is up */
    bool claims; /* others may have gone before us for too long */
    bool has_claim;
    bool is_behind; /* what there is no room beside is another putter's claim */
    int64_t claim_left; /* then: for so long, ns */
    uint64_t put_count; /* at the first attempt; 0: there was none */
};

/* For ring.c: spins until there is the room that is wanted.  False: it has not come soon. */
bool ring_spin_for_room(struct ring *ring, const struct want *want, int64_t deadline);
/* Sleeps for `most` ns at most when the flag is up.  RING_OK: look again. */
enum ring_status ring_sleep_for_room(struct ring *ring, const struct want *want, int64_t most, int64_t deadline);

/* Marks the handle, for good: bytes in shared memory that lied once are not touched again.  Returns RING_BROKEN. */
enum ring_status ring_poison(struct ring *ring, const char *why);
static inline bool ring_is_poisoned(struct ring *ring)
{
    return atomic_load_explicit(&ring->broken, memory_order_relaxed) != NULL;
}

/* Makes this handle's sleepers return RING_CLOSED. */
void ring_interrupt_all(struct ring *ring);

#endif
