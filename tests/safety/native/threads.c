/* threads.c: putters, getters and an onlooker as threads of one process, for the sanitizers to watch.
 *
 *      threads SEED SECONDS ITEMS
 *
 * Rounds of different shape until the time is over, one of each at least.  In most of them all handles share one
 * mapping of each part of the file, for ThreadSanitizer knows a byte by its address; in some all threads share one handle.
 * Each item is looked at: its bytes, that it comes once, and behind those that its putter put before it.
 *
 * What one thread tells another beside the queue is relaxed, or said by its end: nothing else may order the accesses
 * that the queue has to order. */
#define _GNU_SOURCE
#include "threads_work.h"

static const struct shape shapes[] = {
    {.capacity = 1000, .payload_max = 60, .ending = DRAINED},
    {.initial = 4096, .capacity = 1 << 20, .payload_max = 400, .ending = DRAINED},
    {.capacity = 8192, .maxsize = 7, .payload_max = 900, .one_handle = true, .ending = SHUT_DOWN},
    {.initial = 1000, .capacity = 1 << 19, .payload_max = 3000, .one_handle = true, .clears = true, .ending = DRAINED},
    {.capacity = 4096, .payload_max = 100, .own_mapping = true, .clears = true, .ending = SHUT_DOWN_IMMEDIATELY},
    {.initial = 5000, .capacity = 1 << 18, .payload_max = 700, .own_mapping = true, .ending = SHUT_DOWN_IMMEDIATELY},
    {.capacity = 1000, .payload_max = 60, .leases = true, .ending = DRAINED},
    {.initial = 4096, .capacity = 1 << 18, .payload_max = 900, .leases = true, .clears = true, .ending = DRAINED},
    {.capacity = 8192, .payload_max = 600, .leases = true, .one_handle = true, .ending = SHUT_DOWN},
    {.capacity = 4096, .payload_max = 90, .leases = true, .own_mapping = true, .ending = SHUT_DOWN_IMMEDIATELY},
};

static uint64_t figure_items, figure_dropped, figure_looks, figure_grown, figure_finished, figure_returned, figure_windows;

/* ---- rounds ---- */

static void open_handles(struct round *round, int file)
{
    const struct shape *shape = round->shape;
    int count = shape->one_handle ? 1 : HANDLES;
    struct stat status;
    if (fstat(file, &status) != 0) {
        harness_fail("fstat");
    }
    struct ring *first = &round->rings[0];
    attach(first, file);
    if (!shape->own_mapping) {
        round->table = mmap(NULL, LAYOUT_LEASE_TABLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file,
                            (off_t)first->table_start);
        if (round->table == MAP_FAILED) {
            harness_fail("mmap");
        }
        first->table = round->table;
    }
    for (int i = 1; i < count; i++) {
        struct ring *ring = &round->rings[i];
        if (shape->own_mapping) {
            attach(ring, file);
            continue;
        }
        uint64_t mapped = ring_first_mapping(&first->segment->header);
        const char *why = ring_open(ring, first->segment, mapped, (uint64_t)status.st_size, file);
        if (why != NULL) {
            harness_fail(why);
        }
        for (uint32_t arena = 1; arena < ring->arenas; arena++) {
            ring->arena_memory[arena] = arena_span(first, arena).bytes;
        }
        ring->table = round->table;
    }
}

static void close_handles(struct round *round)
{
    int count = round->shape->one_handle ? 1 : HANDLES;
    for (int i = 0; i < count && (i == 0 || round->shape->own_mapping); i++) {
        detach(&round->rings[i]);
    }
}

/* Waits in ring_join() as often as it takes, then shuts down; what the shape says. */
static void end_round(struct round *round, struct ring *ring, struct worker *putters)
{
    int64_t deadline = monotonic_ns() + WEDGED_NS;
    enum ring_status status = RING_OK;
    struct statistics figures = {0};
    if (round->shape->ending == SHUT_DOWN_IMMEDIATELY) {
        while (figures.put.count < round->items / 4 && ring_statistics(ring, &figures) == RING_OK) {
            sched_yield();
        }
    } else {
        for (int i = 0; i < PUTTERS; i++) {
            pthread_join(putters[i].thread, NULL);
        }
    }
    if (round->shape->ending == DRAINED) {
        while ((status = ring_join(ring, deadline)) == RING_INTERRUPTED) {
        }
        if (status != RING_OK) {
            fault("a join failed", status);
        }
    }
    bool immediate = round->shape->ending == SHUT_DOWN_IMMEDIATELY;
    while ((status = ring_shut_down(ring, immediate, until(deadline))) == RING_INTERRUPTED) {
    }
    if (status != RING_OK) {
        fault("a shut down failed", status);
    }
    for (int i = 0; immediate && i < PUTTERS; i++) {
        pthread_join(putters[i].thread, NULL);
    }
}

static void start(struct worker *worker, void *(*work)(void *))
{
    if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
        harness_fail("pthread_create");
    }
}

/* Nothing lost, nothing doubled. */
static void settle(struct round *round, struct ring *ring, const struct worker *workers)
{
    struct statistics figures;
    uint64_t put = 0, got = 0, finished = 0, cleared = workers[PUTTERS + GETTERS].moved;
    for (int i = 0; i < PUTTERS; i++) {
        put += workers[i].moved;
    }
    for (int i = PUTTERS; i < PUTTERS + GETTERS; i++) {
        got += workers[i].moved;
        finished += workers[i].finished;
        figure_returned += workers[i].returned;
        figure_windows += workers[i].windows;
    }
    if (ring_statistics(ring, &figures) != RING_OK) {
        fault("a round ended with a broken queue", RING_CORRUPTED);
        return;
    }
    /* a leased item that is finished counts as dropped */
    if (figures.put.count != put || figures.get.count != put || figures.get.leases ||
        got + figures.get.dropped != put) {
        fault("items were lost or doubled", RING_OK);
    }
    if (round->shape->ending != SHUT_DOWN_IMMEDIATELY && figures.get.dropped != cleared + finished) {
        fault("other items were dropped than clear() said", RING_OK);
    }
    if (tally_unfinished(ring, &figures.put, &figures.get) != 0) {
        fault("something stayed unfinished", RING_OK);
    }
    for (uint32_t arena = 1; arena < ring->arenas; arena++) {
        figure_grown += atomic_load(&ring->segment->arenas[arena].base) != 0;
    }
    figure_items += put;
    figure_dropped += figures.get.dropped - finished;
    figure_finished += finished;
    figure_looks += workers[PUTTERS + GETTERS].looks;
}

static void run_round(const struct shape *shape, uint32_t items, uint64_t *random)
{
    static struct round round;
    struct worker workers[PUTTERS + GETTERS + 1];
    memset(&round, 0, sizeof round);
    round.shape = shape;
    round.items = items;
    for (int i = 0; i < PUTTERS; i++) {
        round.seen[i] = calloc(items, 1);
    }
    int file = make_segment(shape->initial, shape->capacity, shape->maxsize);
    open_handles(&round, file);
    for (uint32_t i = 0; i < PUTTERS + GETTERS + 1; i++) {
        workers[i] = (struct worker){
            .round = &round,
            .ring = &round.rings[shape->one_handle ? 0 : i],
            .number = i,
            .random = draw(random) | 1,
        };
        start(&workers[i], i < PUTTERS ? put_items : i < PUTTERS + GETTERS ? get_items : look_on);
    }
    struct ring *ring = &round.rings[shape->one_handle ? 0 : HANDLES - 1];
    end_round(&round, ring, workers);
    atomic_store_explicit(&round.is_over, true, memory_order_relaxed);
    for (int i = PUTTERS; i < PUTTERS + GETTERS + 1; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    settle(&round, ring, workers);
    close_handles(&round);
    close(file);
    for (int i = 0; i < PUTTERS; i++) {
        free((void *)round.seen[i]);
    }
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: threads SEED SECONDS ITEMS\n");
        return 2;
    }
    uint64_t random = strtoull(arguments[1], NULL, 10) * 2 + 1;
    int64_t end = monotonic_ns() + (int64_t)(strtod(arguments[2], NULL) * 1e9);
    uint32_t items = (uint32_t)strtoul(arguments[3], NULL, 10);
    size_t kinds = sizeof shapes / sizeof *shapes;
    uint64_t rounds = 0;
    if (os_init() != 0) {
        harness_fail("os_init");
    }
    while (rounds < kinds || monotonic_ns() < end) {
        run_round(&shapes[rounds % kinds], items, &random);
        rounds++;
    }
    printf("rounds: %llu\nitems: %llu\nof these dropped: %llu\narenas entered: %llu\nlooks at the figures: %llu\n",
           (unsigned long long)rounds, (unsigned long long)figure_items, (unsigned long long)figure_dropped,
           (unsigned long long)figure_grown, (unsigned long long)figure_looks);
    printf("finished leases: %llu\nleases moved meanwhile: %llu\nleases given back: %llu\n",
           (unsigned long long)figure_finished, (unsigned long long)figure_windows, (unsigned long long)figure_returned);
    printf("worst ms: %.1f\n", (double)worst_ns / 1e6);
    return 0;
}
