"""Programs that know nothing of shmqueue run on its queues, and so do their children."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
import shmlock
from support import PATIENCE, START_METHODS, run_program, run_python

import shmqueue
import shmqueue.compat

PROGRAMS = Path(__file__).parent / "programs"
OURS = "shmqueue.compat"

pytestmark = pytest.mark.usefixtures("engine")


def run(*arguments: object, within: Path = PROGRAMS) -> subprocess.CompletedProcess[str]:
    return run_program(*arguments, within=within)


def both(*arguments: object, within: Path = PROGRAMS) -> tuple[str, str]:
    """What a program prints as it is, and on our queues."""
    outputs = []
    for prefix in ((), ("-m", OURS)):
        ran = run(*prefix, *arguments, within=within)
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        outputs.append(ran.stdout)
    return outputs[0], outputs[1]


# ---- python -m shmqueue.compat ----


@pytest.mark.parametrize("method", START_METHODS)
def test_every_context_makes_our_queues_in_all_generations(method: str) -> None:
    as_it_is, on_ours = (output.splitlines() for output in both("queue_makers.py", method))
    originals = "multiprocessing.queues"
    generations = ("parent", "child", "grandchild")
    assert as_it_is == [*(f"{generation} ['{originals}'] {originals}" for generation in generations), "0"]
    assert on_ours[-1] == "0"
    for generation, line in zip(generations, on_ours, strict=False):
        assert line.startswith(f"{generation} ['{OURS}"), line
        assert originals not in line.partition("]")[0], line
        assert line.endswith(f" {originals}"), "the classes of the standard library stay where they are"


@pytest.mark.parametrize("method", START_METHODS)
def test_pools_and_executors_work_on_our_queues(method: str) -> None:
    as_it_is, on_ours = (output.splitlines() for output in both("pools.py", method))
    assert "[100, 101, 102" in as_it_is[0]
    assert [line.startswith(OURS) for line in on_ours].count(True) == 2
    assert [line for line in on_ours if not line.startswith(OURS)] == [
        line for line in as_it_is if line != "multiprocessing.queues"
    ]


SHOW = '''"""A program."""
import os, sys
main = sys.modules["__main__"]
print(sys.argv, sys.path[0], __name__, __doc__, __package__ or None)
print(main.__dict__ is globals(), __file__, os.path.exists(__file__))
print(__spec__ and (__spec__.name, __spec__.origin), __builtins__ is not None)
print(sorted(name for name in globals() if name not in ("__annotations__", "__cached__", "__loader__")))
'''


def test_a_program_sees_what_it_sees_without_us(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SHOW)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "program.py").write_text("from . import helper\n" + SHOW)
    (tmp_path / "package" / "helper.py").write_text("")
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(SHOW)
    for arguments in (
        ("program.py", "--flag", "-m", "x y", ""),
        (tmp_path / "program.py",),
        ("package/../program.py", "--help"),
        ("-m", "program", "-m", "--flag"),
        ("-m", "package.program", "a"),
        ("-m", "package"),
    ):
        as_it_is, on_ours = both(*arguments, within=tmp_path)
        assert on_ours == as_it_is, arguments


def test_a_program_imports_its_neighbours(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "neighbour.py").write_text("print('imported')")
    (tmp_path / "program.py").write_text("import neighbour\nfrom __main__ import neighbour as again\n")
    assert both("../program.py", within=elsewhere) == ("imported\n", "imported\n")
    assert both("-m", "program", within=tmp_path) == ("imported\n", "imported\n")


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit('sorry')", "raise KeyError('x')", "sys.exit()", "1 +"])
def test_a_program_ends_as_it_ends_without_us(tmp_path: Path, end: str) -> None:
    (tmp_path / "program.py").write_text(f"import sys\nprint('so far', flush=True)\n{end}\n")
    as_it_is, on_ours = run("program.py", within=tmp_path), run("-m", OURS, "program.py", within=tmp_path)
    assert on_ours.returncode == as_it_is.returncode
    assert on_ours.stdout == as_it_is.stdout
    assert on_ours.stderr.splitlines()[-1:] == as_it_is.stderr.splitlines()[-1:]
    if "Traceback" in as_it_is.stderr:
        assert 'program.py", line 3, in <module>' in on_ours.stderr


def test_without_a_program_it_says_how(tmp_path: Path) -> None:
    for arguments in ((), ("-m",)):
        ran = run("-m", OURS, *arguments, within=tmp_path)
        assert ran.returncode == 2
        assert "usage" in ran.stderr.lower()
        assert f"python -m {OURS}" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    for arguments in (("missing.py",), ("-m", "missing_module")):
        as_it_is, on_ours = run(*arguments, within=tmp_path), run("-m", OURS, *arguments, within=tmp_path)
        assert as_it_is.returncode != 0
        assert on_ours.returncode != 0
        assert arguments[-1] in on_ours.stderr


# ---- install and uninstall ----


def test_uninstall_restores_exactly_what_was_there() -> None:
    code = """
import multiprocessing, multiprocessing.context, multiprocessing.spawn, sys
KINDS = ("Queue", "JoinableQueue", "SimpleQueue")
def state():
    context = multiprocessing.context
    return (
        [multiprocessing.context.BaseContext.__dict__[kind] for kind in KINDS],
        [getattr(multiprocessing, kind) for kind in KINDS],
        [name for cls in (context.DefaultContext, context.ForkContext, context.SpawnContext, context.ForkServerContext)
         for name in vars(cls) if name in KINDS],
        multiprocessing.spawn.get_preparation_data,
        [(name, id(value)) for name, value in vars(multiprocessing).items() if not isinstance(value, type(sys))],
    )
import shmqueue.compat as compat
before = state()
compat.uninstall()
print(state() == before)
compat.install()
installed = state()
print(installed == before, installed[0] == before[0], installed[3] is before[3])
print(type(multiprocessing.Queue()).__module__.startswith("shmqueue.compat"))
print(multiprocessing.Queue.__self__ is before[1][0].__self__)
compat.install()
print(state() == installed)
kept = multiprocessing.SimpleQueue()
compat.uninstall()
print(state() == before)
compat.uninstall()
print(state() == before)
kept.put((1, 2))
print(kept.get(), type(multiprocessing.Queue()).__module__)
compat.install()
compat.uninstall()
print(state() == before)
"""
    assert run_python(code).splitlines() == [
        "True", "False False False", "True", "True", "True", "True", "True", "(1, 2) multiprocessing.queues", "True",
    ]  # fmt: skip


FROM_CODE = """
import multiprocessing, sys

def report(q):
    other = multiprocessing.get_context(sys.argv[1]).JoinableQueue()
    q.put(type(other).__module__)
    other.close()

def ask():
    context = multiprocessing.get_context(sys.argv[1])
    q = context.Queue()
    child = context.Process(target=report, args=(q,))
    child.start()
    print(q.get(timeout=30))
    child.join()
    q.close()

if __name__ == "__main__":
    EXTRA_PATH
    import shmqueue.compat
    shmqueue.compat.install()
    ask()
    shmqueue.compat.uninstall()
    ask()
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_children_have_it_when_it_was_installed_from_code(tmp_path: Path, method: str) -> None:
    (tmp_path / "program.py").write_text(FROM_CODE.replace("EXTRA_PATH", "pass"))
    ran = run("program.py", method, within=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert first.startswith(OURS)
    assert second == "multiprocessing.queues"


@pytest.mark.parametrize("method", START_METHODS)
def test_children_find_it_where_the_program_found_it(tmp_path: Path, method: str) -> None:
    library = tmp_path / "library"
    ignored = shutil.ignore_patterns("__pycache__")
    for package in (shmqueue, msgpack, shmlock):
        shutil.copytree(package.__path__[0], library / package.__name__, ignore=ignored)
    shutil.copytree(shmqueue.compat.__path__[0], library / "shmqueue" / "compat", ignore=ignored, dirs_exist_ok=True)
    (tmp_path / "program.py").write_text(FROM_CODE.replace("EXTRA_PATH", f"sys.path.append({str(library)!r})"))
    bare = subprocess.run(
        [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "program.py", method],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (bare.returncode, bare.stderr) == (0, "")
    first, second = bare.stdout.splitlines()
    assert first.startswith(OURS)
    assert second == "multiprocessing.queues"


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, shmqueue.compat; print([n for n in ('multiprocessing', 'msgpack', 'queue') if n in sys.modules])"
    )
    assert run_python(code) == "[]\n"


def test_the_environment_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os; print(sorted(os.environ))")
    as_it_is, on_ours = both("program.py", within=tmp_path)
    assert on_ours == as_it_is
    assert "PYTHONPATH" in on_ours or "PYTHONPATH" not in os.environ
