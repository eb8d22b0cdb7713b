/* crash_points.c: a process dies at every instruction of every operation; a survivor must find it done whole or not at
 * all, and go on.
 *
 *      crash_points SECONDS EVERY SEED
 *
 * A scene is an operation and a state of the queue in which it begins.  For each, the operation is first stepped to its
 * end, and each step noted at which bytes of the segment, the file's memory, or the thread's list_op_pending changed:
 * between two of these a death leaves the same behind.  So killing right after each of them is killing everywhere, and
 * that is done in any case; then it is done at any step, at random, until the time is over, or, if EVERY is 1, once at
 * every step there is.  Other ways to die take turns with SIGKILL.
 *
 * The operation must have happened whole or not at all, nothing may be wedged, and the survivor must find, put, take,
 * fill, count and give back all that it should. */
#define _GNU_SOURCE
#include "crash_points_trail.h"
#include "crash_points_verdict.h"

#define PARTS 4u     /* processes that share the scenes, for some deaths leave the others asleep for a slice */
#define WATCH_SECONDS 10 /* without another step: an endless loop ends here */

struct plan {
    struct scene scene;
    struct trail trail;
};

/* In memory that all parts share. */
struct shared {
    _Atomic unsigned faults;
    struct report reports[PARTS];
};

static struct shared *shared;
static struct report *report; /* of this part's live process */

static void print_figures(void)
{
    printf("scenes: %ju\nkill points: %ju\n", (uintmax_t)counted.scenes, (uintmax_t)counted.points);
    for (int death = 0; death < DEATHS; death++) {
        printf("deaths by %s: %ju\n", death_names[death], (uintmax_t)counted.deaths[death]);
    }
    printf("instructions of all scenes: %ju\n", (uintmax_t)counted.instructions);
    printf("deaths at another instruction than meant: %ju\n", (uintmax_t)counted.astray);
    printf("operations that had happened: %ju\noperations that had not: %ju\n", (uintmax_t)counted.whole,
           (uintmax_t)counted.not_at_all);
    printf("locks taken over from the dead: %ju\n", (uintmax_t)counted.recoveries);
    printf("worst pages of memory left by a death: %ju\n", (uintmax_t)counted.pages_left);
    printf("worst time until the survivor was through, ms: %jd\n", (intmax_t)((counted.worst_ns + 999999) / 1000000));
    fflush(stdout);
}

static const struct scene *on_stage;
static volatile unsigned at_step, watched_step;

static void fault(enum death death, const char *why)
{
    printf("fault: %s, %s, step %u, %s: %s\n", operation_names[on_stage->operation], state_names[on_stage->state],
           at_step, death_names[death], why);
    atomic_fetch_add(&shared->faults, 1);
}

static bool is_enough(void) { return atomic_load(&shared->faults) >= FAULTS_MAX; }

/* A victim that is slow, because others have the processors, still makes its steps. */
static void watch_ends(int signal)
{
    (void)signal;
    if (at_step != watched_step) {
        watched_step = at_step;
        alarm(WATCH_SECONDS);
        return;
    }
    fault(BY_SIGKILL, "an endless loop, or a sleep without an end");
    _exit(1);
}

/* ---- one death ---- */

static void wait_for_its_lock(struct scene *scene, const struct victim *victim, struct helper *helper)
{
    if (scene->state == CONTENDED && helper->process == 0 && owns_lock(scene, victim)) {
        start_helper(helper, scene);
        (void)await_sleep(helper, scene, true);
    }
}

/* This number of steps, or to the end of the operation. */
static void advance(struct scene *scene, const struct trail *trail, struct victim *victim, struct helper *helper,
                    unsigned steps)
{
    at_step = 0;
    if (scene->state == CONTENDED && trail->locked != 0 && trail->locked <= steps) {
        at_step = go_to(trail, victim, 0, trail->locked);
        wait_for_its_lock(scene, victim, helper);
    }
    at_step = go_to(trail, victim, at_step, steps);
}

static void follow_to_the_end(struct scene *scene, struct trail *trail, struct victim *victim, struct helper *helper)
{
    begin_trail(trail, scene, victim);
    for (at_step = 0; step(victim), !victim->finished; at_step++) {
        note_step(trail, scene, victim);
        wait_for_its_lock(scene, victim, helper);
    }
    counted.instructions += trail->length;
    end_trail(trail);
}

/* A step is another one when a live process was slower. */
static void count_point(struct trail *trail, const struct victim *victim, unsigned steps)
{
    if (victim->finished || next_instruction(victim) != trail->instructions[steps]) {
        counted.astray++;
    } else if (!trail->died_at[steps]) {
        trail->died_at[steps] = true;
        counted.points++;
    }
}

#define TO_THE_END UINT_MAX /* stepping, and noting the trail */

/* Kills after this number of steps, or at the end of the operation if that comes first. */
static void die_at(struct plan *plan, unsigned steps, enum death death, bool at_once)
{
    struct scene *scene = &plan->scene;
    struct helper helper = {.role = role_in(scene), .report = report};
    struct victim victim;
    watched_step = UINT_MAX;
    alarm(WATCH_SECONDS);
    restore(scene);
    if (helper.role != NOBODY && scene->state != CONTENDED) {
        start_helper(&helper, scene);
        if (!await_sleep(&helper, scene, false)) {
            fault(death, "the live process did not wait");
        }
    }
    start_victim(&victim, scene, death);
    if (steps == TO_THE_END) {
        follow_to_the_end(scene, &plan->trail, &victim, &helper);
    } else {
        advance(scene, &plan->trail, &victim, &helper, steps);
        count_point(&plan->trail, &victim, steps);
    }
    make_die(&victim);
    const char *why = survive(scene, &victim, &helper, at_once);
    bury(&victim);
    counted.deaths[death]++;
    if (why != NULL) {
        fault(death, why);
    }
    alarm(0);
}

/* ---- all of them ---- */

static uint64_t random_state;
static unsigned random_below(unsigned limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((random_state >> 33) % limit);
}

static enum death random_death(void) { return random_below(2) == 0 ? BY_SIGKILL : random_below(DEATHS); }

/* Notes the trail, and kills wherever that leaves anything different. */
static void begin(struct plan *plan, enum operation operation, enum state state)
{
    struct trail *trail = &plan->trail;
    on_stage = &plan->scene;
    set_scene(&plan->scene, operation, state);
    die_at(plan, TO_THE_END, BY_SIGKILL, false);
    counted.scenes++;
    die_at(plan, 0, BY_SIGKILL, false);
    for (unsigned i = 0; i < trail->count && !is_enough(); i++) {
        unsigned at = trail->changes[i];
        die_at(plan, at, BY_SIGKILL, random_below(2) == 0);
        for (enum death death = BY_SIGTERM; state == PLAIN && death < DEATHS; death++) {
            die_at(plan, at, death, false);
        }
    }
}

static void do_every_step(struct plan *plan)
{
    for (unsigned steps = 1; steps < plan->trail.length && !is_enough(); steps++) {
        die_at(plan, steps, BY_SIGKILL, random_below(2) == 0);
        die_at(plan, steps, 1 + random_below(DEATHS - 1), false);
    }
}

/* From the last state on: the elastic queues are the longest. */
static void do_part(unsigned part, int64_t end, bool every)
{
    static struct plan plans[OPERATIONS * STATES / PARTS + 1];
    unsigned count = 0, number = 0;
    for (enum state state = STATES; state-- > 0;) {
        for (enum operation operation = 0; operation < OPERATIONS; operation++) {
            if (!is_possible(operation, state) || number++ % PARTS != part || is_enough()) {
                continue;
            }
            begin(&plans[count], operation, state);
            if (every) {
                do_every_step(&plans[count]);
                drop_scene(&plans[count].scene);
            }
            count++;
        }
    }
    while (!every && atomic_load(&shared->faults) == 0 && monotonic_ns() < end) {
        struct plan *plan = &plans[random_below(count)];
        on_stage = &plan->scene;
        die_at(plan, random_below(plan->trail.length), random_death(), random_below(2) == 0);
    }
    print_figures();
}

/* Tracer and victim take turns: on one processor they do it in half the time.  And nobody spins there, which is many
 * instructions that differ in nothing. */
static void stay_on_one_processor(unsigned part)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return;
    }
    unsigned nth = part % (unsigned)CPU_COUNT(&allowed);
    int processor = 0;
    while (!CPU_ISSET(processor, &allowed) || nth-- != 0) {
        processor++;
    }
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        return 2;
    }
    int64_t end = monotonic_ns() + (int64_t)(atof(argv[1]) * 1e9);
    pid_t parts[PARTS];
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        harness_fail("beginning");
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned part = 0; part < PARTS; part++) {
        parts[part] = fork();
        if (parts[part] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            stay_on_one_processor(part);
            signal(SIGALRM, watch_ends);
            random_state = strtoull(argv[3], NULL, 10) * 31 + part;
            report = &shared->reports[part];
            if (os_init() != 0) {
                harness_fail("beginning");
            }
            do_part(part, end, atoi(argv[2]) == 1);
            exit(0);
        }
    }
    for (unsigned part = 0; part < PARTS; part++) {
        int status;
        if (parts[part] < 0 || waitpid(parts[part], &status, 0) != parts[part] || (status != 0 && !WIFEXITED(status))) {
            printf("fault: a part of the test did not come to its end\n");
        }
    }
    return atomic_load(&shared->faults) != 0;
}
