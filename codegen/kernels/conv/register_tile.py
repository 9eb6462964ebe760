"""The sums that a kernel keeps in registers, and storing them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from graphopt.codegen.kernels.conv.template import Parameters
from graphopt.codegen.kernels.emit import (
    Accumulator,
    Expr,
    zeros,
)
from graphopt.codegen.targets import Target


class RegisterTile:
    """Sums of some blocks of filters times some pixels, in registers.

    Args:
        target: where they are.
        filters: blocks of filters.
        pixels: pixels.
        start: the vector that each sum begins with; None: zeros.
    """

    def __init__(
        self, target: Target, filters: int, pixels: int, start: Expr | None = None
    ) -> None:
        self._sums = [[Accumulator(target) for _ in range(pixels)] for _ in range(filters)]
        self._target = target
        for accumulator in (a for block in self._sums for a in block):
            accumulator.value = zeros(target) if start is None else start

    def add(self, pixel: int, weights: Sequence[Expr], value: Expr) -> None:
        """Add weights[f] * value to every block f of a pixel."""
        for block, weight in zip(self._sums, weights, strict=True):
            block[pixel].value = block[pixel].value + weight * value

    def total(self, block: int, pixel: int) -> Expr:
        """The sums of a block of filters at a pixel, so far, as float32."""
        total = self._sums[block][pixel].value
        if self._target.arithmetic == "float32":
            return total
        return tirx.Cast(f"float32x{self._target.lanes}", total)

    def store(self, p: Parameters, block: Expr, row: Expr, column: Expr, pixel: int) -> None:
        """Store a pixel's sums: its first block of filters is `block`, its place row, column."""
        for f in range(len(self._sums)):
            p.store(self.total(f, pixel), block + f, row, column + pixel)
