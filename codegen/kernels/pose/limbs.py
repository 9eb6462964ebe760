"""Limbs from peaks and part affinity fields: every possible pair scored, the best chosen.

The reference is steps 3 and 4 of `graphopt.pose.decode`. The fields are read at network resolution,
between pixels. Loops run as far as peaks were found. Of thirty people, nearly all pairs are wrong:
a few samples of many pairs at once are looked up in a map of where the field is strong enough, and
only what passes is read between pixels, until too many of its samples fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import (
    Expr,
    Variable,
    argument,
    constant,
    grid,
    kernel,
    private,
    scratch,
)
from graphopt.codegen.kernels.pose.peaks import THRESHOLDS
from graphopt.codegen.targets import Target

FIELDS = 5
"""Numbers that say what a limb is."""
PROBES = 6
"""Samples that are looked up for all pairs."""


@dataclass(frozen=True)
class LimbSpec:
    """The fields and what is read from them.

    Args:
        limbs: for each limb its start's and end's part, its field's x and y channel, and whether
            it is a bridge.
        parts: of the skeleton.
        channels: of the fields.
        size: their height and width.
        max_peaks: most peaks of a part.
        samples: points along a limb.
    """

    limbs: tuple[tuple[int, int, int, int, bool], ...]
    parts: int
    channels: int
    size: tuple[int, int]
    max_peaks: int
    samples: int


def pack_limbs(spec: LimbSpec) -> NDArray[np.int32]:
    """(limbs, FIELDS), as kernels read them."""
    return np.array(spec.limbs, np.int32)


def pack_samples(spec: LimbSpec) -> NDArray[np.float32]:
    """(samples,): where on a limb, 0 to 1; the middle first, where a wrong pair fails soonest."""
    along = np.linspace(0, 1, spec.samples, dtype=np.float32)
    return along[np.argsort(np.abs(along - 0.5), kind="stable")]


def build(spec: LimbSpec, target: Target) -> Any:
    """The kernel as a TIR PrimFunc.

    Parameters: thresholds, fields (channels, height, width), limbs and samples as packed, peaks and
    counts as `peaks.build` gives them; ends (limbs, max_peaks, 2), int32: which peak of its part a
    limb starts and ends at; scores (limbs, max_peaks), falling; chosen (limbs, 1), int32: how many.
    """
    count, most = len(spec.limbs), spec.max_peaks
    with kernel("find_limbs") as get:
        thresholds = argument("thresholds", (THRESHOLDS,))
        paf = argument("paf", (spec.channels, *spec.size))
        limbs = argument("limbs", (count, FIELDS), "int32")
        along = argument("along", (spec.samples,))
        peaks = argument("peaks", (spec.parts, most, 3))
        counts = argument("counts", (spec.parts, 3), "int32")
        ends = argument("ends", (count, most, 2), "int32")
        scores = argument("scores", (count, most))
        chosen = argument("chosen", (count, 1), "int32")
        rows = _Rows(count, most)
        strong = _Strong(spec, target, thresholds, paf, limbs)
        place = _Places(spec, target, peaks, counts)
        lanes = target.lanes if target.kind == "cpu" else 1
        with grid(target, count, most) as (limb, start):
            first, second, *field = (T.bind(limbs[limb, i]) for i in range(4))
            with T.If(start < counts[first, 0]), T.Then():
                n = Variable(target, "int32", 0)
                a, last = place.at(first, start), T.bind(counts[second, 0])
                allowed = T.bind(T.cast(thresholds[2], "int32"))
                probes = [T.bind(along[i]) for i in range(min(PROBES, spec.samples))]
                weak = private(target, (lanes,), "int32")
                with T.serial(0, (last + lanes - 1) // lanes) as chunk:
                    base = T.bind(chunk * lanes)
                    with T.serial(0, lanes) as i:  # without branches: the compiler makes it vectors
                        b = place.at(second, base + i)
                        quadrant = T.bind(_quadrant(a, b))
                        there = [strong.at(limb, _point(a, b, t), quadrant) for t in probes]
                        T.buffer_store(weak, len(probes) - sum(there[1:], there[0]), [i])
                    with (
                        T.serial(0, T.min(lanes, last - base)) as i,
                        T.If(weak[i] <= allowed),
                        T.Then(),
                    ):
                        end = T.bind(base + i)
                        b = place.at(second, end)
                        score, fails = _score(spec, target, thresholds, paf, along, field, a, b)
                        good = tirx.all(fails <= allowed, score > constant(0.0))
                        with T.If(good), T.Then():
                            T.buffer_store(rows.end, end, [limb, start, n.value])
                            T.buffer_store(rows.score, score, [limb, start, n.value])
                            n.value = n.value + 1
                T.buffer_store(rows.count, n.value, [limb, start])
        with grid(target, count) as (limb,):
            first, second = (T.bind(limbs[limb, i]) for i in (0, 1))
            extents = (T.bind(counts[first, 0]), T.bind(counts[second, 0]))
            _assign(target, rows, limb, extents, ends, scores, chosen)
    return get()


class _Places:
    """Where peaks are, x and y apart, up to whole vectors of them."""

    def __init__(self, spec: LimbSpec, target: Target, peaks: Expr, counts: Expr) -> None:
        padded = -(-spec.max_peaks // target.lanes) * target.lanes
        self._axes = [scratch((spec.parts, padded)) for _ in range(2)]
        with grid(target, spec.parts) as (part,):
            found = T.bind(counts[part, 0])
            for axis, buffer in enumerate(self._axes):
                with T.serial(0, found) as i:
                    T.buffer_store(buffer, peaks[part, i, axis], [part, i])
                with T.serial(found, padded) as i:
                    T.buffer_store(buffer, constant(0.0), [part, i])

    def at(self, part: Expr, peak: Expr) -> list[Expr]:
        """A peak's x and y."""
        return [T.bind(buffer[part, peak]) for buffer in self._axes]


class _Strong:
    """Whether a limb's field may exceed the threshold between four pixels, for limbs of a quadrant.

    What is interpolated projects on a direction no further than the furthest of the four vectors,
    and that no further than the length of its part in the direction's quadrant: a sample for which
    the answer is no fails.
    """

    def __init__(
        self, spec: LimbSpec, target: Target, thresholds: Expr, paf: Expr, limbs: Expr
    ) -> None:
        count, (height, width) = len(spec.limbs), spec.size
        self._height, self._width = height, width
        columns = scratch((count, height, width + 1), "int32")
        self._cells = scratch((count, height, width), "int32")
        with grid(target, count, height) as (limb, y):
            field = [T.bind(limbs[limb, i]) for i in (2, 3)]
            threshold = T.bind(thresholds[1])
            # A hair less, for what rounding may add; without a threshold, every vector will do.
            square = threshold * threshold * constant(0.9999)
            least = T.bind(tirx.Select(threshold > constant(1e-6), square, constant(-1.0)))
            rows = (y, T.bind(T.min(y + 1, height - 1)))
            with T.serial(0, width) as x:
                quadrants = [_quadrants([paf[f, row, x] for f in field], least) for row in rows]
                T.buffer_store(columns, tirx.bitwise_or(*quadrants), [limb, y, x])
            T.buffer_store(columns, 0, [limb, y, width])
            with T.serial(0, width) as x:
                both = tirx.bitwise_or(columns[limb, y, x], columns[limb, y, x + 1])
                T.buffer_store(self._cells, both, [limb, y, x])

    def at(self, limb: Expr, point: list[Expr], quadrant: Expr) -> Expr:
        """1 or 0 for a point (x, y)."""
        x, y = (
            T.cast(_inside(v, n), "int32")
            for v, n in zip(point, (self._width, self._height), strict=True)
        )
        return tirx.bitwise_and(tirx.shift_right(self._cells[limb, y, x], quadrant), 1)


def _quadrants(vector: list[Expr], least: Expr) -> Expr:
    """A bit for each quadrant in which the square of a vector's part exceeds a number."""
    none = constant(0.0)
    squares = []
    for v in vector:
        ahead, back = T.max(v, none), T.min(v, none)
        squares.append((T.bind(ahead * ahead), T.bind(back * back)))
    xs, ys = squares
    bits = [tirx.Select(xs[q % 2] + ys[q // 2] > least, 1 << q, 0) for q in range(4)]
    return sum(bits[1:], bits[0])


def _quadrant(a: list[Expr], b: list[Expr]) -> Expr:
    """Which of them the direction from one point to another is in."""
    return sum(tirx.Select(q < p, 1 << i, 0) for i, (p, q) in enumerate(zip(a, b, strict=True)))


def _point(a: list[Expr], b: list[Expr], t: Expr) -> list[Expr]:
    """On the way from one point to another."""
    return [p + (q - p) * t for p, q in zip(a, b, strict=True)]


def _inside(value: Expr, extent: int) -> Expr:
    return T.max(T.min(value, constant(float(extent - 1))), constant(0.0))


def _score(
    spec: LimbSpec,
    target: Target,
    thresholds: Expr,
    paf: Expr,
    along: Expr,
    field: list[Expr],
    a: list[Expr],
    b: list[Expr],
) -> tuple[Expr, Expr]:
    """A pair's score, and how many samples failed; the score only unless those are too many."""
    vector = [T.bind(q - p) for p, q in zip(a, b, strict=True)]
    length = T.sqrt(vector[0] * vector[0] + vector[1] * vector[1])
    least = T.bind(T.max(length, constant(1e-6)))
    direction = [T.bind(v / least) for v in vector]
    threshold, allowed = T.bind(thresholds[1]), T.bind(T.cast(thresholds[2], "int32"))
    total = Variable(target, "float32", constant(0.0))
    fails, step = Variable(target, "int32", 0), Variable(target, "int32", 0)
    with T.While(tirx.all(step.value < spec.samples, fails.value <= allowed)):
        t = T.bind(along[step.value])
        x, y = (T.bind(p + v * t) for p, v in zip(a, vector, strict=True))
        read = _bilinear(paf, spec.size, x, y)
        projection = T.bind(read(field[0]) * direction[0] + read(field[1]) * direction[1])
        total.value = total.value + projection
        fails.value = fails.value + tirx.Select(projection > threshold, 0, 1)
        step.value = step.value + 1
    return T.bind(total.value / constant(float(spec.samples))), T.bind(fails.value)


def _bilinear(paf: Expr, size: tuple[int, int], x: Expr, y: Expr) -> Callable[[Expr], Expr]:
    """The reader of a channel at a point, clamped to the map."""

    def split(value: Expr, extent: int) -> tuple[Expr, Expr, Expr]:
        inside = T.bind(_inside(value, extent))
        low = T.bind(T.cast(inside, "int32"))
        return low, T.bind(T.min(low + 1, extent - 1)), T.bind(inside - T.cast(low, "float32"))

    top, bottom, fy = split(y, size[0])
    left, right, fx = split(x, size[1])
    one = constant(1.0)

    def read(channel: Expr) -> Expr:
        upper, lower = (
            paf[channel, row, left] * (one - fx) + paf[channel, row, right] * fx
            for row in (top, bottom)
        )
        return upper * (one - fy) + lower * fy

    return read


class _Rows:
    """The possible limbs that start at each peak, and the best of those that are left."""

    def __init__(self, limbs: int, most: int) -> None:
        self.count = scratch((limbs, most), "int32")
        self.end = scratch((limbs, most, most), "int32")
        self.score = scratch((limbs, most, most))
        self.taken = scratch((limbs, most), "int32")
        self.best = scratch((limbs, most), "int32")
        self.best_score = scratch((limbs, most))

    def choose(self, target: Target, limb: Expr, start: Expr) -> None:
        """Find the best limb that starts at a peak and ends at a free one; the first of equals."""
        best, best_score = Variable(target, "int32", -1), Variable(target, "float32", constant(0.0))
        with T.serial(0, T.bind(self.count[limb, start])) as n:
            score, end = T.bind(self.score[limb, start, n]), T.bind(self.end[limb, start, n])
            free = self.taken[limb, end] == 0
            with T.If(tirx.all(score > best_score.value, free)), T.Then():
                best.value, best_score.value = end, score
        T.buffer_store(self.best, best.value, [limb, start])
        T.buffer_store(self.best_score, best_score.value, [limb, start])


def _assign(
    target: Target,
    rows: _Rows,
    limb: Expr,
    extents: tuple[Expr, Expr],
    ends: Expr,
    scores: Expr,
    chosen: Expr,
) -> None:
    """Choose limbs, the best first, each peak in one of them at most."""
    with T.serial(0, extents[1]) as end:
        T.buffer_store(rows.taken, 0, [limb, end])
    with T.serial(0, extents[0]) as start:
        rows.choose(target, limb, start)
    count, more = Variable(target, "int32", 0), Variable(target, "int32", 1)
    with T.While(more.value > 0):
        best, best_score = Variable(target, "int32", -1), Variable(target, "float32", constant(0.0))
        with T.serial(0, extents[0]) as start:
            score = T.bind(rows.best_score[limb, start])
            with T.If(score > best_score.value), T.Then():
                best.value, best_score.value = start, score
        more.value = T.cast(best.value >= 0, "int32")
        with T.If(more.value > 0), T.Then():
            start = T.bind(best.value)
            end = T.bind(rows.best[limb, start])
            for i, peak in enumerate((start, end)):
                T.buffer_store(ends, peak, [limb, count.value, i])
            T.buffer_store(scores, best_score.value, [limb, count.value])
            count.value = count.value + 1
            T.buffer_store(rows.taken, 1, [limb, end])
            # Nothing else starts at this peak; what else ended at the other must look again.
            T.buffer_store(rows.count, 0, [limb, start])
            with (
                T.serial(0, extents[0]) as other,
                T.If(rows.best[limb, other] == end),
                T.Then(),
            ):
                rows.choose(target, limb, other)
    T.buffer_store(chosen, count.value, [limb, 0])
