/* layout.h: every byte of a native segment.
 *
 * A segment is one file, mapped whole by each process that has the queue open.  This file says where each field is,
 * which process writes it, under which lock, and what a process that dies in the middle leaves behind.  The engine and
 * the Python code that inspects files follow these rules; no other code uses an offset.
 *
 *      offset   bytes  what
 *           0     120  struct header        written by segment.py, before the file has a name
 *         256      56  put.guard            lock word of the putters, and fields that only the lock's owner writes
 *         384      64  put.ledgers          how much was ever put
 *         512      56  get.guard            lock word of the getters
 *         640      64  get.ledgers          how much was ever taken
 *         704      64  get.next             which record is handed out next, while any is leased
 *         768      16  tally                task_done() and join()
 *         832      24  room                 where putters sleep, and for which room
 *         896      24  notes                fields that are rarely written and often read
 *        1024    2048  arenas[64]           how the data is divided, used by elastic queues only
 *        3072     192  leases               fields that belong to the lease table
 *        4096       -  data                 records: one arena, or those of an elastic queue; at the next page
 *           -   65536  lease table          1,024 entries, at the next page; no memory until they are used
 *           -       -  windows              `capacity` bytes for leased records that were moved out of the data; sparse
 *           -       -  -                    up to 4,096 unused bytes
 *
 * A RECORD is  u32 payload length | u32 serialization method | payload,  unaligned; any part of it may wrap from the
 * last byte of its arena to the first.  An item costs exactly 8 + length bytes.  A length that does not fit in 32 bits
 * is written as RECORD_LONG, followed behind the method by the length in 64 bits: such an item costs 16 + length bytes.
 *
 * An ARENA consists of whole pages and is mapped twice in a row, so that a record that wraps is contiguous in memory.
 * It may be larger than the `capacity` bytes that may be in it.
 *
 * A LEDGER is the state of one side: position (bytes ever moved), count (items ever moved) and what must change
 * together with them.  Each side has two slots and a sequence number; slot[sequence & 1] is current.
 *
 *   1. Only the owner of a side's lock writes that side's ledgers.
 *   2. To commit, the owner fills slot[(sequence + 1) & 1], then stores sequence + 1.  That one store is the commit:
 *      a call that dies before it has had no effect, and one that dies after it has completed.
 *   3. Any process may read a ledger without the lock: read the sequence, read its slot, read the sequence again, and
 *      start over if it changed.  Without the second read, a reader may use the slot that the owner is preparing.
 *   4. The bytes from get.position to put.position are the records in the queue, oldest first.  In arena a, position p
 *      is at offset (p - arenas[a].base) modulo the arena's size.  A putter writes only outside of the records, a
 *      getter reads only inside of them.
 *   5. Always get.position <= put.position <= get.position + capacity, and get.count <= put.count.
 *   6. Nothing is stored twice: qsize is put.count - get.count, unfinished is put.count - get.dropped - done.
 *
 *   7. If the put side finds no room in its arena, it enters a larger one that is free: it sets `base` there, sets
 *      `end` and `next` in the one it leaves, and commits all this with the records' ledger.  The get side follows when
 *      it reaches `end`.  The arenas from get.arena to put.arena along `next` are occupied, all others are free.
 *   8. If little is left in a large arena, or no memory is available, the put side enters arena 0, which always has its
 *      memory.  It does so only if both sides are in the same arena; if nothing is put, it wakes no process.  So the
 *      occupied arenas are at most one larger arena from before, then ascending numbers.
 *      The put side may also set the base of the arena that both sides are in to put.position while the queue is empty
 *      and nothing is leased: no byte of the arena is in use then.
 *   9. `base`, `end`, `next` and `reserved` of an arena are written under the put lock; `end` and `next` are valid for
 *      a getter while the put side is in another arena.
 *  10. Only the first `reserved` bytes of an arena may be accessed: their memory is allocated.  `reserved` is raised
 *      after the allocation, and lowered, in a free arena only, before the memory is returned: a death in between
 *      wastes memory until the arena is used again, and has no other effect.
 *
 *  LEASES.  A leased item is handed out and stays in the queue.  A second call acknowledges or requeues it; it is
 *  requeued for a process that died, or for a program image that exec() has replaced (by the next image of that
 *  process).  While any entry of the lease table is in use, the flag LEDGER_LEASES is set in get.ledgers.arena;
 *  otherwise rules 11 to 15 do not apply.
 *
 *  11. As always, the bytes before get.position, in get.arena, are free.  get.next[sequence & 1] says which record is
 *      handed out next: it is written before the get ledger's commit, and becomes valid with that commit.  A record
 *      between the two positions is finished unless an entry names it.
 *  12. get.count is next.count less the entries that are RETURNED: put.count - get.count is what can be taken now.
 *  13. Only the owner of the get lock writes an entry.  Before it changes one of the first `entries`, it stores the
 *      sequence in leases.sequence, then the entry in leases.before and the two figures beside it, then its number in
 *      leases.changed, or LEASES_FIGURES if only these change; at most two for each commit.  An owner that finds
 *      leases.changed set and leases.sequence equal to the current sequence follows one that died before its commit: it
 *      restores these first, but for the `in_place` of one that has a holder, unless that was BYTES_DROPPED.  Entries
 *      from number `entries` on are undefined.
 *  14. If a leased record keeps too many free bytes behind it from use, the owner of the get lock copies it into the
 *      windows, changes the entry by rule 13, and commits: get.position advances.
 *  15. `in_place` of an entry, an enum lease_bytes, is set under the get lock; after that the holder alone changes it,
 *      without a lock.  Until it is BYTES_MAY_MOVE the record's bytes do not move.  A holder that could not have the
 *      lock when it dropped the lease makes it BYTES_DROPPED, and others end the lease when they check the holders.
 *  16. The owner of the get lock may return the memory of any part of the windows that no entry of the current table
 *      names.  A death before it did wastes memory until those bytes are used again, and has no other effect.
 *
 *  SLEEP.  Getters sleep on the futex word put.ledgers.sequence until something is put, putters on room.bell until
 *  there is enough room.  `waiting` of the side that they wait for says that a process may sleep there.  It has flags
 *  and not a count, so that a killed sleeper leaves nothing to subtract.
 *
 *  17. get.ledgers.waiting: WAITING_FOR_ROOM is set under the put lock, after room.position and room.count; while it is
 *      set, these two are only lowered.  A process that sets a flag reads the get ledger once more before it sleeps.
 *  18. After the commit a getter reads the flags, WAITING_FOR_ROOM only if its ledger has reached both room.position
 *      and room.count.  A process that clears flags then changes the bell and wakes every process that sleeps there.  A
 *      position or count that is too low costs a spurious wake-up; one that is too high is impossible.
 *
 *  RESERVATIONS.  A record may be put before its payload is written: its process then writes the payload in place,
 *  without a lock.  A struct reservation precedes such a record, in the same commit; they count as one item.
 *
 *  19. The process that a reservation names writes its `state` once more, under the get lock: RESERVATION_COMMITTED
 *      when the payload is complete, which is the commit, or RESERVATION_ABANDONED.  From then on the process does not
 *      write to the payload.  Any other byte of a record in the queue never changes.
 *  20. A getter that reaches an open one does not wait: it makes an entry of the lease table for the record behind it,
 *      LEASE_WRITING, which names the same process and handle by the same token, and goes on.  That process finds the
 *      entry by these and makes it RETURNED or FREE, by rule 13; if the process has ended, or has made it
 *      BYTES_DROPPED, others make it FREE when they check the holders.  clear() does the same, and drops the records
 *      before and behind it.  A process that finds its reservation before get.next, and no entry, was taken for dead: it
 *      writes nothing more.
 *  21. A getter that reaches a committed one goes on to the record behind it; one that reaches an abandoned one skips
 *      both and counts the item as done, in one commit.
 */
#ifndef SHMQUEUE_LAYOUT_H
#define SHMQUEUE_LAYOUT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LAYOUT_MAGIC "shmqueue"
#define LAYOUT_ENGINE "native\0"
#define LAYOUT_VERSION 7u
#define LAYOUT_HEADER_SIZE 4096u
#define LAYOUT_BYTE_ORDER 0x01020304u

/* Two cache lines, to prevent false sharing on processors that fetch lines in pairs. */
#define LAYOUT_APART 128

/* Written before any other process can see the file; cached at attach and never read again.  segment.py checks uuid,
 * pid namespace, boot and crc; ring_open() checks what the engine depends on.  Only pid_namespace and boot ever change
 * (and the crc), in one write by a process that has the file's lock exclusively: no process has the queue open then. */
struct header {
    char magic[8];
    char engine[8];
    uint32_t version;
    uint32_t header_size;   /* bytes; the data begin at the next page */
    uint64_t capacity;      /* most bytes of records */
    uint64_t maxsize;       /* most items at first; 0: as many as fit */
    uint64_t initial;       /* bytes of the first arena of an elastic queue; 0: of fixed size */
    uint64_t threshold;     /* a put waits while this number of bytes is in the queue; 0: no limit */
    uint64_t data_size;     /* bytes of the file behind this header */
    uint64_t pid_namespace; /* inode of /proc/self/ns/pid: thread ids are valid only inside of it */
    uint8_t uuid[16];       /* which incarnation of the name */
    int64_t created;        /* nanoseconds since the epoch */
    uint64_t boot;          /* first half of the boot id: thread ids are valid only during it */
    uint32_t flags;         /* bit 0: keep, it outlives its holders; bit 1: private, users do not know its name */
    uint32_t limit;         /* what decided the capacity, for messages: header.py */
    uint32_t byte_order;
    uint32_t crc; /* CRC-32 of all bytes before it */
};

/* lock:       free when its thread id bits are 0; see lock.h.  After a death the kernel sets FUTEX_OWNER_DIED; there is
 *             nothing to repair, because an uncommitted slot is not current (rule 2).
 * recoveries: how often a dead owner's lock was taken over.  Written by the lock's owner; a death may lose one count.
 * high_water: most items ever in the queue, about (put side only).  Written by the lock's owner, before the commit.
 * maxsize:    most items in the queue from now on, and one more; 0: what the header says (put side only).  Written by
 *             the lock's owner, in one store; a death after it leaves putters asleep for the rest of their slice.
 * claimant:   thread id of a putter that others have overtaken while it waited for room; 0: none (put side only, as the
 *             next four).  Written by the lock's owner, and reset to 0 by the claimant without a lock.
 * claim_*:    until when the claim is valid, on the monotonic clock, ns, at most one slice ahead; the bytes and items
 *             that are left free for it; and get.position + get.count + 1 when it was made.  A hint: a claimant that is
 *             killed delays the others for the rest of the slice. */
struct guard {
    _Atomic uint32_t lock;
    _Atomic uint32_t claimant;
    _Atomic uint64_t recoveries;
    _Atomic uint64_t high_water;
    _Atomic uint64_t maxsize;
    _Atomic uint64_t claim_until;
    _Atomic uint64_t claim_bytes;
    _Atomic uint64_t claim_items;
    _Atomic uint64_t claim_taken;
};

/* One cache line, so that the other side fetches sequence, flag and both slots at once.
 *
 * dropped: get side: items that clear() took; no task_done() will be called for them.
 * shut:    put side: enum shut, whether the queue was shut down for all processes.
 * arena:   which arena the position is in, 0 in a ring of fixed size; get side: and LEDGER_LEASES.
 * waiting: put side: set by sleeping getters without a lock, cleared by a putter that is going to wake them, before
 *          its commit.  Get side: flags, see rules 17 and 18.  A committer killed between commit and wake leaves the
 *          sleepers asleep for the rest of their slice (os.h), not longer. */
struct ledgers {
    _Atomic uint32_t sequence;
    _Atomic uint32_t waiting;
    _Atomic uint64_t position[2];
    _Atomic uint64_t count[2];
    union {
        _Atomic uint64_t dropped[2];
        _Atomic uint64_t shut[2];
    };
    _Atomic uint32_t arena[2];
};

#define LEDGER_LEASES UINT32_C(0x80000000)

#define WAITING_FOR_ROOM 1u
#define WAITING_FOR_ANY 2u /* commit of the get side, whatever its position */

enum shut {
    SHUT_NOT,
    SHUT_PLAIN,     /* nothing is put any more */
    SHUT_IMMEDIATE, /* and the items left are dropped by the next process that finds them */
};

/* Get side only, and only while LEDGER_LEASES is set: see rules 11 and 12.  A line that putters never read.
 *
 * entries:    how many entries of the table are in use, from the first on, including free ones among them.
 * generation: is incremented by each clear(): an entry that was RETURNED in another generation is free. */
struct next {
    _Atomic uint64_t position[2];
    _Atomic uint64_t count[2];
    _Atomic uint32_t arena[2];
    _Atomic uint32_t entries[2];
    _Atomic uint64_t generation[2];
};

struct side {
    alignas(LAYOUT_APART) struct guard guard;
    alignas(LAYOUT_APART) struct ledgers ledgers;
    alignas(64) struct next next;
};

/* done:     task_done() calls; incremented by compare-and-swap, while less than the items put and not dropped.
 * sequence: changes whenever unfinished has reached 0; joiners sleep on it.
 * waiting:  a process may sleep in join().
 * A death between the count and the wake leaves joiners asleep for the rest of their slice. */
struct tally {
    _Atomic uint64_t done;
    _Atomic uint32_t sequence;
    _Atomic uint32_t waiting;
};

/* What putters sleep on, and the get.position and get.count from which on they are to be woken: see rules 17 and 18. */
struct room {
    _Atomic uint32_t bell;
    uint32_t unused;
    _Atomic uint64_t position;
    _Atomic uint64_t count;
};

/* shut:     set before the put ledger says that the queue is shut down: a getter reads that ledger's field only then.
 * starved:  no memory was available when a queue had to grow: getters return what they can at once.  A hint.
 * lowered:  when a large arena was last left because little was in it, on the monotonic clock, ns.  A hint.
 * reserves: there may be reservations.  Set before the first one is put, and never cleared. */
struct notes {
    _Atomic uint32_t shut;
    _Atomic uint32_t starved;
    _Atomic uint64_t lowered;
    _Atomic uint64_t reserves;
};

/* See rules 7 to 10.  Arena 0 has all its memory, whatever `reserved` says. */
struct arena {
    _Atomic uint64_t base;     /* put.position when the put side entered it */
    _Atomic uint64_t end;      /* put.position when the put side left it */
    _Atomic uint64_t reserved; /* bytes from its start that have memory */
    _Atomic uint32_t next;     /* the arena that the put side entered then */
    uint32_t unused;
};

#define LAYOUT_ARENAS 64

enum lease_state {
    LEASE_FREE,
    LEASE_LENT,     /* leased to a process, its holder */
    LEASE_RETURNED, /* requeued: to be handed out before any record that was never handed out */
    LEASE_PINNED,   /* finished, but the holder still refers to the bytes */
    LEASE_WRITING,  /* not put yet: the holder writes its payload (rule 20) */
};

enum lease_bytes {
    BYTES_MAY_MOVE,
    BYTES_IN_PLACE, /* the holder may read them where they lie */
    BYTES_SEEN,     /* objects of the holder's program refer to them, which may outlive its handle */
    BYTES_DROPPED,
};

/* One cache line, so that holders do not share. */
struct lease {
    _Atomic uint32_t state;
    _Atomic uint32_t in_place; /* rule 15 */
    _Atomic uint64_t position; /* of the record */
    _Atomic uint64_t count;    /* the item's number among all items ever put */
    _Atomic uint64_t window;   /* 0: the record is in the data; otherwise 1 + its offset in the windows */
    _Atomic uint64_t started;  /* the holder: when and as which program its process started, see os.h; in a RETURNED one:
                                  the generation in which it was requeued */
    _Atomic uint64_t since;    /* when it was handed out, monotonic clock, ns; of its last tick */
    _Atomic uint32_t pid;      /* the holder's */
    _Atomic uint32_t handle;   /* which of the holder's handles; another image of the process has other numbers */
    _Atomic uint32_t arena;    /* the arena that contains the position */
    _Atomic uint32_t attempt;  /* how often it was handed out; of a WRITING one: the token */
};

#define LAYOUT_LEASES 1024u
#define LEASES_FIGURES UINT32_MAX
#define LAYOUT_LEASE_TABLE_SIZE (LAYOUT_LEASES * 64u)

/* Written by the owner of the get lock.  See rule 13 for the first three.
 *
 * reserved:     bytes of the table that have memory, from its start.
 * acknowledged: items acknowledged by their holders; and *_before, what rule 13 restores with the first entry.
 * redelivered:  items that were handed out again; likewise.
 * looked:       when a process last checked whether the holders live, monotonic clock, ns.  A hint. */
struct leases {
    _Atomic uint32_t changed[2]; /* 1 + the number of the entry in `before`, or LEASES_FIGURES; 0: there is none */
    _Atomic uint32_t sequence;
    _Atomic uint32_t reserved;
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t redelivered;
    _Atomic uint64_t looked;
    _Atomic uint64_t acknowledged_before;
    _Atomic uint64_t redelivered_before;
    alignas(64) struct lease before[2];
};

struct segment {
    struct header header;
    alignas(256) struct side put;
    struct side get;
    alignas(LAYOUT_APART) struct tally tally;
    alignas(64) struct room room;
    alignas(LAYOUT_APART) struct notes notes;
    alignas(LAYOUT_APART) struct arena arenas[LAYOUT_ARENAS];
    alignas(LAYOUT_APART) struct leases leases;
};

#define RECORD_HEADER_SIZE 8u
#define RECORD_SHORT_MAX (UINT32_MAX - 2)
#define RECORD_RESERVED (UINT32_MAX - 1) /* as `length`: this is a reservation, not a record */
#define RECORD_LONG UINT32_MAX           /* as `length`: more than RECORD_SHORT_MAX; the length follows in 64 bits */

struct record_header {
    uint32_t length; /* payload bytes */
    uint32_t method; /* serialization method, serialization.py */
};

/* Bytes before the payload of a record. */
static inline uint64_t record_head(uint64_t length)
{
    return length <= RECORD_SHORT_MAX ? RECORD_HEADER_SIZE : RECORD_HEADER_SIZE + sizeof(uint64_t);
}

enum reservation_state {
    RESERVATION_OPEN = 1,
    RESERVATION_COMMITTED,
    RESERVATION_ABANDONED,
};

struct reservation {
    uint32_t length; /* RECORD_RESERVED */
    uint8_t state;
    uint8_t unused[3];
    uint32_t pid; /* the process that writes: as in struct lease */
    uint32_t handle;
    uint64_t started;
    uint32_t token; /* which one of that process's reservations */
    uint32_t unused_too;
};

_Static_assert(sizeof(struct header) == 120, "header.py packs the same 120 bytes");
_Static_assert(offsetof(struct header, crc) == 116, "the crc covers all that comes before it");
_Static_assert(sizeof(struct guard) <= 64, "what a putter reads beside the lock lies in the lock's line");
_Static_assert(sizeof(struct ledgers) == 64, "a ledger read is one line");
_Static_assert(offsetof(struct segment, put) == 256, "clear of the header's line");
_Static_assert(offsetof(struct segment, put.ledgers) == 384, "lock and ledgers a line apart, against false sharing");
_Static_assert(offsetof(struct segment, get) == 512, "putters and getters a line apart, against false sharing");
_Static_assert(offsetof(struct segment, get.ledgers) == 640, "lock and ledgers a line apart, against false sharing");
_Static_assert(offsetof(struct segment, tally) == 768, "task_done() must not slow down put and get");
_Static_assert(offsetof(struct segment, room) == 832, "read by getters only while a putter sleeps");
_Static_assert(offsetof(struct segment, notes) == 896, "read by every get, written hardly ever");
_Static_assert(offsetof(struct segment, arenas) == 1024, "clear of the notes");
_Static_assert(offsetof(struct segment, get.next) == 704, "in a line that putters never read");
_Static_assert(sizeof(struct lease) == 64, "an entry is one line");
_Static_assert(offsetof(struct segment, leases) == 3072, "clear of the arenas");
_Static_assert(sizeof(struct segment) <= LAYOUT_HEADER_SIZE, "the data begins at LAYOUT_HEADER_SIZE");
_Static_assert(sizeof(struct record_header) == RECORD_HEADER_SIZE, "an item that is no longer than RECORD_SHORT_MAX costs exactly 8 + length bytes");
_Static_assert(sizeof(struct reservation) == 32, "what a reserved item costs more");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "atomics must work between processes");

#endif
