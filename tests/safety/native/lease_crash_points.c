/* lease_crash_points.c: a process dies at every instruction of what concerns leases; each item must be in exactly one
 * place.
 *
 *      lease_crash_points SECONDS EVERY SEED
 *
 * A scene is an operation in a state of the queue, made anew for each death.  The operation is first stepped to its
 * end, and each step noted at which a byte of the header or the lease table changed: between two of these a death
 * leaves the same behind.  Killing after each of them is done in any case, then at random until the time is over, or,
 * if EVERY is 1, once at every step.
 *
 * After a death a survivor gives back what the dead process had, and takes all that is there.  The items must be those
 * from before the operation or those from after it, in their order, each whole, with the counts that belong to them;
 * then the queue must take and give exactly what it could when it was new. */
#define _GNU_SOURCE
#include "harness.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define ITEMS_MAX 16
#define STEPS_MAX 60000u
#define PARTS 2u
#define WATCH_SECONDS 20
#define PATIENCE_NS INT64_C(2000000000)
#define CAPACITY 4096u
#define NONE 0u

enum operation {
    LEND,          /* an item that was never handed out: the first lease of the queue */
    LEND_ANOTHER,  /* beside one of the survivor's */
    LEND_RETURNED, /* a requeued item */
    LEND_AND_MOVE, /* while a lease of the survivor's holds up the ring */
    GET_RETURNED,
    GET_BESIDE, /* an item that was never handed out, beside leases */
    GET_AND_MOVE,
    GET_MOVED_AND_MOVE, /* an item that was moved and given back, while another one holds up the ring */
    FINISH,
    FINISH_OLDEST, /* the survivor has a newer one */
    FINISH_NEWER,  /* the survivor has an older one */
    FINISH_PINNED,
    UNPIN,
    RETURN,
    RETURN_BESIDE,
    TAKE_OVER, /* of what a dead process had */
    TAKE_OVER_DROPPED, /* what the survivor dropped without the lock */
    MAKE_ROOM, /* for a putter, beside one of the survivor's */
    RETURN_ALL,
    CLEAR,
    SHUT_DOWN_NOW,
    RESERVE,         /* an item that the victim is going to write */
    COMMIT,          /* the victim's */
    COMMIT_PASSED,   /* after a getter has come to it */
    ABANDON,         /* the victim's */
    ABANDON_PASSED,
    PASS,            /* the survivor's, which is being written */
    PASS_BESIDE,     /* and another one of them is an entry */
    PASS_ABANDONED,  /* the survivor's */
    GET_COMMITTED,   /* the survivor's */
    CLEAR_AROUND,    /* the survivor's, which is being written */
    TAKE_OVER_WRITER, /* which died when a getter had come to its item */
    OPERATIONS,
};

static const char *const names[OPERATIONS] = {
    [LEND] = "lend",
    [LEND_ANOTHER] = "lend another",
    [LEND_RETURNED] = "lend a requeued item",
    [LEND_AND_MOVE] = "lend and move",
    [GET_RETURNED] = "get a requeued item",
    [GET_BESIDE] = "get beside leases",
    [GET_AND_MOVE] = "get and move",
    [GET_MOVED_AND_MOVE] = "get what was moved, and move",
    [FINISH] = "finish",
    [FINISH_OLDEST] = "finish the oldest",
    [FINISH_NEWER] = "finish a newer one",
    [FINISH_PINNED] = "finish and pin",
    [UNPIN] = "unpin",
    [RETURN] = "give back",
    [RETURN_BESIDE] = "give back beside leases",
    [TAKE_OVER] = "take over from the dead",
    [TAKE_OVER_DROPPED] = "take over what was dropped",
    [MAKE_ROOM] = "make room for a put",
    [RETURN_ALL] = "give all back",
    [CLEAR] = "clear",
    [SHUT_DOWN_NOW] = "shut down now",
    [RESERVE] = "reserve",
    [COMMIT] = "commit",
    [COMMIT_PASSED] = "commit what was passed",
    [ABANDON] = "abandon",
    [ABANDON_PASSED] = "abandon what was passed",
    [PASS] = "pass what is being written",
    [PASS_BESIDE] = "pass what is being written, beside another one",
    [PASS_ABANDONED] = "pass what was abandoned",
    [GET_COMMITTED] = "get what was committed in its place",
    [CLEAR_AROUND] = "clear around what is being written",
    [TAKE_OVER_WRITER] = "take over from a dead writer",
};

/* What can be taken once the dead process's items were requeued, oldest first, and what is unfinished. */
struct contents {
    uint32_t ids[ITEMS_MAX];
    unsigned count;
    uint64_t unfinished;
};

struct scene {
    enum operation operation;
    bool elastic;
    int file;
    struct ring ring; /* the survivor's handle */
    struct loan loans[ITEMS_MAX]; /* the survivor's */
    unsigned loan_count;
    uint32_t next_id;
    struct contents before, between, after; /* between: of what has more than one commit, or nothing */
    bool shut;
    struct reserving writing[2]; /* the survivor's reservations */
    uint32_t writing_ids[2];
    unsigned writing_count;
};

static struct {
    uint64_t scenes, points, deaths, whole, not_at_all, instructions;
} counted;

static _Atomic unsigned *faults;

static void fault(const struct scene *scene, unsigned step, const char *why)
{
    printf("fault: %s, %s, step %u: %s\n", names[scene->operation], scene->elastic ? "elastic" : "fixed", step, why);
    fflush(stdout);
    atomic_fetch_add(faults, 1);
}

/* ---- items: the id is the method, and decides length and bytes ---- */

static uint32_t length_of(uint32_t id) { return 20 + id % 7; }

static void fill_item(uint32_t id, unsigned char *bytes)
{
    for (uint32_t i = 0; i < length_of(id); i++) {
        bytes[i] = (unsigned char)(id * 31 + i);
    }
}

static enum ring_status put_within(struct scene *scene, struct patience patience)
{
    unsigned char bytes[64];
    uint32_t id = scene->next_id + 1;
    fill_item(id, bytes);
    struct part part = {bytes, length_of(id)};
    struct record_in record = {.method = id, .length = length_of(id), .parts = &part, .part_count = 1};
    enum ring_status status = ring_put(&scene->ring, &record, 1, patience);
    scene->next_id += status == RING_OK;
    return status;
}

static void put(struct scene *scene)
{
    if (put_within(scene, until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: put");
    }
}

static bool is_whole(uint32_t id, uint32_t length, const unsigned char *bytes)
{
    unsigned char wanted[64];
    fill_item(id, wanted);
    return length == length_of(id) && memcmp(bytes, wanted, length) == 0;
}

static enum ring_status lend(struct ring *ring, struct loan *loan)
{
    struct take take;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    enum ring_status status = ring_get_begin(ring, &take, patience);
    return status == RING_OK ? ring_lend(ring, &take, loan) : status;
}

static enum ring_status get(struct ring *ring, uint32_t *id, bool *whole)
{
    unsigned char bytes[64];
    struct take take;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    enum ring_status status = ring_get_begin(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    *id = take.method;
    *whole = take.length <= sizeof bytes;
    if (*whole) {
        ring_get_peek(ring, &take, 0, take.length, bytes);
        *whole = is_whole(take.method, take.length, bytes);
    }
    ring_get_pass(&take);
    ring_get_commit(ring, &take);
    return RING_OK;
}

/* Reserves the next item, and writes it. */
static void reserve(struct scene *scene, struct reserving *reserving)
{
    static unsigned char bytes[64];
    struct record_in record;
    uint32_t id = ++scene->next_id, head = id % 5;
    fill_item(id, bytes);
    if (ring_prepare_reservation(&scene->ring, reserving, (struct part){bytes, head}, length_of(id), &record,
                                 until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: prepare a reservation");
    }
    record.method = id;
    if (ring_put(&scene->ring, &record, 1, until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: reserve");
    }
    memcpy(ring_reserved_bytes(reserving), bytes + head, length_of(id) - head);
}

static bool is_of_writers(enum operation operation) { return operation >= RESERVE; }

/* ---- states ---- */

/* The survivor leases the next item; what lies there may be moved. */
static void survivor_leases(struct scene *scene)
{
    struct loan *loan = &scene->loans[scene->loan_count++];
    if (lend(&scene->ring, loan) != RING_OK) {
        harness_fail("making a state: lend");
    }
    ring_loan_note(&scene->ring, loan, BYTES_MAY_MOVE);
}

static void survivor_returns(struct scene *scene)
{
    if (ring_loan_return(&scene->ring, &scene->loans[--scene->loan_count], until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: return");
    }
}

/* A process that leases two items and ends. */
static void let_one_die(struct scene *scene)
{
    pid_t child = fork();
    if (child == 0) {
        struct loan loan;
        _exit(lend(&scene->ring, &loan) == RING_OK && lend(&scene->ring, &loan) == RING_OK ? 0 : 1);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        harness_fail("making a state: a dead holder");
    }
}

/* Puts and gets until the oldest lease holds up more than it may. */
static void hold_up(struct scene *scene)
{
    uint64_t limit = scene->ring.arena_size[0] / 4;
    for (uint64_t moved = 0; moved <= limit; moved += RECORD_HEADER_SIZE + length_of(scene->next_id)) {
        uint32_t id;
        bool whole;
        struct ledgers *ledgers = &scene->ring.segment->get.ledgers;
        atomic_store(&ledgers->waiting, 0);
        put(scene);
        atomic_store(&atomic_load(&scene->ring.table)[scene->loans[0].entry].in_place, 1); /* not yet */
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole) {
            harness_fail("making a state: hold up");
        }
    }
    ring_loan_note(&scene->ring, &scene->loans[0], BYTES_MAY_MOVE);
}

/* The survivor has two: the older one is moved, then given back, and the other one holds up the ring. */
static void move_one_of_two(struct scene *scene)
{
    struct lease *table;
    uint32_t id;
    bool whole;
    survivor_leases(scene);
    survivor_leases(scene);
    table = atomic_load(&scene->ring.table);
    atomic_store(&table[scene->loans[1].entry].in_place, 1); /* not yet */
    for (int i = 0; i < 2; i++) {
        (void)!get(&scene->ring, &id, &whole);
    }
    hold_up(scene);
    put(scene);
    (void)!get(&scene->ring, &id, &whole);
    if (atomic_load(&table[scene->loans[0].entry].window) == 0 ||
        ring_loan_return(&scene->ring, &scene->loans[0], until(WAIT_FOREVER)) != RING_OK) {
        harness_fail("making a state: move");
    }
    scene->loans[0] = scene->loans[--scene->loan_count];
    ring_loan_note(&scene->ring, &scene->loans[0], BYTES_MAY_MOVE);
}

/* Contents after the first `skipped` of these items, and `first` before them if it is not NONE. */
static struct contents items(const struct scene *scene, uint32_t first, uint32_t from, uint64_t unfinished)
{
    struct contents contents = {.unfinished = unfinished};
    if (first != NONE) {
        contents.ids[contents.count++] = first;
    }
    for (uint32_t id = from; id <= scene->next_id; id++) {
        contents.ids[contents.count++] = id;
    }
    return contents;
}

static struct loan victims_loan, victims_second;
static struct reserving victims_item;

/* Takes all that is there, and so comes to what is being written. */
static void get_all(struct scene *scene)
{
    uint32_t id;
    bool whole;
    while (get(&scene->ring, &id, &whole) == RING_OK) {
    }
}

static void survivor_reserves(struct scene *scene)
{
    reserve(scene, &scene->writing[scene->writing_count]);
    scene->writing_ids[scene->writing_count++] = scene->next_id;
}

/* A process that reserves an item, and ends. */
static void let_a_writer_die(struct scene *scene)
{
    pid_t child = fork();
    int status;
    if (child == 0) {
        reserve(scene, &victims_item);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        harness_fail("making a state: a dead writer");
    }
    scene->next_id++;
}

static void make_for_writers(struct scene *scene, uint64_t gone, uint32_t first)
{
    struct ring *ring = &scene->ring;
    uint32_t victims = scene->next_id + 1;
    switch (scene->operation) {
    case RESERVE:
    case ABANDON:
        scene->before = scene->after = items(scene, NONE, first, gone + 4);
        scene->next_id++; /* the victim's */
        break;
    case COMMIT:
        scene->before = items(scene, NONE, first, gone + 4);
        scene->next_id++;
        scene->after = items(scene, NONE, first, gone + 5);
        break;
    case COMMIT_PASSED:
    case ABANDON_PASSED:
        scene->before = scene->after = (struct contents){.unfinished = gone + 4};
        scene->next_id++;
        if (scene->operation == COMMIT_PASSED) {
            scene->after = items(scene, NONE, victims, gone + 5);
        }
        break;
    case PASS:
    case PASS_BESIDE:
    case PASS_ABANDONED:
    case GET_COMMITTED: {
        get_all(scene);
        survivor_reserves(scene);
        if (scene->operation == PASS_BESIDE) {
            get_all(scene);
            survivor_reserves(scene);
        }
        put(scene);
        bool is_put = scene->operation == GET_COMMITTED;
        scene->before = items(scene, NONE, is_put ? scene->next_id - 1 : scene->next_id, scene->next_id);
        scene->after = items(scene, NONE, is_put ? scene->next_id : scene->next_id + 1, scene->next_id);
        if (scene->operation == PASS_ABANDONED || is_put) {
            scene->writing_count = 0;
        }
        if (is_put) {
            (void)!ring_end_reservation(ring, &scene->writing[0], true, until(WAIT_FOREVER));
        } else if (scene->operation == PASS_ABANDONED) { /* as one that dies before it clears the way */
            scene->writing[0].place[offsetof(struct reservation, state)] = RESERVATION_ABANDONED;
            scene->before.unfinished--;
            scene->after.unfinished--;
        }
        break;
    }
    case CLEAR_AROUND:
        survivor_reserves(scene);
        put(scene);
        put(scene);
        scene->before = items(scene, NONE, first, gone + 7);
        for (unsigned i = 4; i + 1 < scene->before.count; i++) { /* but what is being written */
            scene->before.ids[i] = scene->before.ids[i + 1];
        }
        scene->before.count--;
        scene->between = items(scene, NONE, scene->next_id - 1, gone + 3);
        scene->after = (struct contents){.unfinished = gone + 1};
        break;
    default: /* take over */
        let_a_writer_die(scene);
        get_all(scene);
        put(scene);
        scene->before = scene->after = items(scene, NONE, scene->next_id, gone + 5);
        break;
    }
}

/* What the victim has before the operation. */
static void victim_prepares(struct scene *scene)
{
    switch (scene->operation) {
    case FINISH:
    case FINISH_NEWER:
    case FINISH_OLDEST:
    case FINISH_PINNED:
    case UNPIN:
    case RETURN:
    case RETURN_BESIDE:
    case RETURN_ALL:
        (void)!lend(&scene->ring, &victims_loan);
        break;
    default:
        break;
    }
    if (scene->operation == RETURN_ALL) {
        (void)!lend(&scene->ring, &victims_second);
    }
    if (scene->operation >= COMMIT && scene->operation <= ABANDON_PASSED) {
        scene->next_id--;
        reserve(scene, &victims_item);
    }
    if (scene->operation == COMMIT_PASSED || scene->operation == ABANDON_PASSED) {
        get_all(scene);
    }
    if (scene->operation == FINISH_OLDEST) { /* a newer one is already the survivor's: see make() */
        return;
    }
    if (scene->operation == UNPIN) {
        (void)!ring_loan_finish(&scene->ring, &victims_loan, true, until(WAIT_FOREVER));
    }
}

static void make(struct scene *scene, enum operation operation, bool elastic)
{
    memset(scene, 0, sizeof *scene);
    scene->operation = operation;
    scene->elastic = elastic;
    scene->file = elastic ? make_segment(1024, 16384, 0) : make_segment(0, CAPACITY, 0);
    attach(&scene->ring, scene->file);
    if (elastic) {
        uint32_t id;
        bool whole;
        for (int i = 0; i < 20; i++) { /* somewhere in the ring, so that records wrap now and then */
            put(scene);
            (void)!get(&scene->ring, &id, &whole);
        }
    }
    uint64_t gone = scene->next_id; /* and unfinished */
    uint32_t first = scene->next_id + 1;
    for (int i = 0; i < 4; i++) {
        put(scene);
    }
    if (is_of_writers(operation)) {
        make_for_writers(scene, gone, first);
        return;
    }
    switch (operation) {
    case LEND:
        scene->before = scene->after = items(scene, NONE, first, gone + 4);
        break;
    case LEND_ANOTHER:
        survivor_leases(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case LEND_RETURNED:
        survivor_leases(scene);
        survivor_leases(scene);
        survivor_returns(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case GET_RETURNED:
        survivor_leases(scene);
        survivor_leases(scene);
        survivor_returns(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 4);
        break;
    case GET_BESIDE:
        survivor_leases(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 4);
        break;
    case LEND_AND_MOVE:
    case GET_AND_MOVE: {
        survivor_leases(scene);
        uint32_t id;
        bool whole;
        for (int i = 0; i < 3; i++) {
            (void)!get(&scene->ring, &id, &whole);
        }
        hold_up(scene);
        first = scene->next_id + 1;
        put(scene);
        put(scene);
        scene->before = items(scene, NONE, first, scene->next_id);
        scene->after = items(scene, NONE, operation == LEND_AND_MOVE ? first : first + 1, scene->next_id);
        break;
    }
    case GET_MOVED_AND_MOVE: {
        uint32_t moved = first;
        move_one_of_two(scene);
        first = scene->next_id + 1;
        put(scene);
        put(scene);
        scene->before = items(scene, moved, first, scene->next_id);
        scene->after = items(scene, NONE, first, scene->next_id);
        break;
    }
    case FINISH:
    case FINISH_OLDEST:
    case FINISH_PINNED:
        scene->before = items(scene, NONE, first, gone + 4);
        scene->after = items(scene, NONE, first + 1, gone + 3);
        break;
    case FINISH_NEWER:
        survivor_leases(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = items(scene, NONE, first + 2, gone + 3);
        break;
    case UNPIN:
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 3);
        break;
    case RETURN:
    case RETURN_ALL:
        scene->before = scene->after = items(scene, NONE, first, gone + 4);
        break;
    case RETURN_BESIDE:
        survivor_leases(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case TAKE_OVER:
        survivor_leases(scene);
        let_one_die(scene);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case TAKE_OVER_DROPPED:
        survivor_leases(scene);
        survivor_leases(scene);
        ring_loan_note(&scene->ring, &scene->loans[--scene->loan_count], BYTES_DROPPED);
        scene->before = scene->after = items(scene, NONE, first + 1, gone + 4);
        break;
    case MAKE_ROOM:
        survivor_leases(scene);
        get_all(scene);
        put(scene);
        scene->before = scene->after = items(scene, NONE, scene->next_id, gone + 5);
        break;
    default: /* clear, shut down */
        survivor_leases(scene);
        survivor_leases(scene);
        survivor_returns(scene);
        scene->before = items(scene, NONE, first + 1, gone + 4);
        scene->after = (struct contents){.unfinished = gone + 1};
        scene->shut = operation == SHUT_DOWN_NOW;
        break;
    }
}

static void operate(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    struct loan loan;
    uint32_t id;
    bool whole;
    uint64_t dropped;
    struct patience patience = until(monotonic_ns() + PATIENCE_NS);
    switch (scene->operation) {
    case LEND:
    case LEND_ANOTHER:
    case LEND_RETURNED:
    case LEND_AND_MOVE:
        (void)!lend(ring, &loan);
        break;
    case GET_RETURNED:
    case GET_BESIDE:
    case GET_AND_MOVE:
    case GET_MOVED_AND_MOVE:
        (void)!get(ring, &id, &whole);
        break;
    case FINISH:
    case FINISH_OLDEST:
    case FINISH_NEWER:
        (void)!ring_loan_finish(ring, &victims_loan, false, patience);
        break;
    case FINISH_PINNED:
        (void)!ring_loan_finish(ring, &victims_loan, true, patience);
        break;
    case UNPIN:
        (void)!ring_loan_unpin(ring, &victims_loan, patience);
        break;
    case RETURN:
    case RETURN_BESIDE:
        (void)!ring_loan_return(ring, &victims_loan, patience);
        break;
    case TAKE_OVER:
    case TAKE_OVER_DROPPED:
    case TAKE_OVER_WRITER:
        ring_return_dead(ring, 0);
        break;
    case MAKE_ROOM:
        (void)!leases_make_room(ring, true);
        break;
    case RESERVE:
        scene->next_id--;
        reserve(scene, &victims_item);
        break;
    case COMMIT:
    case COMMIT_PASSED:
    case ABANDON:
    case ABANDON_PASSED: {
        bool is_put = scene->operation == COMMIT || scene->operation == COMMIT_PASSED;
        (void)!ring_end_reservation(ring, &victims_item, is_put, patience);
        break;
    }
    case PASS:
    case PASS_BESIDE:
    case PASS_ABANDONED:
    case GET_COMMITTED:
        (void)!get(ring, &id, &whole);
        break;
    case RETURN_ALL:
        (void)!ring_return_all(ring, patience);
        break;
    case CLEAR:
    case CLEAR_AROUND:
        (void)!ring_clear(ring, &dropped, patience);
        break;
    default:
        (void)!ring_shut_down(ring, true, patience);
        break;
    }
}

/* ---- the victim ---- */

struct victim {
    pid_t process;
    bool finished;
};

static void start(struct victim *victim, struct scene *scene)
{
    int status;
    *victim = (struct victim){.process = fork()};
    if (victim->process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)lock_self();
        scene->ring.handle = ring_new_handle();
        victim_prepares(scene);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(1);
        }
        raise(SIGUSR1);
        operate(scene);
        raise(SIGUSR2);
        _exit(1);
    }
    if (victim->process < 0 || waitpid(victim->process, &status, 0) != victim->process || !WIFSTOPPED(status) ||
        WSTOPSIG(status) != SIGUSR1 || ptrace(PTRACE_SETOPTIONS, victim->process, NULL, PTRACE_O_EXITKILL) != 0) {
        harness_fail("starting a victim (is ptrace allowed?)");
    }
    if (scene->operation == FINISH_OLDEST) {
        survivor_leases(scene); /* after the victim's */
        scene->before.count = scene->after.count = 0;
    }
}

static void step(struct victim *victim)
{
    int status;
    if (ptrace(PTRACE_SINGLESTEP, victim->process, NULL, NULL) != 0 ||
        waitpid(victim->process, &status, 0) != victim->process) {
        harness_fail("stepping");
    }
    if (!WIFSTOPPED(status) || (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGUSR2)) {
        printf("fault: a victim crashed, status %#x\n", (unsigned)status);
        fflush(stdout);
        exit(1);
    }
    victim->finished = WSTOPSIG(status) == SIGUSR2;
}

static void end(struct victim *victim)
{
    kill(victim->process, SIGKILL);
    if (waitpid(victim->process, NULL, 0) != victim->process) {
        harness_fail("burying a victim");
    }
}

/* ---- the verdict ---- */

static const char *take_all(struct scene *scene, struct contents *contents)
{
    uint32_t id;
    bool whole;
    enum ring_status status;
    contents->count = 0;
    while ((status = get(&scene->ring, &id, &whole)) == RING_OK) {
        if (!whole) {
            return "an item is not the bytes that were put";
        }
        if (contents->count == ITEMS_MAX) {
            return "there are more items than were put";
        }
        contents->ids[contents->count++] = id;
    }
    return status == RING_EMPTY || status == RING_SHUT ? NULL
           : status == RING_DEADLINE                   ? "wedged: a get does not get through"
                                                       : "a get is refused: the queue is broken";
}

static bool equal(const struct contents *is, const struct contents *wanted)
{
    return is->count == wanted->count && is->unfinished == wanted->unfinished &&
           memcmp(is->ids, wanted->ids, is->count * sizeof is->ids[0]) == 0;
}

/* As many items as the ring holds lie beside the survivor's leases, and more pass by. */
static const char *put_and_get_all_around(struct scene *scene)
{
    while (!scene->shut && put_within(scene, AT_ONCE) == RING_OK) {
    }
    for (bool is_next = !scene->shut; is_next;) {
        uint32_t id;
        bool whole;
        enum ring_status status = get(&scene->ring, &id, &whole);
        if (status == RING_OK && !whole) {
            return "an item that lies beside a lease is not whole";
        }
        is_next = status == RING_OK;
    }
    for (uint64_t moved = 0; !scene->shut && moved < 2 * (uint64_t)CAPACITY; moved += length_of(scene->next_id)) {
        uint32_t id;
        bool whole;
        put(scene);
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole || id != scene->next_id) {
            return "an item that passes by a lease is lost or not whole";
        }
    }
    return NULL;
}

/* What the survivor writes is still its own, and becomes an item once. */
static const char *check_writing(struct scene *scene)
{
    uint32_t id;
    bool whole;
    while (scene->writing_count > 0 && put_within(scene, AT_ONCE) == RING_OK) {
    }
    while (scene->writing_count > 0 && get(&scene->ring, &id, &whole) == RING_OK) {
        if (!whole) {
            return "an item that lies beside one that is being written is not whole";
        }
    }
    for (unsigned i = scene->writing_count; i-- > 0;) { /* the newest first */
        const struct reserving *writing = &scene->writing[i];
        if (ring_end_reservation(&scene->ring, writing, true, until(WAIT_FOREVER)) != RING_OK) {
            return "a survivor's reservation is over";
        }
        if (get(&scene->ring, &id, &whole) != RING_OK || !whole || id != scene->writing_ids[i]) {
            return "what a survivor has written does not come, or is not whole";
        }
        if (get(&scene->ring, &id, &whole) != RING_EMPTY) {
            return "what a survivor has written comes twice";
        }
    }
    return NULL;
}

/* The survivor's own leases are still what they were, and end once. */
static const char *check_loans(struct scene *scene)
{
    for (unsigned i = 0; i < scene->loan_count; i++) {
        const struct loan *loan = &scene->loans[i];
        uint32_t id;
        bool whole;
        if (ring_loan_return(&scene->ring, loan, until(WAIT_FOREVER)) != RING_OK) {
            return "a survivor's lease is over";
        }
        if (scene->shut && atomic_load(&scene->ring.segment->notes.shut) != 0) {
            continue; /* requeued items are dropped now */
        }
        struct loan again;
        if (lend(&scene->ring, &again) != RING_OK || again.method != loan->method || again.attempt <= loan->attempt) {
            return "a survivor's item does not come back, or as if for the first time";
        }
        if (ring_loan_finish(&scene->ring, loan, false, until(WAIT_FOREVER)) != RING_MISMATCH) {
            return "a lease ends another one of the same item";
        }
        if (ring_loan_return(&scene->ring, &again, until(WAIT_FOREVER)) != RING_OK ||
            get(&scene->ring, &id, &whole) != RING_OK || !whole || id != loan->method) {
            return "a survivor's item does not come back whole";
        }
        if (ring_loan_finish(&scene->ring, loan, false, until(WAIT_FOREVER)) != RING_MISMATCH) {
            return "a lease ends twice";
        }
    }
    return NULL;
}

/* Empty, and as large as when it was new. */
static const char *check_room(struct scene *scene)
{
    struct ring *ring = &scene->ring;
    struct lease_statistics figures;
    struct statistics is;
    uint32_t id;
    bool whole;
    if (ring_statistics(ring, &is) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    (void)get(ring, &id, &whole); /* drops what an immediate shutdown left */
    ring_lease_statistics(ring, &figures);
    if (figures.leased != 0 || figures.returned != 0) {
        return "a lease is left over";
    }
    if (ring_statistics(ring, &is) != RING_OK || is.put.position != is.get.position || is.get.leases) {
        return "bytes are used, and nothing is in the queue";
    }
    if (is.put.shut != SHUT_NOT) {
        return NULL;
    }
    uint64_t left = ring->capacity;
    while (left >= 2 * (RECORD_HEADER_SIZE + 26)) {
        put(scene);
        left -= RECORD_HEADER_SIZE + length_of(scene->next_id);
    }
    for (uint32_t wanted = scene->next_id; get(ring, &id, &whole) == RING_OK;) {
        if (!whole || id > wanted) {
            return "an item is not the bytes that were put";
        }
        if (id == wanted) {
            return NULL;
        }
    }
    return "an item is lost";
}

static const char *survive(struct scene *scene, bool finished)
{
    struct contents is;
    struct statistics figures;
    ring_return_dead(&scene->ring, 0);
    if (ring_statistics(&scene->ring, &figures) != RING_OK) {
        return "the figures are refused: the queue is broken";
    }
    is.unfinished = tally_unfinished(&scene->ring, &figures.put, &figures.get);
    uint64_t available = figures.put.count - figures.get.count;
    const char *why = take_all(scene, &is);
    if (why != NULL) {
        return why;
    }
    if (is_of_writers(scene->operation)) { /* an item counts until a getter has come to it */
        ring_return_dead(&scene->ring, 0);
        if (ring_statistics(&scene->ring, &figures) != RING_OK) {
            return "the figures are refused: the queue is broken";
        }
        is.unfinished = tally_unfinished(&scene->ring, &figures.put, &figures.get);
    } else if (scene->operation == FINISH_OLDEST) { /* which item the victim had is known only to itself */
        is.count = 0;
    } else if (available != is.count && !scene->shut) {
        return "qsize is not the number of items";
    }
    if (scene->shut && is.count == 0) {
        is.unfinished = scene->after.unfinished; /* that get has dropped them, if the dead process had not */
    }
    bool whole = equal(&is, &scene->after), not_at_all = equal(&is, &scene->before);
    not_at_all |= scene->between.unfinished != 0 && equal(&is, &scene->between);
    counted.whole += whole;
    counted.not_at_all += !whole && not_at_all;
    if (!whole && !not_at_all) {
        return "items are lost, doubled or out of order, or the number of unfinished ones is wrong";
    }
    if (finished && !whole) {
        return "the operation came to its end and did not happen";
    }
    why = check_writing(scene);
    why = why != NULL ? why : put_and_get_all_around(scene);
    why = why != NULL ? why : check_loans(scene);
    return why != NULL ? why : check_room(scene);
}

/* ---- all of them ---- */

static const struct scene *on_stage;
static unsigned at_step;

static void watch_ends(int signal)
{
    (void)signal;
    fault(on_stage, at_step, "an endless loop, or a sleep without an end");
    _exit(1);
}

static void drop(struct scene *scene)
{
    detach(&scene->ring);
    close(scene->file);
}

/* Steps to the end and notes where bytes changed; returns how many steps there are. */
static unsigned follow(enum operation operation, bool elastic, bool *changed)
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
    while (step(&victim), !victim.finished && steps < STEPS_MAX) {
        const struct lease *table = atomic_load(&scene.ring.table);
        bool has_table = table != NULL && atomic_load(&scene.ring.segment->leases.reserved) != 0;
        changed[steps] = memcmp(header_was, scene.ring.segment, sizeof header_was) != 0 ||
                         (has_table && memcmp(table_was, table, sizeof table_was) != 0);
        if (is_of_writers(operation) && memcmp(data_was, scene.ring.arena_memory[0], sizeof data_was) != 0) {
            memcpy(data_was, scene.ring.arena_memory[0], sizeof data_was);
            changed[steps] = true;
        }
        if (changed[steps]) {
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
    return steps;
}

static void die_after(enum operation operation, bool elastic, unsigned steps)
{
    static struct scene scene;
    struct victim victim;
    on_stage = &scene;
    make(&scene, operation, elastic);
    alarm(WATCH_SECONDS);
    start(&victim, &scene);
    for (at_step = 0; at_step < steps && !victim.finished; at_step++) {
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
    static bool changed[OPERATIONS * 2][STEPS_MAX];
    static unsigned steps[OPERATIONS * 2];
    for (unsigned number = part; number < OPERATIONS * 2 && atomic_load(faults) < FAULTS_MAX; number += PARTS) {
        enum operation operation = number / 2;
        bool elastic = number % 2 != 0;
        steps[number] = follow(operation, elastic, changed[number]);
        for (unsigned at = 0; at < steps[number] && atomic_load(faults) < FAULTS_MAX; at++) {
            if (every || at == 0 || changed[number][at - 1]) {
                die_after(operation, elastic, at);
                counted.points++;
            }
        }
    }
    srand(seed * PARTS + part);
    while (!every && atomic_load(faults) == 0 && monotonic_ns() < stop) {
        unsigned number = (unsigned)rand() % OPERATIONS / PARTS * PARTS + part;
        if (number < OPERATIONS * 2 && steps[number] > 0) {
            die_after(number / 2, number % 2 != 0, (unsigned)rand() % steps[number]);
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
