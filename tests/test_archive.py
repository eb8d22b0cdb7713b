"""Imported from a zip file or frozen, where there are no directories and no compiled modules, queues work."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import msgpack
import pytest
import shmlock
from support import PATIENCE, python, run_python

import shmqueue
import shmqueue.compat
import shmqueue.conformance

PROGRAM = """
import sys

def work(q, answers):
    for item in iter(q.get, None):
        answers.put(item)

def main():
    import warnings
    warnings.simplefilter("ignore")
    import shmqueue, shmqueue.conformance
    from shmqueue.compat import multiprocessing as mp, queue
    print(shmqueue.__file__)
    print(shmqueue.engine.NAME)
    print(shmqueue.engine.REASON)
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        with context.Pool(1) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        q, answers = context.Queue(), context.Queue()
        child = context.Process(target=work, args=(q, answers))
        child.start()
        item = {"method": method, "tuple": (1, 2), "big": b"x" * 100_000}
        q.put(item)
        assert answers.get() == item
        q.put(None)
        child.join()
        assert child.exitcode == 0
    print("served")

if __name__ == "__main__":
    main()
"""


def zipped(target: Path, packages: dict[str, str]) -> str:
    """A zip file of packages: their names and the directories where their files are."""
    files = {  # an installed package has the directories of its subpackages in its own
        os.path.join(*package.split("."), file.relative_to(directory)): file
        for package, directory in packages.items()
        for file in Path(directory).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(target, "w") as archive:
        for name, file in files.items():
            archive.write(file, name)
    return str(target)


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """All that shmqueue needs, in a zip file."""
    modules = (shmqueue, shmqueue.compat, shmqueue.conformance, msgpack, shmlock)
    return zipped(tmp_path / "all.zip", {module.__name__: os.path.dirname(str(module.__file__)) for module in modules})


@pytest.fixture(autouse=True)
def without_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMQUEUE_ENGINE", raising=False)


def run(*arguments: str, path: str) -> str:
    """What an interpreter prints that has nothing but the standard library and the archive."""
    ran = subprocess.run(
        [sys.executable, "-S", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=os.path.dirname(path),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert ran.returncode == 0, ran
    return ran.stdout


def test_from_a_zip_file_the_portable_engine_serves_and_says_why(archive: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    file, engine, reason, served = run("program.py", path=archive).splitlines()
    assert file.startswith(archive)
    assert (engine, served) == ("portable", "served")
    assert f"inside {archive}" in reason
    assert "no directory" in reason


def test_a_zip_application_serves(archive: str) -> None:
    with zipfile.ZipFile(archive, "a") as application:
        application.writestr("program.py", PROGRAM)  # a spawned child of the standard library imports no __main__
        application.writestr("__main__.py", "import program\nif __name__ == '__main__':\n    program.main()\n")
    assert run(archive, path=archive).splitlines()[1::2] == ["portable", "served"]


def test_the_runner_of_programs_works_from_a_zip_file(archive: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import multiprocessing as m; print(type(m.Queue()).__module__)")
    assert run("-W", "ignore", "-m", "shmqueue.compat", "program.py", path=archive) == "shmqueue.compat._queues\n"


def test_where_modules_have_no_file_the_reason_says_so() -> None:
    code = """
import sys, importlib.abc, importlib.machinery, warnings
warnings.simplefilter("ignore")

class Frozen(importlib.abc.MetaPathFinder):
    # Modules without a __file__, as frozen ones are, and no compiled ones.
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("shmqueue"):
            return None
        if name.endswith("._core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        found = importlib.machinery.PathFinder.find_spec(name, ORIGINALS.get(name.rpartition(".")[0]))
        ORIGINALS[name] = found.submodule_search_locations and list(found.submodule_search_locations)
        spec = importlib.machinery.ModuleSpec(name, Loader(found.loader), is_package=ORIGINALS[name] is not None)
        return spec

class Loader(importlib.abc.Loader):
    def __init__(self, real):
        self.real = real
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(self.real.get_code(self.real.name), vars(module))

ORIGINALS = {}
for finder in [f for f in sys.meta_path if f.__class__.__module__.startswith("__editable__")]:
    sys.meta_path.remove(finder)
sys.path[:0] = sys.argv[2:]
sys.meta_path.insert(0, Frozen())
import shmqueue
assert not hasattr(shmqueue, "__file__")
with shmqueue.ShmQueue(sys.argv[1]) as q:
    q.put(1)
    print(q.get(), shmqueue.engine.NAME)
print(shmqueue.engine.REASON)
"""
    with python("import shmqueue; print(shmqueue.__path__[0])") as process:
        where = process.communicate(timeout=PATIENCE)[0].strip()
    served, reason = run_python(code, "frozen", os.path.dirname(where)).splitlines()
    assert served == "1 portable"
    assert "frozen into the program" in reason
