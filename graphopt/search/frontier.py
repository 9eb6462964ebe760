"""Which candidates are worth having: none is both faster and better."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

from graphopt.errors import CheckFailed, UsageError
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


PASSES = {
    "stages": "truncate-refinement",
    "channels": "prune-channels",
    "blocks": "prune-blocks",
}
"""Levers that are passes."""


def levers(one: Point | Rejected, original: Point) -> dict[str, str]:
    """The levers that make a candidate of the original, and how far each is pulled."""
    said: dict[str, str] = {}
    if one.height != original.height:
        said["height"] = f"{one.height} rows instead of {original.height}"
    if one.precision != original.precision:
        said["precision"] = f"{one.precision} instead of {original.precision}"
    for lever, name in PASSES.items():
        if found := re.search(name + r"(\{[^}]*\})?", one.pipeline):
            said[lever] = found[0]
    return said


class Timed(Protocol):
    """What is as fast, and as good, as it says."""

    @property
    def ms(self) -> float:
        """How long it takes."""
        ...

    @property
    def quality(self) -> float:
        """How good its poses are, 0..1."""
        ...


T = TypeVar("T", bound=Timed)


def beaten_by(point: T, others: Iterable[T]) -> T | None:
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


def below_the_line(point: Point, plain: Sequence[Point]) -> float | None:
    """What a smaller photo alone keeps at a point's speed, in any precision, where that is more."""
    line = None if point.plain else plain_quality(point.ms, plain)
    return line if line is not None and line > point.quality else None


@dataclass(frozen=True)
class Wish:
    """What a user wants of a network, by the names of `WISHES`: all of it must be fulfilled."""

    bounds: Mapping[str, float]

    @classmethod
    def read(cls, text: str) -> Wish:
        """The wish in `max-ap-drop=0.01`, or in several of the kind with commas between them.

        Raises:
            UsageError: it cannot be read.
        """
        bounds: dict[str, float] = {}
        for part in text.split(","):
            what, _, number = part.strip().partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if what not in WISHES or what in bounds or not 0 <= value < math.inf:
                raise UsageError(
                    f"--pick {text} cannot be read", hint=" or ".join(f"{w}=NUMBER" for w in WISHES)
                )
            bounds[what] = value
        return cls(bounds)

    def __str__(self) -> str:
        return ",".join(f"{what}={value:g}" for what, value in self.bounds.items())

    def most_ms(self, reference: float) -> float:
        """The most milliseconds that are fast enough, where the original takes `reference`."""
        wanted = self.bounds.get("speedup", 0.0)
        return min(
            self.bounds.get("latency-ms", math.inf), reference / wanted if wanted else math.inf
        )

    def best(self, points: Sequence[Point], reference: Point) -> Point:
        """The point of a frontier that fulfils it best.

        The most accurate of those that are fast enough; if no speed is wished for, the fastest.

        Args:
            points: the frontier.
            reference: the original, which speed and quality are compared with.

        Raises:
            CheckFailed: none fulfils it; says what comes closest.
        """
        most = self.most_ms(reference.ms)
        fast = [p for p in points if p.ms <= most]
        if not fast:
            near = min(points, key=lambda p: p.ms)
            raise CheckFailed(
                f"none takes at most {most:.1f} ms; the nearest, {near}, takes {near.ms:.1f} ms, "
                f"and loses {reference.quality - near.quality:.3f}"
            )
        drop = self.bounds.get("max-ap-drop", math.inf)
        good = [p for p in fast if p.quality >= reference.quality - drop]
        if not good:
            near = max(fast, key=lambda p: p.quality)
            raise CheckFailed(
                f"none {'' if most == math.inf else f'that takes at most {most:.1f} ms '}loses at "
                f"most {drop:g}; the nearest, {near}, loses "
                f"{reference.quality - near.quality:.3f}, and takes {near.ms:.1f} ms"
            )
        if most == math.inf:
            return min(good, key=lambda p: p.ms)
        return max(good, key=lambda p: p.quality)


WISHES = ("max-ap-drop", "speedup", "latency-ms")
"""What `--pick` understands: most AP lost, times as fast as the original, milliseconds."""
