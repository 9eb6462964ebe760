"""Candidates compiled for this machine, and timed in turns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.search.budget import Budget
from graphopt.search.candidates import Candidate
from graphopt.search.notebook import FAILED
from graphopt.search.timing import ROUNDS, measured
from graphopt.search.workshop import Workshop

FEW = 5
"""Rounds that tell roughly how long something takes."""


@dataclass(frozen=True)
class Race:
    """Where candidates are compiled and timed.

    Args:
        workshop: what makes their bundles.
        reference: the original, which is compiled however little time there is.
        photos: what they look at.
        rejected: told which have no bundle, and why.
        progress: told what is being done.
        budget: how long that may take.
    """

    workshop: Workshop
    reference: Candidate
    photos: Sequence[Path]
    rejected: dict[Candidate, str]
    progress: Callable[[str], None]
    budget: Budget

    def bundles(self, chosen: Sequence[Candidate]) -> dict[Candidate, Path]:
        """Bundles of candidates, those that time suffices for.

        Raises:
            GraphoptError: the original cannot be compiled.
        """
        made: dict[Candidate, Path] = {}
        for number, one in enumerate(chosen):
            known = one == self.reference or f"bundle: {one}" in self.workshop.notebook
            if not known and self.budget.late("bundles"):
                self.rejected[one] = self.budget.over
                continue

            def tell(what: str, now: str = f"bundles: {number} of {len(chosen)}") -> None:
                self.progress(f"{now} ({what})")

            bundle = self.workshop.bundle(one, tell)
            if not isinstance(bundle, str):
                made[one] = bundle
            elif one == self.reference:
                raise GraphoptError(f"the original cannot be compiled: {bundle}")
            else:
                self.rejected[one] = bundle
        return made

    def times(
        self, bundles: Mapping[Candidate, Path], rounds: int = ROUNDS
    ) -> dict[Candidate, float]:
        """Milliseconds of bundles, all measured in one run, or as they were in an earlier one."""
        names = sorted(map(str, bundles))
        key = hashlib.sha256("\n".join([*names, str(rounds)]).encode()).hexdigest()[:16]

        def time_all() -> dict[str, float]:
            found = measured(bundles, self.photos, self.workshop, self.progress, rounds)
            return {str(one): round(ms, 3) for one, ms in found.items()}

        times = self.workshop.notebook.once(f"times: {key}", time_all)
        if FAILED in times:
            raise GraphoptError(times[FAILED])
        return {one: times[str(one)] for one in bundles}
