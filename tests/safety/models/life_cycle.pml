/* A segment's life under one name: open_segment(), Segment.close() and sweep_orphans() of shmqueue/segment, and what the
 * kernel does for files, links and flock(). Each atomic is one system call.
 *
 * USERS, ROUNDS: processes, and how often each opens and closes the queue; DEATHS: how many are killed.
 * TEMPORARY: there is no O_TMPFILE, so that a new file has a name of its own from the beginning.
 */
#define INODES (USERS + DEATHS + 2)
#define NONE 0

/* Of the file system; inodes count from 1. */
byte path; /* the inode that has the queue's name */
byte links[INODES + 1];
byte opened[INODES + 1];    /* descriptions */
byte shared[INODES + 1];    /* those of them with LOCK_SH */
bool exclusive[INODES + 1]; /* one has LOCK_EX */
bool complete[INODES + 1];  /* memory and header are there */
bool temporary[INODES + 1]; /* it has a name beginning with UNNAMED */

bool killed[USERS];
bool gone[USERS];
byte ended;
byte deaths_left = DEATHS;
byte holds[USERS]; /* for the properties only: the incarnation that a Segment is on */

inline open_path(fd)
{
    fd = path;
    opened[fd]++
}

/* close() of a description with its lock, within an atomic. */
inline close_handle()
{
    shared[handle] = shared[handle] - locked;
    opened[handle]--;
    if
    :: opened[handle] == 0 && links[handle] == 0 -> complete[handle] = false
    :: else
    fi;
    handle = NONE;
    locked = 0
}

inline close_probe()
{
    if
    :: owned -> exclusive[probe] = false
    :: else
    fi;
    opened[probe]--;
    if
    :: opened[probe] == 0 && links[probe] == 0 -> complete[probe] = false
    :: else
    fi;
    probe = NONE;
    owned = false
}

inline new_inode()
{
    handle = 1;
    do
    :: handle <= INODES && (opened[handle] != 0 || links[handle] != 0) -> handle++
    :: else -> break
    od;
    assert(handle <= INODES);
    opened[handle] = 1;
    complete[handle] = false
}

/* Is complete, has the name, and everybody who holds the name holds this one. */
inline become_holder()
{
    assert(complete[handle]);
    assert(path == handle);
    holds[me] = handle;
    other = 0;
    do
    :: other < USERS ->
        assert(other == me || killed[other] || holds[other] == NONE || holds[other] == handle);
        other++
    :: else -> break
    od;
    other = 0
}

/* unlink_if_unheld(), with `probe` as the fresh description, for the queue's name; then closes it. */
inline unlink_if_unheld()
{
    if
    :: atomic { shared[probe] == 0 && !exclusive[probe] -> exclusive[probe] = true; owned = true };
        if
        :: path == probe ->
            atomic { links[path]--; path = NONE; close_probe() }
        :: atomic { path != probe -> close_probe() }
        fi
    :: atomic { shared[probe] != 0 || exclusive[probe] -> close_probe() }
    fi
}

/* The same for a temporary name. */
inline unlink_temporary_if_unheld()
{
    if
    :: atomic { shared[probe] == 0 && !exclusive[probe] -> exclusive[probe] = true; owned = true };
        if
        :: temporary[probe] ->
            atomic { temporary[probe] = false; links[probe]--; close_probe() }
        :: atomic { !temporary[probe] -> close_probe() }
        fi
    :: atomic { shared[probe] != 0 || exclusive[probe] -> close_probe() }
    fi
}

/* What is listed is seen at different moments, so of the temporary names, which live briefly, any one or none. */
inline sweep_orphans()
{
    if
    :: atomic { path != NONE -> open_path(probe); assert(complete[probe]) };
        unlink_if_unheld()
    :: path == NONE
    fi;
#ifdef TEMPORARY
    if
    :: atomic {
            select(probe : 1 .. INODES);
            if
            :: temporary[probe] -> opened[probe]++
            :: else -> probe = NONE; goto create
            fi
        };
        unlink_temporary_if_unheld()
    :: true
    fi
#endif
}

proctype User(byte me)
{
    byte handle, probe, rounds, other, locked;
    bool owned, alone;
    {
        rounds = 0;
start:  /* _attach() */
        if
        :: atomic { path != NONE -> open_path(handle) }
        :: path == NONE -> goto absent
        fi;
        if
        :: atomic { shared[handle] == 0 && !exclusive[handle] -> exclusive[handle] = true; alone = 1 };
            /* adopt(), then the lock is converted: the kernel releases it first */
            atomic { assert(shared[handle] == 0); exclusive[handle] = false; alone = 0 }
        :: atomic { shared[handle] != 0 || exclusive[handle] -> skip }
        fi;
        /* The code asks for this lock again and again, for seconds at most, and starts over in between. */
        atomic { !exclusive[handle] -> shared[handle]++; locked = 1 };
        atomic {
            if
            :: path != handle -> close_handle(); goto start
            :: else -> become_holder()
            fi
        };
        goto hold;

absent: sweep_orphans();

create: /* _create() */
#ifdef TEMPORARY
        atomic { new_inode(); temporary[handle] = true; links[handle] = 1 };
        atomic { !exclusive[handle] -> shared[handle]++; locked = 1 };
        if
        :: atomic { !temporary[handle] -> close_handle(); goto create } /* swept before it was locked */
        :: temporary[handle]
        fi;
        complete[handle] = true;
#else
        atomic { new_inode() };
        complete[handle] = true;
        atomic { shared[handle]++; locked = 1 };
#endif
        if
        :: atomic { path == NONE -> path = handle; links[handle]++; become_holder() }
        :: path != NONE
        fi;
#ifdef TEMPORARY
        atomic { assert(temporary[handle]); temporary[handle] = false; links[handle]-- };
#endif
        if
        :: atomic { holds[me] == NONE -> close_handle(); goto start }
        :: holds[me] != NONE
        fi;

hold:   /* Segment.close() */
        atomic { holds[me] = NONE; probe = handle; opened[probe]++ };
        atomic { close_handle() };
        unlink_if_unheld();
        atomic {
            rounds++;
            if
            :: rounds < ROUNDS -> goto start
            :: rounds == ROUNDS -> gone[me] = true; ended++; rounds = 0
            fi
        }
    } unless {
        killed[me] ->
            atomic {
                holds[me] = NONE;
                if
                :: handle != NONE ->
                    if
                    :: alone -> exclusive[handle] = false; alone = 0
                    :: else
                    fi;
                    close_handle()
                :: else
                fi
            };
            atomic {
                if
                :: probe != NONE -> close_probe()
                :: else
                fi;
                other = 0;
                rounds = 0;
                gone[me] = true;
                ended++
            }
    }
}

/* SIGKILL, at any step of anybody, or never. */
proctype Killer()
{
    byte who;
    do
    :: atomic {
            deaths_left > 0;
            select(who : 0 .. USERS - 1);
            if
            :: !gone[who] && !killed[who] -> deaths_left--; killed[who] = true
            :: else
            fi;
            who = 0;
            if
            :: deaths_left == 0 -> break
            :: deaths_left > 0
            fi
        }
    :: break
    od
}

#ifndef LIVENESS
/* When all have ended: what the last one leaves, and that one sweep takes it away. */
proctype Watch()
{
    byte probe;
    bool owned;
    atomic {
        ended == USERS && timeout;
        assert(deaths_left < DEATHS || path == NONE);
        if
        :: path != NONE -> open_path(probe); unlink_if_unheld()
        :: else
        fi;
        assert(path == NONE);
        for (probe : 1 .. INODES) {
            if
            :: temporary[probe] ->
                assert(deaths_left < DEATHS && shared[probe] == 0 && !exclusive[probe]);
                links[probe]--
            :: else
            fi;
            assert(opened[probe] == 0 && links[probe] == 0)
        }
    }
}
#endif

init
{
    atomic {
        byte i;
        for (i : 0 .. USERS - 1) {
            run User(i)
        }
        i = 0;
#if DEATHS > 0
        run Killer();
#endif
#ifndef LIVENESS
        run Watch()
#endif
    }
}

#ifdef LIVENESS
ltl everybody_ends { <> (ended == USERS) }
#endif
