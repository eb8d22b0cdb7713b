/* corrupt.h: what can be wrong in a segment, and with which values. */
#ifndef SHMQUEUE_TESTS_CORRUPT_H
#define SHMQUEUE_TESTS_CORRUPT_H

#include "harness.h"

/* Where the choices come from: the bytes that libFuzzer gives as long as there are any, then random numbers. */
struct source {
    const uint8_t *bytes;
    size_t left;
    uint64_t random;
};

static inline uint64_t draw(struct source *source)
{
    if (source->left >= 2) {
        uint64_t drawn = source->bytes[0] | (uint64_t)source->bytes[1] << 8;
        source->bytes += 2;
        source->left -= 2;
        return drawn;
    }
    uint64_t mixed = source->random += UINT64_C(0x9E3779B97F4A7C15); /* splitmix64, Steele et al., OOPSLA 2014 */
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94D049BB133111EB);
    return mixed ^ mixed >> 31;
}

static inline uint64_t below(struct source *source, uint64_t end) { return draw(source) % end; }

static inline uint64_t wide(struct source *source)
{
    return draw(source) ^ draw(source) << 16 ^ draw(source) << 32 ^ draw(source) << 48;
}

enum kind {
    NOTHING,  /* a segment that is left alone */
    HEADER,   /* read only by processes that attach afterwards */
    STALE,    /* the slots that are not current: nobody may mind (rule 2) */
    HINT,     /* flags, marks and statistics: nobody may mind */
    LEDGER,
    LOCK,
    SHARED,   /* tally and notes */
    ARENA,
    NEXT,     /* what is handed out next, and what is written beside the lease table */
    ENTRY,    /* of the lease table */
    RECORD,   /* the first record's header */
    DATA,     /* any byte of the data, of the lease table or of the windows */
    ANYTHING, /* any byte of the file */
    KINDS
};

enum slot { NO_SLOT, PUT_SLOT, GET_SLOT = PUT_SLOT + 2 }; /* + 0 or 1 */

struct field {
    enum kind kind;
    unsigned width;
    size_t offset;
    unsigned slot;
};

#define SLOT(kind, member, slot)                                                                                      \
    {                                                                                                                 \
        kind, sizeof(((struct segment *)NULL)->member), offsetof(struct segment, member), slot                        \
    }
#define FIELD(kind, member) SLOT(kind, member, NO_SLOT)
#define LEDGER_SLOT(side, slot, first)                                                                                \
    SLOT(LEDGER, side.ledgers.position[slot], first + slot), SLOT(LEDGER, side.ledgers.count[slot], first + slot),    \
        SLOT(LEDGER, side.ledgers.shut[slot], first + slot), SLOT(LEDGER, side.ledgers.arena[slot], first + slot), \
        SLOT(LEDGER, side.ledgers.arena[slot], first + slot) /* twice: an index can do most */
#define SIDE(side, first)                                                                                             \
    FIELD(LOCK, side.guard.lock), FIELD(HINT, side.guard.recoveries), FIELD(LEDGER, side.ledgers.sequence),           \
        FIELD(HINT, side.ledgers.waiting), LEDGER_SLOT(side, 0, first), LEDGER_SLOT(side, 1, first)

#define NEXT_SLOT(slot, first)                                                                                        \
    SLOT(NEXT, get.next.position[slot], first + slot), SLOT(NEXT, get.next.count[slot], first + slot),                \
        SLOT(NEXT, get.next.arena[slot], first + slot), SLOT(NEXT, get.next.entries[slot], first + slot),             \
        SLOT(NEXT, get.next.generation[slot], first + slot)

static const struct field fields[] = {
    NEXT_SLOT(0, GET_SLOT),
    NEXT_SLOT(1, GET_SLOT),
    FIELD(NEXT, leases.changed[0]),
    FIELD(NEXT, leases.changed[1]),
    FIELD(NEXT, leases.sequence),
    FIELD(NEXT, leases.reserved),
    FIELD(HINT, leases.acknowledged),
    FIELD(HINT, leases.redelivered),
    FIELD(HINT, leases.acknowledged_before),
    FIELD(HINT, leases.redelivered_before),
    FIELD(HINT, leases.looked),
    SIDE(put, PUT_SLOT),
    SIDE(get, GET_SLOT),
    FIELD(HINT, put.guard.high_water),
    FIELD(SHARED, put.guard.maxsize),
    FIELD(HINT, put.guard.claimant),
    FIELD(HINT, put.guard.claim_until),
    FIELD(HINT, put.guard.claim_bytes),
    FIELD(HINT, put.guard.claim_items),
    FIELD(HINT, room.bell),
    FIELD(HINT, room.position),
    FIELD(HINT, room.count),
    FIELD(SHARED, tally.done),
    FIELD(SHARED, tally.sequence),
    FIELD(HINT, tally.waiting),
    FIELD(SHARED, notes.shut),
    FIELD(HINT, notes.starved),
    FIELD(HINT, notes.lowered),
    FIELD(HEADER, header.magic),
    FIELD(HEADER, header.engine),
    FIELD(HEADER, header.version),
    FIELD(HEADER, header.header_size),
    FIELD(HEADER, header.capacity),
    FIELD(HEADER, header.capacity),
    FIELD(HEADER, header.maxsize),
    FIELD(HEADER, header.initial),
    FIELD(HEADER, header.initial),
    FIELD(HEADER, header.initial),
    FIELD(HEADER, header.threshold),
    FIELD(HEADER, header.data_size),
    FIELD(HEADER, header.byte_order),
};
#define FIELDS (sizeof fields / sizeof *fields)

/* What is there now, as far as values near it are of interest. */
struct surroundings {
    uint64_t capacity;
    uint32_t arenas;
    uint32_t living, dead; /* ids of threads */
    unsigned current[2]; /* slots, of put and get */
    size_t first_record; /* offset in the file of its header; 0: there is none */
    size_t table;        /* of the lease table */
    uint32_t entries;    /* of it that are in use; 0: no item is leased */
    size_t size;         /* of the file */
};

static inline uint64_t near(struct source *source, uint64_t value, uint64_t capacity)
{
    static const uint64_t steps[] = {1, 2, 7, 8, 9, 64, 4096, UINT64_C(1) << 32};
    uint64_t step = below(source, 4) == 0 ? capacity : steps[below(source, sizeof steps / sizeof *steps)];
    return below(source, 2) == 0 ? value + step : value - step;
}

static inline uint64_t wrong_value(struct source *source, uint64_t value, const struct surroundings *around)
{
    switch (below(source, 8)) {
    case 0:
        return wide(source);
    case 1:
        return below(source, 16);
    case 2:
        return UINT64_MAX - below(source, 16);
    case 3:
        return (UINT64_C(1) << below(source, 64)) - below(source, 2);
    case 4:
        return value ^ UINT64_C(1) << below(source, 64);
    case 5:
        return near(source, around->capacity, around->capacity);
    case 6:
        return around->arenas + below(source, 3) - 1;
    default:
        return near(source, value, around->capacity);
    }
}

static inline uint32_t wrong_lock(struct source *source, const struct surroundings *around)
{
    uint32_t owners[] = {0, around->living, around->dead, (uint32_t)wide(source)};
    uint32_t flags[] = {0, FUTEX_WAITERS, FUTEX_OWNER_DIED, FUTEX_WAITERS | FUTEX_OWNER_DIED};
    return (owners[below(source, 4)] & FUTEX_TID_MASK) | flags[below(source, 4)];
}

#define ENTRY_FIELD(member) {ENTRY, sizeof(((struct lease *)NULL)->member), offsetof(struct lease, member), NO_SLOT}

/* A field of the kind; for STALE one of a slot that is not current. */
static inline struct field choose_field(struct source *source, enum kind kind, const struct surroundings *around)
{
    if (kind == ARENA) {
        static const struct field members[] = {FIELD(ARENA, arenas[0].base), FIELD(ARENA, arenas[0].end),
                                               FIELD(ARENA, arenas[0].reserved), FIELD(ARENA, arenas[0].next)};
        struct field field = members[below(source, 4)];
        field.offset += below(source, around->arenas) * sizeof(struct arena);
        return field;
    }
    if (kind == ENTRY) { /* of the table, or what is to be put back */
        static const struct field members[] = {
            ENTRY_FIELD(state),   ENTRY_FIELD(state),   ENTRY_FIELD(in_place), ENTRY_FIELD(position),
            ENTRY_FIELD(count),   ENTRY_FIELD(window),  ENTRY_FIELD(window),   ENTRY_FIELD(started),
            ENTRY_FIELD(since),   ENTRY_FIELD(pid),     ENTRY_FIELD(handle),   ENTRY_FIELD(arena),
            ENTRY_FIELD(attempt), ENTRY_FIELD(arena),   ENTRY_FIELD(arena),    ENTRY_FIELD(position),
        };
        struct field field = members[below(source, sizeof members / sizeof *members)];
        bool is_before = below(source, 6) == 0;
        size_t number = below(source, is_before ? 2 : around->entries > 0 ? around->entries : 1);
        field.offset += (is_before ? offsetof(struct segment, leases.before) : around->table) +
                        number * sizeof(struct lease);
        return field;
    }
    if (kind == RECORD && around->first_record != 0) {
        return (struct field){.kind = RECORD, .width = 4, .offset = around->first_record};
    }
    if (kind == RECORD || kind == DATA) {
        size_t most = around->size - LAYOUT_HEADER_SIZE;
        size_t at = below(source, 2) == 0 && most > 64 ? below(source, 64) : wide(source) % most;
        if (below(source, 4) == 0) { /* in what lies behind the data, where most of it is in use */
            at = around->table - LAYOUT_HEADER_SIZE + below(source, 1024) * (below(source, 2) == 0 ? 1 : 65);
            at = at < most ? at : most - 1;
        }
        return (struct field){.kind = DATA, .width = 1, .offset = LAYOUT_HEADER_SIZE + at};
    }
    if (kind == ANYTHING) {
        size_t most = below(source, 8) == 0 ? around->size : offsetof(struct segment, arenas);
        size_t at = wide(source) % most;
        return (struct field){.kind = ANYTHING, .width = 1, .offset = at};
    }
    for (;;) {
        struct field field = fields[below(source, FIELDS)];
        bool stale = field.slot != NO_SLOT && field.slot != around->current[0] && field.slot != around->current[1];
        if (kind == STALE ? stale : field.kind == kind && (!stale || below(source, 8) == 0)) {
            return field;
        }
    }
}

/* Stores a wrong value in one field, as a process would. */
static inline void corrupt(struct source *source, unsigned char *whole, enum kind kind,
                           const struct surroundings *around)
{
    struct field field = choose_field(source, kind, around);
    unsigned char *at = whole + field.offset;
    struct segment *segment = (struct segment *)(void *)whole;
    if (kind != STALE && field.kind == NEXT && field.width == 4 && below(source, 2) == 0) { /* as after a death before the commit */
        atomic_store(&segment->leases.sequence, atomic_load(&segment->get.ledgers.sequence));
    }
    if (field.kind == LOCK) {
        atomic_store((_Atomic uint32_t *)(void *)at, wrong_lock(source, around));
    } else if (field.width == 8) {
        _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)at;
        atomic_store(word, wrong_value(source, atomic_load(word), around));
    } else {
        uint32_t value = 0;
        memcpy(&value, at, field.width);
        uint64_t wrong = wrong_value(source, value, around);
        memcpy(at, &wrong, field.width); /* the lowest bytes come first, or any others: they are wrong all the same */
    }
}

#endif
