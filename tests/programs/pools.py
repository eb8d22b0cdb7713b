"""Uses a Pool, a ProcessPoolExecutor and a Manager, and prints what they gave.

Usage: pools.py METHOD
"""

import concurrent.futures
import multiprocessing
import sys

NUMBER = 0


def set_number(number):
    global NUMBER
    NUMBER = number


def shift(value):
    return value + NUMBER


def size(block):
    return len(block), block[:1] * 300_000


def fail(value):
    raise LookupError(value)


def put_squares(queue, count):
    for number in range(count):
        queue.put(number * number)


def main(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2, initializer=set_number, initargs=(100,), maxtasksperchild=20) as pool:
        print(pool.map(shift, range(40), chunksize=3))
        print(list(pool.imap(shift, range(5))), sorted(pool.imap_unordered(shift, range(5))))
        print([(count, len(block)) for count, block in pool.map(size, [b"x" * 400_000] * 4)])
        try:
            pool.apply(fail, ("pool",))
        except LookupError as error:
            print(repr(error))
        print(pool.apply_async(shift, (1,)).get(timeout=30))
        print(type(pool._inqueue).__module__)
    with context.Pool(2) as pool:
        result = pool.map_async(shift, range(10))
        pool.close()
        pool.join()
        print(result.get())
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=context, initializer=set_number, initargs=(7,)
    ) as executor:
        print(list(executor.map(shift, range(20), chunksize=4)))
        print([(count, len(block)) for count, block in executor.map(size, [b"x" * 400_000] * 4)])
        print(repr(executor.submit(fail, "executor").exception(timeout=30)))
        print(type(executor._result_queue).__module__)
    with context.Manager() as manager:
        queue = manager.Queue()
        with context.Pool(1) as pool:
            pool.apply(put_squares, (queue, 5))
        print([queue.get() for _ in range(5)])


if __name__ == "__main__":
    main(sys.argv[1])
