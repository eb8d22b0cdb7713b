"""Loaded by pytest wherever this package is installed: the marker and the options of ``QueueConformance``.

It makes subclasses of that work in any project without configuration, also under ``--strict-markers``. It imports
nothing, so that a test run without such a subclass costs nothing.
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_addoption", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is tried can be changed for one run."""
    group = parser.getgroup("conformance", "conformance of queue classes (shmqueue)")
    group.addoption("--conformance-examples", type=int, metavar="N", help="programs to draw for each queue class")
    group.addoption("--conformance-seed", type=int, metavar="N", help="of the random numbers that draw them")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, by which ``-m 'not conformance'`` leaves these tests out."""
    config.addinivalue_line("markers", "conformance: does a queue class keep the contract of a standard queue?")
