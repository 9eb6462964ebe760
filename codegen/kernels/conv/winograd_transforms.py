"""The matrices of Winograd's algorithm F(m x m, 3 x 3)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Transforms(NamedTuple):
    """F(m, 3), in one dimension; n = m + 2.

    Args:
        weight: G, (n, 3).
        input: B^T, (n, n), in two factors; the first one is applied first.
        output: A^T, (m, n), likewise.
    """

    weight: Matrix
    input: tuple[Matrix, Matrix]
    output: tuple[Matrix, Matrix]


@cache
def transforms(out: int) -> Transforms:
    """Interpolation at `POINTS` and at infinity (Lavin and Gray, sections 2 and 4).

    Args:
        out: m, pixels a side of an output square.
    """
    points, inputs = np.array(POINTS[out]), out + TAPS - 1
    others = [np.delete(points, i) for i in range(len(points))]
    scale = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
    powers = np.vander(points, inputs, increasing=True)
    infinity = np.eye(inputs)[-1]
    G = np.vstack([powers[:, :TAPS] / np.c_[scale], infinity[-TAPS:]])
    B = [[*np.poly(rest)[::-1], 0] for rest in others]
    BT = np.vstack([*B, np.poly(points)[::-1]])
    AT = np.hstack([powers[:, :out].T, np.c_[infinity[-out:]]])
    butterfly = np.eye(inputs)
    for i in range(1, len(points), 2):
        butterfly[i : i + 2, i : i + 2] = [[1, 1], [1, -1]]
    halves = np.linalg.inv(butterfly)
    # What rounding left of zeros must not become operations.
    clean = [np.where(abs(m) < 1e-12, 0, m) for m in (halves @ BT, AT @ halves)]
    return Transforms(G, (clean[0], butterfly), (butterfly, clean[1]))


Matrix = NDArray[np.float64]


TAPS = 3


POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}
"""Where polynomials are interpolated, beside infinity, for squares of so many pixels a side. No
number in the transforms is above 2.9, where the usual points 0, 1, -1, 2, -2 bring an 8: that keeps
rounding small."""
