"""Ranges of activations: where the error of rounding and that of clipping are least together.

The least square error over a histogram, as in Shin et al., "Fixed-point performance analysis of
recurrent neural networks", ICASSP 2016; each channel counts as much as the layers behind make of
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.observe import Seen

Doubles = NDArray[np.float64]
BINS = 4096
"""Of a histogram."""
CANDIDATES = 80
"""Limits tried at a time for each end of a range."""
NARROWEST = 0.15
"""The smallest part of a range that is tried for each end."""
ROUNDS = 3
"""Times that each end is searched for, with the other one fixed."""


def least_error(
    seen: Sequence[Seen],
    weights: Sequence[Doubles],
    *,
    ceiling: float = float("inf"),
    signed: bool = False,
) -> Grid:
    """The grid with the least square error.

    Args:
        seen: tensors that share the grid.
        weights: how much an error in each channel of each tensor counts.
        ceiling: what the grid may hold at most.
        signed: whether it is of signed numbers.
    """
    low = float(min(min(float(s.low.min()) for s in seen), 0.0))
    high = float(min(max(max(float(s.high.max()) for s in seen), 0.0), ceiling))
    if high - low < 1e-12:
        return Grid.over(0.0, min(1.0, ceiling), signed=signed)
    counts = np.zeros(BINS)
    for part, weight in zip(seen, weights, strict=True):
        each = np.broadcast_to(weight / len(part.values), part.values.shape)
        counts += np.histogram(part.values, BINS, (low, high), weights=each)[0]
    centres: Doubles = np.linspace(low, high, 2 * BINS + 1, dtype=np.float64)[1::2]
    shares = np.geomspace(NARROWEST, 1, CANDIDATES)
    best = Grid.over(low, high, signed=signed)
    ends = [low, high]
    least = _error(best, centres, counts)
    for _ in range(ROUNDS if low < 0 < high else 1):
        for end, most in enumerate((low, high)):
            for limit in most * shares if most else ():
                tried = list(ends)
                tried[end] = float(limit)
                grid = Grid.over(*tried, signed=signed)
                if grid.high > ceiling * (1 + 1e-6):
                    continue
                error = _error(grid, centres, counts)
                if error < least:
                    best, least, ends = grid, error, tried
    return best


def _error(grid: Grid, centres: Doubles, counts: Doubles) -> float:
    """The square error of rounding, of which within a step only the mean is looked at."""
    outside = np.maximum(centres - grid.high, 0) + np.maximum(grid.low - centres, 0)
    inside = (centres <= grid.high) & (centres >= grid.low)
    near_zero = np.abs(centres) < grid.scale / 2
    rounding = np.where(near_zero, np.square(centres), grid.scale**2 / 12)
    return float((counts * np.where(inside, rounding, np.square(outside))).sum())
