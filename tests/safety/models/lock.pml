/* The lock word with owner death: lock.h, lock.c, and what the kernel does for it.
 *
 * Each `->` or atomic is one access to shared memory or one step of the kernel; all else is a thread's own. Sequential
 * consistency is assumed: every access to the word that matters is a locked instruction or in the kernel.
 *
 * USERS, ROUNDS: threads, and how often each wants the lock.
 * DEATHS, DEADLINES: how many are killed, how many give up waiting.
 * SLICE: when a slice may end: `true`; `false`, there are none; `lost`, only after one of the losses that are known:
 *     a thread died while another one carried the word, after it had
 *     - put 0 into the word, where FUTEX_WAITERS stood, and not yet woken anybody, or
 *     - been woken, and not yet taken the word or marked it with FUTEX_WAITERS.
 *     In both cases a process that never slept took the word without the mark, so the kernel wakes nobody for the dead.
 * BLIND: the kernel does not look at the word of a dead thread.
 */
#define TID 15 /* bits of the word: FUTEX_TID_MASK, FUTEX_WAITERS, FUTEX_OWNER_DIED */
#define WAITERS 16
#define DIED 32
#define NOBODY 255

byte word;
bool announced[USERS]; /* list_op_pending points at the word */
bool asleep[USERS];
bool killed[USERS]; /* runs no more; the kernel is coming */
bool gone[USERS];   /* a zombie, or reaped: the kernel has been there */
byte ended;
byte deaths_left = DEATHS;
byte deadlines_left = DEADLINES;

/* For the properties only. */
byte inside = NOBODY; /* who is in the critical section */
bool orphaned;        /* its owner died, nobody has taken the word since */
bool owes[USERS];     /* a wake-up: it was woken, or has yet to wake */
bool lost;

/* futex_wake(word, 1): which of the sleepers is up to the kernel. */
inline wake_one()
{
    if
    :: asleep[0] -> asleep[0] = false; owes[0] = true
    :: asleep[1] -> asleep[1] = false; owes[1] = true
#if USERS > 2
    :: asleep[2] -> asleep[2] = false; owes[2] = true
#endif
#if USERS > 3
    :: asleep[3] -> asleep[3] = false; owes[3] = true
#endif
    :: else
    fi
}

/* atomic_compare_exchange_strong(word, &seen, new), and the new owner so learns whether the last one died. */
inline compare_exchange(new)
{
    atomic {
        swapped = (word == seen);
        if
        :: swapped -> word = new
        :: else -> seen = word
        fi
    }
}

inline take(new)
{
    atomic {
        swapped = (word == seen);
        if
        :: swapped ->
            assert((word & TID) == 0);
            assert(((word & DIED) != 0) == orphaned); /* LOCK_RECOVERED exactly when an owner died */
            orphaned = false;
            owes[me] = false;
            word = new
        :: else -> seen = word
        fi
    }
}

/* exit_robust_list() and handle_futex_death() of the kernel, then the thread is a zombie. */
inline kernel_buries()
{
    atomic {
        asleep[me] = false;
        if
        :: inside == me -> inside = NOBODY
        :: else
        fi
        if
        :: (word & TID) == me + 1 -> orphaned = true
        :: else
        fi
    }
#ifndef BLIND
    if
    :: announced[me] ->
bury:   atomic {
            seen = word;
            if
            :: (seen & TID) == 0
            :: (seen & TID) == me + 1 -> goto set_died
            :: (seen & TID) != 0 && (seen & TID) != me + 1 ->
                if
                :: owes[me] && (seen & WAITERS) == 0 -> lost = true
                :: else
                fi;
                goto buried
            fi
        };
wake:   atomic { wake_one(); goto buried };
set_died:
        atomic {
            compare_exchange((seen & WAITERS) | DIED);
            if
            :: !swapped -> goto bury
            :: swapped && (seen & WAITERS) != 0 -> goto wake
            :: swapped && (seen & WAITERS) == 0
            fi
        }
    :: else
    fi;
buried:
#endif
    atomic {
        gone[me] = true;
        announced[me] = false;
        owes[me] = false;
        seen = 0;
        swapped = false;
        waiters = 0;
        rounds = 0;
        ended++
    }
}

/* mark_if_dead() */
inline mark_if_dead()
{
    if
    :: word == seen && (seen & TID) != 0 ->
        if
        :: gone[(seen & TID) - 1] -> /* tkill() and /proc say so */
            compare_exchange((seen & WAITERS) | DIED)
        :: else
        fi
    :: else
    fi
}

proctype User(byte me)
{
    byte seen, waiters, rounds;
    bool swapped;
    {
        rounds = 0;
again:  /* lock_try() */
        announced[me] = true;
        atomic {
            seen = 0;
            take(me + 1);
            if
            :: swapped -> goto taken
            :: else
            fi
        };
        do
        :: atomic {
                (seen & TID) == 0;
                take((me + 1) | (seen & WAITERS));
                if
                :: swapped -> goto taken
                :: else
                fi
            }
        :: atomic { (seen & TID) != 0; announced[me] = false; seen = 0; swapped = false; break }
        od;

        /* lock_wait() */
        announced[me] = true;
look:   atomic {
            seen = word;
            if
            :: (seen & TID) == 0
            :: (seen & TID) != 0 && (seen & WAITERS) != 0 -> goto sleep
            :: (seen & TID) != 0 && (seen & WAITERS) == 0 -> goto mark
            fi
        };
        atomic {
            take((me + 1) | (seen & WAITERS) | waiters);
            if
            :: swapped -> goto taken
            :: else -> goto look
            fi
        };
mark:   atomic {
            compare_exchange(seen | WAITERS);
            if
            :: swapped -> seen = seen | WAITERS
            :: else -> goto look
            fi
        };
sleep:  if
        :: atomic { deadlines_left > 0 -> deadlines_left--; owes[me] = false; goto deadline }
        :: atomic { /* futex_wait(): the kernel compares and queues in one */
                waiters = WAITERS;
                owes[me] = false;
                if
                :: word == seen -> asleep[me] = true
                :: else -> goto look
                fi
            }
        fi;
        if
        :: atomic { !asleep[me] -> goto look } /* WAIT_WOKEN */
        :: atomic { asleep[me] && SLICE -> asleep[me] = false }
        :: atomic { asleep[me] && deadlines_left > 0 -> deadlines_left--; asleep[me] = false; goto deadline }
        fi;
        mark_if_dead();
        atomic { announced[me] = false; waiters = 0; seen = 0; swapped = false; goto again } /* LOCK_INTERRUPTED */

taken:  atomic { assert(inside == NOBODY); inside = me; waiters = 0; seen = 0; swapped = false };
        atomic { assert(inside == me); inside = NOBODY };

        /* lock_release() */
        atomic {
            assert((word & TID) == me + 1);
            seen = word;
            word = 0;
            if
            :: (seen & WAITERS) != 0 -> owes[me] = true
            :: else -> goto released
            fi
        };
        atomic { wake_one(); owes[me] = false };
released:
        atomic {
            announced[me] = false;
            seen = 0;
            rounds++;
            if
            :: rounds < ROUNDS -> goto again
            :: else -> goto ends
            fi
        };
deadline: /* LOCK_DEADLINE */
        announced[me] = false;
ends:   atomic { gone[me] = true; seen = 0; swapped = false; waiters = 0; rounds = 0; ended++ }
    } unless { killed[me] -> kernel_buries() }
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
    }
}

#ifdef LIVENESS
ltl everybody_ends { <> (ended == USERS) }
#endif
