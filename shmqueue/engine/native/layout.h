/* layout.h: every byte of a native segment.
 *
 * A segment is one file, mapped whole by each process that has the queue open.  This file says what lies where, what
 * writes it, under which lock, and what a process that dies in the middle leaves behind.  All layers above it follow
 * from these rules; nothing else in the project knows an offset.
 *
 *      offset   bytes  what
 *           0     120  struct header        written by segment.py, before the file has a name
 *         256      56  put.guard            lock word of the putters, and what only its owner writes
 *         384      64  put.ledgers          how much was ever put
 *         512      56  get.guard            lock word of the getters
 *         640      64  get.ledgers          how much was ever taken
 *         704      64  get.next             which record is handed out next, while any is leased
 *         768      16  tally                task_done() and join()
 *         832      24  room                 where putters sleep, and for what
 *         896      24  notes                what is rarely written and often read
 *        1024    2048  arenas[64]           where the data is cut, used by elastic queues only
 *        3072     192  leases               what is written beside the lease table
 *        4096       -  data                 records: one arena, or those of an elastic queue; at the next page
 *           -   65536  lease table          1,024 entries, at the next page; no memory until they are used
 *           -       -  windows              `capacity` bytes for leased records that were moved out of the data; sparse
 *           -       -  -                    up to 4,096 bytes that mean nothing
 *
 * A RECORD is  u32 payload length | u32 serialization method | payload,  unaligned; any part of it may wrap from the
 * last byte of its arena to the first.  An item costs exactly 8 + length bytes.  A length that 32 bits cannot say is
 * written as RECORD_LONG, and in 64 bits behind the method: such an item costs 16 + length bytes.
 *
 * An ARENA is whole pages of the machine, and mapped twice in a row, so that what wraps lies in one piece all the same.
 * It may have more bytes than `capacity` allows to be in it.
 *
 * A LEDGER is the truth of one side: position (bytes ever moved), count (items ever moved) and what must change
 * together with them.  Each side has two slots and a sequence number; slot[sequence & 1] is current.
 *
 *   1. Only the owner of a side's lock writes that side's ledgers.
 *   2. To commit, the owner fills slot[(sequence + 1) & 1], then stores sequence + 1: that one store is the commit.
 *      Death before it changed nothing; death after it changed everything.
 *   3. Anyone may read a ledger without the lock: read sequence, read its slot, read sequence again, and start over if
 *      it moved.  The second read matters: without it a reader may take the slot that the owner is preparing.
 *   4. The bytes from get.position to put.position are the records in the queue, oldest first.  In arena a, position p
 *      lies at offset (p - arenas[a].base) modulo the arena's size.  A putter writes only outside of the records, a
 *      getter reads only inside of them.
 *   5. Always get.position <= put.position <= get.position + capacity, and get.count <= put.count.
 *   6. Nothing is stored twice: qsize is put.count - get.count, unfinished is put.count - get.dropped - done.
 *
 *   7. Where the put side finds no room in its arena it enters a larger one that is free: it sets base there, end and
 *      next in the one it leaves, and commits all this with the records' ledger.  The get side follows when it has come
 *      to end.  What lies between get.arena and put.arena along `next` is occupied, all else is free.
 *   8. When little is left in a large arena, or the memory is out, the put side enters arena 0, which always has its
 *      memory.  It does so only when both sides are in the same arena; if nothing is put, it wakes no process.  So what
 *      is occupied is at most one arena from before, then growing numbers.
 *      The put side may also set the base of the arena that both are in to put.position while the queue is empty and
 *      nothing is leased: then no byte of it means anything.
 *   9. base, end, next and reserved of an arena are written under the put lock; end and next hold for a getter while
 *      the put side is in another arena.
 *  10. Only the first `reserved` bytes of an arena may be touched: they have their memory.  It is raised after the
 *      memory was allocated, and lowered, in a free arena only, before it is given back: a death in between costs
 *      nothing but memory, until the arena is used again.
 *
 *  LEASES.  An item may be handed out and stay in the queue: it is then finished, or given back, by a second call, or
 *  given back for a process that died, or for a program image that exec() has replaced (by the next image of that
 *  process).  While any entry of the lease table is in use, the flag LEDGER_LEASES is set in get.ledgers.arena; else
 *  rules 11 to 15 have no subject.
 *
 *  11. get.position and get.arena say up to where the bytes are free, as always.  Which record is handed out next is
 *      get.next[sequence & 1]: it is written before the get ledger's commit and becomes true with it.  A record between
 *      the two is finished unless an entry names it.
 *  12. get.count is next.count less the entries that are RETURNED: put.count - get.count is what can be taken now.
 *  13. An entry is written only by the owner of the get lock.  Before it changes one of the first `entries` it stores the
 *      sequence in leases.sequence, then the entry in leases.before, then its number in leases.changed; two at most for
 *      each commit.  An owner that finds leases.changed set and leases.sequence equal to the current sequence follows
 *      one that died before its commit: it puts the entry back first.  Entries from number `entries` on mean nothing.
 *  14. When a record that is leased holds up too many bytes that are free behind it, the owner of the get lock copies it
 *      into the windows, changes the entry by rule 13, and commits: get.position goes on.
 *  15. `in_place` of an entry is set under the get lock and cleared by the holder alone, under no lock: until then the
 *      record's bytes stay where they are.
 *  16. The owner of the get lock may give back the memory of any part of the windows that no entry of the current table
 *      names.  A death before it did costs nothing but memory, until those bytes are used again.
 *
 *  SLEEP.  Getters sleep on the futex word put.ledgers.sequence until something is put, putters on room.bell until
 *  there is enough room.  `waiting` of the side that they wait for says that a thread may sleep there.  It holds flags
 *  and not a count, so that a killed sleeper leaves nothing to subtract.
 *
 *  17. get.ledgers.waiting: WAITING_FOR_ROOM is set under the put lock, after room.position and room.count; while it is
 *      set these two are only lowered.  The putter that sets a flag looks at the get ledger once more before it sleeps.
 *  18. After the commit a getter looks at the flags: at WAITING_FOR_ROOM only if its ledger has reached both room.position
 *      and room.count.  It clears the flags, then moves the bell and wakes all that sleep there.  A position or count
 *      that is too low costs a wake-up in vain; one that is too high cannot be.
 *
 *  RESERVATIONS.  A record may be put before its payload is written: its process then writes it where it lies, under no
 *  lock.  A struct reservation lies before such a record, in the same commit; they count as one item.
 *
 *  19. Its `state` is written once more, under the get lock, by the process that it names: to RESERVATION_COMMITTED when
 *      the payload is whole, which is the commit, or to RESERVATION_ABANDONED.  From then on the process does not write
 *      to the payload.  Any other byte of a record in the queue never changes.
 *  20. A getter that comes to an open one does not wait: it makes an entry of the lease table for the record behind it,
 *      LEASE_WRITING, which names the same process by the same token, and goes on.  That process finds the entry by these
 *      and makes it RETURNED or FREE, by rule 13; if the process has ended, others make it FREE as they look at the holders.
 *      clear() does the same and drops what lies before and behind.
 *      A process that finds its reservation before get.next, and no entry, was taken for dead: it writes nothing more.
 *  21. A getter that comes to a committed one goes on to the record behind it; one that comes to an abandoned one passes
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
#define LAYOUT_VERSION 5u
#define LAYOUT_HEADER_SIZE 4096u
#define LAYOUT_BYTE_ORDER 0x01020304u

/* Two cache lines: processors that fetch lines in pairs would otherwise make neighbours share. */
#define LAYOUT_APART 128

/* Written before anyone else can see the file; cached at attach and never read again.  segment.py checks uuid, pid
 * namespace, boot and crc, ring_open() what the engine depends on.  Only pid_namespace and boot ever change (and the
 * crc), in one write by a process that holds the file's lock exclusively: no process has the queue open then. */
struct header {
    char magic[8];
    char engine[8];
    uint32_t version;
    uint32_t header_size;   /* bytes; the data begin at the next page */
    uint64_t capacity;      /* most bytes of records */
    uint64_t maxsize;       /* most items at first; 0: as many as fit */
    uint64_t initial;       /* bytes of the first arena of an elastic queue; 0: of fixed size */
    uint64_t threshold;     /* a put waits while this many bytes are in the queue; 0: it need not */
    uint64_t data_size;     /* bytes of the file behind this header */
    uint64_t pid_namespace; /* inode of /proc/self/ns/pid: a thread id means nothing in another one */
    uint8_t uuid[16];       /* which incarnation of the name */
    int64_t created;        /* nanoseconds since the epoch */
    uint64_t boot;          /* first half of the boot id: a thread id means nothing after another boot */
    uint32_t flags;         /* bit 0: keep, the queue outlives its holders; bit 1: private, its name is known nowhere */
    uint32_t limit;         /* what decided the capacity, for messages: header.py */
    uint32_t byte_order;
    uint32_t crc; /* CRC-32 of all that comes before it */
};

/* lock:       free when its thread id bits are 0; see lock.h.  After a death the kernel sets FUTEX_OWNER_DIED; there is
 *             nothing to repair, because an uncommitted slot is not current (rule 2).
 * recoveries: how often a dead owner's lock was taken over.  Written by the lock's owner; a death may lose one count.
 * high_water: most items ever in the queue, about (put side only).  Written by the lock's owner, before the commit.
 * maxsize:    most items in the queue from now on, and one more; 0: what the header says (put side only).  Written by
 *             the lock's owner, in one store; a death after it leaves putters asleep for the rest of their slice.
 * claimant:   thread id of a putter that others have overtaken while it waited for room; 0: none (put side only, as the
 *             next four).  Written by the lock's owner, and taken back to 0 by the claimant under no lock.
 * claim_*:    how long that counts, on the monotonic clock, ns, never further ahead than a slice, the bytes and items
 *             that are left free for it, and get.position + get.count + 1 when it was made.  A hint: a claimant that is killed costs the others what is left of the
 *             slice. */
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
 * dropped: get side: items that clear() took: no task_done() will be called for them.
 * shut:    put side: enum shut, whether the queue was shut down for all.
 * arena:   which arena the position lies in, 0 in a ring of fixed size; get side: and LEDGER_LEASES.
 * waiting: put side: set by sleeping getters under no lock, cleared by a putter that is going to wake them, before
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
#define WAITING_FOR_ANY 2u /* commit of the get side, wherever it leads */

enum shut {
    SHUT_NOT,
    SHUT_PLAIN,     /* nothing is put any more */
    SHUT_IMMEDIATE, /* and what was left is dropped by the next owner of the get lock */
};

/* Get side only, and only while LEDGER_LEASES is set: see rules 11 and 12.  A line that putters never read.
 *
 * entries:    how many entries of the table are in use, from the first on; free ones among them count.
 * generation: goes up with each clear(): an entry that was RETURNED in another one is free. */
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

/* done:     task_done() calls; increased by compare-and-swap, while fewer than what was put and not dropped.
 * sequence: moves whenever unfinished has reached 0; joiners sleep on it.
 * waiting:  a thread may sleep in join().
 * A death between the count and the wake leaves joiners asleep for the rest of their slice. */
struct tally {
    _Atomic uint64_t done;
    _Atomic uint32_t sequence;
    _Atomic uint32_t waiting;
};

/* What putters sleep on, and from which get.position and get.count on they want to be woken: see rules 17 and 18. */
struct room {
    _Atomic uint32_t bell;
    uint32_t unused;
    _Atomic uint64_t position;
    _Atomic uint64_t count;
};

/* shut:     set before the put ledger says that the queue is shut down: a getter looks there only if it is set.
 * starved:  the memory was out when a queue wanted to grow: getters give back what they can at once.  A hint.
 * lowered:  when a large arena was last left for little being in it, on the monotonic clock, ns.  A hint.
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
    _Atomic uint32_t next;     /* which one the put side entered then */
    uint32_t unused;
};

#define LAYOUT_ARENAS 64

enum lease_state {
    LEASE_FREE,
    LEASE_LENT,     /* in the hands of its holder */
    LEASE_RETURNED, /* to be handed out before any record that was not yet */
    LEASE_PINNED,   /* finished, but the holder still looks at the bytes */
    LEASE_WRITING,  /* not put yet: the holder writes its payload (rule 20) */
};

/* One cache line, so that holders do not share. */
struct lease {
    _Atomic uint32_t state;
    _Atomic uint32_t in_place; /* rule 15 */
    _Atomic uint64_t position; /* of the record */
    _Atomic uint64_t count;    /* the item's number: which of all that were ever put */
    _Atomic uint64_t window;   /* 0: the record lies in the data; else where in the windows it was moved, and 1 */
    _Atomic uint64_t started;  /* the holder: when its process started (field 22 of /proc/pid/stat); in a RETURNED one:
                                  the generation in which it was returned */
    _Atomic uint64_t since;    /* when it was handed out, monotonic clock, ns */
    _Atomic uint32_t pid;      /* the holder's */
    _Atomic uint32_t handle;   /* which of the holder's handles; another image of the process has other numbers */
    _Atomic uint32_t arena;    /* in which the position lies */
    _Atomic uint32_t attempt;  /* how often it was handed out; of a WRITING one: the token */
};

#define LAYOUT_LEASES 1024u
#define LAYOUT_LEASE_TABLE_SIZE (LAYOUT_LEASES * 64u)

/* Written by the owner of the get lock.  See rule 13 for the first three.
 *
 * reserved:     bytes of the table that have memory, from its start.
 * acknowledged: items finished by their holders; a death may miscount one, as with the next one.
 * redelivered:  items that were handed out again.
 * looked:       when it was last checked whether the holders live, monotonic clock, ns.  A hint. */
struct leases {
    _Atomic uint32_t changed[2]; /* number of the entry in `before`, and 1; 0: there is none */
    _Atomic uint32_t sequence;
    _Atomic uint32_t reserved;
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t redelivered;
    _Atomic uint64_t looked;
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
#define RECORD_RESERVED (UINT32_MAX - 1) /* a `length` that says: this is no record, but a reservation */
#define RECORD_LONG UINT32_MAX           /* and one that says: more than RECORD_SHORT_MAX, and how much comes next */

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
    uint32_t token; /* which of that process's */
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
