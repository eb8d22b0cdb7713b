"""The ``shmqueue`` command: try the package, look at queues, use them from a shell.

It needs what the extra ``cli`` installs. This module itself needs nothing, so that it can say what is missing.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and end the process with its exit status."""
    try:
        from shmqueue.cli.commands import commands

        commands(prog_name="shmqueue")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        print(
            f"the shmqueue command needs {missing}: install this project with its cli extra "
            "(from a checkout: pip install '.[cli]')",
            file=sys.stderr,
        )
        sys.exit(3)
    except KeyboardInterrupt:  # while it starts
        sys.exit(130)
