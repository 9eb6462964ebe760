"""The matrix unit while a kernel is written: its tiles configured, multiplied into, stored.

See `conv_amx` for what a tile is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.template import Tile, blocks
from graphopt.codegen.kernels.emit import Expr, private
from graphopt.codegen.kernels.low_precision.byte_blocks import PARTS
from graphopt.codegen.kernels.low_precision.grouping import Parts
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import WORD, StoredConv
from graphopt.codegen.targets import Target

ROWS = 16
"""Rows of a tile: pixels of the input, and filters of the weight."""
NARROWEST = 16
"""Channels of the narrowest blocks: of fewer, most of a tile would be empty."""


def columns_of_a_row(spec: StoredConv) -> int:
    """Columns of the kernel that are one row of a tile: of few channels, all of them."""
    columns = spec.conv.kernel[1]
    fits = columns * spec.x.lanes * spec.itemsize <= ROWS * WORD
    folded = spec.x.lanes < NARROWEST and fits and spec.conv.dilations[1] == 1
    return columns if folded else 1


def unit(name: str, *arguments: Expr) -> None:
    """An instruction of the unit: it works on its own registers, by number, and on memory."""
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Expr:
    return tirx.IntImm("int8", number)


@dataclass
class TileKernel:
    """A kernel while it is written.

    Args:
        parts: the convolution's, as one row where it is a product.
        target: where it will run.
        tile: tiles of filters and of pixels at once.
        p: the kernel's parameters.
        groups: of filters that are computed at once, in all parts.
    """

    parts: Parts[StoredConv]
    target: Target
    tile: Tile
    p: StoredParameters
    groups: int

    @property
    def spec(self) -> StoredConv:
        """The convolution, or that of a part of a grouped one."""
        return self.parts.spec

    @property
    def all_blocks(self) -> int:
        """Blocks of the whole input's channels."""
        return self.parts.count * blocks(self.spec.conv.in_channels, self.spec.x.lanes)

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

    @property
    def load(self) -> str:
        """What loads a tile of the input: of a product, each is read once for a group of filters,
        and should not take the place of weights in the nearest cache.
        """
        return "tileloaddt164" if self.spec.conv.kernel == (1, 1) else "tileloadd64"

    @property
    def row(self) -> int:
        """Numbers in a row of a tile of the input."""
        return self.spec.x.lanes * columns_of_a_row(self.spec)

    def configure(self) -> None:
        """Say how large tiles are; every thread does, for its own registers."""
        config = private(self.target, (64,), "uint8")
        words = self.row // self.spec.word
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
        unit("ldtilecfg", config.access_ptr("r"))

    def begin(self, group: Expr) -> None:
        """Fill the tiles of sums with what sums begin with, the same in every row."""
        filters, pixels, _ = self.tile
        for f in range(filters):
            for i in range(pixels):
                if self.p.start is None:
                    unit("tilezero", _register(i * filters + f))
                    continue
                start = self.p.start.access_ptr("r", offset=(group * filters + f) * ROWS)
                unit("tileloadd64", _register(i * filters + f), start, tirx.IntImm("int64", 0))

    def resume(self, sums: Expr, at: Expr = 0) -> None:
        """Fill the tiles of sums from memory, where `keep` left them."""
        self._each_sum("tileloadd64", sums, at)

    def keep(self, sums: Expr, at: Expr = 0) -> None:
        """Take the sums out of the tiles.

        Args:
            sums: memory for the tiles, (…, pixels, filters, 16, 16).
            at: which of those, counted in tiles of pixels x filters.
        """
        self._each_sum("tilestored64", sums, at)

    def _each_sum(self, instruction: str, sums: Expr, at: Expr) -> None:
        filters, pixels, _ = self.tile
        for i in range(pixels):
            for f in range(filters):
                place = (at * pixels + i) * filters + f
                memory = sums.access_ptr("rw", offset=place * ROWS * ROWS)
                total = _register(i * filters + f)
                unit(instruction, total, memory, tirx.IntImm("int64", 4 * ROWS))

    def multiply(
        self,
        group: Expr,
        part: tuple[Expr, int],
        source: Expr,
        first: Expr,
        row_stride: Expr,
        plane: Expr,
        across: Expr,
    ) -> None:
        """Multiply up four tiles of pixels x filters, and add that to the tiles of sums.

        Args:
            part: the first of the blocks of channels that are read, and how many.
            source: the buffer that is read.
            first: place in it of the first pixel's first channel.
            row_stride: numbers between rows of the input.
            plane: numbers between blocks of channels.
            across: numbers between columns of the input.
        """
        conv, lanes, (filters, pixels, _) = self.spec.conv, self.spec.x.lanes, self.tile
        step = conv.strides[1] * lanes
        kh, kw = conv.kernel[0], conv.kernel[1] // columns_of_a_row(self.spec)
        in_blocks = blocks(conv.in_channels, lanes)
        first = first + self.parts.start(group, self.groups)[0] * plane
        wide = tirx.IntImm("int64", step * self.spec.itemsize)
        tile_size = self.row * ROWS
        with T.serial(0, part[1]) as inner, T.serial(0, kh) as ky:
            block = part[0] + inner
            for kx in range(kw):
                at = first + block * plane + ky * conv.dilations[0] * row_stride
                at = at + kx * conv.dilations[1] * across
                for i in range(pixels):
                    place = source.access_ptr("r", offset=at + i * ROWS * step)
                    unit(self.load, _register(4 + i), place, wide)
                place = (((group * in_blocks + block) * kh + ky) * kw + kx) * filters
                for f in range(filters):
                    weight = self.p.weight.access_ptr("r", offset=(place + f) * tile_size)
                    register = _register(6 + f % 2)
                    unit("tileloadd64", register, weight, tirx.IntImm("int64", ROWS * WORD))
                    for i in range(pixels):
                        total = _register(i * filters + f)
                        unit(self.spec.product, total, _register(4 + i), register)

    def store(
        self, sums: Expr, group: Expr, place: Callable[[Expr], tuple[Expr, Expr, Expr]]
    ) -> None:
        """Take the sums out of the tiles and store what the epilogue makes of them.

        Args:
            sums: memory for the tiles, (pixels, filters, 16, 16).
            place: whether the n-th pixel is stored (None: yes), its row and column.
        """
        filters, pixels, _ = self.tile
        self.keep(sums)
        lanes = tirx.Ramp(0, 1, ROWS)

        def pixel(n: Expr, i: Expr, row: Expr, column: Expr) -> None:
            totals = [self.p.as_float(sums[i, f, n, lanes]) for f in range(filters)]
            if filters == PARTS:
                self.p.store_block(totals, group, row, column)
            else:
                self.p.store_all(totals, group * filters, row, column)

        with T.serial(0, pixels) as i, T.serial(0, ROWS) as n:
            kept, row, column = place(T.bind(i * ROWS + n))
            if kept is None:
                pixel(n, i, row, column)
            else:
                with T.If(kept), T.Then():
                    pixel(n, i, row, column)
