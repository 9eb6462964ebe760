"""Pillow's bicubic scaling of 8-bit pixels, as tables that kernels follow to the last bit.

A photo is scaled along its rows, then along its columns, each time to whole numbers 0..255. A pixel
is a sum of a few neighbours, by weights that are whole multiples of 2**-22 (Pillow,
src/libImaging/Resample.c: precompute_coeffs and normalize_coeffs_8bpc).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.preprocess import SizeFit

PRECISION = 22
"""Bits of a weight behind the point."""
SUPPORT = 2.0
"""How far the bicubic filter reaches on each side, in pixels of the smaller picture."""
GEOMETRY = 6
"""Numbers that say where a photo lies: its rows and columns, the rows and columns that it becomes,
and which row and column of the input are its first."""
HEAD = 2
"""Rows of a table before the weights: the first neighbour, and how many there are."""


def table(extent: int, size: int) -> NDArray[np.int32]:
    """How `size` pixels are made of `extent`: [HEAD + most neighbours, size].

    A column is a pixel's: its first neighbour, how many it has, then their weights.
    """
    scale = extent / size
    stretch = max(scale, 1.0)
    reach = SUPPORT * stretch
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum(center - reach + 0.5, 0).astype(np.int64)
    count = np.minimum(center + reach + 0.5, extent).astype(np.int64) - first
    neighbour = np.arange(count.max())[:, None]
    distance = (neighbour + first - center + 0.5) * (1 / stretch)
    weights = np.where(neighbour < count, _bicubic(distance), 0.0)
    weights = weights / weights.sum(axis=0) * 2**PRECISION
    rounded = np.trunc(weights + np.copysign(0.5, weights))
    return np.vstack([first, count, rounded]).astype(np.int32)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < SUPPORT, far, 0.0))


def most_neighbours(side: int, canvas: tuple[int, int]) -> int:
    """The most neighbours of a pixel, for photos of up to `side` pixels a side.

    They fill the canvas one way at least.
    """
    # A photo is scaled by the same factor both ways, but for rounding, by half a pixel at most.
    scale = 1.5 * side / min(canvas)
    return 2 * math.ceil(SUPPORT * max(scale, 1.0)) + 1


def tables(
    photo: tuple[int, int], fit: SizeFit, neighbours: int
) -> Mapping[str, NDArray[np.int32]]:
    """What a bundle's kernels are given besides a photo's pixels.

    Args:
        photo: its width and height.
        fit: where it goes.
        neighbours: how many a table has room for.

    Returns:
        `geometry` (GEOMETRY,), and `columns` and `rows` as `table` gives them, padded to the
        canvas and the room; nothing if there is too little room.
    """
    (width, height), (columns, rows), (left, top) = photo, fit.size, fit.offset
    found = {"geometry": np.array([height, width, rows, columns, top, left], np.int32)}
    extents = zip(("columns", "rows"), photo, fit.size, fit.canvas, strict=True)
    for name, extent, size, across in extents:
        made = table(extent, size)
        room = HEAD + neighbours - len(made)
        if room < 0:
            return {}
        found[name] = np.pad(made, ((0, room), (0, across - size)))
    return found
