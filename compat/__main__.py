"""``python -m shmqueue.compat program.py args…``: runs a program, as it is, on queues in shared memory.

The program finds what it would find under ``python program.py args…``: its arguments, its directory on the module path,
itself as ``__main__``.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import types
import zipfile
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader

from . import install

_USAGE = """\
usage: python -m shmqueue.compat program.py [arguments…]
       python -m shmqueue.compat -m module [arguments…]

Runs a Python program with multiprocessing's Queue, JoinableQueue and SimpleQueue in shared memory, in it and in the
processes that it starts.
"""


def main(arguments: list[str]) -> None:
    """Run the program that the arguments of the command line name."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return
    if not arguments or arguments == ["-m"] or (arguments[0] != "-m" and arguments[0].startswith("-")):
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(2)
    install()
    if arguments[0] == "-m":
        _run_module(arguments[1], arguments[2:])
    else:
        _run_path(arguments[0], arguments[1:])


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv = ["-m", *arguments]
    spec = _spec_of_module(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec_of_module(f"{name}.__main__")
    if spec is None:
        sys.exit(f"{sys.executable}: no module named {name}, or it cannot be run")
    sys.argv[0] = str(spec.origin)
    _run(_code_of(spec), spec, spec.origin)


def _spec_of_module(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a package above it is missing, or it is no module's name
        return None


def _run_path(path: str, arguments: list[str]) -> None:
    sys.argv = [path, *arguments]
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        _lead_module_path_with(path)
        spec = PathFinder.find_spec("__main__", [path])
        if spec is None:
            sys.exit(f"{sys.executable}: can't find '__main__' module in {path!r}")
        _run(_code_of(spec), spec, spec.origin)
    else:
        _lead_module_path_with(os.path.dirname(os.path.realpath(path)))
        _run(_code_in(path), None, os.path.join(os.getcwd(), path))


def _lead_module_path_with(directory: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = directory  # until now the current directory, for -m


def _code_of(spec: ModuleSpec) -> types.CodeType:
    code = spec.loader.get_code(spec.name) if isinstance(spec.loader, InspectLoader) else None
    if code is None:
        sys.exit(f"{sys.executable}: no code object available for {spec.name}")
    return code


def _code_in(path: str) -> types.CodeType:
    if path.endswith(".pyc"):
        code = SourcelessFileLoader("__main__", path).get_code("__main__")
        assert code is not None
        return code
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        sys.exit(2)
    return compile(source, path, "exec", dont_inherit=True)


def _run(code: types.CodeType, spec: ModuleSpec | None, file: str | None) -> None:
    """Run the program as the module ``__main__``, where pickle and the children's preparation look for it."""
    module = types.ModuleType("__main__")
    module.__spec__ = spec
    module.__file__ = file
    module.__loader__ = SourceFileLoader("__main__", file or "") if spec is None else spec.loader
    module.__package__ = None if spec is None else spec.parent
    vars(module)["__cached__"] = None if spec is None else spec.cached
    vars(module)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, vars(module))


if __name__ == "__main__":
    main(sys.argv[1:])
