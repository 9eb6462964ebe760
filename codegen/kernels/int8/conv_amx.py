"""Dense convolution of bytes, or of bfloat16, on a matrix unit: Intel's AMX.

A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of the input (16 pixels
x 64 channels that are bytes, or 32) with one of the weight (as many channels x 16 filters) and adds
the products to a tile of sums (16 x 16). Two by two such tiles are computed at once: 32 pixels x 32
filters. Sums go through memory to the epilogue, a vector at a time.

Pixels that follow one another in the output are read as rows that lie `strides` apart, so a kernel
position is a matter of where the first of them starts. With padding, a task first copies the rows
that it reads, with their margins; at stride 1 its pixels are then one run through all rows, in
which what the margins give is computed, too, but not stored.

Reference: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter "Intel AMX".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_1x1, conv_dense
from graphopt.codegen.kernels.conv.template import Tile, blocks, pack_channels
from graphopt.codegen.kernels.emit import Expr, grid, kernel, private, scratch
from graphopt.codegen.kernels.int8.conv_dot import seen
from graphopt.codegen.kernels.int8.parameters import WORD, Int8Parameters
from graphopt.codegen.kernels.int8.spec import Int8Conv, Integers, StoredConv
from graphopt.codegen.kernels.int8.spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.int8.spec import starting_sums as starting_sums
from graphopt.codegen.targets import Target

ROWS = 16
"""Rows of a tile: pixels of the input, and filters of the weight."""
NARROWEST = 16
"""Channels of the narrowest blocks: of fewer, most of a tile would be empty."""
TASK_BYTES = 384 * 1024
"""Bytes of input that a task reads: they and a tile's weights stay in a cache of 2 MB."""


def tiles(spec: StoredConv, target: Target) -> list[Tile]:
    """Filters (in vectors of 16) and pixels (in tiles of 16) at once; none without the unit."""
    bytes_ = isinstance(spec, Int8Conv)
    unit = target.tiles == "amx_int8" if bytes_ else target.bfloat16 == "amx_bf16"
    if not unit or spec.conv.depthwise or spec.x.lanes < NARROWEST:
        return []
    if _pixels(seen(spec)) < ROWS:
        return []
    vectors = spec.vectors(ROWS)
    pixels = 2 if _pixels(seen(spec)) >= 2 * ROWS else 1
    return [Tile(filters, pixels) for filters in (1, 2) if vectors % filters == 0]


def _pixels(spec: StoredConv) -> int:
    """Pixels that a row of tiles covers at least."""
    return spec.conv.out_size[1]


def cost(spec: StoredConv, _: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions of a 32-bit sum.

    A product of tiles takes 16 cycles, in which 32 such instructions could run, a tile's load 8;
    storing a vector of sums and the epilogue take about ten.
    """
    conv = seen(spec).conv
    chunks = blocks(conv.in_channels, spec.x.lanes) * conv.kernel[0] * conv.kernel[1]
    products = 32 * tile.filters * tile.pixels + 16 * (tile.filters + tile.pixels)
    stores = 10 * ROWS * tile.filters * tile.pixels
    vectors = spec.vectors(ROWS) // tile.filters
    across = -(-conv.out_size[1] // (ROWS * tile.pixels))
    return float(conv.out_size[0] * across * vectors * (chunks * products + stores))


def pack_weight(weight: Integers, spec: StoredConv, _: Target, tile: Tile) -> Integers:
    """(O, I, kh, kw) to (O groups, I blocks, kh, kw, filters of a tile, words, 16 words)."""
    filters = spec.packed(weight, ROWS)  # (OB, I, kh, kw, 16)
    inputs = pack_channels(np.moveaxis(filters, 1, 0), spec.x.lanes, spec.conv.in_channels)
    ib, ob, kh, kw, _, lanes = inputs.shape
    words = inputs.reshape(
        ib, ob // tile.filters, tile.filters, kh, kw, ROWS, lanes // spec.word, spec.word
    ).transpose(1, 0, 3, 4, 2, 6, 5, 7)
    shape = (ob // tile.filters, ib, kh, kw, tile.filters, lanes // spec.word, ROWS * spec.word)
    return np.ascontiguousarray(words).reshape(shape)


def _unit(name: str, *arguments: Expr) -> None:
    """An instruction of the unit: it works on its own registers, by number, and on memory."""
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Expr:
    return tirx.IntImm("int8", number)


@dataclass
class _Kernel:
    """A kernel while it is written.

    Args:
        spec: the convolution, as one row where it is a product.
        target: where it will run.
        tile: tiles of filters and of pixels at once.
        p: the kernel's parameters.
    """

    spec: StoredConv
    target: Target
    tile: Tile
    p: Int8Parameters

    @property
    def copied(self) -> bool:
        """Whether a task copies its input, with margins."""
        return any(self.spec.conv.pads)

    @property
    def margined(self) -> int:
        """Columns of the rows that are read."""
        _, left, _, right = self.spec.conv.pads
        return self.spec.conv.size[1] + left + right

    @property
    def runs_on(self) -> bool:
        """Whether pixels are one run through a task's rows: at stride 1."""
        return self.spec.conv.strides == (1, 1)

    def configure(self) -> None:
        """Say how large tiles are; every thread does, for its own registers."""
        config = private(self.target, (64,), "uint8")
        words = self.spec.x.lanes // self.spec.word
        rows = [ROWS] * 6 + [words] * 2
        widths = [4 * ROWS] * 4 + [words * WORD] * 2 + [ROWS * WORD] * 2
        values = np.zeros(64, np.uint8)
        values[0] = 1
        values[16:32] = np.array(widths, "<u2").view(np.uint8)
        values[48:56] = rows
        quarters = values.view("<i8")
        seen = T.decl_buffer((8,), "int64", data=config.data, layout=None)
        for n, quarter in enumerate(quarters):
            T.buffer_store(seen, tirx.IntImm("int64", int(quarter)), [n])
        _unit("ldtilecfg", config.access_ptr("r"))

    def block(
        self, group: Expr, source: Expr, first: Expr, row_stride: Expr, plane: Expr, across: Expr
    ) -> None:
        """Multiply up 32 pixels x 32 filters into the tiles of sums.

        Args:
            source: the buffer that is read.
            first: place in it of the first pixel's first channel.
            row_stride: numbers between rows of the input.
            plane: numbers between blocks of channels.
            across: numbers between columns of the input.
        """
        conv, lanes, (filters, pixels, _) = self.spec.conv, self.spec.x.lanes, self.tile
        step = conv.strides[1] * lanes
        kh, kw = conv.kernel
        in_blocks = blocks(conv.in_channels, lanes)
        wide = tirx.IntImm("int64", step * self.spec.itemsize)
        tile_size = lanes * ROWS
        for f in range(filters):
            for i in range(pixels):
                self._begin(_register(2 * i + f), group * filters + f)
        with T.serial(0, in_blocks) as block, T.serial(0, kh) as ky:
            for kx in range(kw):
                at = first + block * plane + ky * conv.dilations[0] * row_stride
                at = at + kx * conv.dilations[1] * across
                for i in range(pixels):
                    place = source.access_ptr("r", offset=at + i * ROWS * step)
                    _unit("tileloadd64", _register(4 + i), place, wide)
                place = (((group * in_blocks + block) * kh + ky) * kw + kx) * filters
                for f in range(filters):
                    weight = self.p.weight.access_ptr("r", offset=(place + f) * tile_size)
                    _unit(
                        "tileloadd64", _register(6 + f), weight, tirx.IntImm("int64", ROWS * WORD)
                    )
                for i in range(pixels):
                    for f in range(filters):
                        _unit(
                            self.spec.product,
                            _register(2 * i + f),
                            _register(4 + i),
                            _register(6 + f),
                        )

    def _begin(self, sums: Expr, vector: Expr) -> None:
        """Every row of a tile begins with the same sums."""
        if self.p.start is None:
            _unit("tilezero", sums)
            return
        start = self.p.start.access_ptr("r", offset=vector * ROWS)
        _unit("tileloadd64", sums, start, tirx.IntImm("int64", 0))

    def store(
        self, sums: Expr, group: Expr, place: Callable[[Expr], tuple[Expr, Expr, Expr]]
    ) -> None:
        """Take the sums out of the tiles and store what the epilogue makes of them.

        Args:
            sums: memory for the tiles, (pixels, filters, 16 * 16).
            place: whether the n-th pixel is stored (None: yes), its row and column.
        """
        filters, pixels, _ = self.tile
        for i in range(pixels):
            for f in range(filters):
                memory = sums.access_ptr("w", offset=(i * filters + f) * ROWS * ROWS)
                _unit("tilestored64", _register(2 * i + f), memory, tirx.IntImm("int64", 4 * ROWS))
        lanes = tirx.Ramp(0, 1, ROWS)

        def pixel(n: Expr, i: Expr, row: Expr, column: Expr) -> None:
            for f in range(filters):
                total = self.p.as_float(sums[i, f, n, lanes])
                self.p.store(total, group * filters + f, row, column)

        with T.serial(0, pixels) as i, T.serial(0, ROWS) as n:
            kept, row, column = place(T.bind(i * ROWS + n))
            if kept is None:
                pixel(n, i, row, column)
            else:
                with T.If(kept), T.Then():
                    pixel(n, i, row, column)


def build(spec: StoredConv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `Int8Parameters`."""
    product = conv_1x1.is_product(spec.conv)
    groups = spec.vectors(ROWS) // tile.filters
    in_blocks = blocks(spec.conv.in_channels, spec.x.lanes)
    words = (spec.x.lanes // spec.word, ROWS * spec.word)
    shape = (groups, in_blocks, *spec.conv.kernel, tile.filters, *words)
    with kernel("conv_amx") as get:
        p = Int8Parameters(spec, target, (shape, spec.weights), one_row=product)
        here = _Kernel(seen(spec), target, tile, p)
        with p.instructions():
            (_one_row if product else _rows)(here, groups)
    return get()


def _sums(k: _Kernel) -> Expr:
    return scratch((k.tile.pixels, k.tile.filters, ROWS, ROWS), k.spec.sums)


def _one_row(k: _Kernel, groups: int) -> None:
    """A product: pixels in chunks that stay in a cache, each with every filter."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    width, step = conv.out_size[1], k.tile.pixels * ROWS
    chunks = -(-width // step)
    plane = width * lanes
    pixel_bytes = sum(conv.in_channels) * k.spec.itemsize
    per_task, tasks = conv_1x1.task_tiles(chunks, step * pixel_bytes, TASK_BYTES)
    with grid(k.target, tasks) as (task,):
        k.configure()
        sums = _sums(k)
        with (
            T.serial(0, groups) as group,
            T.serial(0, T.min(per_task, chunks - task * per_task)) as i,
        ):
            # The last tile goes back as far as it must to be full.
            column = T.bind(T.min((task * per_task + i) * step, width - step))
            k.block(group, k.p.x, column * lanes, plane, plane, lanes)
            k.store(sums, group, lambda n: (None, 0, column + n))
        _unit("tilerelease")


def _rows(k: _Kernel, groups: int) -> None:
    """Any other: a task takes some rows of the output, with every filter."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    in_blocks = blocks(conv.in_channels, lanes)
    out_height, out_width = conv.out_size
    kh = (conv.kernel[0] - 1) * conv.dilations[0] + 1
    columns, step = k.margined, k.tile.pixels * ROWS
    row_bytes = columns * lanes * in_blocks * k.spec.itemsize
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
            size = in_blocks * in_rows * columns * lanes + spare * lanes
            source = scratch((size,), k.spec.x.dtype)
            _copy(k, source, first * conv.strides[0] - conv.pads[0], in_rows)
            base, row_stride, plane = 0, columns * lanes, in_rows * columns * lanes
        else:
            source, row_stride = k.p.x, conv.size[1] * lanes
            base = first * conv.strides[0] * row_stride
            plane = conv.size[0] * row_stride
        if k.runs_on and k.copied:
            reach = T.bind((count - 1) * columns + out_width)
            with (
                T.serial(0, groups) as group,
                T.serial(0, tirx.floordiv(reach + step - 1, step)) as i,
            ):
                start = T.bind(i * step)
                k.block(group, source, base + start * lanes, row_stride, plane, lanes)

                def place(n: Expr) -> tuple[Expr, Expr, Expr]:
                    at = T.bind(start + n)
                    row, column = (
                        T.bind(tirx.floordiv(at, columns)),
                        T.bind(tirx.floormod(at, columns)),
                    )
                    return tirx.all(column < out_width, row < count), first + row, column

                k.store(sums, group, place)
        else:
            across = -(-out_width // step)
            with T.serial(0, groups) as group, T.serial(0, count) as r, T.serial(0, across) as i:
                column = T.bind(T.min(i * step, out_width - step))
                at = base + r * conv.strides[0] * row_stride + column * conv.strides[1] * lanes
                k.block(group, source, at, row_stride, plane, lanes)
                k.store(sums, group, lambda n: (None, first + r, column + n))
        _unit("tilerelease")


def _copy(k: _Kernel, source: Expr, first: Expr, in_rows: int) -> None:
    """Copy a task's rows of the input, with margins of zero points."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    height, width = conv.size
    _, left, _, right = conv.pads
    ramp = tirx.Ramp(0, 1, lanes)
    zero = tirx.Broadcast(tirx.IntImm(k.spec.x.dtype, k.spec.zero), lanes)
    columns = k.margined
    with T.serial(0, blocks(conv.in_channels, lanes)) as block, T.serial(0, in_rows) as r:
        row = T.bind(first + r)
        start = T.bind((block * in_rows + r) * columns * lanes)

        def fill(low: Expr, count: Expr) -> None:
            with T.serial(0, count) as c:
                T.buffer_store(source, zero, [tirx.Ramp(start + (low + c) * lanes, 1, lanes)])

        with T.If(tirx.all(row >= 0, row < height)):
            with T.Then():
                if left:
                    fill(0, left)
                with T.serial(0, width) as c:
                    value = k.p.x[0, block, row, c, ramp]
                    place = tirx.Ramp(start + (left + c) * lanes, 1, lanes)
                    T.buffer_store(source, value, [place])
                if right:
                    fill(left + width, right)
            with T.Else():
                fill(0, columns)
