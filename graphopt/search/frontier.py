"""Which candidates are worth having: none is both faster and better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.records import Record


@dataclass(frozen=True)
class Point(Record):
    """A candidate with its figures."""

    height: int
    precision: str
    pipeline: str
    ms: float
    """Measured here from pixels to people; of another device the network's, predicted."""
    self_ap: float
    ap: float | None
    plain: bool
    """Whether it is the network as it was, at most of a smaller photo and another precision."""
    command: str
    """What makes it again."""

    @property
    def quality(self) -> float:
        """What candidates are compared by."""
        return self.self_ap if self.ap is None else self.ap

    def __str__(self) -> str:
        return f"{self.height} {self.precision} {self.pipeline}"


@dataclass(frozen=True)
class Rejected(Record):
    """A candidate that is not offered."""

    height: int
    precision: str
    pipeline: str
    why: str
    ms: float | None = None
    self_ap: float | None = None
    ap: float | None = None


def beaten_by(point: Point, others: Iterable[Point]) -> Point | None:
    """One that is no slower and no worse, and one of both better; None: there is none."""
    for other in others:
        no_worse = other.ms <= point.ms and other.quality >= point.quality
        if no_worse and (other.ms, other.quality) != (point.ms, point.quality):
            return other
    return None


def frontier(points: Sequence[Point]) -> list[Point]:
    """Those that none beats, the slowest first."""
    kept = [one for one in points if beaten_by(one, points) is None]
    return sorted(kept, key=lambda one: (-one.ms, one.pipeline))


def plain_quality(ms: float, plain: Sequence[Point]) -> float | None:
    """What the original with smaller photos keeps at a speed, read off the line through them.

    Args:
        ms: the time.
        plain: those of one precision.

    Returns:
        The quality, interpolated between two heights; None where no plain one is as fast.
    """
    line = frontier(plain)
    if not line or ms < line[-1].ms:
        return None
    if ms >= line[0].ms:
        return line[0].quality
    for slower, faster in pairwise(line):
        if faster.ms <= ms:
            part = (ms - faster.ms) / (slower.ms - faster.ms)
            return faster.quality + part * (slower.quality - faster.quality)
    raise AssertionError("the line's ends are on either side")


@dataclass(frozen=True)
class Wish:
    """What a user wants of a network."""

    what: str
    value: float

    @classmethod
    def read(cls, text: str) -> Wish:
        """The wish in `max-ap-drop=0.01`.

        Raises:
            UsageError: it cannot be read.
        """
        what, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if what not in WISHES or not 0 <= value < math.inf:
            raise UsageError(
                f"--pick {text} cannot be read", hint=" or ".join(f"{w}=NUMBER" for w in WISHES)
            )
        return cls(what, value)

    def best(self, points: Sequence[Point], reference: Point) -> Point:
        """The point of a frontier that fulfils it best.

        Args:
            points: the frontier.
            reference: the original, which speed and quality are compared with.

        Raises:
            GraphoptError: none fulfils it; says what comes closest.
        """
        if self.what == "max-ap-drop":
            good = [p for p in points if p.quality >= reference.quality - self.value]
            if good:
                return min(good, key=lambda p: p.ms)
            near = max(points, key=lambda p: p.quality)
            drop = reference.quality - near.quality
            raise GraphoptError(f"none loses at most {self.value}; {near} loses {drop:.3f}")
        most = self.value if self.what == "latency-ms" else reference.ms / self.value
        good = [p for p in points if p.ms <= most]
        if good:
            return max(good, key=lambda p: p.quality)
        near = min(points, key=lambda p: p.ms)
        raise GraphoptError(f"none takes at most {most:.1f} ms; {near} takes {near.ms:.1f} ms")


WISHES = ("max-ap-drop", "speedup", "latency-ms")
"""What `--pick` understands: most AP lost, times as fast as the original, milliseconds."""
