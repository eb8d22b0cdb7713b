/* wait_any.h: one thread that waits for many queues at once, and takes nothing.
 *
 * For event loops: an attempt that does not wait is made elsewhere, and when it fails this says when to make the next
 * one.  A wish names what the attempt lacked and the sequence that was read before the attempt, so that what happens
 * between the attempt and the wait is not missed.
 */
#ifndef SHMQUEUE_WAIT_ANY_H
#define SHMQUEUE_WAIT_ANY_H

#include "queue.h"

enum wish_kind {
    WISH_ITEMS, /* something to take, or a shut-down */
    WISH_ROOM,  /* something was taken, or a shut-down: each putter must look for itself whether it has room now */
    WISH_END,   /* nothing is unfinished */
    WISH_KINDS,
};

struct wish {
    struct ring *ring;
    enum wish_kind kind;
    uint32_t seen;   /* ring_moment() before the attempt */
    uint32_t before; /* what the word that it sleeps on was before the last look */
    bool granted;  /* it is time for another attempt; also when the ring is closing or corrupted */
};

/* The sequence that moves when a wish of this kind may be granted. */
uint32_t ring_moment(struct ring *ring, enum wish_kind kind);

/* Sleeps until one of the wishes is granted, until *nudge != nudge_seen, for one slice, or until the deadline
 * (monotonic, ns), whichever is first.  Returns how many are granted, perhaps none.  `nudge` is of this process. */
size_t ring_wait_any(struct wish *wishes, size_t count, _Atomic uint32_t *nudge, uint32_t nudge_seen, int64_t deadline);

/* Wakes one getter of any process: for a caller that was woken for an item and does not take it. */
void ring_pass_on(struct ring *ring);

#endif
