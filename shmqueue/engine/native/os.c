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

/* State and start time of a process.  The name, in parentheses, may hold anything, so they are counted from its end. */
static enum found read_stat(uint32_t pid, char *state, uint64_t *started)
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
    *state = *field;
    for (int number = 3; number < 22; number++) {
        field = strchr(field, ' ');
        if (field == NULL) {
            return UNKNOWN;
        }
        field++;
    }
    *started = strtoull(field, NULL, 10);
    return FOUND;
}

struct process os_this_process(void)
{
    static _Atomic uint32_t known_in, pid; /* the epoch in which they were read */
    static _Atomic uint64_t started;
    uint32_t epoch = lock_epoch();
    struct process process = {.pid = atomic_load(&pid), .started = atomic_load(&started)};
    if (atomic_load(&known_in) == epoch) {
        return process;
    }
    char state;
    process.pid = (uint32_t)getpid();
    if (read_stat(process.pid, &state, &process.started) != FOUND) {
        process.started = 0;
    }
    atomic_store(&pid, process.pid);
    atomic_store(&started, process.started);
    atomic_store(&known_in, epoch);
    return process;
}

bool os_is_alive(struct process process)
{
    char state;
    uint64_t started;
    switch (read_stat(process.pid, &state, &started)) {
    case FOUND:
        return state != 'Z' && state != 'X' && (process.started == 0 || started == process.started);
    case GONE:
        return false;
    default:
        return process.pid != 0 && (kill((pid_t)process.pid, 0) == 0 || errno != ESRCH);
    }
}
