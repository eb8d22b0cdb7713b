"""kombu's own integration tests, from its source distribution, on ``shm://``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("kombu", reason="kombu is not installed")

from shmqueue.compat.kombu import remove

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]

CLASSES = ["BasicFunctionality", "BaseExchangeTypes", "BaseTimeToLive", "BasePriority", "BaseMessage", "BaseEventLoop"]

INVALID = {"test_failed_connect", "test_failed_connection", "test_failed_channel", "test_failed_default_channel"}
"""They are about a broker that cannot be reached. There is none."""

MODULE = """
import kombu
import pytest
import shmqueue.compat.kombu
from t.integration import common

@pytest.fixture
def connection():
    with kombu.Connection("shm://") as connection:
        yield connection
"""


def test_kombus_integration_tests_pass(tmp_path: Path) -> None:
    version = importlib.metadata.version("kombu")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "kombu"]
    ran = subprocess.run(
        [*command, "--dest", tmp_path, f"kombu=={version}"], capture_output=True, text=True, timeout=600
    )
    if ran.returncode != 0:
        pytest.skip(f"the source distribution of kombu {version} cannot be had: {ran.stderr[-500:]}")
    archive = next(tmp_path.glob("kombu-*.tar.gz"))
    with tarfile.open(archive) as file:
        wanted = [entry for entry in file.getmembers() if entry.isfile() and "/t/integration/" in entry.name]
        for entry in wanted:
            content = file.extractfile(entry)
            assert content is not None
            target = tmp_path / "t" / "integration" / Path(entry.name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    (tmp_path / "t" / "__init__.py").touch()
    (tmp_path / "t" / "integration" / "__init__.py").touch()
    present = (tmp_path / "t" / "integration" / "common.py").read_text()
    classes = [name for name in CLASSES if f"class {name}" in present]  # the last one came with kombu 5.6
    body = "".join(f"\nclass Test{name}(common.{name}):\n    pass\n" for name in classes)
    (tmp_path / "test_shm.py").write_text(MODULE + body)
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--junit-xml=results.xml"]
        + [f"--deselect=test_shm.py::TestBasicFunctionality::{name}" for name in sorted(INVALID)]
        + ["test_shm.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
    )
    remove()
    assert suite.returncode == 0, suite.stdout
    results = ElementTree.parse(tmp_path / "results.xml").getroot().find("testsuite")
    assert results is not None
    assert int(results.get("tests", "0")) >= 25
    assert results.get("skipped") == "0"
