/* holders.h: what holders leave behind when they close or die, and the figures of all leases. */
#ifndef SHMQUEUE_HOLDERS_H
#define SHMQUEUE_HOLDERS_H

#include "lending.h"

/* Gives back all that this handle has, but for what objects of the program refer to (BYTES_SEEN); for its end.  What
 * cannot be given back in time is dropped: others give it back. */
enum ring_status ring_return_all(struct ring *ring, struct patience patience);

/* Gives back all that ended processes had, programs that exec() has replaced among them, and what was dropped, if no
 * process has checked for `at_least` ns.  Takes the lock.  While another thread has it, this does nothing, and does not
 * wait.  Nor does it in another pid namespace. */
void ring_return_dead(struct ring *ring, int64_t at_least);
/* The same whenever that was, for a handle that is being opened. */
void ring_return_dead_now(struct ring *ring);
/* Whether the last check is so long ago that a getter should make one. */
bool ring_look_is_due(const struct ring *ring);

struct lease_statistics {
    uint32_t leased, returned;
    uint64_t acknowledged, redelivered;
    uint64_t oldest_ns; /* age of the oldest lease; 0: there is none */
};

/* Under no lock, so of about one moment. */
void ring_lease_statistics(struct ring *ring, struct lease_statistics *statistics);

#endif
