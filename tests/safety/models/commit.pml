/* Commit and wake-up: ledger.h, of side.h and side.c side_commit_put(), side_commit_get(), side_sleep_for_items() and
 * side_sleep_for_room(), and try_put() of put.c, room_ask() of room.c, ring_get_begin() of get.c and ring_wait_items() of
 * queue.c, in a queue of fixed size.
 *
 * An item is one byte of the ring, its value its position and one. Memory is as on x86: loads are in order, and stores
 * become visible in order but late, at the latest with the next locked instruction, or when the process that stored them died. That
 * makes a difference only to a store with a load behind it, so only the sequence's is kept back (`stores`). What other
 * processors reorder is not shown here. The locks are those that lock.pml shows to work.
 *
 * PUTTERS, GETTERS: how many; ITEMS: how many each putter puts; BATCH: at most in one put (1 or 2); TAKES: how many
 * each getter takes before it turns to something else; CAPACITY: of the ring.
 * COARSE: a ledger is read in one step, and written in one, which makes room for more processes.
 * TIRED: the getters have found nothing already, and are about to sleep: a part of the orders, with more processes.
 * DEATHS: how many are killed; QUITS: how many getters stop waiting, at a deadline or because of a signal.
 * SLICE: when a slice may end: `true`; `false`, there are none; `lost`, only after one of the losses that are known:
 *     - a committer died after it took the flag down or committed, before it had woken the sleepers that it should,
 *     - one that was woken died, or had no more time for the lock, before it looked.
 */
#define PUT 0
#define GET 1
#define USERS (PUTTERS + GETTERS)
#define EVERYONE 255
#define RELEASE 255
#define LOCKED 1 /* the lock is released by a locked instruction, which waits for the stores before it */
#define CURRENT(s) side[s].position[side[s].sequence & 1]

typedef ledgers {
    byte sequence;
    bool waiting;
    byte position[2];
    byte count[2]
};

ledgers side[2];
byte owner[2]; /* of each side's lock, and one */
byte cell[CAPACITY];
byte bell;     /* what putters sleep on */
byte room;     /* the get position from which on they are woken */
chan stores[2] = [2] of { byte }; /* of a side's sequence, not visible yet; RELEASE: of its lock */
bool asleep[USERS];               /* getters on the put side's sequence, putters on the bell */
bool killed[USERS];
bool gone[USERS];
byte deaths_left = DEATHS;
byte quits_left = QUITS;

/* For the properties only. */
bool owes[USERS]; /* was woken and has not looked yet, or has committed and not woken yet */
bool lost;
byte asks[PUTTERS]; /* how many items one that sleeps wants to put */
bool delivered[PUTTERS * ITEMS];

#define SLEEPS_ON(s, who) (asleep[who] && ((who < PUTTERS) == (s == GET)))

/* Within an atomic: which of the sleepers is up to the kernel. */
inline futex_wake(s, most)
{
    woken = 0;
    do
    :: woken < most && SLEEPS_ON(s, 0) -> asleep[0] = false; owes[0] = true; woken++
    :: woken < most && SLEEPS_ON(s, 1) -> asleep[1] = false; owes[1] = true; woken++
#if USERS > 2
    :: woken < most && SLEEPS_ON(s, 2) -> asleep[2] = false; owes[2] = true; woken++
#endif
#if USERS > 3
    :: woken < most && SLEEPS_ON(s, 3) -> asleep[3] = false; owes[3] = true; woken++
#endif
    :: else -> break
    od
}

/* Rule 3, into `seen`. */
inline ledger_read(s)
{
#ifdef COARSE
    seen = CURRENT(s)
#else
    do
    :: before = side[s].sequence;
        seen = side[s].position[before & 1];
        counted = side[s].count[before & 1];
        if
        :: atomic { side[s].sequence == before -> assert(seen == counted); before = 0; counted = 0; break }
        :: atomic { else -> before = 0; counted = 0; seen = 0 }
        fi
    od
#endif
}

inline lock_release(s)
{
#if LOCKED
    atomic { empty(stores[s]) -> owner[s] = 0 }
#else
    stores[s]!RELEASE
#endif
}

/* ledger_commit(): rule 2. */
inline ledger_commit(s, moved)
{
#ifdef COARSE
    atomic {
        side[s].position[(side[s].sequence + 1) & 1] = moved;
        side[s].count[(side[s].sequence + 1) & 1] = moved;
        committed = side[s].sequence + 1;
        stores[s]!committed;
        owes[me] = true
    };
#else
    side[s].position[(side[s].sequence + 1) & 1] = moved;
    side[s].count[(side[s].sequence + 1) & 1] = moved;
    atomic { committed = side[s].sequence + 1; stores[s]!committed; owes[me] = true }
#endif
}

inline side_commit_put(s, moved, most)
{
    if
    :: !side[s].waiting
    :: side[s].waiting ->
        atomic {
            flag = side[s].waiting;
            side[s].waiting = false;
            if
            :: flag -> owes[me] = true
            :: else
            fi
        }
    fi;
    ledger_commit(s, moved);
    lock_release(s);
    if
    :: atomic { !flag && !side[s].waiting; committed = 0; owes[me] = false }
    :: atomic { flag || side[s].waiting; flag = false };
        atomic {
            futex_wake(s, most);
            if
            :: woken != most -> woken = 0; committed = 0; owes[me] = false
            :: woken == most -> woken = 0
            fi
        };
        if
        :: committed == 0
        :: atomic { committed != 0; side[s].waiting = true };
            if
            :: atomic { side[s].sequence == committed; committed = 0; owes[me] = false }
            :: atomic { side[s].sequence != committed; committed = 0 };
                atomic { futex_wake(s, EVERYONE); woken = 0; owes[me] = false }
            fi
        fi
    fi
}

/* Rule 18. */
inline side_commit_get(moved)
{
    ledger_commit(GET, moved);
    lock_release(GET);
    if
    :: atomic { !side[GET].waiting; committed = 0; owes[me] = false; goto delivers }
    :: atomic { side[GET].waiting; committed = 0 }
    fi;
    if
    :: atomic { moved < room; owes[me] = false; goto delivers }
    :: moved >= room
    fi;
    if
    :: atomic { !side[GET].waiting; owes[me] = false; goto delivers }
    :: atomic { side[GET].waiting; side[GET].waiting = false }
    fi;
    bell++;
    atomic { futex_wake(GET, EVERYONE); woken = 0; owes[me] = false }
}

/* What the kernel does for the dead; the lock is free once their stores are visible. */
inline kernel_buries(s)
{
    atomic {
        asleep[me] = false;
        if
        :: owes[me] -> lost = true
        :: else
        fi;
        owes[me] = false;
        mine = 0; known = 0; noted = 0; seen = 0; before = 0; counted = 0; committed = 0; woken = 0; flag = false;
        left = 0; want = 0; batch = 0
    };
    if
    :: atomic { owner[s] == me + 1 && empty(stores[s]) -> owner[s] = 0; gone[me] = true }
    :: atomic { owner[s] != me + 1; gone[me] = true }
    fi
}

proctype Putter(byte me)
{
    byte mine, known, noted, seen, before, counted, committed, woken; /* known: get_as_seen */
    byte left = ITEMS, batch, want;
    bool flag;
    {
        mine = 0;
next:   if
        :: atomic { left == 0 -> known = 0; gone[me] = true; goto ends }
        :: atomic { left > 0 -> batch = 1 }
#if BATCH > 1
        :: atomic { left > 1 -> batch = 2 }
#endif
        fi;
put:    atomic { owner[PUT] == 0; owner[PUT] = me + 1; mine = CURRENT(PUT) };
        if
        :: atomic { mine - known + batch <= CAPACITY -> goto write }
        :: mine - known + batch > CAPACITY
        fi;
        ledger_read(GET);
        atomic {
            known = seen;
            seen = 0;
            assert(known <= mine && mine - known <= CAPACITY);
            if
            :: mine - known + batch <= CAPACITY -> goto write
            :: else -> want = mine + batch - CAPACITY
            fi
        };

        /* ask_for_room() */
        noted = bell;
        if
        :: atomic { side[GET].waiting -> want = (room < want -> room : want) }
        :: !side[GET].waiting
        fi;
        atomic { room = want; want = 0 };
        side[GET].waiting = true;

        ledger_read(GET);
        atomic {
            known = seen;
            seen = 0;
            if
            :: mine - known + batch <= CAPACITY -> noted = 0; goto write
            :: else -> mine = 0; owes[me] = false
            fi
        };
        lock_release(PUT);

        /* side_sleep_for_room() */
        atomic {
            if
            :: bell == noted -> asleep[me] = true; asks[me] = batch
            :: else
            fi;
            noted = 0
        };
end_full:
        if
        :: atomic { !asleep[me] -> goto put }
        :: atomic { asleep[me] && SLICE -> asleep[me] = false; goto put }
        fi;

write:  atomic {
            cell[mine % CAPACITY] = mine + 1;
            mine++;
            left--;
            if
            :: batch == 1 -> goto written
            :: else
            fi
        };
        atomic { cell[mine % CAPACITY] = mine + 1; mine++; left-- };
written:
        side_commit_put(PUT, mine, batch);
        atomic { mine = 0; batch = 0; goto next };
ends:   skip
    } unless { killed[me] -> kernel_buries(PUT) }
}

proctype Getter(byte me)
{
    byte mine, known, noted, seen, before, counted, committed, woken; /* known: put_as_seen */
    byte left = TAKES, batch, want; /* the last two are the putters' */
    bool flag;
    {
        mine = 0;
#ifdef TIRED
        goto tired;
#endif
get:    atomic {
            owner[GET] == 0;
            owner[GET] = me + 1;
            mine = CURRENT(GET);
            if
            :: known > mine -> goto take
            :: else
            fi
        };
        ledger_read(PUT);
        atomic {
            known = seen;
            seen = 0;
            assert(known >= mine && known - mine <= CAPACITY);
            if
            :: known > mine -> goto take
            :: else -> mine = 0; owes[me] = false
            fi
        };
        lock_release(GET);

        /* ring_wait_items() */
        noted = side[PUT].sequence;
        ledger_read(GET);
        atomic { mine = seen; seen = 0 };
        ledger_read(PUT);
        if
        :: atomic { seen != mine -> seen = 0; noted = 0; goto get }
        :: atomic { seen == mine -> seen = 0; mine = 0 }
        fi;
tired:  side[PUT].waiting = true;
        atomic {
            if
            :: side[PUT].sequence == noted -> asleep[me] = true
            :: else
            fi;
            noted = 0
        };
end_empty:
        if
        :: !asleep[me]
        :: atomic { asleep[me] && SLICE -> asleep[me] = false; goto get }
        :: atomic { quits_left > 0 -> quits_left--; goto quits }
        fi;

        /* pass_on() */
        seen = CURRENT(GET);
        if
        :: atomic { CURRENT(PUT) - seen <= 1 -> seen = 0; goto get }
        :: atomic { CURRENT(PUT) - seen > 1 -> seen = 0 }
        fi;
        atomic { futex_wake(PUT, 1); woken = 0; goto get };

take:   atomic { seen = cell[mine % CAPACITY]; assert(seen == mine + 1); mine++ };
        side_commit_get(mine);
delivers:
        atomic {
            assert(!delivered[mine - 1]);
            delivered[mine - 1] = true;
            mine = 0;
            seen = 0;
            left--;
            if
            :: left > 0 -> goto get
            :: left == 0
            fi
        };

quits:  atomic {
            asleep[me] = false;
            if
            :: owes[me] -> lost = true
            :: else
            fi;
            owes[me] = false;
            known = 0;
            gone[me] = true
        }
    } unless { killed[me] -> kernel_buries(GET) }
}

/* Makes the oldest store of a side visible: that of the sequence is the commit. */
inline drain(s)
{
    atomic {
        stores[s]?value;
        if
        :: value != RELEASE ->
            assert(value == side[s].sequence + 1);
            assert(CURRENT(s) < side[s].position[value & 1]);
            side[s].sequence = value;
            assert(CURRENT(s) == side[s].count[value & 1]);
            assert(CURRENT(GET) <= CURRENT(PUT) && CURRENT(PUT) - CURRENT(GET) <= CAPACITY)
#if !LOCKED
        :: value == RELEASE -> owner[s] = 0
#endif
        fi;
        value = 0
    }
}

proctype Memory()
{
    byte value;
end:
    do
    :: drain(PUT)
    :: drain(GET)
    od
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

/* When nothing moves any more. */
proctype Watch()
{
    byte i, missing;
    atomic {
        timeout;
        for (i : 0 .. USERS - 1) {
            assert(!asleep[i] || i < PUTTERS || CURRENT(PUT) == CURRENT(GET));
            if
            :: i < PUTTERS -> assert(!asleep[i] || CURRENT(PUT) + asks[i] > CURRENT(GET) + CAPACITY)
            :: else
            fi
        }
        for (i : 0 .. PUTTERS * ITEMS - 1) {
            if
            :: i < CURRENT(GET) && !delivered[i] -> missing++
            :: else
            fi
        }
        for (i : PUTTERS .. USERS - 1) {
            if
            :: killed[i] && missing > 0 -> missing-- /* it had committed, and not returned yet */
            :: else
            fi
        }
        assert(missing == 0)
    }
}

init
{
    atomic {
        byte i;
        for (i : 0 .. PUTTERS - 1) {
            run Putter(i)
        }
        for (i : PUTTERS .. USERS - 1) {
            run Getter(i)
        }
        i = 0;
        run Memory();
#if DEATHS > 0
        run Killer();
#endif
#ifndef LIVENESS
        run Watch()
#endif
    }
}

#ifdef LIVENESS
/* Unless all that could put or take are dead. */
ltl nothing_stays { <> [] (CURRENT(PUT) == CURRENT(GET)) }
#endif
