/* fuzz_trial.h: a trial of fuzz.c: its queue, the handles on it, and what is known of its items. */
#ifndef SHMQUEUE_TESTS_FUZZ_TRIAL_H
#define SHMQUEUE_TESTS_FUZZ_TRIAL_H

#include "corrupt.h"
#include "guards.h"

#include <stdarg.h>

#define ITEMS_MAX 64
#define LOANS_MAX 6

static uint64_t trial_number; /* of the trial at hand, printed with a fault */
static uint64_t fault_count;

__attribute__((format(printf, 1, 2))) static void fault(const char *format, ...)
{
    va_list values;
    if (fault_count++ < FAULTS_MAX) {
        printf("fault: fuzz: trial %llu: ", (unsigned long long)trial_number);
        va_start(values, format);
        vprintf(format, values);
        va_end(values);
        printf("\n");
        fflush(stdout);
    }
}

/* What is known of the queue as long as no byte went wrong that matters. */
struct model {
    bool is_exact;
    bool is_shut, is_shut_at_once; /* then requeued items are dropped by the next process */
    uint64_t next;              /* number of the next item */
    uint64_t first;             /* of the oldest that was never handed out */
    uint32_t lengths[ITEMS_MAX]; /* of item n at n % ITEMS_MAX */
    enum { NOT_LEASED, IS_LEASED, IS_RETURNED } leases[ITEMS_MAX];
};

struct trial {
    struct source source;
    uint64_t initial, capacity, maxsize;
    int file;
    unsigned char *whole; /* a mapping without guards */
    size_t size;
    struct model model;
    struct surroundings around;
    enum kind kind;
    unsigned char before[LAYOUT_HEADER_SIZE]; /* the header page after the corruption */
    bool is_leasing; /* most of its calls are about leases */
    bool is_raced;
    _Atomic bool race_is_over;
};

struct handle {
    struct trial *trial;
    struct ring ring;
    size_t mapped;
    struct loan loans[LOANS_MAX];
    unsigned loan_count;
};

/* ---- attaching ---- */

/* As module.c does it.  False: refused. */
static bool attach_guarded(struct handle *handle, struct trial *trial)
{
    struct header header;
    handle->trial = trial;
    handle->loan_count = 0;
    if (pread(trial->file, &header, sizeof header, 0) != sizeof header) {
        harness_fail("pread");
    }
    uint64_t first = ring_first_mapping(&header);
    handle->mapped = first < trial->size ? first : trial->size;
    void *memory = ring_map(trial->file, handle->mapped);
    if (memory == MAP_FAILED) {
        return false;
    }
    const char *why = ring_open(&handle->ring, memory, handle->mapped, trial->size, trial->file);
    if (why != NULL) {
        if (*why == '\0') {
            fault("refused without a sentence");
        }
        ring_unmap(memory, handle->mapped);
        return false;
    }
    guard_header(&handle->ring);
    return true;
}

static void detach_guarded(struct handle *handle)
{
    ring_interrupt_all(&handle->ring);
    ring_close(&handle->ring);
    ring_unmap(handle->ring.segment, handle->mapped);
}

/* ---- what is known of the items ---- */

static unsigned char filling(uint64_t number, size_t at) { return (unsigned char)(number * 37 + at * 3 + (at >> 8)); }

static bool is_kind(const struct model *model, uint64_t number, int kind)
{
    return (int)model->leases[number % ITEMS_MAX] == kind;
}

/* Of those that are in the queue or leased. */
static uint64_t oldest_known(const struct model *model)
{
    uint64_t number = model->first > ITEMS_MAX ? model->first - ITEMS_MAX : 0;
    while (number < model->first && (number + ITEMS_MAX < model->next || is_kind(model, number, NOT_LEASED))) {
        number++;
    }
    return number;
}

/* The number of the item that comes next, and how many can be taken. */
static uint64_t item_at_hand(const struct model *model, uint64_t *available)
{
    uint64_t oldest = model->first;
    *available = model->next - model->first;
    for (uint64_t number = oldest_known(model); number < model->first; number++) {
        if (is_kind(model, number, IS_RETURNED)) {
            oldest = oldest == model->first ? number : oldest;
            ++*available;
        }
    }
    return oldest;
}

static void note_taken(struct model *model, uint64_t number)
{
    if (number < model->first) {
        model->leases[number % ITEMS_MAX] = NOT_LEASED;
    } else if (number < model->next) {
        model->first = number + 1;
    }
}

/* All that can be taken are dropped. */
static void note_dropped(struct model *model)
{
    for (unsigned i = 0; i < ITEMS_MAX; i++) {
        if (model->leases[i] == IS_RETURNED) {
            model->leases[i] = NOT_LEASED;
        }
    }
    model->first = model->next;
}

#endif
