/* crash_points_trail.h: an operation's steps to its end, by which deaths are chosen for what they leave, and reached
 * fast. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_TRAIL_H
#define SHMQUEUE_TESTS_CRASH_POINTS_TRAIL_H

#include "crash_points_victim.h"

#define CHANGES_MAX 256
#define STEPS_MAX 20000u
#define SELDOM 6u /* so often is an instruction run to, and not oftener */

/* The operation's way to its end, noted when it was stepped there. */
struct trail {
    unsigned length;                      /* steps */
    unsigned changes[CHANGES_MAX], count; /* the steps that changed what a death leaves */
    unsigned locked;                      /* the step that took the lock; 0: none */
    long instructions[STEPS_MAX];         /* the one that is next after this number of steps */
    unsigned short anchors[STEPS_MAX];    /* the last step up to here before an instruction that came seldom */
    bool died_at[STEPS_MAX];
    /* what was so after the last step: */
    unsigned char *bytes;
    blkcnt_t blocks;
    long pending_at, pending; /* the victim's list_op_pending: where it is, and what it was */
};

static inline bool owns_lock(struct scene *scene, const struct victim *victim)
{
    return (atomic_load(&side_of(scene)->guard.lock) & FUTEX_TID_MASK) == (uint32_t)victim->thread;
}

/* Of bytes that have memory: looking at others would give them some. */
static inline bool update(unsigned char *was, const unsigned char *is, size_t length)
{
    bool differs = memcmp(was, is, length) != 0;
    if (differs) {
        memcpy(was, is, length);
    }
    return differs;
}

static inline bool update_bytes(struct trail *trail, struct scene *scene)
{
    struct ring *ring = &scene->ring;
    bool differs = update(trail->bytes, (unsigned char *)ring->segment, LAYOUT_HEADER_SIZE);
    for (uint32_t arena = 0; arena < ring->arenas; arena++) {
        uint64_t size = ring->arena_size[arena], reserved = ring->segment->arenas[arena].reserved;
        size_t length = arena == 0 || reserved > size ? size : reserved;
        unsigned char *was = trail->bytes + LAYOUT_HEADER_SIZE + ring->arena_start[arena];
        differs |= update(was, ring->arena_memory[arena], length);
    }
    return differs;
}

/* Whether a death here leaves anything else than one at the step before. */
static inline bool look_for_change(struct trail *trail, struct scene *scene, const struct victim *victim)
{
    struct stat status;
    fstat(scene->file, &status);
    long pending = ptrace(PTRACE_PEEKDATA, victim->thread, (void *)trail->pending_at, NULL);
    bool differs = update_bytes(trail, scene) || status.st_blocks != trail->blocks || pending != trail->pending;
    trail->blocks = status.st_blocks;
    trail->pending = pending;
    return differs;
}

static inline void begin_trail(struct trail *trail, struct scene *scene, const struct victim *victim)
{
    struct robust_list_head *head = NULL;
    size_t length;
    trail->bytes = malloc(scene->size);
    if (trail->bytes == NULL || syscall(SYS_get_robust_list, victim->thread, &head, &length) != 0) {
        harness_fail("beginning a trail");
    }
    trail->pending_at = (long)(intptr_t)&head->list_op_pending;
    (void)look_for_change(trail, scene, victim);
    trail->instructions[0] = next_instruction(victim);
}

static inline void note_step(struct trail *trail, struct scene *scene, const struct victim *victim)
{
    if (++trail->length == STEPS_MAX) {
        errno = E2BIG;
        harness_fail("an operation without an end");
    }
    trail->instructions[trail->length] = next_instruction(victim);
    if (look_for_change(trail, scene, victim)) {
        if (trail->count == CHANGES_MAX) {
            errno = E2BIG;
            harness_fail("an operation of many changes");
        }
        trail->changes[trail->count++] = trail->length;
    }
    if (trail->locked == 0 && owns_lock(scene, victim)) {
        trail->locked = trail->length;
    }
}

static inline int by_instruction(const void *a, const void *b, void *instructions)
{
    unsigned first = *(const unsigned short *)a, second = *(const unsigned short *)b;
    long difference = ((long *)instructions)[first] - ((long *)instructions)[second];
    return difference != 0 ? (difference < 0 ? -1 : 1) : (int)first - (int)second;
}

static inline void set_anchors(struct trail *trail)
{
    static unsigned short order[STEPS_MAX];
    static bool seldom[STEPS_MAX];
    const long *at = trail->instructions;
    unsigned count = trail->length + 1, before = 0;
    for (unsigned i = 0; i < count; i++) {
        order[i] = (unsigned short)i;
    }
    qsort_r(order, count, sizeof *order, by_instruction, trail->instructions);
    for (unsigned i = 0; i < count; i++) {
        before = i != 0 && at[order[i - 1]] == at[order[i]] ? before + 1 : 0;
        seldom[order[i]] = before < SELDOM;
    }
    for (unsigned i = 1; i < count; i++) {
        trail->anchors[i] = seldom[i] ? (unsigned short)i : trail->anchors[i - 1];
    }
}

/* The operation is over: find the anchors, and forget what was only needed on the way. */
static inline void end_trail(struct trail *trail)
{
    set_anchors(trail);
    free(trail->bytes);
}

/* From step `at` on, by breakpoints as far as that goes: fast, and safe from what takes a step more or less the next
 * time, as waiting for another process may.  Returns how far it came. */
static inline unsigned go_to(const struct trail *trail, struct victim *victim, unsigned at, unsigned steps)
{
    unsigned anchor = trail->anchors[steps];
    for (unsigned i = at + 1; i <= anchor && !victim->finished; i++) {
        if (trail->instructions[i] == trail->instructions[anchor]) {
            run_to(victim, trail->instructions[anchor]);
            at = i;
        }
    }
    while (at < steps && !victim->finished) {
        step(victim);
        at++;
    }
    return at;
}

#endif
