"""``python -m shmqueue.cli`` is the ``shmqueue`` command."""

from __future__ import annotations

from shmqueue.cli import main

if __name__ == "__main__":  # a child of multiprocessing imports this module too, under another name
    main()
