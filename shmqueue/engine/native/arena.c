/* arena.c: growing, and giving memory back; see arena.h. */
#define _GNU_SOURCE
#include "arena.h"
#include "leases.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define STEP (UINT64_C(1) << 20)        /* bytes of memory that are allocated together */
#define ALLOCATED_AT_ONCE (UINT64_C(4) << 20)
#define PUNCH_MAX (UINT64_C(64) << 20)  /* bytes that are given back in one hold of the put lock */
#define SPARSE 16                       /* an arena is too large when less than one in so many bytes is used */
#define GETS_BETWEEN_LOOKS 64           /* while records are left in it */
#define CALM_NS UINT64_C(100000000)     /* how long to leave it at that after the last time, at least */
#define CALM_NS_PER_BYTE 10             /* and for so long: some twenty times what touching the memory anew costs */
#define CAPACITY_MAX (UINT64_C(1) << 55)

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

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

/* Bytes behind the header that the arenas take; 0 if there can be no such queue.  They are whole pages; how many bytes
 * of records may be in them is the capacity's to say. */
static uint64_t cut(struct ring *ring, uint64_t initial, uint64_t capacity)
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

bool arena_cut(struct ring *ring, uint64_t initial, uint64_t capacity)
{
    uint64_t total = cut(ring, initial, capacity);
    ring->table_start = leases_start(LAYOUT_HEADER_SIZE + total);
    return total != 0;
}

uint64_t ring_data_size(uint64_t initial, uint64_t capacity)
{
    struct ring ring;
    uint64_t total = cut(&ring, initial, capacity);
    return total == 0 ? 0 : total + leases_size(capacity);
}

/* ---- the file ---- */

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

void ring_close(struct ring *ring)
{
    for (uint32_t arena = 1; arena < ring->arenas; arena++) {
        unsigned char *bytes = atomic_exchange(&ring->arena_memory[arena], NULL);
        if (bytes != NULL) {
            munmap(bytes, 2 * (size_t)ring->arena_size[arena]);
        }
    }
    leases_close(ring);
}

/* ---- room ---- */

static uint64_t reserved_bytes(const struct ring *ring, uint32_t arena)
{
    uint64_t size = ring->arena_size[arena];
    return arena == 0 ? size : least(size, atomic_load(&ring->segment->arenas[arena].reserved));
}

/* Bytes from the arena's start that are touched once `bytes` more, which it can hold, are put. */
static uint64_t touched(const struct ring *ring, const struct view *put, uint64_t bytes)
{
    uint64_t size = ring->arena_size[put->arena], used = put->position - arena_base(ring, put->arena);
    return used < size - bytes ? used + bytes : size; /* a base beyond the position must not wrap to a small number */
}

static bool is_free(const struct ring *ring, const struct view *put, uint64_t bytes)
{
    const struct view *get = &ring->get_as_seen;
    uint64_t size = ring->arena_size[put->arena];
    uint64_t used = put->position - arena_base(ring, put->arena); /* if the get side has not come here yet */
    uint64_t queued = put->position - get->position;
    if (get->arena == put->arena && queued < used) {
        used = queued;
    }
    return used <= size && bytes <= size - used;
}

bool arena_has_room(const struct ring *ring, const struct view *put, uint64_t bytes)
{
    return is_free(ring, put, bytes) &&
           (put->arena == 0 || touched(ring, put, bytes) <= reserved_bytes(ring, put->arena));
}

#define LARGE_RECORD (UINT64_C(64) << 10) /* bytes from which on a look at the getters' line costs nothing beside the copy */

void arena_start_over(struct ring *ring, const struct view *put, uint64_t bytes)
{
    if (bytes < LARGE_RECORD || ring->arena_size[put->arena] < LARGE_ARENA ||
        arena_offset(ring, put->arena, put->position) == 0) {
        return;
    }
    struct view get = ring->get_as_seen = ledger_read(&ring->segment->get.ledgers);
    if (get.position == put->position && get.arena == put->arena && !get.leases) { /* nobody reads anything here */
        atomic_store_explicit(&ring->segment->arenas[put->arena].base, put->position, memory_order_relaxed);
    }
}

/* ---- growing ---- */

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
    uint64_t reserved = reserved_bytes(ring, arena);
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

/* And some more, if there is. */
static int reserve(struct ring *ring, uint32_t arena, uint64_t bytes)
{
    if (bytes <= reserved_bytes(ring, arena)) {
        return 0;
    }
    if (ring_file(ring) < 0) {
        return EBADF;
    }
    int error = reserve_exactly(ring, arena, least(ring->arena_size[arena], (bytes + STEP - 1) / STEP * STEP));
    return error == 0 || error == EINTR ? error : reserve_exactly(ring, arena, bytes);
}

/* Rule 7: makes `arena` the one that `put` goes on in. */
static void enter(struct ring *ring, struct view *put, uint32_t arena)
{
    struct arena *arenas = ring->segment->arenas;
    atomic_store_explicit(&arenas[put->arena].end, put->position, memory_order_relaxed);
    atomic_store_explicit(&arenas[put->arena].next, arena, memory_order_relaxed);
    atomic_store_explicit(&arenas[arena].base, put->position, memory_order_relaxed);
    put->arena = arena;
}

/* The smallest arena above the current one that is free and large enough; ring->arenas if there is none. */
static uint32_t choose_above(const struct ring *ring, const struct view *put, uint64_t bytes)
{
    uint32_t arena = put->arena + 1;
    while (arena < ring->arenas && (ring->arena_size[arena] < bytes || arena == ring->get_as_seen.arena)) {
        arena++;
    }
    return arena;
}

enum ring_status arena_grow(struct ring *ring, struct view *put, uint64_t bytes)
{
    struct notes *notes = &ring->segment->notes;
    int error;
    if (is_free(ring, put, bytes)) {
        error = reserve(ring, put->arena, touched(ring, put, bytes));
    } else {
        uint32_t above = choose_above(ring, put, bytes);
        if (above == ring->arenas) {
            return ring_poison(ring, "there is no arena left below the limit");
        }
        error = reserve(ring, above, bytes);
        if (error == 0) {
            enter(ring, put, above);
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
        enter(ring, put, 0); /* rule 8: which gives this arena's memory back as soon as it is drained */
        return RING_OK;
    }
    return RING_FULL;
}

/* ---- giving back ---- */

/* Rule 8: is it time to leave a large arena?  Under the put lock by views of one moment; elsewhere it is a guess. */
static bool is_too_large(const struct ring *ring, const struct view *put, const struct view *get, bool at_once)
{
    struct notes *notes = &ring->segment->notes;
    if (put->arena == 0 || put->arena != get->arena) {
        return false;
    }
    uint64_t reserved = reserved_bytes(ring, put->arena);
    if (put->position - get->position > reserved / SPARSE) {
        return false;
    }
    if (at_once || atomic_load_explicit(&notes->starved, memory_order_relaxed) != 0) {
        return true;
    }
    uint64_t calm = reserved * CALM_NS_PER_BYTE > CALM_NS ? reserved * CALM_NS_PER_BYTE : CALM_NS;
    return (uint64_t)monotonic_ns() - atomic_load(&notes->lowered) >= calm;
}

bool arena_trim_is_due(struct ring *ring, struct take *take)
{
    struct view *get = &take->next;
    if (get->arena != 0 && get->position == ring->put_as_seen.position) {
        ring->put_as_seen = ledger_read(&ring->segment->put.ledgers); /* our view was old, or the queue is empty */
    }
    if (get->arena != 0 && arena_is_left(ring, get, &ring->put_as_seen)) {
        uint32_t next = arena_after(ring, get->arena);
        get->arena = next < ring->arenas ? next : get->arena;
    }
    if (get->arena != take->arena) {
        return true;
    }
    bool is_empty = get->position == ring->put_as_seen.position;
    bool is_turn = is_empty || get->count % GETS_BETWEEN_LOOKS == 0; /* a look may read the clock */
    return get->arena != 0 && is_turn && is_too_large(ring, &ring->put_as_seen, get, false);
}

/* Both sides at one moment, under either lock.  False: they contradict each other, or an arena does not exist. */
static bool look(struct ring *ring, struct view *put, struct view *get)
{
    *get = ledger_read(&ring->segment->get.ledgers);
    *put = ledger_read(&ring->segment->put.ledgers);
    return get->arena < ring->arenas && put->arena < ring->arenas &&
           ledgers_contradict(put, get, ring->capacity) == NULL;
}

/* Never waits: a putter may be copying a large item, and one thread trims many queues. */
static bool lock_to_trim(struct ring *ring, struct side *side, struct self *self)
{
    return ring_lock_side(ring, side, self, (struct patience){.for_lock = false}) == RING_OK;
}

static bool leave_large_arena(struct ring *ring, struct self *self, bool at_once)
{
    struct side *side = &ring->segment->put;
    struct view put, get;
    if (!lock_to_trim(ring, side, self)) {
        return false;
    }
    if (look(ring, &put, &get) && is_too_large(ring, &put, &get, at_once)) {
        enter(ring, &put, 0);
        atomic_store(&ring->segment->notes.lowered, (uint64_t)monotonic_ns());
        ledger_commit(&side->ledgers, &put); /* nothing was put: nobody needs to be woken, and the flag stays up */
    }
    lock_release(&side->guard.lock, self);
    return true;
}

static bool follow(struct ring *ring, struct self *self)
{
    struct side *side = &ring->segment->get;
    struct view put, get;
    if (!lock_to_trim(ring, side, self)) {
        return false;
    }
    bool is_left = look(ring, &put, &get) && !get.leases && arena_is_left(ring, &get, &put);
    if (is_left && arena_after(ring, get.arena) < ring->arenas) {
        get.arena = arena_after(ring, get.arena);
        ring_commit_get(ring, self, &get); /* who wants to grow may find memory soon */
    } else {
        lock_release(&side->guard.lock, self);
    }
    return true;
}

/* Under the put lock: a free arena that has memory; ring->arenas if there is none. */
static uint32_t find_unused(struct ring *ring)
{
    struct view put, get;
    bool occupied[LAYOUT_ARENAS] = {false};
    if (!look(ring, &put, &get)) {
        return ring->arenas;
    }
    uint32_t arena = get.arena;
    occupied[put.arena] = true;
    for (uint32_t i = 0; i < ring->arenas && arena < ring->arenas && arena != put.arena; i++) {
        occupied[arena] = true;
        arena = arena_after(ring, arena);
    }
    if (arena != put.arena) {
        return ring->arenas; /* the chain is broken: who follows it will say so */
    }
    arena = 1;
    while (arena < ring->arenas && (occupied[arena] || reserved_bytes(ring, arena) == 0)) {
        arena++;
    }
    return arena;
}

/* Gives back some of the memory of one free arena.  False: there was none, or the lock was not to be had. */
static bool punch(struct ring *ring, struct self *self)
{
    struct side *side = &ring->segment->put;
    if (!lock_to_trim(ring, side, self)) {
        atomic_store(&ring->trim_due, true);
        return false;
    }
    uint32_t arena = find_unused(ring);
    bool found = arena < ring->arenas && ring_file(ring) >= 0;
    if (found) {
        uint64_t reserved = reserved_bytes(ring, arena);
        uint64_t kept = reserved > PUNCH_MAX ? reserved - PUNCH_MAX : 0;
        off_t start = (off_t)(LAYOUT_HEADER_SIZE + ring->arena_start[arena] + kept);
        off_t length = (off_t)(ring->arena_size[arena] - kept); /* to its end: what a killed one left goes as well */
        atomic_store(&ring->segment->arenas[arena].reserved, kept);
        (void)!fallocate(ring->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length);
    }
    lock_release(&side->guard.lock, self);
    if (found && atomic_load_explicit(&ring->segment->notes.starved, memory_order_relaxed) != 0) {
        ring_wake_putters(ring); /* those that wait for memory */
    }
    return found;
}

/* Whether any arena but the first has memory.  A hint, under no lock. */
static bool has_grown(const struct ring *ring)
{
    uint32_t arena = 1;
    while (arena < ring->arenas && reserved_bytes(ring, arena) == 0) {
        arena++;
    }
    return arena < ring->arenas;
}

void ring_trim(struct ring *ring, bool at_once)
{
    struct self *self = lock_self();
    atomic_store(&ring->trim_due, false);
    if (!arena_is_elastic(ring) || !has_grown(ring) || ring_is_poisoned(ring)) {
        return;
    }
    if (!leave_large_arena(ring, self, at_once) || !follow(ring, self)) {
        atomic_store(&ring->trim_due, true);
        return;
    }
    while (punch(ring, self)) {
    }
}
