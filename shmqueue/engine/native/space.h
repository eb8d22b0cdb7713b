/* space.h: where the records lie: the arenas of an elastic queue, how it grows, and how it gives memory back.
 *
 * Rules 7 to 10 in layout.h.  Nothing is ever moved: growing means going on in a larger arena.  A queue of fixed size
 * has one arena, whose base is 0 unless it is large (arena_start_over()).
 *
 * An arena is mapped twice in a row: it takes twice its size in addresses, and no more memory.  There is no other way
 * to map one: where addresses run out, as in a process of 32 bits, it cannot be mapped.
 *
 * Why there is always room while the limit of `capacity` bytes is not reached: arenas are entered upwards, and the last
 * two hold `capacity` bytes each.  In one of these every record fits, for everything that lies in it is in the queue;
 * and one of the two is always free to be entered, for at most one large arena is occupied from before (rule 8).
 */
#ifndef SHMQUEUE_SPACE_H
#define SHMQUEUE_SPACE_H

#include "side.h"

struct span {
    unsigned char *bytes; /* mapped twice in a row: up to `size` bytes from any offset below `size` lie in one piece */
    uint64_t size;
};

static inline bool arena_is_elastic(const struct ring *ring) { return ring->arenas > 1; }

/* ---- where things lie ---- */

/* Maps an arena, twice in a row.  NULL: ring->map_error says why that cannot be done. */
unsigned char *arena_map(struct ring *ring, uint32_t arena);

/* An arena in this process's memory, mapped when it is first asked for; its bytes are NULL if that fails.  A large
 * mapping for all of them would cost nothing but addresses, but a program may have many queues, and a limit. */
static inline struct span arena_span(struct ring *ring, uint32_t arena)
{
    unsigned char *bytes = atomic_load_explicit(&ring->arena_memory[arena], memory_order_acquire);
    return (struct span){bytes != NULL ? bytes : arena_map(ring, arena), ring->arena_size[arena]};
}

#define LARGE_ARENA (UINT64_C(2) << 20) /* bytes; a smaller one stays in the processors' caches anyway */

static inline uint64_t arena_base(const struct ring *ring, uint32_t arena)
{
    return arena_is_elastic(ring) || ring->arena_size[0] >= LARGE_ARENA
               ? atomic_load_explicit(&ring->segment->arenas[arena].base, memory_order_relaxed)
               : 0;
}

/* Where a position lies in its arena; always inside of it, whatever the bytes in shared memory say. */
static inline uint64_t arena_offset(const struct ring *ring, uint32_t arena, uint64_t position)
{
    uint64_t distance = position - arena_base(ring, arena);
    return distance < ring->arena_size[arena] ? distance : distance % ring->arena_size[arena];
}

/* The same, for a position that is mostly in the lap of the last one.  Under the lock of its side. */
static inline uint64_t arena_offset_in(const struct ring *ring, struct lap *lap, uint32_t arena, uint64_t position)
{
    if (arena_is_elastic(ring)) { /* it is left for another one sooner or later */
        return arena_offset(ring, arena, position);
    }
    uint64_t base = arena_base(ring, 0), size = ring->arena_size[0], offset = position - lap->start;
    if (offset >= size || base != lap->base) {
        offset = (position - base) % size;
        *lap = (struct lap){base, position - offset};
    }
    return offset;
}

/* Whether the get side at `get` has come to the end of its arena and has to follow.  `put` is a snapshot of the put
 * side, old or new, that is not behind it. */
static inline bool arena_is_left(const struct ring *ring, const struct snapshot *get, const struct snapshot *put)
{
    return get->arena != put->arena &&
           get->position == atomic_load_explicit(&ring->segment->arenas[get->arena].end, memory_order_relaxed);
}

static inline uint32_t arena_after(const struct ring *ring, uint32_t arena)
{
    return atomic_load_explicit(&ring->segment->arenas[arena].next, memory_order_relaxed);
}

/* ---- the file (space.c) ---- */

/* Where the data begin in the file: where a page does that may be mapped twice. */
uint64_t arena_data_start(void);

/* Cuts the data of a queue into ring->arenas.  Returns the bytes behind the header that the arenas take; 0 if there can
 * be no such queue. */
uint64_t arena_cut(struct ring *ring, uint64_t initial, uint64_t capacity);

/* Unmaps all arenas but the first. */
void arena_unmap_all(struct ring *ring);

/* Has the page tables filled for the first arena, whose memory is never given back, so that no copy in it meets a page
 * fault.  False: this kernel cannot do that (before 5.14), or there is no memory for the tables. */
bool arena_prefault(struct ring *ring);

/* Maps the first `first` bytes of a file, and the arena in them once more behind that.  MAP_FAILED: errno says why. */
void *ring_map(int file, uint64_t first);
void ring_unmap(void *memory, uint64_t first);
/* Bytes that ring_open() wants mapped, of a file with this header. */
uint64_t ring_first_mapping(const struct header *header);

/* ---- growing, under the put lock (growing.c) ---- */

/* Bytes from an arena's start that have their memory. */
uint64_t arena_reserved(const struct ring *ring, uint32_t arena);

/* Before `bytes` bytes are put: in an empty queue large records go to the arena's beginning again, whose bytes the
 * processors still have in their caches. */
void arena_start_over(struct ring *ring, const struct snapshot *put, uint64_t bytes);

/* Whether `bytes` fit behind the put side's position in an arena as things are, by ring->get_as_seen. */
bool arena_has_room(const struct ring *ring, uint32_t arena, uint64_t position, uint64_t bytes);

/* When they do not fit, with a fresh ring->get_as_seen: allocates memory, enters another arena.  RING_OK: now they fit,
 * where `put` says.  RING_FULL: the memory is out, ring->grow_error says why. */
enum ring_status arena_grow(struct ring *ring, struct snapshot *put, uint64_t bytes);

/* Rule 7: makes `arena` the one that `put` goes on in. */
void arena_enter(struct ring *ring, struct snapshot *put, uint32_t arena);

/* ---- giving memory back (trimming.c) ---- */

/* Under the get lock, before the commit of `get`, which was in arena `before`: whether memory could be given back after
 * it.  Leaves an arena that is done. */
bool arena_trim_is_due(struct ring *ring, struct snapshot *get, uint32_t before);

/* Gives memory back that an elastic queue does not need any more; `at_once`: even if it was busy just now.
 * While another thread has a lock that this needs, it does nothing, and does not wait: `trim_due` says so. */
void ring_trim(struct ring *ring, bool at_once);

#endif
