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
from .suite import KILLS, missing_methods, undecidable
from .target import Target
from .traffic import run_traffic

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
        lost = undecidable(self.target, self.profile)
        return self.profile.without(lost, missing_methods(self.target, self.profile))

    @pytest.mark.parametrize("clause", SCENARIOS)
    def test_clause(self, clause: str) -> None:
        """A fixed program keeps the clause."""
        why = undecidable(self.target, self.profile).get(clause)
        if clause not in self.profile.clauses or why is not None:
            pytest.skip(why or f"{self.profile.name} does not promise it")
        SCENARIOS[clause](Scene(self.target, self.profile, Counter()))

    def test_programs_of_many_steps(self) -> None:
        """Programs drawn by hypothesis keep all clauses; the shortest that does not is shown."""
        findings = explore(self.target, self._decidable(), examples=self.examples, seed_number=self.seed, rounds=1)
        for broken in findings.broken.values():
            raise broken

    @pytest.mark.parametrize("kills", [0, KILLS])
    def test_traffic(self, kills: int) -> None:
        """A run of several workers at once is linearizable, or what the profile allows."""
        profile = self._decidable()
        if kills and "killed-busy" not in profile.clauses:
            pytest.skip("it is not for several processes")
        broken = run_traffic(self.target, profile, operations=self.operations, kills=kills)
        if broken is not None:
            raise broken
