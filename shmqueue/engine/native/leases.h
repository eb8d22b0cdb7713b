/* leases.h: items that are handed out and stay in the queue until their holder has finished them.
 *
 * Rules 11 to 15 in layout.h.  All of this is done under the get lock, for nanoseconds, except where the comment says
 * otherwise: no lock is held while a holder works.
 */
#ifndef SHMQUEUE_LEASES_H
#define SHMQUEUE_LEASES_H

#include "ring.h"

/* One item in the hands of this process. */
struct loan {
    uint32_t entry;
    uint32_t attempt; /* 1: it was never handed out before */
    uint64_t count;
    struct place place;
    uint64_t length; /* of the payload, in bytes */
    uint32_t method;
};

/* For ring.c, with the get lock held, for a ledger with LEDGER_LEASES that was just read into take->next: undoes what a
 * dead owner has left half done, and makes take->next the record that is handed out next. */
enum ring_status leases_enter(struct ring *ring, struct take *take);
/* Makes an item that was given back the record at hand.  RING_EMPTY: there is none. */
enum ring_status leases_look(struct ring *ring, struct take *take);
/* Copies bytes of the payload at hand, which is such an item's. */
enum ring_status leases_peek(struct ring *ring, const struct take *take, uint64_t from, uint64_t length, void *bytes);
/* Drops all items that were given back; they are what `take` then says. */
void leases_drop_returned(struct ring *ring, struct take *take);
/* What becomes of take->next in the ledger; writes what belongs beside it. */
struct view leases_settle(struct ring *ring, struct take *take);
/* With a reservation at hand: makes an entry of it if it is open, passes it, and releases the get lock.  RING_FULL: there
 * is no entry left.  RING_UNMAPPED: no memory for the table. */
enum ring_status leases_pass_reservation(struct ring *ring, struct take *take);
/* Before a reservation is put: makes sure that there is memory for an entry. */
enum ring_status leases_prepare(struct ring *ring, struct patience patience);
/* With the get lock held, if the reservation is an entry: ends it and releases the lock.  False: it is none. */
bool leases_end_reservation(struct ring *ring, struct take *take, const struct reservation *reservation, bool commit);
/* Lets one getter that sleeps look again. */
void leases_wake_getter(struct ring *ring);
/* After that commit, with no lock held: gives back the memory of records that had been moved and are gone.  The lock was
 * free meanwhile, so others may lie there now. */
void leases_tidy(struct ring *ring, const struct take *take);

/* With a record at hand: hands it out and releases the get lock.  Its bytes stay where they are until
 * ring_loan_may_move() or the end of the loan. RING_FULL: too many are leased. RING_UNMAPPED: no memory for the table,
 * ring->map_error says why. */
enum ring_status ring_lend(struct ring *ring, struct take *take, struct loan *loan);
/* Where the payload's byte `from` and what follows it lie; NULL if they were moved.  No lock. */
const void *ring_loan_place(struct ring *ring, const struct loan *loan, uint64_t from);
/* Copies them.  False: ring->map_error says why it cannot be done.  No lock. */
bool ring_loan_read(struct ring *ring, const struct loan *loan, uint64_t from, uint64_t length, void *bytes);
/* The holder does not look at the bytes any more, and goes on with the loan.  No lock. */
void ring_loan_may_move(struct ring *ring, const struct loan *loan);
/* It does again: finds out where they are now.  Takes the lock.  RING_MISMATCH: the loan is over. */
enum ring_status ring_loan_find(struct ring *ring, struct loan *loan, struct patience patience);

/* Each takes the lock.  RING_MISMATCH: the loan is over already. */
/* The item is done.  `pinned`: its bytes must stay until ring_loan_unpin(). */
enum ring_status ring_loan_finish(struct ring *ring, const struct loan *loan, bool pinned, struct patience patience);
enum ring_status ring_loan_unpin(struct ring *ring, const struct loan *loan, struct patience patience);
/* The item is not done: somebody else gets it, before any that was not handed out yet. */
enum ring_status ring_loan_return(struct ring *ring, const struct loan *loan, struct patience patience);

/* Gives back whatever this handle has; for its end. */
enum ring_status ring_return_all(struct ring *ring, struct patience patience);
/* Gives back whatever ended processes had, if nobody has looked for `at_least` ns.  Takes the lock; while another thread
 * has it, this does nothing, and does not wait. */
void ring_return_dead(struct ring *ring, int64_t at_least);
/* Whether nobody has looked for so long that a getter should. */
bool ring_look_is_due(const struct ring *ring);

struct lease_figures {
    uint32_t leased, returned;
    uint64_t acknowledged, redelivered;
    uint64_t oldest_ns; /* age of the oldest lease; 0: there is none */
};

/* Under no lock, so of about one moment. */
void ring_lease_figures(struct ring *ring, struct lease_figures *figures);

/* Bytes of the file behind the data, for the table and the windows. */
uint64_t leases_size(uint64_t capacity);
/* Where in the file the table begins when the data end at `end`. */
uint64_t leases_start(uint64_t end);
/* For the ring's end: unmaps the table. */
void leases_close(struct ring *ring);

#endif
