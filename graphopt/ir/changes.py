"""What became of a site that a rewriting looked at."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.records import Record

ALL = "(all)"
"""What is said of a whole network, in place of a node's name."""


@dataclass(frozen=True)
class Change(Record):
    """A place that was rewritten."""

    node: str
    summary: str


@dataclass(frozen=True)
class Skip(Record):
    """A place that looked right but was left alone, and why."""

    node: str
    reason: str
