"""The checks as tests of one's own tree: subclass ``QueueConformance`` and let pytest collect it.

>>> class TestMyQueue(QueueConformance):
...     target = "mypackage.queues:MyQueue"
...     profile = "multiprocessing.Queue"
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from .clauses import Broken
from .machine import explore
from .profiles import PROFILES, Profile
from .scenarios import SCENARIOS, Scene
from .suite import TRAFFIC, kills_of, missing_methods, profile_for, undecidable, with_capabilities
from .target import Target
from .workers import Hung

__all__ = ["PROFILES", "QueueConformance", "Target"]


class QueueConformance:
    """Tests that a queue class keeps a profile's clauses. A test whose clause is broken fails and says how.

    ``target`` is the queue class, ``module:factory`` or a ``Target``; ``start_method`` says how the processes that use
    it are started, "threads" that it is for one process, and is fork by default (threads for those of the module
    ``queue``). ``profile`` is a profile or its name, by default that of the standard queue with the target's name.
    ``examples`` programs are drawn with the random numbers of ``seed``; the options ``--conformance-examples`` and
    ``--conformance-seed`` come before both. ``operations`` are the puts of each producer in the concurrent tests.
    """

    pytestmark = pytest.mark.conformance

    target: Target | type[object] | str
    start_method: str | None = None
    profile: Profile | str | None = None
    examples = 50
    seed = 0
    operations = 2_000

    @pytest.fixture
    def subject(self) -> Target:
        """The target.

        Raises:
            ValueError: it is not to be found.
        """
        target: Target | type[object] | str | None = getattr(self, "target", None)
        if target is None:
            pytest.fail(f"{type(self).__name__} needs a queue class to test: target = MyQueue", pytrace=False)
        if isinstance(target, type):
            target = f"{target.__module__}:{target.__qualname__}"
        if isinstance(target, str):
            target = Target(target, self.start_method or ("threads" if target.startswith("queue:") else "fork"))
        target.factory()
        return target

    @pytest.fixture
    def expected(self, subject: Target) -> Profile:
        """What is expected of the target."""
        profile = profile_for(subject.spec) if self.profile is None else self.profile
        return with_capabilities(subject, PROFILES[profile] if isinstance(profile, str) else profile)

    @pytest.fixture
    def decidable(self, subject: Target, expected: Profile) -> Profile:
        """What of that can be decided for it."""
        return expected.without(undecidable(subject, expected), missing_methods(subject, expected))

    @pytest.mark.parametrize("clause", SCENARIOS)
    def test_clause(self, clause: str, subject: Target, expected: Profile) -> None:
        """A fixed program keeps the clause."""
        why = undecidable(subject, expected).get(clause)
        if clause not in expected.clauses or why is not None:
            pytest.skip(why or f"{expected.name} does not promise it")
        with _failing(clause):
            SCENARIOS[clause](Scene(subject, expected, Counter()))

    def test_programs_of_many_steps(self, subject: Target, decidable: Profile, pytestconfig: pytest.Config) -> None:
        """Programs drawn by hypothesis keep all clauses; the shortest that does not is shown."""
        examples = pytestconfig.getoption("conformance_examples", None)
        seed = pytestconfig.getoption("conformance_seed", None)
        findings = explore(
            subject,
            decidable,
            examples=self.examples if examples is None else examples,
            seed_number=self.seed if seed is None else seed,
            rounds=1,
        )
        for broken in findings.broken.values():
            pytest.fail(str(broken), pytrace=False)

    @pytest.mark.parametrize("clause", [key for key, _, _ in TRAFFIC])
    def test_traffic(self, clause: str, subject: Target, decidable: Profile) -> None:
        """A run of several workers at once is linearizable, or what the profile allows."""
        if clause not in decidable.clauses:
            pytest.skip(f"{clause}: not promised, or it is not for several processes")
        ((run, kills),) = [(run, kills) for key, run, kills in TRAFFIC if key == clause]
        broken = run(subject, decidable, operations=self.operations, kills=kills_of(subject, kills))
        if broken is not None:
            pytest.fail(str(broken), pytrace=False)


@contextlib.contextmanager
def _failing(key: str) -> Iterator[None]:
    """What shows that a clause is broken fails the test, without a traceback through the kit."""
    try:
        yield
        return
    except Broken as broken:
        why = str(broken)
    except Hung as hung:
        why = str(Broken(key, str(hung)))
    pytest.fail(why, pytrace=False)
