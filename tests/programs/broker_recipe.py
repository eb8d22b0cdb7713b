import sys

import shmqueue


def put(url: str, count: int) -> None:
    with shmqueue.connect(url) as jobs:
        for number in range(count):
            jobs.put({"square": number})


def work(url: str) -> None:
    with shmqueue.connect(url) as jobs:
        while True:
            try:
                lease = jobs.lease(timeout=1)
            except shmqueue.ShmQueueEmpty:
                return
            with lease:  # acknowledged at the end; kill -9 here: another worker gets the item
                number = lease.item["square"]
                print(number, "squared is", number * number)


if __name__ == "__main__":
    url, what, *count = sys.argv[1:]  # shm://jobs?keep=1, or redis://host/0?queue=jobs
    if what == "put":
        put(url, int(count[0]))
    else:
        work(url)
