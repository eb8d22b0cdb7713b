"""Runs test cases of CPython's own suite for multiprocessing, whatever makes the queues here.

Usage: cpython_multiprocessing.py METHOD [-TEST]... CLASS...

A class is given as the suite names it, without its first underscore; a minus leaves a test out. The first line printed
says where the queues come from, the last one how many tests ran and how many of them were skipped.
"""

import multiprocessing
import sys
import unittest

import test._test_multiprocessing as suite

# Children import this file under another name, and find the classes of the tests in it.
suite.install_tests_in_module_dict(globals(), sys.argv[1])


class TestSimpleQueue(suite.TestSimpleQueue):
    """The suite has this one for all types alike."""


def main(patterns):
    print(type(multiprocessing.Queue()).__module__)
    left_out = {pattern[1:] for pattern in patterns if pattern.startswith("-")}
    tests = unittest.TestSuite()
    for pattern in patterns:
        if not pattern.startswith("-"):
            case = globals().get(f"WithProcesses{pattern}") or globals()[pattern]
            names = unittest.defaultTestLoader.getTestCaseNames(case)
            tests.addTests(case(name) for name in names if name not in left_out)
    setUpModule()  # noqa: F821
    try:
        result = unittest.TextTestRunner(verbosity=2).run(tests)
    finally:
        tearDownModule()  # noqa: F821
    print(result.testsRun, len(result.skipped))
    return not result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
