/* lost_wakeups.c: sleepers and wakers that die or stand still at the worst moments.
 *
 *      lost_wakeups SEED SECONDS [thoroughly]
 *
 * Each scene puts processes to sleep in the engine's calls, kills or stops somebody at a chosen point, and measures how
 * long those that stay are kept waiting for what has been due to them: never longer than a slice, and not even so long
 * where the product needs no slice.  All scenes once at least, then again until the time is over. */
#define _GNU_SOURCE
#include "lost_wakeups_groups.h"
#include "lost_wakeups_steps.h"

/* Until it has told something. */
static void play(enum scene which, bool (*how)(void))
{
    bool told = false;
    for (unsigned tries = 0; !told && tries < TRIES && faults < FAULTS_MAX; tries++) {
        begin(which);
        told = how();
        told = end(told);
    }
}

static void play_all_scenes(unsigned round, bool thoroughly)
{
    for (bed = 0; bed < BEDS; bed++) {
        play(ASLEEP, kill_asleep);
        play(BEFORE_WAKE, kill_waker);
        play(AT_COMMIT, kill_at_commit);
        play(NOBODY, kill_nobody);
        play(WOKEN, kill_woken);
        if (is_lock(bed)) {
            play(HOLDER, kill_holder);
            play(STOPPED_HOLDER, stop_holder);
            if (access(LAST_PID, W_OK) == 0) {
                play(REUSED_OUTSIDE, reuse_id_outside);
                play(REUSED_INSIDE, reuse_id_inside);
            }
        } else if (bed == GETTERS) {
            play(STOPPED, stop_sleeper);
        } else if (bed == PUTTERS) {
            play(SHUT_BESIDE, shut_down_beside_getter);
        }
    }
    unsigned stride = thoroughly ? 1 : SHORT_STRIDE;
    for (bed = thoroughly ? 0 : round % BEDS; bed < BEDS; bed += thoroughly ? 1 : BEDS) {
        play_at_instructions(FALLING, fall_asleep, stride);
    }
    bed = GETTERS;
    play_at_instructions(TWO_WAKERS, wake_in_between, stride);
    play_before_commit(RELAYED, rely_on_each_other, stride);
}

static void print_scenes(void)
{
    unsigned notable = 0;
    if (access(LAST_PID, W_OK) != 0) {
        printf("not played: %s: %s cannot be written\n", scene_names[REUSED_OUTSIDE], LAST_PID);
    }
    for (unsigned s = 0; s < SCENES; s++) {
        for (unsigned b = 0; b < BEDS; b++) {
            const struct tallied *result = &results[b][s];
            if (result->plays != 0) {
                printf("scene: %s, %s: %u %u %.1f\n", bed_names[b], scene_names[s], result->plays, result->missed,
                       (double)result->stall / 1e6);
            }
            notable += result->notable;
        }
    }
    printf("overshoot: %.1f\n", (double)overshoot / 1e6);
    printf("notable: %u\n", notable);
}

static void be_metronome(void)
{
    struct timespec length = {.tv_nsec = METRONOME_NS};
    for (;;) {
        int64_t before = monotonic_ns();
        nanosleep(&length, NULL);
        int64_t now = monotonic_ns(), late = now - before - METRONOME_NS;
        if (late > atomic_load(&board->lateness)) {
            atomic_store(&board->lateness, late);
        }
        atomic_store(&board->ticked, now);
    }
}

int main(int count, char **arguments)
{
    if (count < 3 || os_init() != 0) {
        fprintf(stderr, "lost_wakeups SEED SECONDS [thoroughly]\n");
        return 2;
    }
    random_state = strtoull(arguments[1], NULL, 10);
    int64_t end = monotonic_ns() + (int64_t)(strtod(arguments[2], NULL) * 1e9);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED) {
        harness_fail("mmap");
    }
    atomic_store(&board->ticked, monotonic_ns());
    pid_t metronome = start_child();
    if (metronome == 0) {
        be_metronome();
    }
    unsigned rounds = 0;
    do {
        play_all_scenes(rounds, count > 3);
        kill_groups();
        rounds++;
    } while (monotonic_ns() < end && faults < FAULTS_MAX);
    kill_child(metronome);
    printf("rounds: %u\n", rounds);
    print_scenes();
    print_groups();
    return faults != 0;
}
