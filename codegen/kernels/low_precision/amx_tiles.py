"""The matrix unit while a kernel is written: its tiles configured, multiplied into, stored.

See `conv_amx` for what a tile is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

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
Place: TypeAlias = tuple[Expr, Expr, Expr]
"""Whether a pixel is stored (None: yes), its row and its column."""
Meanwhile: TypeAlias = Callable[[Expr, int], None]
"""Writes what is done in a step beside its products: the step, and how many there are."""
SHORT = 3
"""Steps of an epilogue that takes little longer than storing its result."""
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
    def overlapped(self) -> bool:
        """Whether a tile is stored while the next is multiplied: of 1x1 convolutions whose
        epilogue is short, the others lose more by its being cut into parts.
        """
        conv = self.spec.conv
        short = len(conv.epilogue.steps) <= SHORT and not self.spec.tensors
        return conv.kernel == (1, 1) and short

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
        meanwhile: Meanwhile | None = None,
    ) -> None:
        """Multiply up four tiles of pixels x filters, and add that to the tiles of sums.

        Args:
            part: the first of the blocks of channels that are read, and how many.
            source: the buffer that is read.
            first: place in it of the first pixel's first channel.
            row_stride: numbers between rows of the input.
            plane: numbers between blocks of channels.
            across: numbers between columns of the input.
            meanwhile: writes what else is done in each step, while the unit is busy.
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
            if meanwhile:
                meanwhile(inner * kh + ky, part[1] * kh)

    def one_after_the_other(
        self,
        count: Expr,
        sums: Expr,
        compute: Callable[[Expr, Meanwhile | None], None],
        place: Callable[[Expr], tuple[Expr, Callable[[Expr], Place]]],
    ) -> None:
        """Compute tiles and store them; where they are `overlapped`, while the next is multiplied.

        Vectors cannot read what a tile has stored before it is in the cache; the next tile's
        products fill the time.

        Args:
            count: how many tiles; at least one.
            sums: memory for the tiles of one, (pixels, filters, 16, 16).
            compute: begins and multiplies up the i-th.
            place: the i-th's group of filters, and the place of its n-th pixel.
        """
        pixels = self.tile.pixels * ROWS
        with T.serial(0, count) as i:

            def meanwhile(step: Expr, steps: int) -> None:
                # Whole tiles or equal parts of one, so that none is left over.
                each = min(pixels, 1 << (-(-pixels // steps) - 1).bit_length())
                due = i > 0 if each * steps <= pixels else tirx.all(i > 0, step * each < pixels)
                with T.If(due), T.Then():
                    self._store(sums, *place(T.bind(i - 1)), step * each, each)

            compute(i, meanwhile if self.overlapped else None)
            self.keep(sums)
            if not self.overlapped:
                self._store(sums, *place(i), 0, pixels)
        if self.overlapped:
            self._store(sums, *place(T.bind(count - 1)), 0, pixels)

    def _store(
        self,
        sums: Expr,
        group: Expr,
        place: Callable[[Expr], Place],
        first: Expr,
        count: int,
    ) -> None:
        """Store what the epilogue makes of some pixels' sums.

        Args:
            sums: memory for the tiles, (pixels, filters, 16, 16).
            group: the group of filters.
            place: that of the n-th pixel.
            first: the first of the pixels.
            count: how many there are: a part of a tile, or whole ones.
        """
        filters = self.tile.filters
        lanes = tirx.Ramp(0, 1, ROWS)

        def pixel(i: Expr, n: Expr, row: Expr, column: Expr) -> None:
            totals = [self.p.as_float(sums[i, f, n, lanes]) for f in range(filters)]
            if filters == PARTS:
                self.p.store_block(totals, group, row, column)
            else:
                self.p.store_all(totals, group * filters, row, column)

        rows = min(count, ROWS)
        with T.serial(0, count // rows) as part, T.serial(0, rows) as n:
            at = T.bind(first + part * rows)
            i, line = T.bind(tirx.floordiv(at, ROWS)), T.bind(tirx.floormod(at, ROWS) + n)
            stored, row, column = place(T.bind(at + n))
            if stored is None:
                pixel(i, line, row, column)
            else:
                with T.If(stored), T.Then():
                    pixel(i, line, row, column)
