"""What is measured: the workloads, the queues, and which figures stand in which table.

A workload is one line of ``WORKLOADS``; what it asks of a worker is in ``work`` and ``kinds``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shmqueue.cli.bench.drivers import peers_in
from shmqueue.cli.bench.kinds import LARGE

__all__ = [
    "TABLES",
    "WORKLOADS",
    "YARDSTICK",
    "Column",
    "Contestant",
    "Table",
    "Workload",
    "contestants",
]

YARDSTICK = "multiprocessing.Queue"
"""Whose figures are 1 in all ratios."""


@dataclass(frozen=True)
class Contestant:
    """A queue under test."""

    label: str
    driver: str
    role: str
    """field: one of the queues to choose from. family: another way to use ours. floor: what no queue can be below.
    async: a queue that coroutines wait for. threads: one that only the threads of a process share."""
    package: str | None = None
    """The package whose version is reported; None, this one or Python."""
    python: str | None = None
    """The interpreter that has the package; None, this one."""


_OURS = Contestant("shmqueue", "shmqueue", "field")
_STANDARD = Contestant(YARDSTICK, "multiprocessing", "field")
_FAMILY = (
    Contestant("compat.multiprocessing.Queue", "compat.multiprocessing", "family"),
    Contestant("compat.queue.Queue", "compat.queue", "family"),
    Contestant("shmqueue, portable engine", "shmqueue-portable", "family"),
)
_ASYNC = (
    Contestant("compat.asyncio.Queue", "compat.asyncio", "async"),
    Contestant(f"{YARDSTICK}, to_thread", "to-thread", "async"),
)
_THREADS = Contestant("queue.SimpleQueue (threads only)", "simple-queue", "threads")
_FLOOR = Contestant("msgpack alone, no queue", "floor", "floor", package="msgpack")


def contestants(peers: str | None, pythons: dict[str, str]) -> list[Contestant]:
    """All contestants.

    Args:
        peers: the directory of the adapters of other packages' queues, if these take part.
        pythons: interpreters for some of them, by name; some can be nowhere else.

    Raises:
        LookupError: there are no adapters, or none for one of these interpreters.
    """
    known = peers_in(peers) if peers is not None else {}
    for name in pythons:
        if name not in known:
            raise LookupError(f"{name!r} is none of the peers: {', '.join(known) or 'there are none without --peers'}")
    others = [
        Contestant(driver.label or name, f"{peers}:{name}", driver.role, driver.package or name, pythons.get(name))
        for name, driver in known.items()
        if name in pythons or not driver.is_elsewhere
    ]
    field = [other for other in others if other.role == "field"]
    coroutines = [other for other in others if other.role == "async"]
    return [_OURS, _STANDARD, *field, *_FAMILY, *_ASYNC, *coroutines, _THREADS, _FLOOR]


@dataclass(frozen=True)
class Column:
    """A figure of a workload, and how it is shown."""

    workload: str
    figure: str
    """rate, items a second; cost, nanoseconds an item; cpu, processor seconds per million items; p50, p99,
    microseconds; idle, percent of a processor."""
    title: str
    unit: str = "/s"
    scale: float = 1.0
    """What the figure is multiplied by to be in that unit."""

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a rate."""
        return self.figure == "rate"


@dataclass(frozen=True)
class Workload:
    """What goes through a queue, and how."""

    name: str
    shape: str
    kind: str
    trial: int
    """Items of the first trial, which finds out how many take long enough."""
    producers: int = 1
    consumers: int = 1
    queued: int = 0
    roles: tuple[str, ...] = ("field",)
    """Which contestants do it; alone: ours does."""
    room: int | None = None
    """Bytes of the queue; None, as many as are usual."""
    sized_like: str | None = None
    """Of which workload this takes the number of items, if that was measured."""
    quick: bool = False

    @property
    def patience(self) -> float:
        """Seconds that it takes longer than others, at most: so slow is one that puts 10,000 items a second."""
        return self.queued / 10_000

    def is_for(self, contestant: Contestant) -> bool:
        """Whether that contestant does it."""
        return contestant.role in self.roles or (contestant is _OURS and "alone" in self.roles)

    @property
    def is_timed(self) -> bool:
        """Whether it lasts a given time, however many items that are."""
        return self.shape == "idle"

    @property
    def most(self) -> int:
        """Most items: so many that their numbers still fit where they are noted."""
        return 3_000_000 if self.shape == "logged" else 1_000_000 if self.shape.endswith("round-trip") else 100_000_000


_ALL = ("field", "family")

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("int", "stream", "int", 2_000, roles=_ALL, quick=True),
        Workload("dict", "stream", "dict", 2_000, roles=_ALL, quick=True),
        Workload("bytes", "stream", "bytes", 30, quick=True),
        Workload("raw", "stream", "raw", 30),
        Workload("made", "stream", "made", 30),
        Workload("numpy", "stream", "numpy", 30),
        Workload("2-to-2", "logged", "dict", 2_000, producers=2, consumers=2),
        Workload("round-trip", "round-trip", "int", 200, quick=True),
        Workload("async-round-trip", "async-round-trip", "int", 200, roles=("async",)),
        Workload("pair-int", "pair", "int", 2_000, roles=("field", "threads")),
        Workload("pair-dict", "pair", "dict", 2_000, roles=("field", "threads")),
        Workload("floor-int", "convert", "int", 20_000, roles=("floor",)),
        Workload("floor-dict", "convert", "dict", 20_000, roles=("floor",)),
        Workload("idle", "idle", "int", 1),
        Workload("batch-int", "batches", "int", 2_000, roles=_ALL),
        Workload("batch-dict", "batches", "dict", 2_000, roles=_ALL),
        Workload("list", "stream", "list", 200, roles=_ALL),
        Workload("lease", "leases", "int", 2_000, roles=("alone",)),
        *(
            Workload(f"ring-{n}m", "stream", "int", 2_000, roles=("alone",), room=n << 20, sized_like="ring-16m")
            for n in (16, 1)
        ),
        *(Workload(f"1-to-{n}", "logged", "int", 2_000, consumers=n) for n in (1, 2, 4, 8)),
        *(Workload(f"{n}-to-1", "logged", "int", 2_000, producers=n) for n in (2, 4, 8)),
        *(
            Workload(f"queued-{n}", "pair", "int", 2_000, queued=n, sized_like="queued-1")
            for n in (1, 100, 10_000, 1_000_000)
        ),
    )
}


@dataclass(frozen=True)
class Table:
    """Figures side by side; a row for each contestant of these roles."""

    title: str
    columns: tuple[Column, ...]
    roles: tuple[str, ...] = ("field",)
    notes: dict[str, str] = field(default_factory=dict)
    """What is to be known of a workload, by its name."""
    floors: dict[str, str] = field(default_factory=dict)
    """For the contestant that is none: which workload stands in for which."""


_GIGABYTES = LARGE / 1e9

TABLES: tuple[Table, ...] = (
    Table(
        "One producer and one consumer, two of each",
        (
            Column("int", "rate", "small int"),
            Column("dict", "rate", "small dict"),
            Column("bytes", "rate", "1 MiB bytes", "GB/s", _GIGABYTES),
            Column("raw", "rate", "1 MiB raw", "GB/s", _GIGABYTES),
            Column("made", "rate", "1 MiB made", "GB/s", _GIGABYTES),
            Column("numpy", "rate", "1 MiB numpy", "GB/s", _GIGABYTES),
            Column("2-to-2", "rate", "2 to 2 dict"),
        ),
        notes={
            "raw": "Raw: bytes without serialization, read in place where the queue offers that",
            "made": "Made: the same, filled by the producer for each item, in place where the queue offers that",
        },
    ),
    Table(
        "Time and processor",
        (
            Column("round-trip", "p50", "round trip p50", "us"),
            Column("round-trip", "p99", "round trip p99", "us"),
            Column("pair-int", "cost", "put+get int", "ns"),
            Column("pair-dict", "cost", "put+get dict", "ns"),
            Column("dict", "cpu", "CPU per million dicts", "s"),
            Column("idle", "idle", "CPU of a blocked get", "%"),
        ),
        roles=("field", "threads", "floor"),
        notes={
            "pair-int": "put+get: in turn, in one process",
            "idle": "CPU of a blocked get: percent of one processor",
        },
        floors={"pair-int": "floor-int", "pair-dict": "floor-dict"},
    ),
    Table(
        "Several processes, small int",
        tuple(
            Column(name, "rate", name.replace("-", " "))
            for name in ("1-to-1", "1-to-2", "1-to-4", "1-to-8", "2-to-1", "4-to-1", "8-to-1")
        ),
    ),
    Table(
        "put+get in turn, with this number of items in the queue",
        tuple(Column(f"queued-{n}", "rate", f"{n:,}") for n in (1, 100, 10_000, 1_000_000)),
    ),
    Table(
        "Batches of 100 with put_many and get_many, and lists of 100 dicts as one item",
        (
            Column("batch-int", "rate", "ints"),
            Column("batch-dict", "rate", "dicts"),
            Column("list", "rate", "dicts in lists", "/s", 100),
        ),
        notes={"batch-int": "Batches: of items that were made before, as are the lists"},
    ),
    Table(
        "Two asyncio programs",
        (
            Column("async-round-trip", "p50", "round trip p50", "us"),
            Column("async-round-trip", "p99", "round trip p99", "us"),
        ),
        roles=("async",),
        notes={"async-round-trip": f"{YARDSTICK}: each put and each get in a thread, by asyncio.to_thread"},
    ),
    Table(
        "One producer and one consumer, small int: what leases and a full ring cost",
        (
            Column("lease", "rate", "lease and ack"),
            Column("ring-1m", "rate", "ring of 1 MiB"),
            Column("ring-16m", "rate", "ring of 16 MiB"),
        ),
        roles=("alone",),
        notes={"ring-1m": "Rings: with as many items in both, of which a million fit the large one"},
    ),
    Table(
        "The ways to use shmqueue",
        (
            Column("int", "rate", "small int"),
            Column("dict", "rate", "small dict"),
            Column("batch-int", "rate", "batches, int"),
            Column("batch-dict", "rate", "batches, dict"),
            Column("list", "rate", "dicts in lists", "/s", 100),
        ),
        roles=("ours", "family"),
    ),
)
