"""Part candidates from heat maps: local maxima, refined between pixels (steps 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.decode_options import DecodeOptions, FloatArray, IntArray


@dataclass(frozen=True)
class Peaks:
    """Part candidates, by part, then in raster order."""

    part: IntArray
    """[n]: places in the skeleton."""
    position: FloatArray
    """[n, 2]: x and y in pixels of the maps."""
    score: FloatArray
    """[n]."""
    dropped: tuple[int, ...] = ()
    """Parts that had more than `max_peaks` candidates."""
    finite: bool = True
    """Whether all values of the heat maps are finite numbers; others count as 0."""


def find_peaks(heat: FloatArray, options: DecodeOptions) -> Peaks:
    """Steps 1 and 2: the local maxima of heat maps [parts, h, w], at sub-pixel positions."""
    bordered = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = heat.shape[1:]
    is_peak = heat > options.peak_threshold
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        neighbour = bordered[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        is_peak &= heat > neighbour if (dy, dx) < (0, 0) else heat >= neighbour
    part, y, x = np.nonzero(is_peak)
    position, score = refine(heat, part, y, x)
    rank = np.empty_like(part)
    rank[np.lexsort((-score, part))] = np.arange(len(part))
    kept = rank - np.searchsorted(part, part) < options.max_peaks
    return Peaks(part[kept], position[kept], score[kept], tuple(np.unique(part[~kept]).tolist()))


def find_maxima(heat: FloatArray, options: DecodeOptions) -> Peaks:
    """The greatest pixel of each heat map [parts, h, w] that exceeds the threshold, refined."""
    parts, height, width = heat.shape
    y, x = np.divmod(heat.reshape(parts, height * width).argmax(axis=1), width)
    part = np.flatnonzero(heat[np.arange(parts), y, x] > options.peak_threshold)
    return Peaks(part, *refine(heat, part, y[part], x[part]))


def cubic(distance: NDArray[np.floating]) -> NDArray[np.floating]:
    """The cubic convolution kernel with a = -0.75 (Keys 1981, equation 15)."""
    a, d = -0.75, np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


STEPS = 4
"""Samples to a pixel around a peak."""


_OFFSETS = np.arange(-STEPS, STEPS + 1) / STEPS


REFINE: FloatArray = cubic(_OFFSETS[:, None] - np.arange(-2, 3)).astype(np.float32)
"""[9, 5]: a row of five pixels around a peak -> the nine samples from -1 to 1 pixel around it."""


def refine(
    heat: FloatArray, part: IntArray, y: IntArray, x: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Step 2: positions [n, 2] (x, y) and scores [n] of the maxima of heat maps near pixels."""
    _, height, width = heat.shape
    around = np.arange(-2, 3)
    rows = np.clip(y[:, None] + around, 0, height - 1)
    columns = np.clip(x[:, None] + around, 0, width - 1)
    patch = heat[part[:, None, None], rows[:, :, None], columns[:, None, :]]
    values = REFINE @ (patch @ REFINE.T)
    side = len(_OFFSETS)
    row, column = np.divmod(values.reshape(-1, side * side).argmax(axis=1), side)
    n = np.arange(len(part))
    score = values[n, row, column]
    last = side - 1
    vertical = _vertex(
        values[n, np.maximum(row - 1, 0), column],
        score,
        values[n, np.minimum(row + 1, last), column],
    )
    horizontal = _vertex(
        values[n, row, np.maximum(column - 1, 0)],
        score,
        values[n, row, np.minimum(column + 1, last)],
    )
    position = np.stack(
        [
            np.clip(x + _OFFSETS[column] + horizontal / STEPS, 0, width - 1),
            np.clip(y + _OFFSETS[row] + vertical / STEPS, 0, height - 1),
        ],
        axis=1,
    )
    return position.astype(np.float32), score


def _vertex(before: FloatArray, at: FloatArray, after: FloatArray) -> FloatArray:
    """Where the parabola through three values, the greatest one in the middle, peaks: -0.5..0.5."""
    curvature = before - 2 * at + after
    bent = curvature < 0
    offset: FloatArray = np.where(bent, 0.5 * (before - after) / np.where(bent, curvature, -1), 0)
    return np.clip(offset, -0.5, 0.5)
