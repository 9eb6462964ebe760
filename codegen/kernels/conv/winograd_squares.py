"""The squares of pixels that Winograd's algorithm computes at once: where they lie, the windows of
the input that they see, and their transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.conv.winograd_transforms import TAPS, Matrix
from graphopt.codegen.kernels.emit import Expr, broadcast


def squares_of(spec: ConvSpec, side: int) -> tuple[int, int]:
    """Rows and columns of squares of so many pixels a side."""
    # With a dilation d, d x d squares are woven into one that is d times as large.
    rows, columns = (
        d * -(-extent // (d * side))
        for extent, d in zip(spec.out_size, spec.dilations, strict=True)
    )
    return rows, columns


def place(spec: ConvSpec, side: int, square: Expr) -> tuple[Expr, Expr]:
    """Row and column of a square's first output; past the last one they are below the picture."""
    square, (_, across) = T.bind(square), squares_of(spec, side)
    at = tirx.floordiv(square, across), tirx.floormod(square, across)
    row, column = (
        T.bind(tirx.floordiv(n, d) * (d * side) + tirx.floormod(n, d))
        for n, d in zip(at, spec.dilations, strict=True)
    )
    return row, column


class Window:
    """The input pixels of the square whose first output is at row, column.

    Args:
        spec: the convolution.
        side: pixels a side of the square.
        row, column: of its first output.
        pixel: some channels of a pixel that is inside the picture: their number, row, column.
        chosen: whether a pixel is inside, and channels -> those, or as many of padding.
    """

    def __init__(
        self,
        spec: ConvSpec,
        side: int,
        row: Expr,
        column: Expr,
        pixel: Callable[[Expr, Expr, Expr], Expr],
        chosen: Callable[[Expr, Expr], Expr],
    ) -> None:
        reach = range(side + TAPS - 1)
        self._size, self._pixel, self._chosen = spec.size, pixel, chosen
        (dy, dx), (top, left, *_) = spec.dilations, spec.pads
        self._rows = [T.bind(row + y * dy - top) for y in reach]
        self._columns = [T.bind(column + x * dx - left) for x in reach]
        self.inside = tirx.all(self._is_inside(0, 0), self._is_inside(-1, -1))
        """Whether none of them is padding."""

    def _is_inside(self, y: int, x: int) -> Expr:
        row, column = self._rows[y], self._columns[x]
        return tirx.all(row >= 0, row < self._size[0], column >= 0, column < self._size[1])

    def load(self, block: Expr, y: int, x: int) -> Expr:
        """Channels of a pixel of a window that is `inside`."""
        return self._pixel(block, self._rows[y], self._columns[x])

    def load_padded(self, block: Expr, y: int, x: int) -> Expr:
        """The same of any window; the load itself is inside, since a branch would cost more."""
        row = T.min(T.max(self._rows[y], 0), self._size[0] - 1)
        column = T.min(T.max(self._columns[x], 0), self._size[1] - 1)
        pixel = self._pixel(block, row, column)
        return self._chosen(self._is_inside(y, x), pixel)


def store_square(
    spec: ConvSpec,
    side: int,
    values: Iterable[Expr],
    store: Callable[[Expr, Expr, Expr], None],
    row: Expr,
    column: Expr,
) -> None:
    """Store those pixels of a square that are inside the picture.

    Args:
        values: of its pixels, row by row.
        store: a value, its row and its column.
        row, column: of its first pixel.
    """
    for number, value in enumerate(values):
        y = row + number // side * spec.dilations[0]
        x = column + number % side * spec.dilations[1]
        with T.If(tirx.all(y < spec.out_size[0], x < spec.out_size[1])), T.Then():
            store(value, y, x)


def both_ways(
    factors: Sequence[Matrix],
    load: Callable[[int, int], Expr],
    total: Callable[[Sequence[float], Sequence[Expr]], Expr] | None = None,
) -> Iterator[Expr]:
    """A square's transform, down the columns and then along the rows, element by element.

    Args:
        factors: of the matrix; the first one is applied first.
        load: an element.
        total: the sum of weights * values, of which not all are zero; None: of float32.
    """
    side, total = range(factors[0].shape[1]), total or _weighted_sum
    columns = [_apply(factors, [T.bind(load(y, x)) for y in side], total) for x in side]
    for row in zip(*columns, strict=True):
        yield from _apply(factors, row, total)


def _apply(
    factors: Sequence[Matrix],
    vector: Sequence[Expr],
    total: Callable[[Sequence[float], Sequence[Expr]], Expr],
) -> Sequence[Expr]:
    """The product of the factors, last one first, with a vector."""
    for factor in factors:
        vector = [T.bind(total(row.tolist(), vector)) for row in factor]
    return vector


def _weighted_sum(weights: Sequence[float], values: Sequence[Expr]) -> Expr:
    """The sum of weights * values, with no operation for zeros and ones."""
    terms = [
        value if weight == 1 else value * broadcast(weight, value.ty.dtype.lanes)
        for weight, value in zip(weights, values, strict=True)
        if weight
    ]
    return sum(terms[1:], terms[0])
