"""Dense convolution of bfloat16 by Arm's `bfmmla`: squares of two pixels and two filters.

As `conv_dot`, with words of four channels: a square's instruction does twice what that for a word
of two does, in the time of one. A vector of four filters at two pixels is two squares, which are
put in the order of pixels before they are stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Variable, kernel, zeros
from graphopt.codegen.kernels.low_precision import bfloat16 as bf16
from graphopt.codegen.kernels.low_precision import conv_dot
from graphopt.codegen.kernels.low_precision.bf16_spec import Bf16Conv
from graphopt.codegen.kernels.low_precision.int8_spec import Integers
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import Segment
from graphopt.codegen.targets import Target

QUAD = 4
"""Channels of a word."""
HALF = 2 * QUAD
"""Weights of a square: half a vector's filters."""


def tiles(spec: Bf16Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is depthwise, has blocks of less than a
    word, or is for a CPU without the instruction.

    Beside its sums a tile needs a register for each two pixels, and two for weights.
    """
    if target.bfloat16 != "bf16" or spec.conv.depthwise or spec.x.lanes < QUAD:
        return []
    vectors, width = spec.vectors(target.lanes), conv_dot.seen(spec).conv.out_size[1]
    found = []
    for filters in range(1, target.filter_blocks + 1):
        most = (target.registers - 2) * 2 // (2 * filters + 1) // 2 * 2
        most = min(most, width + width % 2)
        if vectors % filters == 0:
            found += [
                Tile(filters, pixels) for pixels in range(2, most + 1, 2) if pixels > most // 2
            ]
    return found


def cost(spec: Bf16Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions."""
    row = conv_dot.seen(spec).conv
    row = replace(row, out_channels=spec.vectors(target.lanes) * target.lanes)
    step = row.out_size[0] * conv_dense.row_cost(row, target, tile, row.out_size[1])
    return conv_dot.steps(spec, QUAD) * step


def pack_weight(weight: Integers, spec: Bf16Conv, target: Target, tile: Tile) -> Integers:
    """(O, I, kh, kw) to (O groups, steps, filters of a tile, lanes * channels of a word)."""
    return conv_dot.pack_steps(weight, spec, target, tile, lambda words: words, QUAD)


def build(spec: Bf16Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    groups = spec.vectors(target.lanes) // tile.filters
    shape = (groups, conv_dot.steps(spec, QUAD), tile.filters, target.lanes * QUAD)
    product = conv_dot.is_product(spec)
    with kernel("conv_bf16_squares") as get:
        p = StoredParameters(spec, target, (shape, spec.weights), one_row=product)
        with p.instructions():
            sums = _Squares(conv_dot.seen(spec), target, tile, p)
            conv_dot.walk(sums, groups)
    return get()


class _Squares:
    """A register tile's sums, from zero to the stored result."""

    def __init__(self, spec: Bf16Conv, target: Target, tile: Tile, p: StoredParameters) -> None:
        self.spec, self.target, self.at_once = spec, target, tile
        self._p, self._quads = p, p.words("int64")

    def tile(self, group: Expr, row: Expr, column: Expr, pixels: int, *, inside: bool) -> None:
        """Compute and store one tile; unless `inside`, its column is a number."""
        conv, target, filters = self.spec.conv, self.target, self.at_once.filters
        dtype, nothing = f"float32x{target.lanes}", zeros(target)
        # By the vector of filters, the two pixels, and the half of the vector.
        sums = [
            [[Variable(target, dtype, nothing) for _ in range(2)] for _ in range(-(-pixels // 2))]
            for _ in range(filters)
        ]
        first = T.bind(row * conv.strides[0] - conv.pads[0])
        for segment in conv_dot.segments(self.spec, QUAD):
            taps_down = conv_dense.rows_inside(conv, first)
            with (
                T.serial(0, segment.blocks) as block,
                T.serial(*taps_down) as ky,
                T.serial(0, segment.words) as quad,
            ):
                in_row = T.bind(first + ky * conv.dilations[0])
                for kx in range(conv.kernel[1]):
                    step = ((block * conv.kernel[0] + ky) * conv.kernel[1] + kx) * segment.words
                    read = [
                        self._read(segment, block, quad, in_row, column + pixel, kx, inside=inside)
                        for pixel in range(pixels)
                    ]
                    self._add(sums, read, group, segment.start + step + quad)
        for pixel in range(pixels):
            order = [0, 1, 4, 5] if pixel % 2 == 0 else [2, 3, 6, 7]
            for f in range(filters):
                halves = [half.value for half in sums[f][pixel // 2]]
                total = T.bind(tirx.Shuffle(halves, order))
                self._p.store(total, group * filters + f, row, column + pixel)

    def _read(
        self,
        segment: Segment,
        block: Expr,
        quad: Expr,
        row: Expr,
        column: Expr,
        kx: int,
        *,
        inside: bool,
    ) -> Expr:
        """Four channels of the pixel that a pixel's tap reads; None outside the picture."""
        conv, (height, width) = self.spec.conv, self.spec.conv.size
        at = column * conv.strides[1] + kx * conv.dilations[1] - conv.pads[1]
        if not inside and not 0 <= at < width:
            return None
        place = ((segment.first + block) * height + row) * width + at
        return T.bind(self._quads[place * (self.spec.x.lanes // QUAD) + quad])

    def _add(
        self, sums: list[list[list[Variable]]], read: list[Expr], group: Expr, step: Expr
    ) -> None:
        """Add the products of a word of each pixel, where it has any."""
        pairs = [(*read[i : i + 2], None)[:2] for i in range(0, len(read), 2)]
        outside = tirx.const(0, "int64")
        for f, of_filters in enumerate(sums):
            for half in range(2):
                lanes = tirx.Ramp(half * HALF, 1, HALF)
                weights = T.bind(self._p.weight[group, step, f, lanes])
                for pair, squares in zip(pairs, of_filters, strict=True):
                    if pair != (None, None):
                        one, two = (outside if word is None else word for word in pair)
                        squares[half].value = bf16.squares(squares[half].value, one, two, weights)
