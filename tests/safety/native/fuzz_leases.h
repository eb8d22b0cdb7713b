/* fuzz_leases.h: the calls of a trial of fuzz.c that are about leases, and what must be true of each. */
#ifndef SHMQUEUE_TESTS_FUZZ_LEASES_H
#define SHMQUEUE_TESTS_FUZZ_LEASES_H

#include "fuzz_trial.h"
#include "quick_way.h"

static uint64_t leased, moved;

static void look_at_loan(struct handle *handle, const struct loan *loan, uint64_t number)
{
    struct model *model = &handle->trial->model;
    if (loan->length > handle->ring.capacity - RECORD_HEADER_SIZE) {
        fault("a leased record of %llu bytes in a queue of %llu", (unsigned long long)loan->length,
              (unsigned long long)handle->ring.capacity);
        return;
    }
    unsigned char *copy = malloc(loan->length);
    const unsigned char *place = ring_loan_place(&handle->ring, loan, 0);
    bool could = ring_loan_read(&handle->ring, loan, 0, loan->length, copy);
    bool is_right = could && loan->length == model->lengths[number % ITEMS_MAX] && loan->method == (uint32_t)number;
    for (size_t at = 0; at < loan->length; at++) {
        unsigned char in_place = place != NULL ? *(const volatile unsigned char *)(place + at) : 0; /* a wrong one ends us */
        is_right = is_right && copy[at] == filling(number, at) && (place == NULL || in_place == copy[at]);
    }
    if (model->is_exact && !is_right) {
        fault("a leased item is not the one that was put");
    }
    moved += loan->place.window != 0;
    free(copy);
}

static enum ring_status call_lend(struct handle *handle, struct patience patience)
{
    struct trial *trial = handle->trial;
    struct model *model = &trial->model;
    struct getting getting = {.is_quick = false};
    if (handle->loan_count == LOANS_MAX) {
        return RING_FULL;
    }
    struct loan *loan = &handle->loans[handle->loan_count];
    uint64_t available, number = item_at_hand(model, &available);
    enum ring_status status = below(&trial->source, 2) == 0
                                  ? get_quick_first(&handle->ring, &getting, patience)
                                  : ring_get_begin(&handle->ring, &getting.take, patience);
    if (status != RING_OK) {
        if (model->is_exact && (status == RING_EMPTY || status == RING_SHUT) && available != 0) {
            fault("a lease found nothing where %llu items are", (unsigned long long)available);
        }
        return status;
    }
    status = lend_getting(&handle->ring, &getting, loan);
    if (status != RING_OK) {
        if (model->is_exact) {
            fault("a lease had status %d", (int)status);
        }
        return status;
    }
    leased++;
    note_taken(model, number);
    model->leases[number % ITEMS_MAX] = IS_LEASED;
    if (model->is_exact && loan->count != number) {
        fault("item %llu is leased, not %llu", (unsigned long long)loan->count, (unsigned long long)number);
    }
    look_at_loan(handle, loan, number);
    if (below(&trial->source, 2) == 0) {
        ring_loan_note(&handle->ring, loan, BYTES_MAY_MOVE);
    }
    handle->loan_count++;
    return RING_OK;
}

/* Finishes one, pins it and unpins it, finds it again, or gives it back. */
static enum ring_status call_end(struct handle *handle, struct patience patience)
{
    struct trial *trial = handle->trial;
    struct model *model = &trial->model;
    struct ring *ring = &handle->ring;
    if (handle->loan_count == 0) {
        return RING_EMPTY;
    }
    unsigned chosen = (unsigned)below(&trial->source, handle->loan_count);
    struct loan loan = handle->loans[chosen];
    uint64_t way = below(&trial->source, 8), number = loan.count;
    enum ring_status status;
    if (way == 0) {
        status = ring_loan_find(ring, &loan, patience);
        if (status == RING_OK) {
            look_at_loan(handle, &loan, number);
            ring_loan_note(ring, &loan, BYTES_MAY_MOVE);
        }
    } else if (way < 4) {
        status = finish_quick_first(ring, &loan, way == 1, patience);
        if (status == RING_OK && way == 1) {
            status = ring_loan_unpin(ring, &loan, patience);
            model->is_exact = model->is_exact && status == RING_OK;
        }
        model->leases[number % ITEMS_MAX] = status == RING_OK ? NOT_LEASED : model->leases[number % ITEMS_MAX];
    } else {
        status = ring_loan_return(ring, &loan, patience);
        model->leases[number % ITEMS_MAX] = status == RING_OK ? IS_RETURNED : model->leases[number % ITEMS_MAX];
    }
    if (status == RING_MISMATCH && model->is_exact) {
        fault("a lease was over");
    }
    model->is_exact = model->is_exact && !(way >= 4 && model->is_shut_at_once);
    if ((status == RING_OK && way != 0) || status == RING_MISMATCH) {
        handle->loans[chosen] = handle->loans[--handle->loan_count];
    }
    return status == RING_MISMATCH ? RING_OK : status;
}

static enum ring_status call_return_all(struct handle *handle, struct patience patience)
{
    struct model *model = &handle->trial->model;
    enum ring_status status = ring_return_all(&handle->ring, patience);
    if (status != RING_OK || model->is_shut_at_once) {
        model->is_exact = model->is_exact && handle->loan_count == 0; /* some may be */
    }
    while (handle->loan_count > 0) {
        model->leases[handle->loans[--handle->loan_count].count % ITEMS_MAX] = IS_RETURNED;
    }
    return status;
}

static enum ring_status call_lease_figures(struct handle *handle)
{
    struct model *model = &handle->trial->model;
    struct lease_statistics figures;
    uint32_t leases[3] = {0};
    for (uint64_t number = oldest_known(model); number < model->first; number++) {
        leases[model->leases[number % ITEMS_MAX]]++;
    }
    ring_lease_statistics(&handle->ring, &figures);
    if (model->is_exact && (figures.leased != leases[IS_LEASED] || figures.returned != leases[IS_RETURNED])) {
        fault("%u leased and %u returned, not %u and %u", figures.leased, figures.returned, leases[IS_LEASED],
              leases[IS_RETURNED]);
    }
    return RING_OK;
}

#endif
