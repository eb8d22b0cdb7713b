/* lost_wakeups_groups.h: busy producers and consumers, killed all at once as a process group; those outside go on.
 *
 * Every process notes what it is about to do before the call, and what it did after it, so that afterwards each item is
 * accounted for: at most the one that a killed process was about to put or take is in doubt, and the ledgers say
 * whether it was put. */
#ifndef SHMQUEUE_TESTS_LOST_WAKEUPS_GROUPS_H
#define SHMQUEUE_TESTS_LOST_WAKEUPS_GROUPS_H

#include "lost_wakeups_watch.h"

#define MEMBERS 2                         /* producers, and as many consumers, in the group */
#define WORKERS (MEMBERS + 1)             /* of each kind; the last one survives */
#define NUMBERS_MAX (1u << 20)            /* items of one producer */
#define GROUP_SECONDS 0.25                /* before the kill at most, and after it */
#define PRODUCER_BITS 24                  /* an item is producer << 24 | number */

enum { IN_DOUBT = 1, TAKEN = 2 }; /* marks of an item */

/* One producer and one consumer each.  number: the item that it is putting or was putting last.
 * longest: a call of a survivor, in ns.  count: calls. */
struct worker {
    _Atomic uint32_t number;
    _Atomic int64_t called; /* since when it is in a call; 0: it is in none */
    _Atomic int64_t longest;
    _Atomic uint64_t count;
    uint32_t last[WORKERS]; /* of a consumer: the last number that it took, of each producer */
    _Atomic uint32_t fault;
};

struct ledger_of_groups {
    _Atomic uint32_t enough; /* the producers shall end */
    _Atomic uint32_t ended;  /* and have */
    struct worker producers[WORKERS], consumers[WORKERS];
    _Atomic uint8_t marks[WORKERS][NUMBERS_MAX];
};

static struct ledger_of_groups *books;
static unsigned groups_killed, group_members_killed;
static uint64_t group_items, group_in_doubt, group_lost;
static int64_t group_longest;

static inline void begin_call(struct worker *worker) { atomic_store(&worker->called, monotonic_ns()); }

static inline void end_call(struct worker *worker)
{
    int64_t length = monotonic_ns() - atomic_load(&worker->called);
    if (length > atomic_load(&worker->longest)) {
        atomic_store(&worker->longest, length);
    }
    atomic_store(&worker->called, 0);
    atomic_fetch_add(&worker->count, 1);
}

static inline void produce(unsigned which)
{
    struct worker *worker = &books->producers[which];
    for (uint32_t number = 1; number < NUMBERS_MAX && !atomic_load(&books->enough); number++) {
        enum ring_status status;
        atomic_store(&worker->number, number);
        begin_call(worker);
        do {
            status = put_item(which << PRODUCER_BITS | number, until(WAIT_FOREVER));
        } while (status == RING_INTERRUPTED);
        end_call(worker);
        if (status != RING_OK) {
            atomic_store(&worker->fault, 1);
            return;
        }
    }
}

/* Under the get lock, before the commit. */
static inline void mark(struct worker *worker, uint32_t item, uint8_t how)
{
    uint32_t producer = item >> PRODUCER_BITS, number = item & ((1u << PRODUCER_BITS) - 1);
    if (producer >= WORKERS || number >= NUMBERS_MAX || number <= worker->last[producer]) {
        atomic_store(&worker->fault, 1); /* no item of ours, or out of order */
    } else if (how == TAKEN) {
        worker->last[producer] = number;
        if (atomic_exchange(&books->marks[producer][number], TAKEN) == TAKEN) {
            atomic_store(&worker->fault, 1); /* twice */
        }
    } else {
        atomic_store(&books->marks[producer][number], IN_DOUBT);
    }
}

static inline enum ring_status consume_one(struct worker *worker, struct patience patience)
{
    struct getting getting;
    uint32_t item = 0;
    enum ring_status status = get_quick_first(&ring, &getting, patience);
    if (status == RING_OK) {
        ring_get_read(&ring, &getting.take, &item);
        mark(worker, item, IN_DOUBT);
        commit_getting(&ring, &getting);
        mark(worker, item, TAKEN);
    }
    return status;
}

/* Until nothing is left of what the producers put before they ended. */
static inline void consume(unsigned which)
{
    struct worker *worker = &books->consumers[which];
    enum ring_status status;
    begin_call(worker);
    for (;;) {
        bool last = atomic_load(&books->ended) != 0;
        status = consume_one(worker, until(WAIT_FOREVER));
        if (status == RING_OK) {
            end_call(worker);
            begin_call(worker);
        } else if (status == RING_EMPTY && !last) {
            status = ring_wait_items(&ring, WAIT_FOREVER);
        }
        if (status != RING_OK && status != RING_INTERRUPTED) {
            break;
        }
    }
    if (status != RING_EMPTY) {
        atomic_store(&worker->fault, 1);
    }
}

static inline pid_t start_worker(bool producer, unsigned which, pid_t group)
{
    pid_t child = start_child();
    if (child == 0) {
        if (group >= 0) {
            setpgid(0, group);
        }
        (producer ? produce : consume)(which);
        _exit(0);
    }
    if (group >= 0) {
        setpgid(child, group); /* the parent or the child, whichever is first */
    }
    return child;
}

/* What became of each item: it was taken, or nobody took it because a member was killed in the middle. */
static inline void account(void)
{
    struct statistics figures;
    uint64_t put = 0, taken = 0, in_doubt = 0, lost = 0;
    for (unsigned p = 0; p < WORKERS; p++) {
        uint32_t number = atomic_load(&books->producers[p].number);
        for (uint32_t i = 1; i <= number; i++) {
            uint8_t marked = atomic_load(&books->marks[p][i]);
            put++;
            taken += marked == TAKEN;
            in_doubt += marked == IN_DOUBT;
            if (marked == 0 && i < number) {
                lost++; /* it was put, for the next one was about to be */
            } else if (marked == 0) {
                put--;
                lost += p == WORKERS - 1; /* the survivor put its last one, too */
            }
        }
        if (atomic_load(&books->producers[p].fault) || atomic_load(&books->consumers[p].fault)) {
            fault("a call failed, or an item came twice, out of order, or from nowhere");
        }
    }
    if (ring_statistics(&ring, &figures) != RING_OK || figures.put.count != put || figures.get.count != put || lost != 0 ||
        in_doubt > MEMBERS) {
        fault("%lu put and %lu taken by the ledgers; %lu seen, %lu in doubt, %lu lost",
              (unsigned long)figures.put.count, (unsigned long)figures.get.count, (unsigned long)taken,
              (unsigned long)in_doubt, (unsigned long)lost);
    }
    group_items += put;
    group_in_doubt += in_doubt;
    group_lost += lost;
}

/* A survivor whose call takes too long is stuck.  False: it was. */
static inline bool watch(struct worker *worker, pid_t pid, int64_t end)
{
    siginfo_t ended = {0};
    while (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOWAIT | WNOHANG) == 0 && ended.si_pid == 0 &&
           monotonic_ns() < end) {
        int64_t called = atomic_load(&worker->called);
        if (called != 0 && monotonic_ns() - called > WEDGED_NS + lateness()) {
            fault("a survivor is stuck in a call");
            return false;
        }
        usleep(500);
    }
    return true;
}

static inline void kill_one_group(void)
{
    pid_t group = 0, members[2 * MEMBERS];
    int64_t random_moment = (int64_t)random_below((uint32_t)(GROUP_SECONDS * 1e6)) * 1000;
    size_t size = sizeof *books;
    books = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (books == MAP_FAILED) {
        harness_fail("mmap");
    }
    pid_t producer = start_worker(true, MEMBERS, -1), consumer = start_worker(false, MEMBERS, -1);
    for (unsigned i = 0; i < 2 * MEMBERS; i++) {
        members[i] = start_worker(i < MEMBERS, i % MEMBERS, group);
        group = group == 0 ? members[i] : group;
    }
    struct timespec moment = {.tv_nsec = random_moment};
    nanosleep(&moment, NULL);
    kill(-group, SIGKILL);
    for (unsigned i = 0; i < 2 * MEMBERS; i++) {
        reap(members[i]);
    }
    int64_t later = monotonic_ns() + (int64_t)(GROUP_SECONDS * 5e8);
    struct worker *last_producer = &books->producers[MEMBERS], *last_consumer = &books->consumers[MEMBERS];
    bool alive = watch(last_producer, producer, later) && watch(last_consumer, consumer, later);
    uint64_t before = atomic_load(&last_consumer->count);
    atomic_store(&books->enough, 1);
    alive = alive && watch(last_producer, producer, INT64_MAX);
    kill(producer, SIGKILL);
    reap(producer);
    atomic_store(&books->ended, 1);
    alive = alive && watch(last_consumer, consumer, INT64_MAX);
    kill(consumer, SIGKILL);
    reap(consumer);
    if (alive) {
        account();
    }
    if (alive && before == 0) {
        fault("the survivors did nothing");
    }
    for (unsigned i = 0; i < 2; i++) {
        int64_t longest = atomic_load(i ? &last_producer->longest : &last_consumer->longest);
        group_longest = longest > group_longest ? longest : group_longest;
    }
    groups_killed++;
    group_members_killed += 2 * MEMBERS;
    munmap(books, size);
}

static inline void kill_groups(void)
{
    if (faults < FAULTS_MAX) {
        bed = GETTERS;
        begin(GROUP);
        kill_one_group();
        unmake_bed();
    }
}

static inline void print_groups(void)
{
    printf("groups: %u %u %lu %lu %.1f\n", groups_killed, group_members_killed, (unsigned long)group_items,
           (unsigned long)group_in_doubt, (double)group_longest / 1e6);
}

#endif
