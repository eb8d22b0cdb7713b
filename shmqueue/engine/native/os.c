/* os.c: forks, futexes of each platform, and processes as /proc and kill() tell of them; see os.h. */
#define _GNU_SOURCE
#include "os.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define FIRST_STEP_NS INT64_C(50000) /* between two looks at a word where the futex call is denied */
#define LAST_STEP_NS INT64_C(5000000)

/* ---- forks ---- */

_Atomic uint32_t *_Atomic os_epoch_word;

static _Atomic uint32_t epochs; /* that this process and its ancestors have used */

static void forget_epoch(void) { atomic_store(os_epoch_word, 0); }

int os_init(void)
{
    if (atomic_load(&os_epoch_word) != NULL) {
        return 0;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return errno;
    }
    /* MADV_WIPEONFORK (Linux 4.14) also covers a raw clone(), after which no handler is called.  qemu-user says that it
     * has done it, and does nothing: what this returns tells nothing, and the handler is there in any case. */
    (void)madvise(memory, page, MADV_WIPEONFORK);
    _Atomic uint32_t *none = NULL; /* no lock guards this: a fork might copy it held */
    if (!atomic_compare_exchange_strong(&os_epoch_word, &none, memory)) {
        munmap(memory, page);
        return 0;
    }
    return pthread_atfork(NULL, NULL, forget_epoch);
}

uint32_t os_epoch(void)
{
    uint32_t epoch = atomic_load(os_epoch_word);
    while (epoch == 0) {
        uint32_t fresh = atomic_fetch_add(&epochs, 1) + 1;
        if (fresh != 0 && atomic_compare_exchange_strong(os_epoch_word, &epoch, fresh)) {
            epoch = fresh;
        }
    }
    return epoch;
}

/* ---- futexes ---- */

/* What the kernel takes for a time, whatever libc calls time_t. */
#if defined(__x86_64__) && defined(__ILP32__) /* x32 */
typedef int64_t kernel_long;
#else
typedef long kernel_long;
#endif
struct kernel_time {
    kernel_long seconds, nanoseconds;
};
struct kernel_time64 {
    int64_t seconds, nanoseconds;
};

/* The system call; `length`: ns, FUTEX_WAIT only.  A 32-bit platform has one for each size of time, or the second one
 * only; an old kernel has not heard of that one. */
static long futex(_Atomic uint32_t *word, int operation, uint32_t value, int64_t length)
{
    long result = -1;
    errno = ENOSYS;
#ifdef SYS_futex_time64
    struct kernel_time64 time64 = {.nanoseconds = length};
    result = syscall(SYS_futex_time64, word, operation, value, &time64, NULL, 0);
#endif
#ifdef SYS_futex
    if (result < 0 && errno == ENOSYS) {
        struct kernel_time time = {.nanoseconds = (kernel_long)length};
        result = syscall(SYS_futex, word, operation, value, &time, NULL, 0);
    }
#endif
    return result;
}

int futex_wake(_Atomic uint32_t *word, int most)
{
    long woken = futex(word, FUTEX_WAKE, (uint32_t)most, 0);
    return woken < 0 ? 0 : (int)woken;
}

/* For a system that denies the call (seccomp filters, gVisor): looks at the word now and then, less and less often. */
static enum wait_result poll_word(_Atomic uint32_t *word, uint32_t seen, int64_t length)
{
    int64_t end = monotonic_ns() + length;
    for (int64_t step = FIRST_STEP_NS;; step = 2 * step < LAST_STEP_NS ? 2 * step : LAST_STEP_NS) {
        int64_t left = end - monotonic_ns();
        if (atomic_load(word) != seen) {
            return WAIT_WOKEN;
        }
        if (left <= 0) {
            return WAIT_SLICE_OVER;
        }
        struct timespec pause = {.tv_nsec = (long)(left < step ? left : step)};
        if (nanosleep(&pause, NULL) != 0 && errno == EINTR) {
            return WAIT_INTERRUPTED;
        }
    }
}

enum wait_result futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline)
{
    int64_t length = WAIT_SLICE_NS;
    if (deadline != WAIT_FOREVER) {
        int64_t left = deadline - monotonic_ns();
        if (left <= 0) {
            return WAIT_DEADLINE;
        }
        length = left < length ? left : length;
    }
    _Static_assert(WAIT_SLICE_NS < 1000000000, "a slice fits in the nanoseconds");
    enum wait_result result = WAIT_SLICE_OVER;
    if (futex(word, FUTEX_WAIT, seen, length) == 0 || errno == EAGAIN) {
        return WAIT_WOKEN;
    }
    if (errno == EINTR) {
        return WAIT_INTERRUPTED;
    }
    if (errno != ETIMEDOUT) {
        result = poll_word(word, seen, length);
    }
    return result == WAIT_SLICE_OVER && length < WAIT_SLICE_NS ? WAIT_DEADLINE : result;
}

void futex_wake_here(_Atomic uint32_t *word) { (void)futex(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, 0); }

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same number on all platforms that have it, but Alpha */
#endif

/* struct futex_waitv, which kernel headers have only since Linux 5.16. */
struct waiter {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};

#define WAITER_32_BITS 2u   /* FUTEX2_SIZE_U32 */
#define WAITER_PRIVATE 128u /* FUTEX2_PRIVATE */

int futex_wait_any(const struct futex_word *words, size_t count, int64_t end)
{
    struct waiter waiters[FUTEX_WORDS_MOST];
    struct kernel_time64 until = {.seconds = end / 1000000000, .nanoseconds = end % 1000000000};
    for (size_t i = 0; i < count; i++) {
        waiters[i] = (struct waiter){.value = words[i].seen,
                                     .address = (uintptr_t)words[i].word,
                                     .flags = WAITER_32_BITS | (words[i].is_private ? WAITER_PRIVATE : 0)};
    }
    long woken = syscall(SYS_futex_waitv, waiters, (unsigned int)count, 0u, &until, CLOCK_MONOTONIC);
    if (woken >= 0) {
        return (int)woken;
    }
    return errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR ? -1 : FUTEX_NO_SUCH_CALL;
}

/* ---- processes ---- */

enum found { FOUND, GONE, UNKNOWN };

struct stat_fields {
    char state;
    long threads;
    uint64_t started;
    uint64_t stack; /* where it begins; 0: not told, or the thread has ended */
};

#define STARTED_BITS 48

/* As in struct process. */
static uint64_t image_of_stack(uint64_t stack)
{
    uint64_t image = (stack >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> STARTED_BITS;
    return stack == 0 ? 0 : image != 0 ? image : 1;
}

static bool is_over(char state) { return state == 'Z' || state == 'X'; }

/* A zombie that has several threads is a process of which only the first thread has ended. */
static bool has_ended(const struct stat_fields *fields) { return is_over(fields->state) && fields->threads <= 1; }

/* False where it is of another pid namespace, so that a number in it is another process. */
static bool is_our_proc(void)
{
    char text[24];
    ssize_t length = readlink("/proc/self", text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    return strtol(text, NULL, 10) == (long)getpid();
}

/* Whether this process, or the programs that it starts, are in a time namespace that shifts the start times in /proc. */
static bool has_shifted_times(void)
{
    char line[80];
    long long seconds = 0, nanoseconds = 0;
    bool is_shifted = false;
    FILE *offsets = fopen("/proc/self/timens_offsets", "re");
    while (offsets != NULL && fgets(line, sizeof line, offsets) != NULL) {
        if (sscanf(line, "boottime %lld %lld", &seconds, &nanoseconds) == 2) {
            is_shifted = seconds != 0 || nanoseconds != 0;
        }
    }
    if (offsets != NULL) {
        fclose(offsets);
    }
    return is_shifted;
}

/* Of a process, or of one thread.  The name, in parentheses, may hold anything, so the fields are counted from its
 * end.
 *
 * The fields used here are the same in /proc/<pid>/stat.  But under qemu-user a process that reads that one of its own
 * is shown another start time than the one that other processes see. */
static enum found read_stat(uint32_t pid, struct stat_fields *fields)
{
    char path[48], text[1024];
    if (!is_our_proc()) {
        return UNKNOWN;
    }
    snprintf(path, sizeof path, "/proc/%u/task/%u/stat", pid, pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return UNKNOWN;
    }
    ssize_t got = read(file, text, sizeof text - 1);
    int error = errno;
    close(file);
    if (got <= 0) {
        return got < 0 && error == ESRCH ? GONE : UNKNOWN;
    }
    text[got] = '\0';
    char *field = strrchr(text, ')');
    if (field == NULL || field[1] != ' ') {
        return UNKNOWN;
    }
    field += 2;
    *fields = (struct stat_fields){.state = *field, .threads = 1};
    for (int number = 4; number <= 28; number++) {
        field = strchr(field, ' ');
        if (field == NULL) {
            return number > 22 ? FOUND : UNKNOWN;
        }
        field++;
        if (number == 20) {
            fields->threads = strtol(field, NULL, 10);
        } else if (number == 22) {
            fields->started = strtoull(field, NULL, 10);
        }
    }
    fields->stack = strtoull(field, NULL, 10);
    return FOUND;
}

struct process os_this_process(void)
{
    static _Atomic uint32_t known_in, pid; /* the epoch in which they were read */
    static _Atomic uint64_t started;
    uint32_t epoch = os_epoch();
    if (atomic_load(&known_in) == epoch) { /* first: in a forked child the other two may still be the parent's */
        return (struct process){.pid = atomic_load(&pid), .started = atomic_load(&started)};
    }
    struct stat_fields fields;
    struct process process = {.pid = (uint32_t)getpid()};
    if (read_stat(process.pid, &fields) == FOUND) {
        uint64_t started = has_shifted_times() ? 0 : fields.started;
        process.started = started | image_of_stack(fields.stack) << STARTED_BITS;
    }
    atomic_store(&pid, process.pid);
    atomic_store(&started, process.started);
    atomic_store(&known_in, epoch);
    return process;
}

/* Of the program image.  Its size is in the assembly below; another version with other fields takes another name. */
struct image {
    _Atomic uint32_t number;  /* 0: not drawn yet */
    _Atomic uint32_t handles; /* drawn so far */
};
_Static_assert(sizeof(struct image) == 8, "as much as the assembly reserves");

#ifdef __GLIBC__
/* A process may load this library from several files, such as those of the virtual environments of its interpreters.
 * glibc gives all of them the first one's symbol of this kind, even where they are hidden from each other. */
__asm__(".pushsection .bss\n"
        "\t.balign 8\n"
        "\t.globl shmqueue_image_1\n"
        "\t.type shmqueue_image_1, \"gnu_unique_object\"\n"
        "\t.size shmqueue_image_1, 8\n"
        "shmqueue_image_1:\n"
        "\t.zero 8\n"
        "\t.popsection\n");
extern struct image shmqueue_image_1 __attribute__((visibility("default")));
#else
static struct image shmqueue_image_1; /* so each takes the leases of the others for those of an earlier image */
#endif

uint32_t os_image_number(void)
{
    uint32_t drawn = (uint32_t)((uint64_t)monotonic_ns() * UINT64_C(0x9E3779B97F4A7C15) >> 32) | 1, none = 0;
    return atomic_compare_exchange_strong(&shmqueue_image_1.number, &none, drawn) ? drawn : none;
}

uint32_t os_new_handle(void) { return os_image_number() + atomic_fetch_add(&shmqueue_image_1.handles, 1); }

bool os_is_handle_of_image(uint32_t handle)
{
    return handle - os_image_number() < atomic_load(&shmqueue_image_1.handles);
}

bool os_is_alive(struct process process)
{
    struct stat_fields fields;
    uint64_t started = process.started & ((UINT64_C(1) << STARTED_BITS) - 1), image = process.started >> STARTED_BITS;
    switch (read_stat(process.pid, &fields)) {
    case FOUND:
        return !has_ended(&fields) && (started == 0 || fields.started == started || has_shifted_times()) &&
               (image == 0 || fields.stack == 0 || image_of_stack(fields.stack) == image);
    case GONE:
        return false;
    default:
        return process.pid != 0 && process.pid <= INT32_MAX && (kill((pid_t)process.pid, 0) == 0 || errno != ESRCH);
    }
}

/* One line of /proc/<pid>/maps. */
struct mapping {
    uintptr_t start, end;
    unsigned major, minor;
    unsigned long long inode; /* 0: of no file */
};

static bool next_mapping(FILE *maps, struct mapping *mapping)
{
    char line[128]; /* the fields that count come before the path, which may be long */
    bool is_first_piece = true;
    while (fgets(line, sizeof line, maps) != NULL) {
        bool was_first_piece = is_first_piece;
        is_first_piece = strchr(line, '\n') != NULL;
        if (was_first_piece && sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %x:%x %llu", &mapping->start, &mapping->end,
                                      &mapping->major, &mapping->minor, &mapping->inode) == 5) {
            return true;
        }
    }
    return false;
}

/* The mapping of this process that an address lies in. */
static bool find_ours(const void *address, struct mapping *ours)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    bool found = false;
    while (maps != NULL && !found && next_mapping(maps, ours)) {
        found = ours->start <= (uintptr_t)address && (uintptr_t)address < ours->end;
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return found && ours->inode != 0;
}

/* Whether a thread's process maps any part of the same file.  UNKNOWN: we may not look (it is another user's). */
static enum found find_same_file(uint32_t tid, const struct mapping *ours)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%u/maps", tid);
    FILE *maps = fopen(path, "re");
    if (maps == NULL) {
        return errno == ENOENT || errno == ESRCH ? GONE : UNKNOWN;
    }
    struct mapping theirs;
    enum found found = GONE;
    while (found == GONE && next_mapping(maps, &theirs)) {
        bool is_same = theirs.inode == ours->inode && theirs.major == ours->major && theirs.minor == ours->minor;
        found = is_same ? FOUND : GONE;
    }
    found = ferror(maps) && found == GONE ? UNKNOWN : found;
    fclose(maps);
    return found;
}

bool os_may_work_on(uint32_t tid, const void *address)
{
    struct stat_fields fields;
    struct mapping ours;
    if (syscall(SYS_tkill, tid, 0) != 0 && errno == ESRCH) {
        return false;
    }
    if (read_stat(tid, &fields) != FOUND) {
        return true; /* without /proc no more can be told */
    }
    return !is_over(fields.state) && (!find_ours(address, &ours) || find_same_file(tid, &ours) != GONE);
}

uint64_t os_pid_namespace(void)
{
    struct stat status;
    return stat("/proc/self/ns/pid", &status) == 0 ? (uint64_t)status.st_ino : 0;
}
