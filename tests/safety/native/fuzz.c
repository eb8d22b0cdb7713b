/* fuzz.c: a segment with wrong bytes in it, and every operation on it.
 *
 *      fuzz SEED SECONDS [FIRST [MOST]]
 *
 * Trial number n of a seed is always the same, but for those with a thread that goes on corrupting meanwhile.  Two
 * handles take part: one that was attached before the bytes went wrong, one that is attached afterwards.
 *
 * Items are leased, too: finished, given back, looked at where they lie, given back for a process that is no more.
 *
 * Whatever the bytes are: nothing outside of the mappings is touched (guards.h), nor the bytes of the header page that
 * mean nothing; each call comes back by its deadline and with a status that it may have; no lock is kept; RING_CORRUPTED
 * means that the handle is unusable, and writes nothing any more; and figures are possible ones.  Where bytes
 * went wrong that nobody may mind, the items are exactly those that were put. */
#define _GNU_SOURCE
#include "fuzz_calls.h"

#include <pthread.h>
#include <signal.h>

static uint64_t trials, corruptions, poisoned, refused, exact_trials, raced_trials;

/* ---- a trial ---- */

/* Whatever ring_open() would accept: a process that writes a header can do that as well. */
static void draw_shape(struct trial *trial)
{
    static const uint64_t sizes[] = {9, 10, 31, 100, 1000, 4096, 5000, 8192, 16384};
    struct source *source = &trial->source;
    do {
        trial->initial = 0;
        trial->capacity = sizes[below(source, sizeof sizes / sizeof *sizes)];
        if (below(source, 2) == 0) {
            trial->initial = below(source, 3) == 0 ? 1 + below(source, 16) : trial->capacity;
            trial->capacity *= 2 + below(source, 10);
        }
    } while (ring_data_size(trial->initial, trial->capacity) == 0);
    trial->maxsize = below(source, 4) == 0 ? 1 + below(source, 9) : 0;
}

static void find_surroundings(struct trial *trial, struct ring *ring)
{
    struct surroundings *around = &trial->around;
    struct snapshot get = ledger_read(&ring->segment->get.ledgers), put = ledger_read(&ring->segment->put.ledgers);
    uint64_t offset = arena_offset(ring, get.arena, get.position);
    *around = (struct surroundings){
        .capacity = trial->capacity,
        .arenas = ring->arenas,
        .living = (uint32_t)getppid(),
        .dead = FUTEX_TID_MASK - 1, /* above any id that the kernel gives */
        .current = {PUT_SLOT + (atomic_load(&ring->segment->put.ledgers.sequence) & 1),
                    GET_SLOT + (atomic_load(&ring->segment->get.ledgers.sequence) & 1)},
        .size = trial->size,
        .table = ring->table_start,
        .entries = get.leases ? atomic_load(&ring->segment->get.next.entries[get.sequence & 1]) : 0,
    };
    if (get.count != put.count && offset + sizeof(struct record_header) <= ring->arena_size[get.arena]) {
        around->first_record = LAYOUT_HEADER_SIZE + ring->arena_start[get.arena] + offset;
    }
}

static enum kind draw_kind(struct source *source, const struct surroundings *around)
{
    if (around->entries > 0 && below(source, 4) != 0) {
        return below(source, 3) == 0 ? NEXT : ENTRY;
    }
    uint64_t drawn = below(source, KINDS + 3);
    return drawn < KINDS ? (enum kind)drawn : LEDGER; /* there is most to be found in them */
}

static void corrupt_some(struct trial *trial)
{
    static const uint64_t numbers[] = {1, 1, 1, 1, 1, 1, 2, 3, 8, 40};
    uint64_t number = numbers[below(&trial->source, sizeof numbers / sizeof *numbers)];
    for (uint64_t i = 0; i < number && trial->kind != NOTHING; i++) {
        corrupt(&trial->source, trial->whole, trial->kind, &trial->around);
        corruptions++;
    }
    trial->model.is_exact = trial->kind <= HINT;
    exact_trials += trial->model.is_exact;
}

static void *go_on_corrupting(void *argument)
{
    struct trial *trial = argument;
    struct source source = {.random = trial_number};
    for (int i = 0; i < 20000 && !atomic_load(&trial->race_is_over); i++) {
        corrupt(&source, trial->whole, (enum kind)(LEDGER + below(&source, DATA - LEDGER + 1)), &trial->around);
    }
    return NULL;
}

static void call_all(struct trial *trial, struct handle *early)
{
    struct handle late;
    pthread_t racer;
    bool attached = attach_guarded(&late, trial);
    refused += !attached;
    if (!attached && trial->kind != HEADER && trial->kind != ANYTHING) {
        fault("refused for what attaching does not look at");
    }
    if (trial->is_raced && pthread_create(&racer, NULL, go_on_corrupting, trial) != 0) {
        harness_fail("pthread_create");
    }
    for (uint64_t number = 6 + below(&trial->source, 20); number > 0; number--) {
        call(attached && below(&trial->source, 2) == 0 ? &late : early);
    }
    atomic_store(&trial->race_is_over, true);
    if (trial->is_raced) {
        pthread_join(racer, NULL);
    } else if (!untouchable_is_untouched(trial->whole, trial->size, trial->before)) {
        fault("bytes were written that belong to nobody");
    }
    poisoned += ring_is_corrupted(&early->ring) + (attached && ring_is_corrupted(&late.ring));
    if (attached) {
        detach_guarded(&late);
    }
}

static void run_trial(const struct source *source)
{
    static struct trial trial;
    struct handle early;
    memset(&trial, 0, sizeof trial);
    trial.source = *source;
    draw_shape(&trial);
    trial.file = make_segment(trial.initial, trial.capacity, trial.maxsize);
    trial.size = LAYOUT_HEADER_SIZE + ring_data_size(trial.initial, trial.capacity);
    trial.whole = __real_mmap(NULL, trial.size, PROT_READ | PROT_WRITE, MAP_SHARED, trial.file, 0);
    if (trial.whole == MAP_FAILED || !attach_guarded(&early, &trial)) {
        harness_fail("attaching");
    }
    fill_untouchable(trial.whole, trial.size);
    trial.model.is_exact = true;
    trial.is_leasing = below(&trial.source, 2) == 0;
    for (uint64_t number = (trial.is_leasing ? 8 : 0) + below(&trial.source, 16); number > 0 && !trial.model.is_shut;
         number--) {
        call(&early);
    }
    find_surroundings(&trial, &early.ring);
    trial.kind = draw_kind(&trial.source, &trial.around);
    trial.is_raced = trial.kind >= LEDGER && trial.kind <= DATA && below(&trial.source, 8) == 0;
    raced_trials += trial.is_raced;
    corrupt_some(&trial);
    memcpy(trial.before, trial.whole, sizeof trial.before);
    call_all(&trial, &early);
    detach_guarded(&early);
    __real_munmap(trial.whole, trial.size);
    close(trial.file);
    trials++;
}

/* ---- the program ---- */

#ifdef FUZZ_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (os_init() != 0) {
        harness_fail("os_init");
    }
    struct source source = {.bytes = bytes, .left = size, .random = size};
    run_trial(&source);
    if (fault_count != 0) {
        abort();
    }
    return 0;
}
#else
static void print_figures(void)
{
    printf("trials: %llu\noperations: %llu\nleases: %llu\nmoved: %llu\ncorruptions: %llu\npoisoned handles: %llu\nrefused headers: %llu\n"
           "exact trials: %llu\nraced trials: %llu\nworst ms behind a deadline: %.1f\n",
           (unsigned long long)trials, (unsigned long long)calls, (unsigned long long)leased,
           (unsigned long long)moved, (unsigned long long)corruptions,
           (unsigned long long)poisoned, (unsigned long long)refused, (unsigned long long)exact_trials,
           (unsigned long long)raced_trials, (double)worst_late_ns / 1e6);
}

/* Where a trial ends the program, at least it says which one it was. */
static void die(int number)
{
    char text[120];
    int length = snprintf(text, sizeof text, "fault: fuzz: trial %llu: signal %d\n", (unsigned long long)trial_number,
                          number);
    (void)!write(STDOUT_FILENO, text, (size_t)length);
    _exit(3);
}

/* A call that never comes back: the same one for a second of the processor, or for 30 seconds of sleep. */
static void *watch(void *unused)
{
    uint64_t seen = 0;
    int64_t since = 0;
    clock_t used = 0;
    for (;;) {
        uint64_t now = atomic_load(&calls);
        if (now != seen || since == 0) {
            seen = now;
            since = monotonic_ns();
            used = clock();
        } else if (clock() - used > CLOCKS_PER_SEC || monotonic_ns() - since > INT64_C(30000000000)) {
            printf("fault: fuzz: trial %llu: a call does not come back\n", (unsigned long long)trial_number);
            fflush(stdout);
            _exit(3);
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    return unused;
}

int main(int count, char **arguments)
{
    if (count < 3 || count > 5) {
        fprintf(stderr, "usage: fuzz SEED SECONDS [FIRST [MOST]]\n");
        return 2;
    }
    uint64_t seed = strtoull(arguments[1], NULL, 10);
    int64_t end = monotonic_ns() + (int64_t)(strtod(arguments[2], NULL) * 1e9);
    uint64_t first = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;
    uint64_t most = count > 4 ? strtoull(arguments[4], NULL, 10) : UINT64_MAX;
    pthread_t watcher;
    if (os_init() != 0 || pthread_create(&watcher, NULL, watch, NULL) != 0) {
        harness_fail("starting");
    }
    signal(SIGABRT, die); /* with which the sanitizers end the program */
#ifndef GUARDS_KNOW_ASAN
    signal(SIGSEGV, die);
    signal(SIGBUS, die);
    signal(SIGFPE, die);
#endif
    while (trials < most && fault_count < FAULTS_MAX && monotonic_ns() < end) {
        trial_number = first + trials;
        struct source source = {.random = (seed + 1) * UINT64_C(0x2545F4914F6CDD1D) ^ trial_number << 20};
        run_trial(&source);
    }
    print_figures();
    return fault_count != 0;
}
#endif
