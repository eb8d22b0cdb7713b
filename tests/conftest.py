from __future__ import annotations

import importlib
import multiprocessing
import os
import queue as standard_queue
import shutil
import signal
import sys
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

try:
    import shmqueue.compat  # noqa: F401  (in a checkout it lies beside the package: only an installation has it)
except ImportError as missing:
    sys.exit(
        f"the tests need the installed package ({missing}); in the checkout: "
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"
    )
from asyncio_support import run_asyncio, run_uvloop
from broker_servers import BROKERS, Server, Servers
from fileno_support import OpenQueue, opened_by_kind
from hypothesis import HealthCheck, settings
from portable_support import PAGE, WHOLE, Open, Opened, portable_handles
from support import PATIENCE, START_METHODS, Opener

from shmqueue import ShmQueue
from shmqueue.engine import portable_memory
from shmqueue.segment.locks import changing

settings.register_profile(
    "shmqueue",
    deadline=None,
    # The first is about the machine's load, not about the strategies. For the second: queues may serve many examples.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("shmqueue")

SHM = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


ONCE = [
    "archive",
    "bench",
    "broker",
    "broker_conformance",
    "broker_failures",
    "broker_foreign",
    "broker_interrupted",
    "broker_redis",
    "broker_requeue",
    "broker_urls",
    "cli",
    "cli_demo",
    "cli_doctor",
    "cli_get",
    "cli_leases",
    "cli_list",
    "cli_put",
    "cli_strays",
    "closed_descriptors",
    "conformance",
    "conformance_plugin",
    "conformance_report",
    "corrupted_leases",
    "denied_futex",
    "directories",
    "documents",
    "elastic",
    "fairness",
    "file_systems",
    "headers",
    "history",
    "history_orders",
    "history_traffic",
    "hot_end",
    "kombu_foreign_items",
    "kombu_open_queues",
    "kombu_room",
    "kombu_stopped",
    "language",
    "leasing_history",
    "lifetime",
    "locked_files",
    "messages",
    "native_files",
    "opening_cost",
    "orphans",
    "segment",
    "typing",
    "users",
]
"""The tests of what does not depend on the version of Python: ``.ci/run`` runs them on one."""
ONCE_MODULES = frozenset(f"test_{name}" for name in ONCE)


def in_part(nodeid: str, which: str) -> bool:
    """Whether a test is of a part of all tests: 2/3 is the second of three parts, which are the same everywhere."""
    part, _, parts = which.partition("/")
    return zlib.crc32(nodeid.encode()) % int(parts) == int(part) - 1


def may_be_thorough(module: Path) -> bool:
    """Whether some test of a module may have that mark: its text has it, or a broker, which may bring it along."""
    text = module.read_text()
    return "thorough" in text or "broker" in text


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Modules without a test that ``-m`` asks for are not even imported; None: as everything else decides."""
    wanted = config.option.markexpr
    is_other = "not once" in wanted and collection_path.stem in ONCE_MODULES
    if wanted == "thorough" and collection_path.match("test_*.py"):
        is_other = not may_be_thorough(collection_path)
    return True if is_other else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of those modules; keep the parts of the tests that the environment says.

    $SHMQUEUE_TEST_PART is of all tests, $SHMQUEUE_TEST_PORTABLE of those on the portable engine.
    """
    for item in items:
        if item.path.stem in ONCE_MODULES:
            item.add_marker("once")
    for module in {item.path for item in items if item.get_closest_marker("thorough") is not None}:
        if not may_be_thorough(module):
            raise pytest.UsageError(f"-m thorough would not find the tests of {module.name}: see may_be_thorough()")
    part, of_portable = (os.environ.get(f"SHMQUEUE_TEST_{name}", "1/1") for name in ("PART", "PORTABLE"))

    def is_kept(item: pytest.Item) -> bool:
        is_portable = "portable" in item.nodeid.partition("[")[2]
        return in_part(item.nodeid, part) and (not is_portable or in_part(item.nodeid, of_portable))

    if left_out := [item for item in items if not is_kept(item)]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = filter(is_kept, items)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure when it happens: a run that is cut off has then told it."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        what = f"{report.nodeid} failed in {report.when} after {report.duration:.0f} s"
        print(f"\n{what}\n{report.longreprtext}\n", flush=True)


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> Iterator[None]:
    """Signals end programs that tests start, even where a shell or nohup ignores some, as in the background."""
    heard: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def gil_stays_off() -> Iterator[None]:
    """Where there is no GIL, nothing that the tests import or do switches it on."""
    is_on: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    was_on = is_on()
    yield
    assert was_on or not is_on(), "something has switched the GIL on"


@pytest.fixture(autouse=True)
def segment_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each test keeps its segments in a directory of its own, which must be empty when it is over."""
    directory = tempfile.mkdtemp(prefix="shmqueue-tests-", dir=SHM)
    monkeypatch.setenv("SHMQUEUE_DIR", directory)
    try:
        yield directory
        left = os.listdir(directory)
        assert left == [], f"left in shared memory: {left}"
        assert not changing()._is_owned(), "this thread has left a lock taken, which every other thread waits for"  # type: ignore[attr-defined]
    finally:
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def segment_lock() -> Iterator[None]:
    """The lock around opening and closing files is free after each test: a later one would wait for ever in a thread.

    The test's own thread would not notice by taking it, for the lock is reentrant.
    """
    yield
    lock = changing()
    if lock._is_owned():  # type: ignore[attr-defined]
        while lock._is_owned():  # type: ignore[attr-defined]
            lock.release()
        pytest.fail("the test's thread has left shmqueue.segment.locks.changing taken")
    assert lock.acquire(timeout=PATIENCE), "another thread has left shmqueue.segment.locks.changing taken"
    lock.release()


@pytest.fixture(params=["native", "portable"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines in turn. A missing native engine fails the test: it must not pass on the other one."""
    monkeypatch.setenv("SHMQUEUE_ENGINE", request.param)
    return str(request.param)


@pytest.fixture
def only_native(engine: str) -> None:
    if engine != "native":
        pytest.skip("its lock is a word of memory")


@pytest.fixture
def only_portable(engine: str) -> None:
    if engine != "portable":
        pytest.skip("its lock is a lock of the file system")


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what only the native engine promises."""
    monkeypatch.setenv("SHMQUEUE_ENGINE", "native")


@pytest.fixture
def name() -> str:
    """A queue name that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def make(name: str) -> Iterator[Callable[..., ShmQueue]]:
    """Opens queues that are shut down when the test is over, whatever happened."""
    opened: list[ShmQueue] = []

    def open_queue(queue_name: str = name, **options: Any) -> ShmQueue:
        queue = ShmQueue(queue_name, **options)
        opened.append(queue)
        return queue

    yield open_queue
    for queue in opened:
        queue.shutdown()


# ---- the adapters, and what they stand in for ----


@pytest.fixture(params=[run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine function without arguments, within some seconds."""
    runner: Callable[..., Any] = request.param
    return runner


@pytest.fixture(params=["standard", "native", "portable"])
def queues(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """``queue``, and our stand-in for it on both engines."""
    yield from _opened(standard_queue, request.param, monkeypatch)


@pytest.fixture
def our_queues(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Our stand-in for ``queue``."""
    yield from _opened(standard_queue, engine, monkeypatch)


@pytest.fixture(params=["standard", "native", "portable"])
def mp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """``multiprocessing``, and our stand-in for it on both engines."""
    yield from _opened(multiprocessing, request.param, monkeypatch)


@pytest.fixture
def our_mp(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Our stand-in for ``multiprocessing``."""
    yield from _opened(multiprocessing, engine, monkeypatch)


@pytest.fixture(params=START_METHODS)
def context(mp: Opener, request: pytest.FixtureRequest) -> Opener:
    """The context of each start method, of ``mp``."""
    return mp.of(request.param)


@pytest.fixture(params=START_METHODS)
def our_context(our_mp: Opener, request: pytest.FixtureRequest) -> Opener:
    """The context of each start method, of our stand-in."""
    return our_mp.of(request.param)


def _opened(original: Any, which: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """The module itself, or our stand-in for it on one engine; its queues are closed at the end."""
    if which != "standard":
        monkeypatch.setenv("SHMQUEUE_ENGINE", which)
    module = original if which == "standard" else importlib.import_module(f"shmqueue.compat.{original.__name__}")
    opener = Opener(module, which == "standard")
    yield opener
    opener.close()


# ---- what the tests of one subject share ----


@pytest.fixture(params=["ShmQueue", "queue.Queue", "queue.SimpleQueue", "Queue", "JoinableQueue", "SimpleQueue"])
def any_queue(request: pytest.FixtureRequest, make: Callable[..., ShmQueue], engine: str) -> Any:
    """A queue of each class, on both engines."""
    if request.param == "ShmQueue":
        yield make(max_bytes=1 << 26)
        return
    module = "queue" if "." in request.param else "multiprocessing"
    q = getattr(importlib.import_module(f"shmqueue.compat.{module}"), request.param.rpartition(".")[2])()
    yield q
    q.close()


@pytest.fixture
def open_kind(engine: str) -> Iterator[OpenQueue]:
    """Makes queues of the kinds that have a descriptor; see ``fileno_support.KINDS``."""
    with opened_by_kind() as open_queue:
        yield open_queue


@pytest.fixture
def open_portable(name: str) -> Iterator[Open]:
    """Opens handles on one queue of the portable engine."""
    with portable_handles(name) as open_handle:
        yield open_handle


@pytest.fixture
def elastic(open_portable: Open) -> Opened:
    """A queue of the portable engine that can grow, with a ring of one page."""
    return open_portable(capacity=WHOLE, initial=PAGE)


@pytest.fixture
def thrifty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings of the portable engine shrink whenever they can."""
    monkeypatch.setattr(portable_memory, "_KEPT", 0)
    monkeypatch.setattr(portable_memory, "_KEPT_TIMES", 1)


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes connections of kombu on ``shm://``."""
    from kombu_support import connections  # which needs kombu, and takes as long as all else that is imported here

    with connections() as open_connection:
        yield open_connection


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Brokers, which live as long as the module's tests."""
    with ExitStack() as ends:
        yield Servers(tmp_path_factory, ends)


@pytest.fixture(params=BROKERS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each broker."""
    return servers.of(request.param)


@pytest.fixture(params=["shm", *BROKERS])
def any_url(request: pytest.FixtureRequest, servers: Servers, name: str) -> str:
    """The URL of a new queue, in shared memory and at each broker."""
    return f"shm://{name}" if request.param == "shm" else servers.of(request.param).url(name)
