"""How long a search may take: what each of its stages still begins, and when it stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["networks", "judging", "bundles"]

SHARES: dict[Stage, float] = {"networks": 0.5, "judging": 0.8, "bundles": 0.95}
"""The part of the budget after which each stage begins nothing new."""


class OutOfTime(Exception):
    """A stage's time is over; what it was at is kept, and goes on in a later run."""


@dataclass(frozen=True)
class Budget:
    """The time that a search has.

    Args:
        minutes: how many; None: as many as it needs.
        past: gives the minutes since it began.
    """

    minutes: float | None
    past: Callable[[], float]

    def late(self, stage: Stage) -> bool:
        """Whether a stage may begin nothing new."""
        return self.minutes is not None and self.past() > SHARES[stage] * self.minutes

    def ending(self, stage: Stage, tell: Callable[[str], None]) -> Callable[[str], None]:
        """What to tell progress to: it tells, and raises `OutOfTime` once the stage is late."""

        def told(what: str) -> None:
            tell(what)
            if self.late(stage):
                raise OutOfTime(stage)

        return told

    @property
    def over(self) -> str:
        """Why something was not tried: time did not suffice."""
        return f"not tried: {self.minutes or 0:g} minutes did not suffice"
