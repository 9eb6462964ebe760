"""Dense convolution, any kernel size, stride, padding and dilation, direct on blocked activations.

A grouped one is a dense one a part (`ConvSpec.parts`), whose filters read that part's inputs only.

CPU: a register tile is some pixels of a row times some blocks of filters. Its loop runs over input
channels; each input value is broadcast and multiplied into every block's vector of filters. Which
taps fall outside the picture is known where the code is made for the leftmost and rightmost tiles,
so padding costs neither a copy nor a test; rows outside are skipped by the bounds of the ky loop.

GPU: a work-item computes the same tile, with tests at the borders.

Reference for the blocked direct convolution: Georganas et al., "Anatomy of High-Performance Deep
Learning Convolutions on SIMD Architectures", SC 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile, blocks, pack_channels
from graphopt.codegen.kernels.emit import (
    Expr,
    broadcast,
    constant,
    grid,
    kernel,
    tile_chunks,
    zeros,
)
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is depthwise or transposed."""
    if spec.depthwise or spec.transposed:
        return []
    return row_tiles(spec, target, spec.out_size[1])


def row_tiles(spec: ConvSpec, target: Target, width: int) -> list[Tile]:
    """Tiles that fill registers, or half of them, with filters that divide the blocks.

    Beside its sums a tile needs a register for each pixel's input, since LLVM keeps it from tap to
    tap, and for each weight. (Measured: two more registers than there are still do no harm, as
    operands may stay in memory; with three more, sums are moved there too, at half the speed.)

    Args:
        width: pixels in a row of tiles.
    """
    out_blocks, _ = part_blocks(spec, target)
    return [
        Tile(filters, pixels)
        for filters in range(1, target.filter_blocks + 1)
        if out_blocks % filters == 0
        for most in [max(1, min(width, (target.registers + 3) // (filters + 1) - 1))]
        for pixels in range(max(1, most // 2), most + 1)
    ]


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    _, in_blocks = part_blocks(spec, target)
    inputs = sum(spec.in_channels) if spec.planar else in_blocks * target.lanes
    steps = spec.kernel[0] * spec.kernel[1] * inputs * spec.out_size[0]
    return steps * row_cost(spec, target, tile, spec.out_size[1])


def row_cost(spec: ConvSpec, target: Target, tile: Tile, width: int) -> float:
    """What one input value of every pixel of a row costs, for all filters.

    A tile costs one multiply-add an accumulator, but never fewer than hide the unit's latency; and
    the loads of weights and inputs, of which two share a cycle.
    """
    full, rest = divmod(width, tile.pixels)
    widths = [tile.pixels] * full + [rest] * (rest > 0)
    step = sum(max(tile.filters * w, 8) + (tile.filters + w) / 2 for w in widths)
    return step * (blocks((spec.out_channels,), target.lanes) // tile.filters)


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, tile: Tile) -> Floats:
    """(O, I, kh, kw) to (O groups, I blocks, kh, kw, I lanes, filters of a tile, lanes)."""
    parts = spec.parts(target.lanes)
    in_channels = spec.in_channels if parts == 1 else (sum(spec.in_channels) // parts,)
    weight = _with_zeros(weight, parts, spec.groups // parts)
    filters = pack_channels(weight, target.lanes)  # (OB, I, kh, kw, lanes)
    if spec.planar:
        inputs = np.moveaxis(filters, 1, 0)[None]  # (1, I, OB, kh, kw, lanes)
    else:
        split = pack_channels(np.moveaxis(filters, 1, 0), target.lanes, in_channels)
        inputs = np.moveaxis(split, -1, 1)  # (IB, I lanes, OB, kh, kw, lanes)
    ib, il, ob, kh, kw, lanes = inputs.shape
    grouped = inputs.reshape(ib, il, ob // tile.filters, tile.filters, kh, kw, lanes)
    return np.ascontiguousarray(grouped.transpose(2, 0, 4, 5, 1, 3, 6))


def _with_zeros(weight: Floats, parts: int, together: int) -> Floats:
    """(O, I, kh, kw) to (O, together * I, kh, kw): so many groups of a part as one."""
    groups = weight.reshape(parts, together, -1, *weight.shape[1:])
    apart = np.eye(together, dtype=np.float32)
    dense: Floats = np.einsum("pgoiyx,gh->pgohiyx", groups, apart)
    return dense.reshape(weight.shape[0], -1, *weight.shape[2:])


def part_blocks(spec: ConvSpec, target: Target) -> tuple[int, int]:
    """Blocks of filters and of inputs of a part (`ConvSpec.parts`)."""
    parts = spec.parts(target.lanes)
    outputs = blocks((spec.out_channels,), target.lanes)
    return outputs // parts, 1 if spec.planar else blocks(spec.in_channels, target.lanes) // parts


def weight_shape(spec: ConvSpec, target: Target, tile: Tile) -> tuple[int, ...]:
    """The shape that `pack_weight` gives."""
    out_blocks, in_blocks = part_blocks(spec, target)
    in_lanes = sum(spec.in_channels) if spec.planar else target.lanes
    groups = spec.parts(target.lanes) * out_blocks // tile.filters
    return (groups, in_blocks, *spec.kernel, in_lanes, tile.filters, target.lanes)


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    with kernel("conv_dense") as get:
        p = Parameters(spec, target, weight_shape(spec, target, tile))
        if target.kind == "cpu":
            _cpu(spec, target, tile, p)
        else:
            gpu(spec, target, tile, lambda _: p)
    return get()


def rows_inside(spec: ConvSpec, first: Expr) -> tuple[Expr, Expr]:
    """The range of ky whose input rows lie inside the picture.

    Args:
        first: the input row that ky = 0 reads.
    """
    kh, dilation = spec.kernel[0], spec.dilations[0]
    if spec.pads[0] == 0 and spec.pads[2] == 0:
        return 0, kh
    # Of numbers that are not negative: TVM simplifies some quotients of others to wrong ones.
    low = tirx.floordiv(T.max(dilation - 1 - first, 0), dilation)
    high = tirx.floordiv(T.max(spec.size[0] - 1 - first + dilation, 0), dilation)
    return T.min(kh, low), T.min(kh, high)


def _first_block(spec: ConvSpec, target: Target, tile: Tile, group: Expr) -> Expr:
    """The first block of the inputs that a group of filters reads: where its part starts."""
    out_blocks, in_blocks = part_blocks(spec, target)
    if spec.parts(target.lanes) == 1:
        return 0
    return T.bind(tirx.floordiv(group, out_blocks // tile.filters) * in_blocks)


def tile_weights(p: Parameters, tile: Tile, *index: Expr) -> list[Expr]:
    """A tile's vectors of weights at (group, block, ky, kx, lane)."""
    places = [(*index, f) for f in range(tile.filters)]
    return [T.bind(p.weight[place]) for place in places]


def _cpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    rows, tasks = task_rows(spec, target)
    groups, out_height = weight_shape(spec, target, tile)[0], spec.out_size[0]
    with (
        grid(target, tasks, groups) as (task, group),
        T.serial(0, T.min(rows, out_height - task * rows)) as r,
    ):
        cpu_row(spec, target, tile, p, group, T.bind(task * rows + r))


def task_rows(spec: ConvSpec, target: Target) -> tuple[int, int]:
    """Output rows of a task, and tasks; a task is done with every filter in turn."""
    _, in_blocks = part_blocks(spec, target)
    in_lanes = sum(spec.in_channels) if spec.planar else target.lanes
    return rows_in_cache(spec, 4 * spec.size[1] * in_blocks * in_lanes, target.cache_bytes)


def rows_in_cache(spec: ConvSpec, row_bytes: int, cache_bytes: int) -> tuple[int, int]:
    """Output rows of a task, as many as have an input that stays in a cache, and tasks.

    Args:
        row_bytes: of a row of the input.
        cache_bytes: of the input that may stay.
    """
    # Enough tasks for a handful of cores, even where the cache could hold more.
    most = -(-spec.out_size[0] // 8)
    rows = max(1, min(cache_bytes // (spec.strides[0] * row_bytes), most))
    return rows, -(-spec.out_size[0] // rows)


def cpu_row(
    spec: ConvSpec, target: Target, tile: Tile, p: Parameters, group: Expr, row: Expr
) -> None:
    """An output row of a group of filters."""
    _, in_blocks, _, kw, in_lanes, _, _ = weight_shape(spec, target, tile)
    width = spec.size[1]
    stride, dilation, pad = spec.strides[1], spec.dilations[1], spec.pads[1]

    def compute(column: Expr, pixels: int, inside: bool) -> None:
        """One tile from `column`, which is a number unless all its taps are inside."""
        sums = RegisterTile(target, tile.filters, pixels)
        first = T.bind(row * spec.strides[0] - spec.pads[0])
        part = _first_block(spec, target, tile, group)
        steps = math.prod(spec.kernel) * in_lanes
        with (
            sums.over_blocks(in_blocks, steps) as block,
            T.serial(*rows_inside(spec, first)) as ky,
        ):
            in_row = T.bind(first + ky * spec.dilations[0])
            with T.serial(0, in_lanes) as lane:
                for kx in range(kw):
                    weights = tile_weights(p, tile, group, block, ky, kx, lane)
                    for pixel in range(pixels):
                        at = (column + pixel) * stride + kx * dilation - pad
                        if not inside and not 0 <= at < width:
                            continue
                        planar, blocked = (0, lane, in_row, at), (0, part + block, in_row, at, lane)
                        scalar = p.scalars[planar if spec.planar else blocked]
                        value = T.bind(broadcast(scalar, target.lanes))
                        sums.add(pixel, weights, value)
        for pixel in range(pixels):
            sums.store(p, group * tile.filters, row, column, pixel)

    walk_row(spec, tile.pixels, compute)


def walk_row(spec: ConvSpec, pixels: int, compute: Callable[[Expr, int, bool], None]) -> None:
    """Cover an output row with tiles: `compute(column, pixels, inside)`.

    Tiles that touch no padding share one loop (`inside`); each of the others gets code of its own,
    for which its column is a number.
    """
    out_width = spec.out_size[1]
    first, last = _inner_tiles(spec, pixels)
    for column in range(0, out_width, pixels):
        if not first <= column // pixels < last:
            compute(column, min(pixels, out_width - column), False)
    if first < last:
        with T.serial(first, last) as i:
            compute(i * pixels, pixels, True)


def _inner_tiles(spec: ConvSpec, pixels: int) -> tuple[int, int]:
    """The range of full tiles that touch no padding, for which one loop body serves."""
    width, out_width = spec.size[1], spec.out_size[1]
    stride, pad, reach = spec.strides[1], spec.pads[1], spec.dilations[1] * (spec.kernel[1] - 1)

    def touches_padding(i: int) -> bool:
        first = i * pixels * stride - pad
        last = (i * pixels + pixels - 1) * stride - pad + reach
        return first < 0 or last >= width

    inside = [i for i in range(out_width // pixels) if not touches_padding(i)]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def gpu(
    spec: ConvSpec,
    target: Target,
    tile: Tile,
    parameters: Callable[[Expr], Parameters],
    alike: int = 1,
) -> None:
    """The kernel's body on a GPU, for some convolutions alike: `parameters` of each number."""
    groups, in_blocks, _, kw, in_lanes, _, _ = weight_shape(spec, target, tile)
    out_height, out_width = spec.out_size
    stride, dilation, pad = spec.strides[1], spec.dilations[1], spec.pads[1]
    chunks, beside = tile_chunks(-(-out_width // tile.pixels))
    with grid(target, alike, out_height, chunks, groups, beside) as (n, row, chunk, group, i):
        p = parameters(n)
        column = T.bind((chunk * beside + i) * tile.pixels)
        sums = RegisterTile(target, tile.filters, tile.pixels)
        first = T.bind(row * spec.strides[0] - spec.pads[0])
        part = _first_block(spec, target, tile, group)
        with T.serial(0, in_blocks) as block, T.serial(*rows_inside(spec, first)) as ky:
            in_row = T.bind(first + ky * spec.dilations[0])
            for kx in range(kw):
                columns = [
                    (column + pixel) * stride + kx * dilation - pad for pixel in range(tile.pixels)
                ]
                values = [input_lanes(spec, target, p, part + block, in_row, at) for at in columns]
                for lane in range(in_lanes):
                    weights = tile_weights(p, tile, group, block, ky, kx, lane)
                    for pixel in range(tile.pixels):
                        sums.add(pixel, weights, values[pixel][lane])
        for pixel in range(tile.pixels):
            with T.If(column + pixel < out_width), T.Then():
                sums.store(p, group * tile.filters, row, column, pixel)


def input_pixel(
    spec: ConvSpec, target: Target, p: Parameters, block: Expr, row: Expr, column: Expr
) -> Expr:
    """A block of channels of one pixel; zeros outside the picture."""
    return padded_pixel(spec, target, column, lambda at: p.vectors[0, block, row, at])


def padded_pixel(
    spec: ConvSpec, target: Target, column: Expr, load: Callable[[Expr], Expr]
) -> Expr:
    """What is loaded of a column; zeros outside the picture.

    The load itself is always inside: a branch in the inner loop would cost more than a load.
    """
    at = T.bind(T.min(T.max(column, 0), spec.size[1] - 1))
    pixel = load(at)
    if not any(spec.pads):
        return T.bind(pixel)
    inside = tirx.all(column >= 0, column < spec.size[1])
    return T.bind(tirx.Select(inside, pixel, zeros(target)))


def input_lanes(
    spec: ConvSpec, target: Target, p: Parameters, block: Expr, row: Expr, column: Expr
) -> list[Expr]:
    """The channels of one pixel (of one block, unless planar), each broadcast to a vector."""
    if spec.planar:
        inside = tirx.all(column >= 0, column < spec.size[1])
        at = T.bind(T.min(T.max(column, 0), spec.size[1] - 1))
        scalars = [
            tirx.Select(inside, p.scalars[0, channel, row, at], constant(0.0, target.arithmetic))
            for channel in range(sum(spec.in_channels))
        ]
    else:
        pixel = input_pixel(spec, target, p, block, row, column)
        scalars = [tirx.Shuffle([pixel], [lane]) for lane in range(target.lanes)]
    return [T.bind(broadcast(scalar, target.lanes)) for scalar in scalars]
