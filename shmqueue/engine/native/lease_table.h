/* lease_table.h: the table of items that were handed out, and the undo that makes a change of it atomic.
 *
 * Rules 11 to 13 in layout.h.  All of this is done under the get lock, except where the comment says otherwise.
 */
#ifndef SHMQUEUE_LEASE_TABLE_H
#define SHMQUEUE_LEASE_TABLE_H

#include "take.h"

#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)

/* ---- its memory ---- */

/* Bytes of the file behind the data, for the table and the windows. */
uint64_t leases_size(uint64_t capacity);
/* Where in the file the table begins when the data end at `end`. */
uint64_t leases_start(uint64_t end);

/* The table, mapped when it is first asked for.  NULL: ring->map_error says why that cannot be done.  No lock. */
struct lease *lease_table(struct ring *ring);
/* Once it is mapped. */
static inline struct lease *lease_entries(struct ring *ring) { return atomic_load(&ring->table); }
/* Unmaps it. */
void lease_table_close(struct ring *ring);
/* Gives the entries below `entries` their memory, page by page: touching a hole without any left would be SIGBUS. */
bool lease_table_reserve(struct ring *ring, uint32_t entries);

/* ---- an entry ---- */

/* Whether it names an item. */
static inline bool lease_is_used(const struct lease *entry, uint64_t generation)
{
    uint32_t state = GET(entry->state);
    return state != LEASE_FREE && (state != LEASE_RETURNED || GET(entry->started) == generation);
}

/* Whether it names a requeued item. */
static inline bool lease_is_returned(const struct lease *entry, uint64_t generation)
{
    return GET(entry->state) == LEASE_RETURNED && GET(entry->started) == generation;
}

/* Where its record lies.  False: outside of the file.  It is read once: another process may be changing it. */
bool lease_find_place(struct ring *ring, const struct lease *entry, struct place *place);

/* The oldest item whose bytes lie in the data; NULL if there is none. */
struct lease *lease_oldest_in_data(struct ring *ring, const struct take *take, uint32_t *number);

/* The number of a free entry, for the record at hand.  RING_FULL: there is none.  RING_UNMAPPED: no memory for it. */
enum ring_status lease_choose(struct ring *ring, struct take *take, uint32_t *number);

/* ---- writing it ---- */

/* Which record it names. */
static inline void lease_set_record(struct lease *entry, uint64_t position, uint64_t count, uint32_t arena)
{
    SET(entry->position, position);
    SET(entry->window, 0);
    SET(entry->count, count);
    SET(entry->arena, arena);
}

/* Its holder from now on. */
static inline void lease_set_holder(struct lease *entry, struct process holder, uint32_t handle, enum lease_state state,
                                    enum lease_bytes bytes)
{
    SET(entry->in_place, bytes);
    SET(entry->pid, holder.pid);
    SET(entry->started, holder.started);
    SET(entry->handle, handle);
    SET(entry->since, (uint64_t)monotonic_recent_ns());
    SET(entry->state, state);
}

/* ---- changing it ---- */

/* Rule 13, before an entry is changed. */
struct lease *lease_change(struct ring *ring, const struct take *take, uint32_t number);

/* The same where nothing was changed before, and `acknowledged` or `redelivered` will be, and no entry. */
void lease_change_figures(struct ring *ring, uint32_t sequence);

/* Before the first lease: what was saved for an undo is of no use any more. */
void lease_forget_changes(struct ring *ring);

/* For a ledger with LEDGER_LEASES that was just read into take->next: undoes what a dead owner has left half done, and
 * makes take->next the record that is handed out next. */
enum ring_status leases_enter(struct ring *ring, struct take *take);

/* How many entries are in use, under no lock; 0 if the table cannot be read. */
uint32_t lease_entries_now(struct ring *ring);

#endif
