/* spilling.h: leased records that are moved out of the ring, so that a slow holder does not hold it up.
 *
 * Rules 14 to 16 in layout.h.  All of this is done under the get lock, except where the comment says otherwise.
 */
#ifndef SHMQUEUE_SPILLING_H
#define SHMQUEUE_SPILLING_H

#include "lease_table.h"

/* Notes bytes of the windows whose memory may be given back after the commit. */
void spilling_note_done(struct take *take, uint64_t position, uint64_t window);

/* The leased record that keeps too many bytes from use and may be moved, and its size; take->makes_room: that keeps any.
 * RING_EMPTY: there is none.  RING_BUSY: it is too large for a call that waits for nothing. */
enum ring_status spilling_find(struct ring *ring, const struct take *take, struct lease **entry, uint32_t *number,
                               uint64_t *size);

/* Rule 14, before a commit: at most one record is moved; one that cannot be moved goes on holding up the ring. */
void spilling_move_if_it_holds_up(struct ring *ring, struct take *take);

/* After that commit, with no lock held: gives back the memory of records that had been moved and are gone.  The lock
 * was free meanwhile, so others may lie there now. */
void spilling_tidy(struct ring *ring, const struct take *done);

/* Copies bytes of a leased record, header and all.  False: ring->map_error says why that cannot be done.  No lock. */
bool spilling_read(struct ring *ring, const struct place *place, uint64_t from, uint64_t length, void *bytes);

#endif
