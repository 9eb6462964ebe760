"""Convolution with block-punched weights (`graphopt.ir.block_structure`): blocks that are zero are
skipped. Direct, for any kernel size, stride, padding and dilation; not grouped.

The sums of one block's filters at some pixels of a row stay in registers, while a loop runs over
the blocks that these filters keep: each adds its channels at its position of the kernel. An array
of indices says which there are. Blocks are in the order of (filters, ky, kx, channels), and the
array has

    filters * kh * kw + 1 numbers:   the first kept block of each group of filters and position, and
                                     after the last one how many there are
    a number for each kept block:    where it reads, counted from the pixel that position (0, 0)
                                     reads: in vectors where a block's channels are one (on a GPU),
                                     else in numbers

so that rows outside the picture are a shorter loop, and only the tiles that touch padding at their
sides need a loop for each column of the kernel. A 1x1 convolution is done as one long row.

All filters in turn read a tile's input. On a CPU a tile of fewer pixels, whose input stays in the
nearest cache, is faster than one that fills the registers: one vector of weights a dozen pixels is
no burden. Blocks of one channel are read number by number, on every device from a buffer.

A vector holds a block's filters, or as many of them as are in a block of the layout: where a vector
of the target is longer (8 filters, AVX-512), a shorter one does as many multiply-adds a cycle on a
CPU with two units for the shorter one (Zen 4), and half as many on others.

Constants in the code, instead of an array of indices, are no faster and take minutes to compile.
Reference: Niu et al., "YOLObile", AAAI 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_1x1, conv_dense
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.sparse_index import (
    groups_of,
    indices_of,
    mask_of,
    seen_by,
    vectors_of,
    weight_shape,
    whole_vectors,
    with_empty_lanes,
)
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile, blocks
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
from graphopt.ir.block_structure import BLOCKS, Block, kept_mask


class Costs(NamedTuple):
    """What a tile costs beside its multiply-adds, in vector multiply-adds.

    Args:
        block: going on to the next block.
        value: reading a number of the input and spreading it over a vector.
        line: 64 bytes of the input, each time that the next filters read them from the nearest
            cache.
        far_line: the same where a tile's input does not stay in that cache.
    """

    block: float
    value: float
    line: float
    far_line: float


COSTS = {
    "cpu": Costs(block=0.5, value=0.2, line=1.0, far_line=1.6),
    "gpu": Costs(block=2.0, value=1.2, line=0.0, far_line=0.0),
}
"""Measured with AVX-512 (Zen 4) and on PoCL."""
NEAREST_BYTES = 24 * 1024
"""What stays of a tile's input in a CPU's nearest cache of 32 KB, through which weights and results
pass, too."""


def punched(
    spec: ConvSpec,
    weight: Floats,
    target: Target,
    among: Iterable[Block] = BLOCKS.values(),
) -> ConvSpec:
    """The same convolution with what is zero in its weight: `block` and `kept`.

    Args:
        spec: the convolution.
        weight: (O, I, kh, kw).
        target: where it will run.
        among: blocks, of which that is taken whose kernel is estimated to be the fastest.
    """
    if spec.groups > 1 or spec.transposed or spec.planar:
        return spec
    ways = [
        replace(spec, block=block, kept=int(mask.sum()))
        for block in among
        if not kept_mask(weight, block).all()
        for mask in [mask_of(weight, spec, block, target)]
    ]
    possible = [(way, tile) for way in ways for tile in tiles(way, target)]
    if not possible:
        return spec
    return min(possible, key=lambda one: cost(one[0], target, one[1]))[0]


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles, of one block of filters; none if the weight is not known to be punched."""
    if spec.block is None:
        return []
    if target.kind == "gpu" and spec.block.channels not in (1, target.lanes):
        return []
    _, vectors = vectors_of(spec.block, target)
    if target.kind == "gpu":
        most = (target.registers + 3) // (vectors + 1) - 1
    else:
        # Unlike a dense tile's, a pixel's input is used once, from memory.
        most = (target.registers - 2) // vectors - 1
    most = max(1, min(most, seen_by(spec).out_size[1]))
    return [Tile(1, pixels) for pixels in range(max(1, most // 4), most + 1)]


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    block = spec.block
    assert block is not None
    seen, costs = seen_by(spec), COSTS[target.kind]
    lanes, vectors = vectors_of(block, target)
    groups = groups_of(spec, block, target)
    height, width = seen.out_size
    # A unit does two vectors of half the width at once, and no more of still shorter ones.
    part = max(lanes / target.lanes, 1 / 2)

    def tile_cost(pixels: int) -> float:
        products = part * max(vectors * pixels, 8) + costs.value * pixels
        read = _input_bytes(seen, target, pixels)
        line = costs.line if read <= NEAREST_BYTES else costs.far_line
        return spec.kept * (costs.block + block.channels * products) + groups * line * read / 64

    full, rest = divmod(width, tile.pixels)
    return height * (full * tile_cost(tile.pixels) + (tile_cost(rest) if rest else 0))


def _input_bytes(spec: ConvSpec, target: Target, pixels: int) -> int:
    """Bytes of the input that a tile of so many pixels reads."""
    reach = spec.dilations[1] * (spec.kernel[1] - 1)
    columns = min((pixels - 1) * spec.strides[1] + reach + 1, spec.size[1])
    return 4 * target.lanes * blocks(spec.in_channels, target.lanes) * spec.kernel[0] * columns


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, _: Tile) -> Floats:
    """(O, I, kh, kw) to the values of kept blocks, (kept, channels, vectors, lanes)."""
    assert spec.block is not None
    mask = mask_of(weight, spec, spec.block, target)
    filters, channels = spec.block
    lanes, vectors = vectors_of(spec.block, target)
    spread = with_empty_lanes(weight, spec, target)
    groups, inputs = mask.shape[:2]
    padded = np.zeros((groups * filters, *spread.shape[1:]), np.float32)
    padded[: len(spread)] = spread
    cut = padded.reshape(groups, vectors, lanes, inputs, channels, *spec.kernel)
    values = cut.transpose(0, 5, 6, 3, 4, 1, 2)[mask.transpose(0, 2, 3, 1)]
    packed = np.zeros(weight_shape(spec, target), np.float32)
    packed[: len(values)] = values
    return packed


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    assert spec.block is not None
    seen = seen_by(spec)
    with kernel("conv_block_sparse") as get:
        shape, indices = weight_shape(spec, target), indices_of(spec, target)
        p = Parameters(spec, target, shape, seen_as=seen, indices=indices)
        (_cpu if target.kind == "cpu" else _gpu)(seen, target, tile, p)
    return get()


def _cpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    assert spec.block is not None
    lanes, vectors = vectors_of(spec.block, target)
    groups = groups_of(spec, spec.block, target)
    (kh, kw), (_, width), channels = spec.kernel, spec.size, spec.block.channels
    (down, across), (top, left, _, _) = spec.strides, spec.pads
    first_place = groups * kh * kw + 1
    x, index, stored = p.flat()[0], p.index, p if lanes == target.lanes else p.in_parts(lanes)

    def compute(row: Expr, column: Expr, pixels: int, inside: bool) -> None:
        """All filters at a tile from `column`, a number unless all positions are inside."""
        first = T.bind(row * down - top)
        start = T.bind((first * width + column * across - left) * target.lanes)
        low, high = (T.bind(bound) for bound in conv_dense.rows_inside(spec, first))
        with T.serial(0, groups) as group:
            sums = RegisterTile(replace(target, lanes=lanes), vectors, pixels)

            def add(begin: Expr, end: Expr, where: list[int]) -> None:
                """Add the blocks of a range to the pixels `where` they are inside."""
                with T.serial(T.bind(index[(begin,)]), T.bind(index[(end,)])) as n:
                    at = T.bind(start + index[(first_place + n,)])
                    for channel in range(channels):
                        weights = [T.bind(p.weight[n, channel, v]) for v in range(vectors)]
                        for pixel in where:
                            place = at + (pixel * across * target.lanes + channel)
                            sums.add(pixel, weights, T.bind(broadcast(x[(place,)], lanes)))

            if inside:
                taps = T.bind(group * kh)
                add((taps + low) * kw, (taps + high) * kw, list(range(pixels)))
            else:
                with T.serial(low, high) as ky:
                    for kx in range(kw):
                        tap = T.bind((group * kh + ky) * kw + kx)
                        at = kx * spec.dilations[1] - left
                        columns = (
                            (pixel, (column + pixel) * across + at) for pixel in range(pixels)
                        )
                        where = [pixel for pixel, c in columns if 0 <= c < width]
                        if where:
                            add(tap, tap + 1, where)
            for pixel in range(pixels):
                _store(spec, target, sums, stored, group, row, column, pixel)

    if not conv_1x1.is_product(spec):
        with grid(target, spec.out_size[0]) as (row,):
            conv_dense.walk_row(spec, tile.pixels, partial(compute, row))
        return
    full, rest = divmod(spec.out_size[1], tile.pixels)
    with grid(target, full + (rest > 0)) as (i,):
        if full:
            with T.If(i < full), T.Then():
                compute(0, i * tile.pixels, tile.pixels, inside=True)
        if rest:
            with T.If(i == full), T.Then():
                compute(0, full * tile.pixels, rest, inside=True)


def _gpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    assert spec.block is not None
    _, vectors = vectors_of(spec.block, target)
    groups = groups_of(spec, spec.block, target)
    (kh, kw), (_, width), (height, out_width) = spec.kernel, spec.size, spec.out_size
    (down, across), (top, left, _, _) = spec.strides, spec.pads
    first_place = groups * kh * kw + 1
    numbers, rows = p.flat()
    whole = whole_vectors(spec.block, target)
    x, unit = (rows, 1) if whole else (numbers, target.lanes)
    index, zero = p.index, zeros(target) if whole else constant(0.0, target.arithmetic)
    chunks, beside = tile_chunks(-(-out_width // tile.pixels))
    with grid(target, height, chunks, groups, beside) as (row, chunk, group, i):
        column = T.bind((chunk * beside + i) * tile.pixels)
        sums = RegisterTile(target, vectors, tile.pixels)
        first = T.bind(row * down - top)
        with T.serial(*conv_dense.rows_inside(spec, first)) as ky:
            for kx in range(kw):
                tap = T.bind((group * kh + ky) * kw + kx)
                step = kx * spec.dilations[1]
                columns = [
                    T.bind((column + pixel) * across + step - left) for pixel in range(tile.pixels)
                ]
                # The load itself is always inside, see conv_dense.
                starts = [
                    T.bind((first * width - step + T.min(T.max(c, 0), width - 1)) * unit)
                    for c in columns
                ]
                with T.serial(T.bind(index[(tap,)]), T.bind(index[(tap + 1,)])) as n:
                    place = T.bind(index[(first_place + n,)])
                    values = [x[(start + place,)] for start in starts]
                    if any(spec.pads):
                        values = [
                            tirx.Select(tirx.all(c >= 0, c < width), value, zero)
                            for c, value in zip(columns, values, strict=True)
                        ]
                    values = [T.bind(value) for value in values]
                    for channel in range(spec.block.channels):
                        weights = [T.bind(p.weight[n, channel, v]) for v in range(vectors)]
                        for pixel, value in enumerate(values):
                            scalar = tirx.Shuffle([value], [channel]) if whole else value
                            sums.add(pixel, weights, T.bind(broadcast(scalar, target.lanes)))
        for pixel in range(tile.pixels):
            with T.If(column + pixel < out_width), T.Then():
                _store(spec, target, sums, p, group, row, column, pixel)


def _store(
    spec: ConvSpec,
    target: Target,
    sums: RegisterTile,
    p: Parameters,
    group: Expr,
    row: Expr,
    column: Expr,
    pixel: int,
) -> None:
    """Store a pixel's sums, but those past the output's last vector."""
    assert spec.block is not None
    lanes, vectors = vectors_of(spec.block, target)
    last = blocks((spec.out_channels,), target.lanes) * target.lanes // lanes
    for v in range(vectors):
        place = T.bind(group * vectors + v)
        if last % vectors == 0:
            p.store(sums.total(v, pixel), place, row, column + pixel)
        else:
            with T.If(place < last), T.Then():
                p.store(sums.total(v, pixel), place, row, column + pixel)
