"""Several interpreters in one process, each with a GIL of its own, exchange items by name with the native engine."""

from __future__ import annotations

import sys

import pytest
from support import python

pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 all interpreters share one GIL"),
]

# Python 3.14 has a public module for this; what was there before is private and changed from version to version.
PRELUDE = """
import sys, threading

if sys.version_info >= (3, 14):
    from concurrent import interpreters

    def interpreter():
        made = interpreters.create()
        return made.exec, made.close
elif sys.version_info >= (3, 13):
    import _interpreters

    def interpreter():
        made = _interpreters.create("isolated")

        def run(code):
            failure = _interpreters.exec(made, code)
            assert failure is None, failure.errdisplay

        return run, lambda: _interpreters.destroy(made)
else:
    import _xxsubinterpreters

    def interpreter():
        made = _xxsubinterpreters.create(isolated=True)
        return lambda code: _xxsubinterpreters.run_string(made, code), lambda: _xxsubinterpreters.destroy(made)

HEAD = '''
import warnings
warnings.simplefilter("error")
from shmqueue import ShmQueue, engine
assert engine.NAME == "native", engine.REASON
'''

def run_together(*codes):
    errors = []

    def run_one(code):
        run, close = interpreter()
        try:
            run(HEAD + code)
        except BaseException as error:
            errors.append(error)
        finally:
            close()

    threads = [threading.Thread(target=run_one, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""


PATIENCE = 110.0  # seconds after which a program hangs


def run(program: str) -> None:
    with python(PRELUDE + program + '\nprint("done")') as process:
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (0, "done\n"), f"{process.returncode}\n{output}\n{errors}"


def test_an_interpreter_of_its_own_uses_the_native_engine() -> None:
    run('run_together("with ShmQueue(\\"one\\") as q:\\n    q.put([1, (2,)])\\n    assert q.get() == [1, (2,)]")')


def test_it_opens_a_queue_of_the_main_interpreter() -> None:
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("main") as q:
    q.put("from main")
    run_together('''
with ShmQueue("main", create=False) as q:
    assert q.get(timeout=60) == "from main"
    q.put("back")
''')
    assert q.get(timeout=60) == "back"
"""
    )


@pytest.mark.parametrize(
    "item", ["i", "{'number': i, 'more': [i, None, (1.5, b'x')]}", "frozenset({i})", "str(i) * 9000"]
)
def test_two_interpreters_exchange_items(item: str) -> None:
    run(
        f"""
run_together('''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1000):
        q.put({item})
    done.get(timeout=60)
''', '''
with ShmQueue("items") as q, ShmQueue("done") as done:
    for i in range(1000):
        assert q.get(timeout=60) == {item}
    done.put(True)
''')
"""
    )


def test_a_lease_that_an_interpreter_leaves_comes_again_in_another() -> None:
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("lease") as q:
    q.put("item")
    run_together('''
q = ShmQueue("lease")
lease = q.lease(timeout=60)
assert lease.item == "item"
''')
    with q.lease(timeout=60) as lease:
        assert (lease.item, lease.attempt) == ("item", 2)
"""
    )


def test_packing_that_the_engine_leaves_to_msgpack() -> None:
    """msgpack's compiled module may refuse to be imported there, and then its Python one serves."""
    run(
        """
from shmqueue import ShmQueue
with ShmQueue("ext", allow_pickle=False) as q:
    run_together('''
import msgpack
with ShmQueue("ext", allow_pickle=False) as q:
    twice = [1]
    q.put([msgpack.ExtType(5, b"x"), [twice, (2,), twice], msgpack.Timestamp(1, 2)])
''')
    import msgpack
    assert q.get(timeout=60) == [msgpack.ExtType(5, b"x"), [[1], (2,), [1]], msgpack.Timestamp(1, 2)]
"""
    )
