"""The native engine: a two-lock ring in C11 on Linux futexes.

Read ``layout.h`` first: it says what lies where in a segment and which rules hold. Then ``ring.h``, which names the
layers of the C files in their order; each includes only what stands before it. Only ``module.c`` and the ``python_*.c``
know Python, and ``python_ring.h`` says by which rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmqueue.engine.native._core import Ring
    from shmqueue.segment import Segment

__all__ = [
    "Anchor",
    "Bell",
    "CoroutineMethod",
    "QueueBase",
    "Record",
    "Ring",
    "data_size",
    "lease_types",
    "marks_dead_owners",
    "open_ring",
]


def _why_not_compiled() -> str:
    """What the compilation lacked, by what is missing here now."""
    import shutil  # here, as sysconfig, for they cost a part of each start
    import sysconfig

    compiler, *_ = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split() or ["cc"]
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        return f"there was no C compiler (here is no {compiler!r})"
    if not os.path.exists(header):
        return f"there was no Python.h (here is no {header!r})"
    return "the compilation failed"


def _why_missing(error: ImportError) -> str:
    here = os.path.dirname(globals().get("__file__") or "")
    try:
        entries = os.listdir(here) if here else []
    except OSError:  # it is inside a zip file, or frozen into a program
        entries = []
    if not entries:
        place = f"inside {here}, which is no directory" if here else "frozen into the program"
        return (
            f"shmqueue is {place}, and compiled modules load from directories only ({error}): "
            "install shmqueue beside the program to use the native engine"
        )
    built = [entry for entry in entries if entry.startswith("_core.") and not entry.endswith(".pyi")]
    if not built and os.path.exists(os.path.join(here, os.pardir, os.pardir, os.pardir, "pyproject.toml")):
        return (
            "this is the source tree and not the installed package: start Python in another directory, "
            "or install with 'pip install -e .'"
        )
    if not built:
        return (
            f"its compiled module is not part of this installation: {_why_not_compiled()} when it was installed "
            "('pip install -v' shows the compiler's words)"
        )
    import sysconfig  # here, as above

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return f"its compiled module does not load ({error}); built are {built}, this Python looks for _core{suffix}"


try:
    from shmqueue.engine.native._core import (
        Anchor,
        Bell,
        CoroutineMethod,
        QueueBase,
        Record,
        Ring,
        data_size,
        lease_types,
        marks_dead_owners,
    )
except ImportError as error:
    raise ImportError(_why_missing(error)) from error


def open_ring(segment: Segment, report: Callable[[int], None]) -> Ring:
    """A handle on the records of a native segment; ``report`` as for ``shmqueue.engine.open_engine``."""
    from shmqueue.segment.locks import changing

    with changing(), segment.descriptor_to_map() as fd:
        return Ring(fd, segment.file_size, segment.name, report, segment.path)
