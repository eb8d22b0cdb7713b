"""The checks as tests of one's own tree: subclass ``QueueConformance`` and let pytest collect it.

>>> class TestMyQueue(QueueConformance):
...     target = Target("mypackage.queues:MyQueue", "spawn")
...     profile = PROFILES["multiprocessing.Queue"]
"""

from __future__ import annotations

from collections import Counter

import pytest

from .machine import explore
from .profiles import PROFILES, Profile
from .scenarios import SCENARIOS, Scene
from .suite import TRAFFIC, kills_of, missing_methods, undecidable, with_capabilities
from .target import Target

__all__ = ["PROFILES", "QueueConformance", "Target"]


class QueueConformance:
    """Tests that a queue class keeps a profile's clauses. A clause that is broken fails as ``Broken``.

    ``examples`` programs are drawn with the random numbers of ``seed``; ``operations`` are the puts of each producer in
    the concurrent tests.
    """

    target: Target
    profile: Profile
    examples = 50
    seed = 0
    operations = 2_000

    def _decidable(self) -> Profile:
        profile = with_capabilities(self.target, self.profile)
        lost = undecidable(self.target, profile)
        return profile.without(lost, missing_methods(self.target, profile))

    @pytest.mark.parametrize("clause", SCENARIOS)
    def test_clause(self, clause: str) -> None:
        """A fixed program keeps the clause."""
        profile = with_capabilities(self.target, self.profile)
        why = undecidable(self.target, profile).get(clause)
        if clause not in profile.clauses or why is not None:
            pytest.skip(why or f"{profile.name} does not promise it")
        SCENARIOS[clause](Scene(self.target, profile, Counter()))

    def test_programs_of_many_steps(self) -> None:
        """Programs drawn by hypothesis keep all clauses; the shortest that does not is shown."""
        findings = explore(self.target, self._decidable(), examples=self.examples, seed_number=self.seed, rounds=1)
        for broken in findings.broken.values():
            raise broken

    @pytest.mark.parametrize("clause", [key for key, _, _ in TRAFFIC])
    def test_traffic(self, clause: str) -> None:
        """A run of several workers at once is linearizable, or what the profile allows."""
        profile = self._decidable()
        if clause not in profile.clauses:
            pytest.skip(f"{clause}: not promised, or it is not for several processes")
        ((run, kills),) = [(run, kills) for key, run, kills in TRAFFIC if key == clause]
        broken = run(self.target, profile, operations=self.operations, kills=kills_of(self.target, kills))
        if broken is not None:
            raise broken
