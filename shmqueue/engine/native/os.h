/* os.h: who a process is, and whether it still lives. */
#ifndef SHMQUEUE_OS_H
#define SHMQUEUE_OS_H

#include <stdbool.h>
#include <stdint.h>

/* A process, told apart from a later one that has got its id. */
struct process {
    uint32_t pid;
    uint64_t started; /* field 22 of /proc/<pid>/stat: clock ticks since boot; 0 where there is no /proc */
};

/* The calling process; right in a forked child, too. */
struct process os_this_process(void);

/* False when it has ended, is a zombie, or its id belongs to another process.  Reads a file: not for a fast path. */
bool os_is_alive(struct process process);

#endif
