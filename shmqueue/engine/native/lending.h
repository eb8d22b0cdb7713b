/* lending.h: one item in the hands of this process: handed out, read, and finished or given back. */
#ifndef SHMQUEUE_LENDING_H
#define SHMQUEUE_LENDING_H

#include "leases.h"

struct loan {
    uint32_t entry;
    uint32_t attempt; /* 1: it was never handed out before */
    uint64_t count;
    struct place place;
    uint64_t length; /* of the payload, in bytes */
    uint32_t method;
};

/* With a record at hand: hands it out and releases the get lock.  Its bytes stay where they are until ring_loan_note()
 * lets them move, or the end of the loan.  RING_FULL: too many are leased.  RING_UNMAPPED: no memory for the table,
 * ring->map_error says why. */
enum ring_status ring_lend(struct ring *ring, struct take *take, struct loan *loan);

/* ---- its bytes ---- */

/* Where the payload's byte `from` and what follows it lie; NULL if they were moved.  No lock. */
const void *ring_loan_place(struct ring *ring, const struct loan *loan, uint64_t from);
/* Copies them.  False: ring->map_error says why it cannot be done.  No lock. */
bool ring_loan_read(struct ring *ring, const struct loan *loan, uint64_t from, uint64_t length, void *bytes);
/* What the holder does with the bytes from now on.  BYTES_DROPPED is for one that could not have the lock: the next
 * process that checks the holders ends the loan as one of a dead process.  No lock. */
void ring_loan_note(struct ring *ring, const struct loan *loan, enum lease_bytes bytes);
/* Once they may have moved: finds where they are, and keeps them there.  Takes the lock.  RING_MISMATCH: the loan is
 * over. */
enum ring_status ring_loan_find(struct ring *ring, struct loan *loan, struct patience patience);

/* ---- its end ---- */

/* Each takes the lock.  RING_MISMATCH: the loan is over already. */
/* The item is done.  `pinned`: its bytes must stay until ring_loan_unpin(). */
enum ring_status ring_loan_finish(struct ring *ring, const struct loan *loan, bool pinned, struct patience patience);
enum ring_status ring_loan_unpin(struct ring *ring, const struct loan *loan, struct patience patience);
/* The item is not done: another holder gets it, before any that was not handed out yet. */
enum ring_status ring_loan_return(struct ring *ring, const struct loan *loan, struct patience patience);

/* ---- for the layers above ---- */

/* Takes the get lock.  RING_MISMATCH: nothing is leased; the lock is free. */
enum ring_status lending_begin(struct ring *ring, struct take *take, struct patience patience);
/* Whether an entry is this loan's, perhaps a loan that is over. */
static inline bool lending_is_of(const struct ring *ring, const struct lease *entry, const struct loan *loan)
{
    struct process me = lock_process(lock_self());
    return GET(entry->count) == loan->count && GET(entry->attempt) == loan->attempt && GET(entry->pid) == me.pid &&
           GET(entry->started) == me.started && GET(entry->handle) == ring->handle;
}
/* With the get lock held: ends an entry, commits and releases the lock.  `again`: the item is to be handed out, unless
 * the queue was shut down and what was left dropped.  True: it is, and the caller wakes a getter for it. */
bool lending_end_entry(struct ring *ring, struct take *take, uint32_t number, bool again);

#endif
