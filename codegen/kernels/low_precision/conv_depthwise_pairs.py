"""Depthwise convolution of bfloat16 in float32, two vectors of channels at a time.

A 32-bit word of the input is two channels. Shifted up by 16 bits it is the first as float32, and
without its lower 16 bits the second: so a vector of words is two vectors of sums, that of the even
channels and that of the odd ones, at an instruction each. Weights and vectors of the epilogue are
packed in that order; what is stored is put in the channels' own order again.

As `conv_depthwise` of float32, the taps of a row slide over the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_depthwise as of_floats
from graphopt.codegen.kernels.conv.template import Number, Tile
from graphopt.codegen.kernels.emit import Accumulator, Expr, argument, grid, kernel, zeros
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.low_precision import bfloat16 as bf16
from graphopt.codegen.kernels.low_precision.bf16_spec import Bf16Conv
from graphopt.codegen.targets import Target

PAIR = 2 * bf16.WIDE
"""Channels that are computed at once."""
WIDEST = 8
"""Pixels of the widest tile: two sums each."""


def tiles(spec: Bf16Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none unless all that it reads and writes is bfloat16,
    in blocks of two vectors of AVX-512.
    """
    lying = {(stored.dtype, stored.lanes) for stored in (spec.x, spec.y, *spec.tensors)}
    wide = target.lanes == bf16.WIDE
    if not (wide and spec.conv.depthwise) or lying != {(bf16.BITS, PAIR)}:
        return []
    most = min(WIDEST, spec.conv.out_size[1])
    return [Tile(2, pixels) for pixels in range(max(1, most // 2), most + 1)]


def cost(spec: Bf16Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds; conversions take half of what they do
    alone.
    """
    return 0.8 * of_floats.cost(spec.conv, target, Tile(1, tile.pixels))


def pack_weight(weight: Floats, spec: Bf16Conv, target: Target, _: Tile) -> Floats:
    """(C, 1, kh, kw) to (blocks, kh, kw, channels), even channels before odd ones."""
    vectors = pack_vectors(weight[:, 0], spec, target)
    pairs = np.moveaxis(vectors.reshape(-1, 2, *vectors.shape[1:]), 1, -2)
    return np.ascontiguousarray(pairs.reshape(*pairs.shape[:-2], PAIR))


def pack_vectors(values: NDArray[Number], spec: Bf16Conv, target: Target) -> NDArray[Number]:
    """A number a channel, (C, …), as (vectors, …, lanes), even channels before odd ones."""
    vectors = spec.packed(values, target.lanes)
    pairs = vectors.reshape(-1, 2, *vectors.shape[1:])  # (blocks, halves, …, lanes)
    whole = np.concatenate([pairs[:, 0], pairs[:, 1]], axis=-1)  # (blocks, …, channels)
    apart = np.stack([whole[..., 0::2], whole[..., 1::2]], axis=1)
    return np.ascontiguousarray(apart.reshape(vectors.shape))


def build(spec: Bf16Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    with kernel("conv_bf16_depthwise") as get:
        p = _Parameters(spec, target)
        blocks, height = p.blocks, spec.conv.out_size[0]
        with bf16.instructions(bf16.WIDE), grid(target, blocks, height) as (block, row):
            of_floats.slide(
                spec.conv,
                tile,
                row,
                sums=lambda pixels: _Sums(target, pixels),
                weight=lambda ky, kx: p.weight[block, ky, kx, tirx.Ramp(0, 1, PAIR)],
                load=lambda in_row, column: p.words(p.x, block, in_row, column),
                store=lambda sums, pixel, column: p.store(
                    sums.totals(pixel), block, row, column + pixel
                ),
            )
    return get()


def _halves(pair: Expr) -> tuple[Expr, Expr]:
    """The two vectors of one of twice the lanes."""
    lower, upper = (list(range(start, start + bf16.WIDE)) for start in (0, bf16.WIDE))
    return tirx.Shuffle([pair], lower), tirx.Shuffle([pair], upper)


def _apart(words: Expr) -> tuple[Expr, Expr]:
    """The even and the odd channels of a vector of words, as float32."""
    floats, lanes = f"float32x{bf16.WIDE}", bf16.WIDE
    even = words << tirx.Broadcast(tirx.const(16, "uint32"), lanes)
    odd = words & tirx.Broadcast(tirx.const(0xFFFF0000, "uint32"), lanes)
    return tirx.reinterpret(floats, even), tirx.reinterpret(floats, odd)


class _Sums:
    """Sums of the even and the odd channels of some pixels."""

    def __init__(self, target: Target, pixels: int) -> None:
        self._sums = [[Accumulator(target) for _ in range(2)] for _ in range(pixels)]
        for accumulator in (a for pair in self._sums for a in pair):
            accumulator.value = zeros(target)

    def add(self, pixel: int, weights: Sequence[Expr], value: Expr) -> None:
        """Add a tap: its weights, of both vectors, times the words of a pixel."""
        (pair,) = weights
        for total, weight, x in zip(self._sums[pixel], _halves(pair), _apart(value), strict=True):
            total.value = total.value + weight * x

    def totals(self, pixel: int) -> tuple[Expr, Expr]:
        """The sums of a pixel."""
        even, odd = self._sums[pixel]
        return even.value, odd.value


class _Parameters:
    """The kernel's parameters: x, weight, channels, tensors, y."""

    def __init__(self, spec: Bf16Conv, target: Target) -> None:
        epilogue, lanes = spec.conv.epilogue, target.lanes
        vectors = spec.vectors(lanes)
        self.blocks = vectors // 2
        self._spec, self._target = spec, target
        self.x = argument("x", spec.input_shape, bf16.BITS)
        self.weight = argument("weight", (self.blocks, *spec.conv.kernel, PAIR))
        self._channels = [
            argument(f"channel{n}", (vectors, lanes)) for n in range(epilogue.count("channel"))
        ]
        self._tensors = [
            argument(f"tensor{n}", spec.output_shape(), bf16.BITS)
            for n in range(epilogue.count("tensor"))
        ]
        self._y = argument("y", spec.output_shape(), bf16.BITS)

    def words(self, buffer: Expr, block: Expr, row: Expr, column: Expr) -> Expr:
        """A pixel's channels of a block, two a word."""
        channels = buffer[0, block, row, column, tirx.Ramp(0, 1, PAIR)]
        return tirx.reinterpret(f"uint32x{bf16.WIDE}", channels)

    def store(self, totals: Sequence[Expr], block: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on a pixel's sums and store them."""
        lanes = tirx.Ramp(0, 1, self._target.lanes)
        read = [_apart(T.bind(self.words(t, block, row, column))) for t in self._tensors]

        def finished(odd: int) -> Expr:
            return self._spec.conv.epilogue.emit(
                self._target,
                totals[odd],
                channel=lambda n: self._channels[n][block * 2 + odd, lanes],
                tensor=lambda n: read[n][odd],
            )

        even, odd = T.bind(finished(0)), T.bind(finished(1))
        order = [lane // 2 + bf16.WIDE * (lane % 2) for lane in range(PAIR)]
        whole = tirx.Shuffle([T.bind(bf16.nearest_two(even, odd))], order)
        T.buffer_store(self._y, whole, [0, block, row, column, tirx.Ramp(0, 1, PAIR)])
