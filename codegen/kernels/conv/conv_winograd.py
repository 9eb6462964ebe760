"""Dense 3x3 convolution of stride 1 by Winograd's algorithm: F(4x4, 3x3), with a quarter of the
products, or F(2x2, 3x3), with less than a half.

The output is cut into squares of 4x4 (2x2) pixels. A square's output y, the filter g and the 6x6
(4x4) input pixels d that it needs are related by (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016, section 4.1)

    y = A^T [(G g G^T) * (B^T d B)] A

so that the sum over input channels is, at each of 36 (16) frequencies, a product of two matrices:
filters x channels times channels x tiles. A task transforms the input of some tiles, multiplies it
at all frequencies by one group of filters after the other, and turns the products back into pixels,
all in a scratch that stays in its core's cache (Zlateski et al., "The Anatomy of Efficient FFT and
Winograd Convolutions on Modern CPUs", ICS 2019). A GPU does the three steps one after the other for
the whole picture. A dilated convolution is one on every d-th pixel: its tiles are spread out.

B^T and A^T interpolate at points. Those come in pairs +a, -a, which share their even and odd
halves: each matrix is a sparse one and a butterfly, and that is how it is computed.

Rounding: an output may be off by 1e-5 of the outputs' deviation, about twice the direct sum's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile, blocks
from graphopt.codegen.kernels.conv.winograd_squares import (
    Window,
    both_ways,
    place,
    squares_of,
    store_square,
)
from graphopt.codegen.kernels.conv.winograd_transforms import POINTS, TAPS, transforms
from graphopt.codegen.kernels.emit import (
    Expr,
    Vectors,
    broadcast,
    grid,
    kernel,
    scratch,
    tile_chunks,
)
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target, in_floats

TRANSFORM_COST = 14
"""What transforming one vector of input pixels costs, there or back: as much as so many vector
multiply-adds. Like the next one measured with AVX-512, and higher than is usual."""
WEIGHT_COST = 4
"""What fetching one vector of weights costs, once a task; they are too many for a core's cache."""
LAUNCHES_COST = 1e6
"""What two more launches cost on a GPU: about 0.1 ms on a phone."""
CORES = 4
"""A picture too small to keep so many cores busy is none for this kernel, whose tasks are large."""
GAIN = 1.2
"""How many times faster it must be by the estimate, to be worth weights of four times the size."""


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if the algorithm is not for that convolution."""
    if spec.groups > 1 or spec.transposed or spec.planar:
        return []
    if spec.kernel != (TAPS, TAPS) or spec.strides != (1, 1):
        return []
    return [
        Tile(filters, pixels, square)
        for square in POINTS
        for filters, pixels, _ in conv_dense.row_tiles(
            spec, in_floats(target), math.prod(squares_of(spec, square))
        )
    ]


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    inputs = blocks(spec.in_channels, target.lanes)
    outputs = blocks((spec.out_channels,), target.lanes)
    tiling = _tiling(spec, target, tile)
    frequencies = (tile.square + TAPS - 1) ** 2
    squares = tiling.per_task * tile.pixels
    products = inputs * target.lanes * conv_dense.row_cost(spec, target, tile, squares)
    transforms = TRANSFORM_COST * squares * (inputs + outputs)
    weights = WEIGHT_COST * inputs * target.lanes * outputs
    task = frequencies * (products + transforms + weights)
    if target.kind == "gpu":
        return GAIN * task + LAUNCHES_COST
    # A vector of float32 is two registers where others are of float16.
    registers = 2 if target.arithmetic == "float16" else 1
    return registers * GAIN * task * max(tiling.tasks, CORES)


class _Tiling(NamedTuple):
    """How the picture is cut.

    Args:
        per_task: register tiles of a task.
        tasks: tasks, on a GPU one; the last one's squares may lie below the picture.
    """

    per_task: int
    tasks: int


def _tiling(spec: ConvSpec, target: Target, tile: Tile) -> _Tiling:
    count = -(-math.prod(squares_of(spec, tile.square)) // tile.pixels)
    if target.kind == "gpu":
        return _Tiling(math.prod(tile_chunks(count)), 1)
    channels = blocks(spec.in_channels, target.lanes) * target.lanes
    tile_bytes = 4 * tile.square**2 * tile.pixels * channels
    # Enough tasks for a handful of cores, even where the cache could hold more.
    per_task = max(1, min(target.cache_bytes // tile_bytes, -(-count // 8)))
    return _Tiling(per_task, -(-count // per_task))


def _weight_shape(spec: ConvSpec, target: Target, tile: Tile) -> tuple[int, ...]:
    frequencies, lanes = (tile.square + TAPS - 1) ** 2, target.lanes
    groups = blocks((spec.out_channels,), lanes) // tile.filters
    return (groups, frequencies, blocks(spec.in_channels, lanes), lanes, tile.filters, lanes)


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, tile: Tile) -> Floats:
    """(O, I, 3, 3) to (O groups, frequencies, I blocks, I lanes, filters of a tile, lanes)."""
    G = transforms(tile.square).weight
    transformed = (G @ weight.astype(np.float64) @ G.T).astype(np.float32)
    packed = conv_dense.pack_weight(transformed, spec, target, tile)
    shape = _weight_shape(spec, target, tile)
    return np.ascontiguousarray(np.moveaxis(packed, 1, 3)).reshape(shape)


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    # Half precision would lose too much: transforms take differences of large numbers.
    target = in_floats(target)
    with kernel("conv_winograd") as get:
        p = Parameters(spec, target, _weight_shape(spec, target, tile))
        (_cpu if target.kind == "cpu" else _gpu)(spec, target, tile, p)
    return get()


def _cpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    tiling, side = _tiling(spec, target, tile), tile.square + TAPS - 1
    groups, frequencies, in_blocks, lanes, filters, _ = _weight_shape(spec, target, tile)
    pixels, per_task = tile.pixels, tiling.per_task

    @contextmanager
    def each_square(task: Expr) -> Iterator[tuple[Expr, ...]]:
        """Walk a task's squares: register tile, place in it, row and column of the output."""
        with T.serial(0, per_task) as i, T.serial(0, pixels) as pixel:
            square = (task * per_task + i) * pixels + pixel
            yield i, pixel, *place(spec, tile.square, square)

    def transform_input(task: Expr) -> None:
        with each_square(task) as (i, pixel, row, column):
            window = _window(spec, target, tile, p, row, column)

            def transform(load: Callable[[Expr, int, int], Expr]) -> None:
                with T.serial(0, in_blocks) as block:
                    values = both_ways(transforms(tile.square).input, partial(load, block))
                    for frequency, value in enumerate(values):
                        Vectors(inputs)[i, block, frequency, pixel] = value

            with T.If(window.inside):
                with T.Then():
                    transform(window.load)
                with T.Else():
                    transform(window.load_padded)

    def multiply(group: Expr) -> None:
        # Weights of one frequency stay in the nearest cache for all register tiles of the task.
        with T.serial(0, frequencies) as frequency, T.serial(0, per_task) as i:
            sums = RegisterTile(target, filters, pixels)
            with T.serial(0, in_blocks) as block, T.serial(0, lanes) as lane:
                weights = [
                    T.bind(p.weight[group, frequency, block, lane, f]) for f in range(filters)
                ]
                for pixel in range(pixels):
                    value = broadcast(inputs[i, block, frequency, pixel, lane], lanes)
                    sums.add(pixel, weights, T.bind(value))
            for f in range(filters):
                for pixel in range(pixels):
                    products[i, frequency, f, pixel] = sums.total(f, pixel)

    def transform_output(task: Expr, group: Expr) -> None:
        with each_square(task) as (i, pixel, row, column), T.serial(0, filters) as f:
            load = partial(lambda f, y, x: products[i, y * side + x, f, pixel], f)
            _store_square(spec, tile, p, load, group * filters + f, row, column)

    with grid(target, tiling.tasks) as (task,):
        inputs = scratch((per_task, in_blocks, frequencies, pixels, lanes))
        products = Vectors(scratch((per_task, frequencies, filters, pixels, lanes)))
        transform_input(task)
        with T.serial(0, groups) as group:
            multiply(group)
            transform_output(task, group)


def _gpu(spec: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    """Three launches, and all squares' inputs and products in the device's memory between them."""
    tiling, side = _tiling(spec, target, tile), tile.square + TAPS - 1
    groups, frequencies, in_blocks, lanes, filters, _ = _weight_shape(spec, target, tile)
    pixels = tile.pixels
    chunks, beside = tile_chunks(tiling.per_task)
    squares = beside * pixels
    # Chunk by chunk: strides of the whole picture are often powers of two, which caches dislike.
    inputs = Vectors(scratch((frequencies, chunks, in_blocks, squares, lanes)))
    products = Vectors(scratch((frequencies, chunks, groups * filters, squares, lanes)))
    with grid(target, chunks, in_blocks, squares) as (chunk, block, square):
        window = _window(spec, target, tile, p, *place(spec, tile.square, chunk * squares + square))
        values = both_ways(transforms(tile.square).input, partial(window.load_padded, block))
        for number, value in enumerate(values):
            inputs[number, chunk, block, square] = value
    with grid(target, frequencies, chunks, groups, beside) as (frequency, chunk, group, i):
        first = T.bind(i * pixels)
        sums = RegisterTile(target, filters, pixels)
        with T.serial(0, in_blocks) as block:
            loaded = [
                T.bind(inputs[frequency, chunk, block, first + pixel]) for pixel in range(pixels)
            ]
            for lane in range(lanes):
                weights = [
                    T.bind(p.weight[group, frequency, block, lane, f]) for f in range(filters)
                ]
                for pixel in range(pixels):
                    value = broadcast(tirx.Shuffle([loaded[pixel]], [lane]), lanes)
                    sums.add(pixel, weights, T.bind(value))
        for f in range(filters):
            for pixel in range(pixels):
                at = frequency, chunk, group * filters + f, first + pixel
                products[at] = sums.total(f, pixel)
    with grid(target, chunks, groups * filters, squares) as (chunk, block, square):
        load = partial(lambda c, b, n, y, x: products[y * side + x, c, b, n], chunk, block, square)
        row, column = place(spec, tile.square, chunk * squares + square)
        _store_square(spec, tile, p, load, block, row, column)


def _window(
    spec: ConvSpec, target: Target, tile: Tile, p: Parameters, row: Expr, column: Expr
) -> Window:
    """The input pixels of a square, a block of channels each."""
    zeros = broadcast(0.0, target.lanes)

    def channels(block: Expr, row: Expr, column: Expr) -> Expr:
        return p.vectors[0, block, row, column]

    def chosen(inside: Expr, pixel: Expr) -> Expr:
        return tirx.Select(inside, pixel, zeros)

    return Window(spec, tile.square, row, column, channels, chosen)


def _store_square(
    spec: ConvSpec,
    tile: Tile,
    p: Parameters,
    load: Callable[[int, int], Expr],
    block: Expr,
    row: Expr,
    column: Expr,
) -> None:
    """Turn one block of filters' products for a square into pixels, and store those inside."""
    values = both_ways(transforms(tile.square).output, load)

    def store(value: Expr, y: Expr, x: Expr) -> None:
        p.store(value, block, y, x)

    store_square(spec, tile.square, values, store, row, column)
