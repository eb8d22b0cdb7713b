"""Runs Celery's own integration tests on a broker: ``python tests/celery_suite.py [URL] [--backend URL] [OPTION...]``.

They come from the source distribution of the installed Celery, and need more than the project's tests do: ``pip install
pydantic psutil python-dateutil sqlalchemy cryptography django pytest-order pytest-subtests``. Results go to SQLite, in
shared memory, where it is fast. Some tests use a Redis server beside the broker, at REDIS_HOST and REDIS_PORT. Further
options are pytest's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

OPTIONS = ["-q", "-p", "celery.contrib.pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=short"]
OPTIONS += ["-p", "no:rerunfailures", "--timeout=300", "--junit-xml=results.xml", "t/integration"]
OPTIONS += ["--ignore=t/integration/test_backend.py"]  # of Azure's, without which it cannot be imported


def unpack(directory: Path) -> Path:
    """The source tree of the installed Celery."""
    version = importlib.metadata.version("celery")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery"]
    subprocess.run([*command, "--dest", directory, f"celery=={version}"], check=True)
    with tarfile.open(next(directory.glob("celery-*.tar.gz"))) as archive:
        for entry in archive.getmembers():
            name = Path(*Path(entry.name).parts[1:])
            content = archive.extractfile(entry) if entry.isfile() else None
            if content is not None and (name.parts[0] == "t" or str(name) == "pyproject.toml"):
                target = directory / "tests" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return directory / "tests"


def outcome(case: ElementTree.Element) -> str:
    """Of one test."""
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="shm://")
    parser.add_argument("--backend", help="URL of the results; by default SQLite")
    options, arguments = parser.parse_known_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory(dir=memory) as segments:
        tests = unpack(Path(directory))
        environment = {"TEST_BROKER": options.url, "SHMQUEUE_DIR": segments}
        beside = str(Path(sys.executable).parent)  # where the program is that they run as "celery"
        environment["PATH"] = os.pathsep.join([beside, os.environ["PATH"]])
        environment["TEST_BACKEND"] = options.backend or f"db+sqlite:///{segments}/results.db"
        command = [sys.executable, "-m", "pytest", *OPTIONS, *arguments]
        status = subprocess.run(command, cwd=tests, env={**os.environ, **environment}).returncode
        cases = list(ElementTree.parse(tests / "results.xml").getroot().iter("testcase"))
    print(options.url, dict(Counter(map(outcome, cases))))
    return status


if __name__ == "__main__":
    sys.exit(main())
