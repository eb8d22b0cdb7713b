"""CPython's own tests, of the package ``test`` of the interpreter: whether they are there, and running one."""

from __future__ import annotations

import importlib.util
import unittest


def is_there(module: str) -> bool:
    """Whether the interpreter has this module. Some distributions leave the package ``test`` out of theirs."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def run_case(case: unittest.TestCase) -> None:
    """Run one test, which must pass and not be skipped."""
    result = unittest.TestResult()
    case.run(result)
    assert [text for _, text in result.errors + result.failures] == []
    assert (result.testsRun, result.skipped) == (1, [])
