/* lease_crash_points.c: a process dies at every instruction of what concerns leases; each item must be in exactly one
 * place.
 *
 *      lease_crash_points SECONDS EVERY SEED
 *
 * A scene is an operation in a state of the queue, made anew for each death.  The operation is first stepped to its
 * end, and each step noted at which a byte of the header or the lease table changed: between two of these a death
 * leaves the same behind.  Killing after each of them is done in any case, then at random until the time is over, or,
 * if EVERY is 1, once at every step.  A victim comes to a step by a breakpoint at the last instruction before it that
 * it had not done before, and from there step by step.
 *
 * After a death a survivor gives back what the dead process had, and takes all that is there.  The items must be those
 * from before the operation or those from after it, in their order, each whole, with the counts that belong to them;
 * then the queue must take and give exactly what it could when it was new. */
#define _GNU_SOURCE
#include "lease_crash_points_operations.h"
#include "lease_crash_points_verdict.h"

#define STEPS_MAX 60000u
#define NUMBERS (1u << 17) /* of a hash table of instructions: more than twice STEPS_MAX */
#define PARTS 2u
#define WATCH_SECONDS 10 /* without another step: an endless loop ends here */

static _Atomic unsigned *faults;

static void fault(const struct scene *scene, unsigned step, const char *why)
{
    printf("fault: %s, %s, step %u: %s\n", names[scene->operation], scene->elastic ? "elastic" : "fixed", step, why);
    fflush(stdout);
    atomic_fetch_add(faults, 1);
}

static const struct scene *on_stage;
static volatile unsigned at_step, watched_step;

/* A victim that is slow, because others have the processors, still makes its steps. */
static void watch_ends(int signal)
{
    (void)signal;
    if (at_step != watched_step) {
        watched_step = at_step;
        alarm(WATCH_SECONDS);
        return;
    }
    fault(on_stage, at_step, "an endless loop, or a sleep without an end");
    _exit(1);
}

static void drop(struct scene *scene)
{
    detach(&scene->ring);
    close(scene->file);
}

/* The steps of an operation, done once to its end. */
struct path {
    unsigned steps;
    bool changed[STEPS_MAX];     /* a byte */
    long instructions[STEPS_MAX]; /* where the one of a step lies */
    unsigned anchors[STEPS_MAX]; /* of a step: it, or the last one before it whose instruction is done the first time */
};

/* Whether an instruction is not among those since the table was cleared. */
static bool is_new(long *table, long instruction)
{
    size_t at = (size_t)instruction * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    while (table[at %= NUMBERS] != 0 && table[at] != instruction) {
        at++;
    }
    bool found = table[at] == instruction;
    table[at] = instruction;
    return !found;
}

static void set_anchors(struct path *path)
{
    static long table[NUMBERS];
    memset(table, 0, sizeof table);
    for (unsigned at = 0; at < path->steps; at++) {
        path->anchors[at] = is_new(table, path->instructions[at]) || at == 0 ? at : path->anchors[at - 1];
    }
}

/* Steps to the end and notes where bytes changed. */
static void follow(enum operation operation, bool elastic, struct path *path)
{
    static unsigned char header_was[LAYOUT_HEADER_SIZE];
    static struct lease table_was[8];
    static unsigned char data_was[CAPACITY];
    struct scene scene;
    struct victim victim;
    unsigned steps = 0;
    make(&scene, operation, elastic);
    start(&victim, &scene);
    memcpy(header_was, scene.ring.segment, sizeof header_was);
    memset(table_was, 0, sizeof table_was);
    memcpy(data_was, scene.ring.arena_memory[0], sizeof data_was);
    while (path->instructions[steps] = counter_of(victim.process), step(&victim), !victim.finished && steps < STEPS_MAX - 1) {
        const struct lease *table = atomic_load(&scene.ring.table);
        bool has_table = table != NULL && atomic_load(&scene.ring.segment->leases.reserved) != 0;
        path->changed[steps] = memcmp(header_was, scene.ring.segment, sizeof header_was) != 0 ||
                         (has_table && memcmp(table_was, table, sizeof table_was) != 0);
        if (is_of_writers(operation) && memcmp(data_was, scene.ring.arena_memory[0], sizeof data_was) != 0) {
            memcpy(data_was, scene.ring.arena_memory[0], sizeof data_was);
            path->changed[steps] = true;
        }
        if (path->changed[steps]) {
            memcpy(header_was, scene.ring.segment, sizeof header_was);
            if (has_table) {
                memcpy(table_was, table, sizeof table_was);
            }
        }
        steps++;
    }
    end(&victim);
    on_stage = &scene;
    at_step = steps;
    const char *why = survive(&scene, true);
    if (why != NULL) {
        fault(&scene, steps, why);
    }
    drop(&scene);
    counted.scenes++;
    counted.instructions += steps;
    path->steps = steps;
    set_anchors(path);
}

static void die_after(enum operation operation, bool elastic, const struct path *path, unsigned steps)
{
    static struct scene scene;
    struct victim victim;
    on_stage = &scene;
    make(&scene, operation, elastic);
    watched_step = UINT_MAX;
    alarm(WATCH_SECONDS);
    start(&victim, &scene);
    unsigned anchor = path->anchors[steps];
    if (anchor != 0) {
        run_to(&victim, path->instructions[anchor]);
    }
    for (at_step = anchor; at_step < steps && !victim.finished; at_step++) {
        step(&victim);
    }
    end(&victim);
    const char *why = survive(&scene, victim.finished);
    if (why != NULL) {
        fault(&scene, steps, why);
    }
    alarm(0);
    drop(&scene);
    counted.deaths++;
}

static void do_part(unsigned part, int64_t stop, bool every, unsigned seed)
{
    static struct path paths[OPERATIONS * 2];
    for (unsigned number = part; number < OPERATIONS * 2 && atomic_load(faults) < FAULTS_MAX; number += PARTS) {
        enum operation operation = number / 2;
        bool elastic = number % 2 != 0;
        struct path *path = &paths[number];
        follow(operation, elastic, path);
        for (unsigned at = 0; at < path->steps && atomic_load(faults) < FAULTS_MAX; at++) {
            if (every || at == 0 || path->changed[at - 1]) {
                die_after(operation, elastic, path, at);
                counted.points++;
            }
        }
    }
    srand(seed * PARTS + part);
    while (!every && atomic_load(faults) == 0 && monotonic_ns() < stop) {
        unsigned number = (unsigned)rand() % (OPERATIONS * 2) / PARTS * PARTS + part;
        const struct path *path = &paths[number];
        if (number < OPERATIONS * 2 && path->steps > 0) {
            die_after(number / 2, number % 2 != 0, path, (unsigned)rand() % path->steps);
        }
    }
    printf("scenes: %ju\nkill points: %ju\ndeaths: %ju\ninstructions of all scenes: %ju\n", (uintmax_t)counted.scenes,
           (uintmax_t)counted.points, (uintmax_t)counted.deaths, (uintmax_t)counted.instructions);
    printf("operations that had happened: %ju\noperations that had not: %ju\n", (uintmax_t)counted.whole,
           (uintmax_t)counted.not_at_all);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 4 || os_init() != 0) {
        return 2;
    }
    int64_t stop = monotonic_ns() + (int64_t)(atof(argv[1]) * 1e9);
    pid_t parts[PARTS];
    faults = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned part = 0; part < PARTS; part++) {
        parts[part] = fork();
        if (parts[part] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            signal(SIGALRM, watch_ends);
            do_part(part, stop, atoi(argv[2]) == 1, (unsigned)strtoul(argv[3], NULL, 10));
            exit(0);
        }
    }
    for (unsigned part = 0; part < PARTS; part++) {
        int status;
        if (parts[part] < 0 || waitpid(parts[part], &status, 0) != parts[part] || status != 0) {
            printf("fault: a part of the test did not come to its end\n");
            atomic_fetch_add(faults, 1);
        }
    }
    return atomic_load(faults) != 0;
}
