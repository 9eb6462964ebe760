"""1x1 convolution of stride 1: a matrix product over all pixels, which form one long row.

Tiles cross the ends of rows, so none is narrow but the last. On a CPU, a task takes as many pixels
as stay in cache with all their channels, and runs every filter over them; on a GPU a work-item
takes one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile
from graphopt.codegen.kernels.emit import Expr, broadcast, grid, kernel, tile_chunks
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is another kind of convolution."""
    return conv_dense.tiles(one_row(spec), target) if is_product(spec) else []


def is_product(spec: ConvSpec) -> bool:
    """Whether it is a product of one matrix of weights with all pixels."""
    return (
        spec.groups == 1
        and not (spec.transposed or spec.planar)
        and spec.kernel == spec.strides == (1, 1)
        and not any(spec.pads)
    )


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    return conv_dense.cost(one_row(spec), target, tile)


def one_row(spec: ConvSpec) -> ConvSpec:
    """The same over one row of all pixels."""
    return replace(spec, size=(1, spec.size[0] * spec.size[1]))


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, tile: Tile) -> Floats:
    """(O, I, 1, 1) to (O groups, I blocks, 1, 1, lanes, filters of a tile, lanes)."""
    return conv_dense.pack_weight(weight, one_row(spec), target, tile)


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    row = one_row(spec)
    with kernel("conv_1x1") as get:
        p = Parameters(spec, target, conv_dense.weight_shape(row, target, tile), seen_as=row)
        (_cpu if target.kind == "cpu" else _gpu)(row, target, tile, p)
    return get()


def _cpu(row: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    groups, in_blocks, *_ = conv_dense.weight_shape(row, target, tile)
    lanes = target.lanes

    def compute(group: Expr, column: Expr, pixels: int) -> None:
        sums = RegisterTile(target, tile.filters, pixels)
        with sums.over_blocks(in_blocks, lanes) as block, T.serial(0, lanes) as lane:
            weights = conv_dense.tile_weights(p, tile, group, block, 0, 0, lane)
            for pixel in range(pixels):
                value = broadcast(p.scalars[0, block, 0, column + pixel, lane], lanes)
                sums.add(pixel, weights, T.bind(value))
        for pixel in range(pixels):
            sums.store(p, group * tile.filters, 0, column, pixel)

    walk_pixels(row.size[1], tile.pixels, groups, 4 * in_blocks * lanes, target, compute)


def walk_pixels(
    count: int,
    at_once: int,
    groups: int,
    pixel_bytes: int,
    target: Target,
    compute: Callable[[Expr, Expr, int], None],
) -> None:
    """Cover a row of pixels with tiles, for every group of filters, in parallel tasks.

    Args:
        count: pixels.
        at_once: pixels of a tile; the last may have fewer.
        groups: groups of filters.
        pixel_bytes: bytes of a pixel's input; those of a task stay in cache.
        target: where it will run.
        compute: a tile's code, for a group, its first pixel and a number of pixels.
    """
    full, rest = divmod(count, at_once)
    per_task, tasks = task_tiles(full, at_once * pixel_bytes, target.cache_bytes)
    with grid(target, tasks, groups) as (task, group):
        if full:
            with T.serial(0, T.min(per_task, full - task * per_task)) as i:
                compute(group, T.bind((task * per_task + i) * at_once), at_once)
        if rest:
            with T.If(task == tasks - 1), T.Then():
                compute(group, full * at_once, rest)


def task_tiles(count: int, tile_bytes: int, cache_bytes: int) -> tuple[int, int]:
    """Tiles of a task, as many as have an input that stays in a cache, and tasks."""
    # Enough tasks for a handful of cores, even where the cache could hold more.
    per_task = max(1, min(cache_bytes // tile_bytes, -(-count // 16)))
    return per_task, max(1, -(-count // per_task))


def _gpu(row: ConvSpec, target: Target, tile: Tile, p: Parameters) -> None:
    groups, in_blocks, *_ = conv_dense.weight_shape(row, target, tile)
    lanes, pixels = target.lanes, row.size[1]
    chunks, beside = tile_chunks(-(-pixels // tile.pixels))
    with grid(target, chunks, groups, beside) as (chunk, group, i):
        column = T.bind((chunk * beside + i) * tile.pixels)
        sums = RegisterTile(target, tile.filters, tile.pixels)
        with T.serial(0, in_blocks) as block:
            values = [
                conv_dense.input_lanes(row, target, p, block, 0, column + pixel)
                for pixel in range(tile.pixels)
            ]
            for lane in range(lanes):
                weights = conv_dense.tile_weights(p, tile, group, block, 0, 0, lane)
                for pixel in range(tile.pixels):
                    sums.add(pixel, weights, values[pixel][lane])
        for pixel in range(tile.pixels):
            with T.If(column + pixel < pixels), T.Then():
                sums.store(p, group * tile.filters, 0, column, pixel)
