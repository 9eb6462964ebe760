"""Part candidates from heat maps: local maxima, refined between pixels, in raster order.

The reference is steps 1 and 2 of `graphopt.pose.decode`. Each row of each map is searched by
itself; then the rows of a map are put together. No map is upsampled: only around a peak, its 5 x 5
pixels become 9 x 9 samples.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from graphopt.codegen.targets import Target
from graphopt.pose.peaks import REFINE, STEPS

THRESHOLDS = 5
"""Numbers that a decoder's kernels may be given anew with each photo: `peak_threshold`,
`paf_threshold`, how many samples of a limb may be below it, `min_parts` and `min_score`."""

LARGEST = float(np.finfo(np.float32).max)
SIDE, PIXELS = REFINE.shape
"""Samples, and pixels that they are made of, along each axis around a peak."""


@dataclass(frozen=True)
class PeakSpec:
    """The maps and what is kept of them.

    Args:
        parts: heat maps.
        size: their height and width.
        max_peaks: most peaks of a part.
        first: the channel that the first map is.
        channels: how many there are; all of them by default.
    """

    parts: int
    size: tuple[int, int]
    max_peaks: int
    first: int = 0
    channels: int = 0


def pack_weight(target: Target) -> NDArray[np.float32]:
    """(pixels, samples): what each pixel of a row adds to each of the samples.

    Samples fill whole vectors; what is past the last one repeats it.
    """
    return np.pad(REFINE.T, ((0, 0), (0, -SIDE % target.lanes)), mode="edge")


class _Maps:
    """A copy of the heat maps with a border below all values, values that are not finite as 0.

    The border is a pixel wide, on the right up to whole vectors and one pixel past them.
    """

    def __init__(self, spec: PeakSpec, target: Target, heat: Expr) -> None:
        self.height, self.width = spec.size
        self._lanes = target.lanes
        self.chunks = -(-self.width // target.lanes)
        self._columns = self.chunks * target.lanes + 2
        self._padded = scratch((spec.parts, self.height + 2, self._columns))
        self._bad = scratch((spec.parts, self.height + 2), "int32")
        lowest = constant(-LARGEST)
        with grid(target, spec.parts, self.height + 2) as (part, row):
            bad = Variable(target, "int32", 0)
            with T.If(tirx.any(row == 0, row == self.height + 1)):
                with T.Then(), T.serial(0, self._columns) as i:
                    T.buffer_store(self._padded, lowest, [part, row, i])
                with T.Else():
                    T.buffer_store(self._padded, lowest, [part, row, 0])
                    with T.serial(0, self.width) as x:
                        value = T.bind(heat[spec.first + part, row - 1, x])
                        finite = T.bind(T.abs(value) <= constant(LARGEST))
                        clean = tirx.Select(finite, value, constant(0.0))
                        T.buffer_store(self._padded, clean, [part, row, x + 1])
                        bad.value = bad.value + tirx.Select(finite, 0, 1)
                    with T.serial(self.width + 1, self._columns) as i:
                        T.buffer_store(self._padded, lowest, [part, row, i])
            T.buffer_store(self._bad, bad.value, [part, row])

    def at(self, part: Expr, y: Expr, x: Expr) -> Expr:
        """A pixel, or one of the border."""
        return self._padded[part, y + 1, x + 1]

    def clamped(self, part: Expr, y: Expr, x: Expr) -> Expr:
        """A pixel, or the nearest one in the map."""
        inside = (T.max(0, T.min(v, n - 1)) for v, n in ((y, self.height), (x, self.width)))
        return self.at(part, *inside)

    def bad(self, part: Expr, target: Target) -> Expr:
        """How many values of a map are not finite."""
        total = Variable(target, "int32", 0)
        with T.serial(0, self.height) as y:
            total.value = total.value + self._bad[part, y + 1]
        return total.value

    def is_peak(self, part: Expr, y: Expr, x: Expr, threshold: Expr) -> Expr:
        """Whether a pixel is a local maximum above a threshold."""
        value = self.at(part, y, x)
        around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
        neighbours = [(where, self.at(part, y + where[0], x + where[1])) for where in around]
        return tirx.all(
            value > threshold,
            *(value > n if where < (0, 0) else value >= n for where, n in neighbours),
        )


def refined(
    maps: _Maps, target: Target, weights: Expr, part: Expr, y: Expr, x: Expr
) -> tuple[Expr, Expr, Expr]:
    """The sub-pixel position (x, y) and the score of a map's maximum near a pixel."""
    columns = int(weights.shape[1])
    pixels = range(PIXELS)
    reach = PIXELS // 2
    rows = private(target, (PIXELS, columns))
    values = private(target, (SIDE, columns))
    for i in pixels:
        row = [T.bind(maps.clamped(part, y + i - reach, x + j - reach)) for j in pixels]
        with T.serial(0, columns) as c:
            T.buffer_store(rows, _sum(row[j] * weights[j, c] for j in pixels), [i, c])
    for r in range(SIDE):
        with T.serial(0, columns) as c:
            # Not as numbers in the code: they are in memory already, for the rows.
            terms = [weights[i, r] * rows[i, c] for i in pixels if REFINE[r, i]]
            T.buffer_store(values, _sum(terms), [r, c])

    highest = private(target, (columns,))
    with T.serial(0, columns) as c:
        column = values[0, c]
        for r in range(1, SIDE):
            column = T.max(column, values[r, c])
        T.buffer_store(highest, column, [c])
    top = highest[0]
    for c in range(1, SIDE):
        top = T.max(top, highest[c])
    top = T.bind(top)
    # What is past the last sample repeats it, so the first of equals is never there.
    place = Variable(target, "int32", 0)
    with T.While(values[place.value // columns, place.value % columns] < top):
        place.value = place.value + 1
    r, c = T.bind(place.value // columns), T.bind(place.value % columns)

    last = SIDE - 1
    vertical = _vertex(values[T.max(r - 1, 0), c], top, values[T.min(r + 1, last), c])
    horizontal = _vertex(values[r, T.max(c - 1, 0)], top, values[r, T.min(c + 1, last)])
    return (
        _position(x, c, horizontal, maps.width),
        _position(y, r, vertical, maps.height),
        top,
    )


def _sum(terms: Iterable[Expr]) -> Expr:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _vertex(before: Expr, at: Expr, after: Expr) -> Expr:
    """Where the parabola through three values, the greatest one in the middle, peaks: -0.5..0.5."""
    half, minus = constant(0.5), constant(-1.0)
    curvature = T.bind(before - constant(2.0) * at + after)
    bent = T.bind(curvature < constant(0.0))
    offset = half * (before - after) / tirx.Select(bent, curvature, minus)
    inside = T.max(T.min(offset, half), constant(-0.5))
    return tirx.Select(bent, inside, constant(0.0))


def _position(pixel: Expr, sample: Expr, offset: Expr, extent: int) -> Expr:
    quarters = T.cast(sample - STEPS, "float32") + offset
    place = T.cast(pixel, "float32") + quarters * constant(1 / STEPS)
    return T.bind(T.max(T.min(place, constant(float(extent - 1))), constant(0.0)))


def build(spec: PeakSpec, target: Target) -> Any:
    """All local maxima, as a TIR PrimFunc.

    Parameters: thresholds (the first is a peak's), heat maps (channels, height, width), weights as
    packed, peaks (parts, max_peaks, 3): x, y and score, counts (parts, 3), int32: peaks that were
    kept, that were found, and values that are not finite.
    """
    height, width = spec.size
    most = -(-width // 2)  # of two neighbours, one is a peak at most
    with kernel("find_peaks") as get:
        thresholds, heat, weights, peaks, counts = _arguments(spec, target)
        found = scratch((spec.parts, height, most, 3))
        in_row = scratch((spec.parts, height), "int32")
        maps = _Maps(spec, target, heat)
        lanes = target.lanes if target.kind == "cpu" else 1
        with grid(target, spec.parts, height) as (part, y):
            threshold = T.bind(thresholds[0])
            count = Variable(target, "int32", 0)
            with T.serial(0, -(-width // lanes)) as chunk:
                first = T.bind(chunk * lanes)
                hits = Variable(target, "int32", 0)
                with T.serial(0, lanes) as i:  # without branches: the compiler makes it vectors
                    here = maps.is_peak(part, y, first + i, threshold)
                    hits.value = hits.value + T.cast(here, "int32")
                with T.If(hits.value > 0), T.Then(), T.serial(0, lanes) as i:
                    x = T.bind(first + i)
                    with T.If(maps.is_peak(part, y, x, threshold)), T.Then():
                        peak = refined(maps, target, weights, part, y, x)
                        _store(found, peak, part, y, count.value)
                        count.value = count.value + 1
            T.buffer_store(in_row, count.value, [part, y])
        with grid(target, spec.parts) as (part,):
            _gather(spec, target, found, in_row, part, peaks, counts)
            T.buffer_store(counts, maps.bad(part, target), [part, 2])
    return get()


def build_maxima(spec: PeakSpec, target: Target) -> Any:
    """The greatest pixel of each map, refined, if above the threshold; parameters as of `build`."""
    with kernel("find_maxima") as get:
        thresholds, heat, weights, peaks, counts = _arguments(spec, target)
        maps = _Maps(spec, target, heat)
        with grid(target, spec.parts) as (part,):
            best = Variable(target, "float32", thresholds[0])
            place_y, place_x = Variable(target, "int32", -1), Variable(target, "int32", 0)
            with T.serial(0, maps.height) as y, T.serial(0, maps.width) as x:
                value = T.bind(maps.at(part, y, x))
                with T.If(value > best.value), T.Then():
                    best.value, place_y.value, place_x.value = value, y, x
            found = T.bind(T.cast(place_y.value >= 0, "int32"))
            with T.If(found > 0), T.Then():
                peak = refined(maps, target, weights, part, place_y.value, place_x.value)
                _store(peaks, peak, part, 0)
            for i, number in enumerate((found, found, maps.bad(part, target))):
                T.buffer_store(counts, number, [part, i])
    return get()


def _arguments(spec: PeakSpec, target: Target) -> tuple[Expr, ...]:
    return (
        argument("thresholds", (THRESHOLDS,)),
        argument("heat", (spec.channels or spec.parts, *spec.size)),
        argument("weights", pack_weight(target).shape),
        argument("peaks", (spec.parts, spec.max_peaks, 3)),
        argument("counts", (spec.parts, 3), "int32"),
    )


def _store(buffer: Expr, peak: tuple[Expr, Expr, Expr], *place: Expr) -> None:
    for i, value in enumerate(peak):
        T.buffer_store(buffer, value, [*place, i])


def _gather(
    spec: PeakSpec,
    target: Target,
    found: Expr,
    in_row: Expr,
    part: Expr,
    peaks: Expr,
    counts: Expr,
) -> None:
    """Put the rows of a part together; past the limit, each peak displaces the least one."""
    kept, total = (Variable(target, "int32", 0) for _ in range(2))
    with T.serial(0, spec.size[0]) as y, T.serial(0, T.bind(in_row[part, y])) as n:
        peak = tuple(T.bind(found[part, y, n, i]) for i in range(3))
        score = peak[2]
        total.value = total.value + 1
        with T.If(kept.value == spec.max_peaks), T.Then():
            # The last of the least goes, and those behind it move up.
            least = Variable(target, "int32", 0)
            with (
                T.serial(1, spec.max_peaks) as i,
                T.If(peaks[part, i, 2] <= peaks[part, least.value, 2]),
                T.Then(),
            ):
                least.value = i
            with T.If(score > peaks[part, least.value, 2]), T.Then():
                with T.serial(0, spec.max_peaks - 1 - least.value) as i:
                    to = T.bind(least.value + i)
                    _store(peaks, tuple(peaks[part, to + 1, k] for k in range(3)), part, to)
                kept.value = kept.value - 1
        with T.If(kept.value < spec.max_peaks), T.Then():
            _store(peaks, peak, part, kept.value)
            kept.value = kept.value + 1
    T.buffer_store(counts, kept.value, [part, 0])
    T.buffer_store(counts, total.value, [part, 1])
