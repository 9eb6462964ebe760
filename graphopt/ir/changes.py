"""What became of a site that a rewriting looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A place that was rewritten."""

    node: str
    summary: str


@dataclass(frozen=True)
class Skip:
    """A place that looked right but was left alone, and why."""

    node: str
    reason: str
