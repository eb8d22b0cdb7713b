"""Redis and RabbitMQ for the tests: started in a directory of their own, killed, started again, and cut off.

And what the tests of queues at brokers share beside that.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support import python, wait_for_line

BROKERS = ["redis", pytest.param("amqp", marks=pytest.mark.thorough)]
"""Their kinds, as parameters of tests."""

PATIENCE = 900.0  # seconds for a server to start on a machine that does a lot else
_RABBIT_PROGRAMS = os.environ.get("SHMQUEUE_TEST_RABBITMQ", "/usr/lib/rabbitmq/bin")
_RABBIT = f"{_RABBIT_PROGRAMS}/rabbitmq-server"  # not what is on PATH: that changes the user
_RABBIT_CONTROL = f"{_RABBIT_PROGRAMS}/rabbitmqctl"


ENDS_IN_THE_MIDDLE = """
import os, signal, sys, shmqueue
from redis.connection import Connection
from redis.exceptions import ConnectionError

url, how, left = *sys.argv[1:3], int(sys.argv[3])

def before(original):
    def counted(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConnectionError("cut")
        return original(*arguments, **options)
    return counted

def count():
    for name in ("send_packed_command", "read_response"):
        setattr(Connection, name, before(getattr(Connection, name)))
"""
"""How programs begin that are killed, or whose connection to Redis is cut, before a request or answer after count()."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process, which is the leader of a process group."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> tuple[list[str], dict[str, str]]:
        """What to run, and with which environment."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it can be used."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command, environment = self.command()
        with open(self.directory / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert self._process.poll() is None, (self.directory / "server.log").read_text()
            assert time.monotonic() < deadline, (self.directory / "server.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with all its processes, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it, and what it needs."""
        self.kill()

    def write(self) -> None:
        """Have it write what was declared."""

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It runs, and does nothing meanwhile."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            while not _is_stopped(self._process.pid):
                time.sleep(0.001)
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def url(self, queue: str, port: int | None = None) -> str:
        """The URL of a queue; through a proxy, that one's port."""
        raise NotImplementedError


class Redis(Server):
    """Writes each command to its file before it answers, so that a kill loses nothing."""

    def command(self) -> tuple[list[str], dict[str, str]]:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.directory, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always"}
        return ["redis-server", *(text for key, value in options.items() for text in (f"--{key}", str(value)))], {
            **os.environ
        }

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def url(self, queue: str, port: int | None = None) -> str:
        return f"redis://127.0.0.1:{port or self.port}/0?queue={queue}&visibility_timeout=2"


class Rabbit(Server):
    """A node that shares neither name server nor cookie with any other one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._names, self._distribution = free_port(), free_port()
        self._name_server: subprocess.Popen[bytes] | None = None

    def command(self) -> tuple[list[str], dict[str, str]]:
        where = {name: str(self.directory) for name in ("HOME", "RABBITMQ_MNESIA_BASE", "RABBITMQ_LOG_BASE")}
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text("loopback_users = none\n")
        return [_RABBIT], {
            **os.environ,
            **where,
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "ERL_EPMD_PORT": str(self._names),
        }

    def start(self) -> None:
        if self._name_server is None:  # ours, or else the node starts one that outlives it
            self._name_server = subprocess.Popen(["epmd", "-port", str(self._names), "-address", "127.0.0.1"])
        super().start()

    def write(self) -> None:
        """It does so some time after it has said that a queue is declared; items are written before that is said."""
        command = [_RABBIT_CONTROL, "eval", "mnesia:sync_log()."]
        ran = subprocess.run(command, env=self.command()[1], capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stdout + ran.stderr

    def close(self) -> None:
        super().close()
        if self._name_server is not None:
            self._name_server.kill()
            self._name_server.wait()
            self._name_server = None

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def url(self, queue: str, port: int | None = None) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}//?queue={queue}"


@contextmanager
def running(kind: str, directory: Path) -> Iterator[Server]:
    """A server that answers; skips the test, and says why, if it is not installed."""
    program = {"redis": "redis-server", "amqp": _RABBIT}[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    server: Server = (Redis if kind == "redis" else Rabbit)(directory)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Servers:
    """Servers by their kind, which are started when they are first needed, and end with ``ends``."""

    def __init__(self, paths: pytest.TempPathFactory, ends: ExitStack) -> None:
        self._paths, self._ends = paths, ends
        self._running: dict[str, Server] = {}

    def of(self, kind: str) -> Server:
        """The server of this kind. Skips the test, and says why, if it is not installed."""
        if kind not in self._running:
            self._running[kind] = self._ends.enter_context(running(kind, self._paths.mktemp(kind)))
        return self._running[kind]


@contextmanager
def killed_holder(url: str, what: str) -> Iterator[None]:
    """A process that holds a lease on an item of the queue, and is killed at the end.

    ``what`` is the item, and the number of the attempt.
    """
    with python(_HOLDER, url) as process:
        wait_for_line(process, what)
        yield


_HOLDER = """
import sys, shmqueue
q = shmqueue.connect(sys.argv[1])
lease = q.lease(timeout=30)
print(lease.item, lease.attempt, flush=True)
sys.stdin.read()
"""


@contextmanager
def silence() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


class Proxy:
    """Passes connections on to a port, until they are cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End all connections there are; new ones are passed on. Returns how many it were."""
        cut, self._connections = self._connections, []
        for connection in cut:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(cut) // 2

    def close(self) -> None:
        """End the listening as well."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            self._connections += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _is_stopped(group: int) -> bool:
    """Whether all threads of a process group are; a signal that stops them takes a moment."""
    for process in os.listdir("/proc"):
        with suppress(OSError):  # it has ended meanwhile
            for thread in os.listdir(f"/proc/{process}/task") if process.isdecimal() else []:
                with suppress(OSError):
                    stat = Path(f"/proc/{process}/task/{thread}/stat").read_text(errors="replace")
                    state, _, its_group = stat.rpartition(")")[2].split()[:3]
                    if int(its_group) == group and state not in "TZ":
                        return False
    return True


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
