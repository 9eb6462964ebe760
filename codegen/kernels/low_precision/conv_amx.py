"""Dense convolution of bytes, or of bfloat16, on a matrix unit: Intel's AMX.

A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of the input (16 pixels
x 64 channels that are bytes, or 32) with one of the weight (as many channels x 16 filters) and adds
the products to a tile of sums (16 x 16). Four such tiles are computed at once: of 32 pixels x 32
filters, or of 16 x 64, whose bytes are stored as one vector a pixel. Sums go through memory to the
epilogue.

Pixels that follow one another in the output are read as rows that lie `strides` apart, so a kernel
position is a matter of where the first of them starts. With padding, a task first copies the rows
that it reads, with their margins; at stride 1 its pixels are then one run through all rows, in
which what the margins give is computed, too, but not stored.

Of an input of few channels, a photo, a row of a tile is all columns of the kernel: neighbouring
pixels follow one another in memory.

Reference: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter "Intel AMX".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_1x1, conv_dense
from graphopt.codegen.kernels.conv.template import Number, Tile, blocks, pack_channels
from graphopt.codegen.kernels.emit import Expr, grid, kernel, scratch
from graphopt.codegen.kernels.low_precision import byte_blocks
from graphopt.codegen.kernels.low_precision.amx_tiles import (
    NARROWEST,
    ROWS,
    Meanwhile,
    Place,
    TileKernel,
    columns_of_a_row,
    unit,
)
from graphopt.codegen.kernels.low_precision.byte_blocks import BLOCK, CHANNELS, ORDER, PARTS
from graphopt.codegen.kernels.low_precision.conv_dot import Conv, is_product, seen
from graphopt.codegen.kernels.low_precision.grouping import Parts, parts_of
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.int8_spec import starting_sums as starting_sums
from graphopt.codegen.kernels.low_precision.margined_rows import copy_rows
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import StoredConv
from graphopt.codegen.targets import Target

TASK_BYTES = 384 * 1024
"""Bytes of input that a task reads: they and a tile's weights stay in a cache of 2 MB."""
WEIGHT_BYTES = 24 * 1024
"""Bytes of weights that stay in the nearest cache, of 32 or 48 KB, while pixels pass."""


def tiles(spec: StoredConv, target: Target) -> list[Tile]:
    """Filters (in vectors of 16) and pixels (in tiles of 16) at once; none without the unit."""
    blocked, spec = by_blocks(spec), _parts(spec).spec
    bytes_ = isinstance(spec, Int8Conv)
    able = target.tiles == "amx_int8" if bytes_ else target.bfloat16 == "amx_bf16"
    if (
        not able
        or spec.conv.depthwise
        or min(spec.conv.pads) < 0
        or (spec.x.lanes < NARROWEST and columns_of_a_row(spec) == 1)
    ):
        return []
    if _pixels(seen(spec)) < ROWS:
        return []
    if blocked:
        return [Tile(PARTS, 1)]
    vectors = spec.vectors(ROWS)
    pixels = 2 if _pixels(seen(spec)) >= 2 * ROWS else 1
    return [Tile(filters, pixels) for filters in (1, 2) if vectors % filters == 0]


def _parts(spec: Conv) -> Parts[Conv]:
    """The parts of a grouped one."""
    return parts_of(spec, spec.width(ROWS))


def by_blocks(spec: StoredConv) -> bool:
    """Whether what is stored of a pixel are blocks of 64 bytes, of whole 1x1 convolutions alone.

    Larger kernels' weights for so many filters leave no room in the nearest cache: 2 to 7% slower.
    """
    conv = spec.conv
    whole = conv.kernel == (1, 1) and conv.groups == 1 and spec.apart == (1, 1)
    stored = all(stored == BLOCK for stored in (spec.y, *spec.tensors))
    return whole and stored and spec.vectors(ROWS) % PARTS == 0


def _pixels(spec: StoredConv) -> int:
    """Pixels that a row of tiles covers at least."""
    return spec.conv.out_size[1]


def cost(spec: StoredConv, _: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions of a 32-bit sum.

    A product of tiles takes 16 cycles, in which 32 such instructions could run, a tile's load 8. A
    vector of sums that goes through memory takes about three; the epilogue as long as elsewhere,
    where it is not counted.
    """
    parts = _parts(spec)
    spec = parts.spec
    conv = seen(spec).conv
    chunks = blocks(conv.in_channels, spec.x.lanes) * conv.kernel[0] * conv.kernel[1]
    chunks //= columns_of_a_row(spec)
    products = 32 * tile.filters * tile.pixels + 16 * (tile.filters + tile.pixels)
    stores = 3 * ROWS * tile.filters * tile.pixels
    vectors = parts.count * spec.vectors(ROWS) // tile.filters
    across = -(-conv.out_size[1] // (ROWS * tile.pixels))
    return float(conv.out_size[0] * across * vectors * (chunks * products + stores))


def pack_vectors(values: NDArray[Number], spec: StoredConv, target: Target) -> NDArray[Number]:
    """A number a channel, (C,), as the kernel reads them: (vectors, lanes)."""
    if by_blocks(spec):
        return byte_blocks.pack_vectors(values, spec, target)
    return spec.packed(values, ROWS)


def pack_weight(weight: Integers, spec: StoredConv, _: Target, tile: Tile) -> Integers:
    """(O, I, kh, kw) to (O groups, I blocks, kh, kw, filters of a tile, words, 16 words)."""
    parts = _parts(spec)
    return np.concatenate([_packed(part, parts.spec, tile) for part in parts.weights(weight)])


def _packed(weight: Integers, spec: StoredConv, tile: Tile) -> Integers:
    filters = spec.packed(weight, ROWS)  # (OB, I, kh, kw, 16)
    if tile.filters == PARTS:
        every = pack_channels(weight, CHANNELS, spec.conv.out_runs)[..., ORDER]
        parts = every.reshape(*every.shape[:-1], PARTS, ROWS)
        filters = np.moveaxis(parts, -2, 1).reshape(filters.shape)
    inputs = pack_channels(np.moveaxis(filters, 1, 0), spec.x.lanes, spec.conv.in_channels)
    if (columns := columns_of_a_row(spec)) > 1:
        inputs = np.moveaxis(inputs, 3, 4)
        inputs = inputs.reshape(*inputs.shape[:3], 1, ROWS, columns * spec.x.lanes)
    ib, ob, kh, kw, _, lanes = inputs.shape
    words = inputs.reshape(
        ib, ob // tile.filters, tile.filters, kh, kw, ROWS, lanes // spec.word, spec.word
    ).transpose(1, 0, 3, 4, 2, 6, 5, 7)
    shape = (ob // tile.filters, ib, kh, kw, tile.filters, lanes // spec.word, ROWS * spec.word)
    return np.ascontiguousarray(words).reshape(shape)


def build(spec: StoredConv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    with kernel("conv_amx") as get:
        shape = weight_shape(spec, target, tile)
        product = is_product(_parts(spec).spec)
        p = StoredParameters(spec, target, (shape, spec.weights), one_row=product)
        with p.instructions():
            emit(spec, target, tile, p)
    return get()


def weight_shape(spec: StoredConv, _: Target, tile: Tile) -> tuple[int, ...]:
    """The shape of the packed weight."""
    kh, kw = spec.conv.kernel
    columns = columns_of_a_row(spec)
    words = (spec.x.lanes * columns // spec.word, ROWS * spec.word)
    in_blocks = blocks(_parts(spec).spec.conv.in_channels, spec.x.lanes)
    return spec.vectors(ROWS) // tile.filters, in_blocks, kh, kw // columns, tile.filters, *words


def emit(spec: StoredConv, target: Target, tile: Tile, p: StoredParameters) -> None:
    """The kernel's body."""
    parts = _parts(spec)
    whole = replace(parts, spec=seen(parts.spec))
    here = TileKernel(whole, target, tile, p, spec.vectors(ROWS) // tile.filters)
    (_one_row if is_product(parts.spec) else _rows)(here, here.groups)


def _sums(k: TileKernel) -> Expr:
    return scratch((k.tile.pixels, k.tile.filters, ROWS, ROWS), k.spec.sums)


def _one_row(k: TileKernel, groups: int) -> None:
    """A product: pixels in chunks that stay in a cache, each with every filter."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    width, step = conv.out_size[1], k.tile.pixels * ROWS
    in_blocks = blocks(conv.in_channels, lanes)
    chunks = -(-width // step)
    plane = width * lanes
    pixel_bytes = k.parts.count * sum(conv.in_channels) * k.spec.itemsize
    per_task, tasks = conv_1x1.task_tiles(chunks, step * pixel_bytes, TASK_BYTES)
    with grid(k.target, tasks) as (task,):
        k.configure()
        sums = _sums(k)
        here = T.bind(T.min(per_task, chunks - task * per_task))

        def place(i: Expr) -> tuple[Expr, Expr]:
            """The group of filters and the first column of the task's i-th tile."""
            group = T.bind(tirx.floordiv(i, here))
            chunk = task * per_task + (i - group * here)
            # The last tile goes back as far as it must to be full.
            return group, T.bind(T.min(chunk * step, width - step))

        def compute(i: Expr, meanwhile: Meanwhile | None) -> None:
            group, column = place(i)
            at = column * lanes
            k.begin(group)
            k.multiply(group, (0, in_blocks), k.p.x, at, plane, plane, lanes, meanwhile)

        def stored(i: Expr) -> tuple[Expr, Callable[[Expr], Place]]:
            group, column = place(i)
            return group, lambda n: (None, 0, column + n)

        k.one_after_the_other(groups * here, sums, compute, stored)
        unit("tilerelease")


def _rows(k: TileKernel, groups: int) -> None:
    """Any other: a task takes some rows of the output, with every filter."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    in_blocks, all_blocks = blocks(conv.in_channels, lanes), k.all_blocks
    out_height, out_width = conv.out_size
    kh = (conv.kernel[0] - 1) * conv.dilations[0] + 1
    columns, step = k.margined, k.tile.pixels * ROWS
    row_bytes = columns * lanes * all_blocks * k.spec.itemsize
    rows, tasks = conv_dense.rows_in_cache(conv, row_bytes, TASK_BYTES)
    in_rows = (rows - 1) * conv.strides[0] + kh
    with grid(k.target, tasks) as (task,):
        k.configure()
        sums = _sums(k)
        first = T.bind(task * rows)
        count = T.bind(T.min(rows, out_height - first))
        if k.copied:
            # A tile past the last pixel reads on: there must be something, whatever it is.
            spare = step + columns
            size = all_blocks * in_rows * columns * lanes + spare * lanes
            source = scratch((size,), k.spec.x.dtype)
            copy_rows(k, source, first * conv.strides[0] - conv.pads[0], in_rows)
            base, row_stride, plane = 0, columns * lanes, in_rows * columns * lanes
        else:
            source, row_stride = k.p.x, conv.size[1] * lanes
            base = first * conv.strides[0] * row_stride
            plane = conv.size[0] * row_stride
        if k.runs_on and k.copied:
            _run(k, groups, sums, source, (first, count, rows), in_rows)
        else:
            across = -(-out_width // step)

            def tile_of(i: Expr) -> tuple[Expr, Expr, Expr]:
                """The group of filters, row and first column of the task's i-th tile."""
                row = T.bind(tirx.floordiv(i, across))
                group = T.bind(tirx.floordiv(row, count))
                column = tirx.floormod(i, across) * step
                return group, T.bind(row - group * count), T.bind(T.min(column, out_width - step))

            def compute(i: Expr, meanwhile: Meanwhile | None) -> None:
                group, r, column = tile_of(i)
                at = base + r * conv.strides[0] * row_stride + column * conv.strides[1] * lanes
                k.begin(group)
                k.multiply(group, (0, in_blocks), source, at, row_stride, plane, lanes, meanwhile)

            def stored(i: Expr) -> tuple[Expr, Callable[[Expr], Place]]:
                group, r, column = tile_of(i)
                return group, lambda n: (None, first + r, column + n)

            k.one_after_the_other(groups * count * across, sums, compute, stored)
        unit("tilerelease")


def _blocks_at_once(k: TileKernel, in_blocks: int) -> int:
    """Blocks of channels whose weights for a tile's filters stay in the nearest cache."""
    taps = k.spec.conv.kernel[0] * k.spec.conv.kernel[1] // columns_of_a_row(k.spec)
    each = taps * k.tile.filters * k.row * ROWS * k.spec.itemsize
    if each * in_blocks <= WEIGHT_BYTES:
        return in_blocks
    fitting = max(1, WEIGHT_BYTES // each)
    return max(n for n in range(1, fitting + 1) if in_blocks % n == 0)


def _run(
    k: TileKernel,
    groups: int,
    sums: Expr,
    source: Expr,
    rows: tuple[Expr, Expr, int],
    in_rows: int,
) -> None:
    """A task's rows, whose pixels are one run.

    Where weights are too many for the nearest cache, the channels are taken a part after the other:
    all pixels see a part's weights, and their sums are kept until the next.

    Args:
        sums: memory for tiles of sums.
        source: the task's input, with its margins.
        rows: the first, how many, and how many at most.
        in_rows: rows of `source`.
    """
    conv, lanes = k.spec.conv, k.spec.x.lanes
    (first, count, most), width = rows, conv.out_size[1]
    columns, step = k.margined, k.tile.pixels * ROWS
    in_blocks = blocks(conv.in_channels, lanes)
    each = _blocks_at_once(k, in_blocks)
    parts = in_blocks // each
    reach = T.bind((count - 1) * columns + width)
    tiles_ = T.bind(tirx.floordiv(reach + step - 1, step))
    kept: Expr = None
    if parts > 1:
        longest = -(-((most - 1) * columns + width) // step)
        kept = scratch((longest, k.tile.pixels, k.tile.filters, ROWS, ROWS), k.spec.sums)

    def place(start: Expr, n: Expr) -> Place:
        at = T.bind(start + n)
        row, column = T.bind(tirx.floordiv(at, columns)), T.bind(tirx.floormod(at, columns))
        return tirx.all(column < width, row < count), first + row, column

    def multiply(group: Expr, i: Expr, part: int, meanwhile: Meanwhile | None = None) -> None:
        """Begin or go on with the i-th tile of a group of filters, by a part of the channels."""
        if part == 0:
            k.begin(group)
        else:
            k.resume(kept, i)
        row, plane = columns * lanes, in_rows * columns * lanes
        at, taken = i * step * lanes, (part * each, each)
        k.multiply(group, taken, source, at, row, plane, lanes, meanwhile)

    with T.serial(0, groups) as group:
        for part in range(parts - 1):
            with T.serial(0, tiles_) as i:
                multiply(group, i, part)
                k.keep(kept, i)
        k.one_after_the_other(
            tiles_,
            sums,
            lambda i, meanwhile: multiply(group, i, parts - 1, meanwhile),
            lambda i: (group, lambda n: place(i * step, n)),
        )
