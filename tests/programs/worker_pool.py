"""Uses mpire's worker pool in several ways, and prints what it gave.

Usage: worker_pool.py METHOD
"""

import sys

from mpire import WorkerPool


def load(offset, state):
    state["table"] = {number: number * number for number in range(50)}


def look_up(offset, state, number):
    return offset + state["table"][number]


def batch(start):
    return start, [start + step for step in range(500)], "x" * 30_000


def fail(number):
    if number == 7:
        raise LookupError(f"no {number}")
    return number


def main(method):
    with WorkerPool(n_jobs=2, start_method=method, shared_objects=1000, use_worker_state=True) as pool:
        print(sorted(pool.imap_unordered(look_up, range(50), worker_init=load)))
    with WorkerPool(n_jobs=2, start_method=method, keep_alive=True) as pool:
        for _ in range(2):
            loaded = list(pool.imap(batch, range(0, 20_000, 500), max_tasks_active=6))
            print([start for start, _, _ in loaded], sum(sum(numbers) + len(text) for _, numbers, text in loaded))
        results = [pool.apply_async(fail, (number,)) for number in range(5)]
        print([result.get() for result in results])
    with WorkerPool(n_jobs=2, start_method=method) as pool:
        try:
            pool.map(fail, range(20))
        except LookupError as error:
            print(str(error).strip().splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1])
