"""Winograd's algorithm F(4x4, 3x3) in whole numbers: exact, as long as outputs fit into 26 bits.

At the points 0, 1, -1, 2, -2 all matrices are of whole numbers, once the rows of G are multiplied
by what they are divided by. Transformed bytes are numbers of 16 bits. Their products are added up
modulo 2^32: what overflows comes back, since only sums and differences follow, and

    D y D = A^T [(G g G^T) * (B^T d B)] A,    D diagonal

gives the output y, some 9 * 2^k times. Modulo 2^32, 9 has an inverse; k is 6 at most.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.winograd_transforms import Matrix
from graphopt.codegen.kernels.emit import Expr, wrapped

SQUARE = 4
"""Pixels a side of a square of the output."""
SIDE = SQUARE + 2
"""Pixels a side of what it sees of the input."""
BUTTERFLY = np.eye(SIDE)
for _first in (1, 3):
    BUTTERFLY[_first : _first + 2, _first : _first + 2] = [[1, 1], [1, -1]]
WEIGHT: tuple[Matrix, Matrix] = (
    np.array(
        [[6, 0, 0], [-1, 0, -1], [0, -1, 0], [1, 0, 4], [0, 2, 0], [0, 0, 6]],
        np.float64,
    ),
    BUTTERFLY,
)
"""G in two factors; the first one is applied first."""
INPUT: tuple[Matrix, Matrix] = (
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, 0, -4, 0, 1, 0],
            [0, -4, 0, 1, 0, 0],
            [0, 0, -1, 0, 1, 0],
            [0, -2, 0, 2, 0, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float64,
    ),
    BUTTERFLY,
)
"""B^T, likewise."""
OUTPUT: tuple[Matrix, Matrix] = (
    BUTTERFLY,
    np.array(
        [[1, 4, 0, 1, 0, 0], [0, 0, 2, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 2, 1]],
        np.float64,
    ),
)
"""A^T, likewise."""
ODD, SHIFTS = 9, (3, 2, 1, 1)
"""D y D is so many times y, times 2 to the power of the shifts of its row and of its column."""
INVERSE = pow(ODD, -1, 2**32)
CENTRE = 128
"""What is taken off bytes, so that outputs are as small as they can be."""
LARGEST = 2 ** (31 - 2 * max(SHIFTS))
"""Outputs are less than this, and no less than its negative."""


def moved(frequency: int) -> int:
    """What taking `CENTRE` off every byte takes off a transformed square, at a frequency."""
    factor, butterfly = INPUT
    sums = (butterfly @ factor).sum(axis=1)
    return int(CENTRE * np.outer(sums, sums).flat[frequency])


def narrow_sum(weights: Sequence[float], values: Sequence[Expr]) -> Expr:
    """The sum of weights * values, in the type of the values: 16-bit ones are modulo 2^16."""
    terms = [
        value if weight == 1 else value * _constant(int(weight), value)
        for weight, value in zip(weights, values, strict=True)
        if weight
    ]
    return sum(terms[1:], terms[0])


def wrapped_sum(weights: Sequence[float], values: Sequence[Expr]) -> Expr:
    """The same of 32-bit numbers, modulo 2^32; weights are powers of two, or their negatives."""
    total: Expr = None
    for weight, value in zip(weights, values, strict=True):
        if not weight:
            continue
        shift = int(abs(weight)).bit_length() - 1
        term = value << _constant(shift, value) if shift else value
        if total is None:
            total = term
        else:
            total = T.bind(wrapped(operator.add if weight > 0 else operator.sub, total, term))
    return total


def output_of(number: int, value: Expr) -> Expr:
    """A pixel of a square, row by row, from what `OUTPUT` makes of the products' sums."""
    shift = SHIFTS[number // SQUARE] + SHIFTS[number % SQUARE]
    inverse = _constant(int(np.array(INVERSE, np.uint32).view(np.int32)), value)
    return wrapped(operator.mul, value, inverse) >> _constant(shift, value)


def _constant(number: int, like: Expr) -> Expr:
    dtype, _, lanes = str(like.ty.dtype).partition("x")
    return tirx.Broadcast(tirx.IntImm(dtype, number), int(lanes))
