/* os.c: processes, as /proc and kill() tell of them; see os.h. */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lock.h"

enum found { FOUND, GONE, UNKNOWN };

/* Whether a process has ended, and its start time.  The name, in parentheses, may hold anything, so the fields are counted
 * from its end.  A zombie that has several threads is a process whose first thread has ended, and no other. */
static enum found read_stat(uint32_t pid, bool *has_ended, uint64_t *started)
{
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
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
    char state = *field;
    long threads = 1;
    for (int number = 3; number < 22; number++) {
        field = strchr(field, ' ');
        if (field == NULL) {
            return UNKNOWN;
        }
        field++;
        if (number + 1 == 20) {
            threads = strtol(field, NULL, 10);
        }
    }
    *has_ended = (state == 'Z' || state == 'X') && threads <= 1;
    *started = strtoull(field, NULL, 10);
    return FOUND;
}

struct process os_this_process(void)
{
    static _Atomic uint32_t known_in, pid; /* the epoch in which they were read */
    static _Atomic uint64_t started;
    uint32_t epoch = lock_epoch();
    if (atomic_load(&known_in) == epoch) { /* first: in a forked child the other two may still be the parent's */
        return (struct process){.pid = atomic_load(&pid), .started = atomic_load(&started)};
    }
    bool has_ended;
    struct process process = {.pid = (uint32_t)getpid()};
    if (read_stat(process.pid, &has_ended, &process.started) != FOUND) {
        process.started = 0;
    }
    atomic_store(&pid, process.pid);
    atomic_store(&started, process.started);
    atomic_store(&known_in, epoch);
    return process;
}

bool os_is_alive(struct process process)
{
    bool has_ended;
    uint64_t started;
    switch (read_stat(process.pid, &has_ended, &started)) {
    case FOUND:
        return !has_ended && (process.started == 0 || started == process.started);
    case GONE:
        return false;
    default:
        return process.pid != 0 && (kill((pid_t)process.pid, 0) == 0 || errno != ESRCH);
    }
}
