/* crash_points_verdict.h: after a death, whether the operation happened whole or not at all, and all others go on. */
#ifndef SHMQUEUE_TESTS_CRASH_POINTS_VERDICT_H
#define SHMQUEUE_TESTS_CRASH_POINTS_VERDICT_H

#include "crash_points_helper.h"
#include "crash_points_survivor.h"
#include "crash_points_victim.h"

static struct {
    uint64_t scenes, points, deaths[DEATHS], not_at_all, whole, recoveries, pages_left, instructions, astray;
    int64_t worst_ns;
} counted;

/* Whether what the live process waits for has happened. */
static inline bool is_served(struct scene *scene, enum role role)
{
    struct snapshot put = ledger_read(&scene->ring.segment->put.ledgers);
    struct snapshot get = ledger_read(&scene->ring.segment->get.ledgers);
    if (scene->state == ASLEEP && role != JOINER) {
        return put.shut != SHUT_NOT || put.count != scene->model.put || get.count != scene->model.get;
    }
    return role == GETTER   ? put.shut != SHUT_NOT || put.count != get.count
           : role == JOINER ? tally_unfinished(&scene->ring, &put, &get) == 0
                            : true;
}

/* What the survivor does so that the live process is served, if the dead one did not. */
static inline const char *serve(struct scene *scene, enum role role, struct model *does, struct patience patience)
{
    switch (role) {
    case PUTTER:
        return survivor_takes(scene, does, patience);
    case GETTER:
        return survivor_puts(scene, does, ITEM_LENGTH, patience);
    default:
        return ring_task_done(&scene->ring) == RING_OK ? NULL : "task_done() finds nothing unfinished";
    }
}

/* The model of what has happened if the dead one's operation did (`whole`), and then what the others did. */
static inline struct model happened(const struct scene *scene, bool whole, bool served_by_survivor,
                                    const struct helper *helper)
{
    struct model model = scene->model;
    if (whole) {
        model_operate(&model, scene);
    }
    if (served_by_survivor && helper->role == PUTTER) {
        model.get++;
    } else if (served_by_survivor && helper->role == GETTER) {
        model_put(&model, survivors_item(&scene->model, ITEM_LENGTH));
    } else if (served_by_survivor) {
        model.done++;
    }
    if (helper->process != 0 && atomic_load(&helper->report->status) == RING_OK) {
        if (helper->role == PUTTER) {
            model_put(&model, HELPERS_ITEM);
        } else if (helper->role == GETTER) {
            model.get++;
        }
    }
    return model;
}

/* The live process must have come through by itself. */
static inline const char *await_helper(const struct scene *scene, struct helper *helper)
{
    if (waitpid(helper->process, NULL, 0) != helper->process) {
        harness_fail("waiting for a helper");
    }
    switch (atomic_load(&helper->report->status)) {
    case RING_OK:
        return NULL;
    case RING_SHUT:
        return is_shut_down(scene->operation) ? NULL : "the live process finds the queue shut down";
    case RING_MISMATCH:
        return "the live process takes an item that is not the bytes that were put";
    case RING_DEADLINE:
    case RING_LOCKED:
        return "wedged: the live process does not get through";
    default:
        return "the live process cannot go on: the queue is broken";
    }
}

static inline const char *classify(struct scene *scene, const struct victim *victim, const struct helper *helper,
                                   bool served_by_survivor, struct model *model)
{
    struct statistics is;
    if (ring_statistics(&scene->ring, &is) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    *model = happened(scene, true, served_by_survivor, helper);
    bool whole = model_equals(model, &is);
    if (!whole) {
        *model = happened(scene, false, served_by_survivor, helper);
    }
    bool not_at_all = !whole && model_equals(model, &is);
    if (!whole && !not_at_all && scene->operation == SHUT_DOWN_NOW) {
        model->shut = SHUT_IMMEDIATE; /* the next process drops the items */
        not_at_all = model_equals(model, &is);
    }
    counted.whole += whole;
    counted.not_at_all += not_at_all;
    counted.recoveries += is.recoveries - scene->recoveries;
    if (!whole && (victim->finished || !not_at_all)) {
        return victim->finished ? "the operation came to its end and did not happen"
                                : "the operation happened neither whole nor not at all";
    }
    if (helper->role == GETTER && helper->process != 0 && atomic_load(&helper->report->status) == RING_OK &&
        atomic_load(&helper->report->id) != model->ids[model->get - 1]) {
        return "the live process takes another item than the next";
    }
    return check_arenas(scene, &is);
}

static inline const char *check_mark(struct scene *scene, const struct victim *victim)
{
    const struct segment *segment = scene->ring.segment;
    uint32_t tid = (uint32_t)victim->thread;
    bool kept = (segment->put.guard.lock & FUTEX_TID_MASK) == tid || (segment->get.guard.lock & FUTEX_TID_MASK) == tid;
    return kept ? "the kernel was not told of the lock: it is not marked" : NULL;
}

static inline const char *survive(struct scene *scene, struct victim *victim, struct helper *helper, bool at_once)
{
    int64_t since = monotonic_ns();
    struct patience patience = until(since + BUDGET_NS);
    struct model model = scene->model;
    const char *why = NULL;
    bool served_by_survivor = false;
    uint64_t more, left = 0;
    patience.for_room = false;
    if (!at_once) {
        await_death(victim);
        why = check_mark(scene, victim);
    }
    if (helper->role == HOLDER) {
        atomic_store(&helper->report->go, 1);
        futex_wake(&helper->report->go, 1);
    }
    if (why == NULL && helper->process != 0) {
        served_by_survivor = !is_served(scene, helper->role);
        why = served_by_survivor ? serve(scene, helper->role, &model, patience) : NULL;
    }
    if (helper->process != 0) {
        const char *helpers = await_helper(scene, helper);
        why = why != NULL ? why : helpers;
    }
    why = why != NULL ? why : classify(scene, victim, helper, served_by_survivor, &model);
    if (!at_once && !arena_is_elastic(&scene->ring)) {
        patience = AT_ONCE; /* everybody is gone: there is nothing to wait for */
    }
    why = why != NULL ? why : check_memory(scene, &more);
    why = why != NULL ? why : survivor_goes_on(scene, &model, patience);
    int64_t took = monotonic_ns() - since;
    counted.worst_ns = took > counted.worst_ns ? took : counted.worst_ns;
    why = why != NULL ? why : survivor_lives(scene, &model, patience, &left);
    counted.pages_left = left > counted.pages_left ? left : counted.pages_left;
    return why;
}

#endif
