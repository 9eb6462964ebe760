"""Depthwise convolution on blocked activations: a vector of channels at a time, no reduction.

The taps of a row slide over the tile, so each input vector is loaded once a row and used for every
tap that covers it. Padding is handled as in `conv_dense`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile, blocks, pack_channels
from graphopt.codegen.kernels.emit import Expr, grid, kernel
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target

WIDEST = 8
"""Pixels of the widest tile; more would hardly save loads."""


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is no depthwise convolution."""
    if not spec.depthwise or spec.planar or spec.transposed:
        return []
    # Two thirds of the registers are for weights and inputs.
    most = min(WIDEST, target.registers // 3, spec.out_size[1])
    return [Tile(1, pixels) for pixels in range(max(1, most // 2), most + 1)]


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds: those, and half of one a load."""
    full, rest = divmod(spec.out_size[1], tile.pixels)
    reach = spec.dilations[1] * (spec.kernel[1] - 1) + 1
    step = sum(
        spec.kernel[1] * width + (spec.kernel[1] + (width - 1) * spec.strides[1] + reach) / 2
        for width in [tile.pixels] * full + [rest] * (rest > 0)
    )
    return step * spec.kernel[0] * spec.out_size[0] * blocks(spec.out_runs, target.lanes)


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, _: Tile) -> Floats:
    """(C, 1, kh, kw) to (blocks, kh, kw, lanes)."""
    return np.ascontiguousarray(pack_channels(weight[:, 0], target.lanes, spec.out_runs))


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    with kernel("conv_depthwise") as get:
        p = Parameters(spec, target, weight_shape(spec, target, tile))
        if target.kind == "cpu":
            _cpu(spec, target, tile, p)
        else:
            gpu(spec, target, tile, lambda _: p)
    return get()


def weight_shape(spec: ConvSpec, target: Target, _: Tile) -> tuple[int, ...]:
    """The shape that `pack_weight` gives."""
    return (blocks(spec.out_runs, target.lanes), *spec.kernel, target.lanes)


def _cpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    out_blocks, out_height = spec.output_shape(target.lanes)[1:3]
    with grid(target, out_blocks, out_height) as (block, row):
        cpu_row(spec, target, tile, p, block, row)


def cpu_row(
    spec: ConvSpec, target: Target, tile: Tile, p: Parameters, block: Expr, row: Expr
) -> None:
    """An output row of a block of channels."""
    slide(
        spec,
        tile,
        row,
        sums=lambda pixels: RegisterTile(target, 1, pixels),
        weight=lambda ky, kx: p.weight[block, ky, kx],
        load=lambda in_row, column: p.vectors[0, block, in_row, column],
        store=lambda sums, pixel, column: sums.store(p, block, row, column, pixel),
    )


class Adding(Protocol):
    """Sums of a tile's pixels."""

    def add(self, pixel: int, weights: Sequence[Expr], value: Expr) -> None:
        """Add a tap of a pixel."""


Sums = TypeVar("Sums", bound=Adding)


def slide(
    spec: ConvSpec,
    tile: Tile,
    row: Expr,
    *,
    sums: Callable[[int], Sums],
    weight: Callable[[Expr, int], Expr],
    load: Callable[[Expr, Expr], Expr],
    store: Callable[[Sums, int, Expr], None],
) -> None:
    """An output row of a vector of channels: each input vector is loaded once a row of taps.

    Args:
        spec: the convolution.
        tile: says how many pixels are computed at once.
        row: the output's.
        sums: new sums of a number of pixels.
        weight: a vector of weights, of a row and a column of the kernel.
        load: a vector of the input, of a row and a column.
        store: store the sums of a pixel of a tile that starts at a column.
    """
    kw = spec.kernel[1]
    stride, dilation, pad = spec.strides[1], spec.dilations[1], spec.pads[1]

    def compute(column: Expr, pixels: int, inside: bool) -> None:
        tiled = sums(pixels)
        first = T.bind(row * spec.strides[0] - spec.pads[0])
        with T.serial(*conv_dense.rows_inside(spec, first)) as ky:
            in_row = T.bind(first + ky * spec.dilations[0])
            weights = [T.bind(weight(ky, kx)) for kx in range(kw)]
            loaded: dict[int, Expr] = {}
            for kx in range(kw):
                for pixel in range(pixels):
                    tap = pixel * stride + kx * dilation - pad
                    if not inside and not 0 <= column * stride + tap < spec.size[1]:
                        continue
                    if tap not in loaded:
                        loaded[tap] = T.bind(load(in_row, column * stride + tap))
                    tiled.add(pixel, [weights[kx]], loaded[tap])
        for pixel in range(pixels):
            store(tiled, pixel, column)

    conv_dense.walk_row(spec, tile.pixels, compute)


def gpu(
    spec: ConvSpec,
    target: Target,
    tile: Tile,
    parameters: Callable[[Expr], Parameters],
    alike: int = 1,
) -> None:
    """The kernel's body on a GPU, for some convolutions alike: `parameters` of each number."""
    out_blocks, out_height, out_width = spec.output_shape(target.lanes)[1:4]
    tiles_across = -(-out_width // tile.pixels)
    with grid(target, alike, out_blocks, out_height, tiles_across) as (n, block, row, i):
        p = parameters(n)
        column = T.bind(i * tile.pixels)
        slide_here(
            spec,
            row,
            column,
            RegisterTile(target, 1, tile.pixels),
            tile.pixels,
            weight=lambda ky, kx: p.weight[block, ky, kx],
            load=lambda in_row, at: conv_dense.input_pixel(spec, target, p, block, in_row, at),
            store=lambda sums, pixel: sums.store(p, block, row, column, pixel),
        )


def slide_here(
    spec: ConvSpec,
    row: Expr,
    column: Expr,
    sums: RegisterTile,
    pixels: int,
    *,
    weight: Callable[[Expr, int], Expr],
    load: Callable[[Expr, Expr], Expr],
    store: Callable[[RegisterTile, int], None],
) -> None:
    """A work-item's tile, at a row and a column; parameters as of `slide`.

    Args:
        load: zeros outside the picture.
        store: store the sums of a pixel.
    """
    stride, dilation, pad = spec.strides[1], spec.dilations[1], spec.pads[1]
    first = T.bind(row * spec.strides[0] - spec.pads[0])
    with T.serial(*conv_dense.rows_inside(spec, first)) as ky:
        in_row = T.bind(first + ky * spec.dilations[0])
        loaded: dict[int, Expr] = {}
        for kx in range(spec.kernel[1]):
            here = T.bind(weight(ky, kx))
            for pixel in range(pixels):
                tap = pixel * stride + kx * dilation - pad
                if tap not in loaded:
                    loaded[tap] = load(in_row, column * stride + tap)
                sums.add(pixel, [here], loaded[tap])
    for pixel in range(pixels):
        with T.If(column + pixel < spec.out_size[1]), T.Then():
            store(sums, pixel)
