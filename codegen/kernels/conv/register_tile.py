"""The sums that a kernel keeps in registers, and storing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.template import Parameters
from graphopt.codegen.kernels.emit import (
    Accumulator,
    Expr,
    Variable,
    broadcast,
    zeros,
)
from graphopt.codegen.targets import Target

RUN = 128
"""Most products that a CPU adds up in float16, unless a block of channels has more: then what they
come to is added to a sum in float32."""


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
        self._carried: list[list[Variable]] = []
        """What earlier runs of float16 came to; nothing where sums are not carried."""

    def add(self, pixel: int, weights: Sequence[Expr], value: Expr) -> None:
        """Add weights[f] * value to every block f of a pixel."""
        for block, weight in zip(self._sums, weights, strict=True):
            block[pixel].value = block[pixel].value + weight * value

    @contextmanager
    def over_blocks(self, blocks: int, steps: int) -> Iterator[Expr]:
        """Walk the blocks of the input, of so many products each; a CPU's sums in float16 are
        carried over to float32 after each `RUN`.
        """
        if self._target.arithmetic == "float32" or self._target.kind == "gpu":
            with T.serial(0, blocks) as block:
                yield block
            return
        dtype, nothing = f"float32x{self._target.lanes}", broadcast(0.0, self._target.lanes)
        self._carried = [[Variable(self._target, dtype, nothing) for _ in b] for b in self._sums]
        at_once = max(1, RUN // steps)
        with T.serial(0, -(-blocks // at_once)) as run:
            with T.serial(0, T.min(at_once, blocks - run * at_once)) as i:
                yield T.bind(run * at_once + i)
            for sums, carried in zip(self._sums, self._carried, strict=True):
                for total, before in zip(sums, carried, strict=True):
                    before.value = before.value + tirx.Cast(dtype, total.value)
                    total.value = zeros(self._target)

    def total(self, block: int, pixel: int) -> Expr:
        """The sums of a block of filters at a pixel, so far, as float32."""
        if self._carried:
            return self._carried[block][pixel].value
        total = self._sums[block][pixel].value
        if self._target.arithmetic == "float32":
            return total
        return tirx.Cast(f"float32x{self._target.lanes}", total)

    def store(self, p: Parameters, block: Expr, row: Expr, column: Expr, pixel: int) -> None:
        """Store a pixel's sums: its first block of filters is `block`, its place row, column."""
        for f in range(len(self._sums)):
            p.store(self.total(f, pixel), block + f, row, column + pixel)
