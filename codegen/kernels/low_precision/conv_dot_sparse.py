"""Convolution of bytes with block-punched weights, by instructions that multiply four pairs.

As `conv_block_sparse`: the sums of one group of filters at some pixels of a row stay in registers,
while a loop runs over the words, four channels at a position of the kernel, that these filters
keep. The array of indices has

    groups * kh * kw + 1 numbers:   the first kept word of each group of filters and position, and
                                    after the last one how many there are
    a number for each kept word:    where it is read, in words, counted from the pixel that
                                    position (0, 0) reads

A group is as many vectors of filters as its blocks have: each word of the input is spread over a
vector once for all of them. Where padding is not what the unit multiplies as zero, words of padding
are multiplied, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_1x1, conv_dense
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Variable, grid, kernel
from graphopt.codegen.kernels.low_precision.conv_dot import repeated, seen
from graphopt.codegen.kernels.low_precision.conv_dot import starting_sums as starting_sums
from graphopt.codegen.kernels.low_precision.dot import unit_of
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.kept_words import (
    groups_of,
    kept_words,
    places_of,
    words_of,
)
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters, as_float
from graphopt.codegen.kernels.low_precision.stored_conv import WORD
from graphopt.codegen.targets import Target
from graphopt.ir.block_structure import Block, Mask

NEXT = 2.0
"""What going on to the next word costs, in instructions of a sum."""


def extents(spec: Int8Conv, target: Target) -> list[Block]:
    """Extents of blocks that it can leave out: one, two or four vectors of filters."""
    if unit_of(spec, target) is None:
        return []
    return [Block(count * target.lanes, WORD) for count in (1, 2, 4)]


def kept_of(weight: Integers, spec: Int8Conv, block: Block, _: Target) -> int:
    """Words that a kernel multiplies, of all groups of filters."""
    return int(kept_words(weight, spec, block).sum())


def tiles(spec: Int8Conv, target: Target) -> list[Tile]:
    """The tiles, of one group of filters; none for GPUs, or if the weight is not known punched."""
    unit, block = unit_of(spec, target), spec.conv.block
    if unit is None or target.kind == "gpu" or block not in extents(spec, target):
        return []
    assert block is not None
    vectors = block.filters // target.lanes
    most = (target.registers - unit.spare - 2) // vectors - 1
    most = max(1, min(most, seen(spec).conv.out_size[1]))
    return [Tile(vectors, pixels) for pixels in range(max(1, most // 2), most + 1)]


def cost(spec: Int8Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions of a 32-bit sum."""
    unit, row = unit_of(spec, target), seen(spec).conv
    full, rest = divmod(row.out_size[1], tile.pixels)
    widths = [tile.pixels] * full + [rest] * (rest > 0)
    step = sum(max(tile.filters * width, 8) + (tile.filters + width) / 2 + NEXT for width in widths)
    return row.kept * step * row.out_size[0] * (unit.instructions if unit else 0)


def pack_weight(weight: Integers, spec: Int8Conv, target: Target, tile: Tile) -> Integers:
    """(O, I, kh, kw) to the kept words, (kept, vectors of filters, lanes * 4)."""
    unit, block = unit_of(spec, target), spec.conv.block
    assert unit is not None  # there are no tiles without one
    assert block is not None
    mask = kept_words(weight, spec, block)
    words = words_of(weight, spec, block)[mask]
    cut = words.reshape(len(words), tile.filters, target.lanes, WORD)
    packed = np.zeros((max(1, spec.conv.kept), tile.filters, target.lanes * WORD), np.int8)
    packed[: len(cut)] = unit.pack(cut).reshape(len(cut), *packed.shape[1:])
    return packed


def pack_index(weight: Integers, spec: Int8Conv, _: Target) -> Integers:
    """The array of indices that goes with `pack_weight`, as the module's text has it."""
    assert spec.conv.block is not None
    mask = kept_words(weight, spec, spec.conv.block)
    return as_index(mask, places_of(mask, seen(spec)))


def as_index(mask: Mask, places: Integers) -> Integers:
    """The first kept word of each group and position, how many there are, and where they are.

    Args:
        mask: see `kept_words`.
        places: a number for each that is kept.
    """
    starts = np.concatenate([[0], np.cumsum(mask.sum(axis=-1).ravel())])
    # There is something to read even if nothing is kept.
    index: Integers = np.concatenate([starts, places, [0]]).astype(np.int32)
    return index


def build(spec: Int8Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    conv = spec.conv
    assert conv.block is not None
    shape = (max(1, conv.kept), tile.filters, target.lanes * WORD)
    positions = groups_of(spec, conv.block) * conv.kernel[0] * conv.kernel[1]
    product = conv_1x1.is_product(conv)
    with kernel("conv_int8_sparse") as get:
        p = StoredParameters(
            spec,
            target,
            (shape, "int8"),
            one_row=product,
            indices=positions + 1 + conv.kept + 1,
        )
        sums = _Sums(seen(spec), target, tile, p)
        (_one_row if product else _rows)(sums)
    return get()


class _Sums:
    """The sums of a tile's pixels, of one group of filters after the other."""

    def __init__(self, spec: Int8Conv, target: Target, tile: Tile, p: StoredParameters) -> None:
        unit = unit_of(spec, target)
        assert unit is not None  # there are no tiles without one
        assert spec.conv.block is not None
        self.spec, self.target, self.at_once = spec, target, tile
        self._p, self._unit, self._words, self._index = p, unit, p.words(), p.index
        self._groups = groups_of(spec, spec.conv.block)
        self._first_place = self._groups * spec.conv.kernel[0] * spec.conv.kernel[1] + 1
        self._per_pixel = spec.x.lanes // WORD
        # Whether padding is what the unit multiplies as zeros.
        self._skipped = spec.zero == unit.offset

    def tile(self, row: Expr, column: Expr, pixels: int, *, inside: bool) -> None:
        """Compute and store one tile; unless `inside`, its column is a number."""
        conv = self.spec.conv
        (kh, kw), (_, width), across = conv.kernel, conv.size, conv.strides[1]
        first = T.bind(row * conv.strides[0] - conv.pads[0])
        start = T.bind((first * width + column * across - conv.pads[1]) * self._per_pixel)
        low, high = (T.bind(bound) for bound in conv_dense.rows_inside(conv, first))
        everywhere = range(pixels)
        with T.serial(0, self._groups) as group:
            sums, taps = self._begun(group, pixels), T.bind(group * kh)
            add = partial(self._add, sums, start)
            if inside:
                add((taps + low) * kw, (taps + high) * kw, everywhere)
            else:
                with T.serial(low, high) as ky:
                    for kx in range(kw):
                        at = kx * conv.dilations[1] - conv.pads[1]
                        tap = T.bind((taps + ky) * kw + kx)
                        inner = [
                            pixel
                            for pixel in everywhere
                            if 0 <= (column + pixel) * across + at < width
                        ]
                        add(tap, tap + 1, inner, [p for p in everywhere if p not in inner])
            if conv.pads[0]:
                add(taps * kw, (taps + low) * kw, (), everywhere)
            if conv.pads[2]:
                add((taps + high) * kw, (taps + kh) * kw, (), everywhere)
            self._store(sums, group, row, column)

    def _begun(self, group: Expr, pixels: int) -> list[list[Variable]]:
        """Sums [vector of filters][pixel] that hold what they begin with."""
        target, filters = self.target, self.at_once.filters
        dtype, lanes = f"int32x{target.lanes}", tirx.Ramp(0, 1, target.lanes)
        sums = [[Variable(target, dtype) for _ in range(pixels)] for _ in range(filters)]
        for f, vector in enumerate(sums):
            start = T.bind(self._p.start[group * filters + f, lanes])
            for variable in vector:
                variable.value = start
        return sums

    def _add(
        self,
        sums: list[list[Variable]],
        start: Expr,
        begin: Expr,
        end: Expr,
        inside: Sequence[int],
        outside: Sequence[int] = (),
    ) -> None:
        """Add the kept words of a range of positions to pixels inside, and to others' padding."""
        unit, target = self._unit, self.target
        outside = () if self._skipped else outside
        if not inside and not outside:
            return
        step, every = self.spec.conv.strides[1] * self._per_pixel, target.lanes * WORD
        padding = tirx.IntImm("int32", repeated(self.spec.zero))
        with T.serial(T.bind(self._index[(begin,)]), T.bind(self._index[(end,)])) as n:
            at = T.bind(start + self._index[(self._first_place + n,)])
            packed = [self._p.weight[n, f, tirx.Ramp(0, 1, every)] for f in range(len(sums))]
            weights = [unit.weights(T.bind(vector), target) for vector in packed]
            for pixel in (*inside, *outside):
                value = self._words[at + pixel * step] if pixel in inside else padding
                wide = unit.words(T.bind(tirx.Broadcast(value, target.lanes)), target)
                for vector, weight in zip(sums, weights, strict=True):
                    total = vector[pixel]
                    total.value = unit.dot(total.value, wide, weight, target)

    def _store(self, sums: list[list[Variable]], group: Expr, row: Expr, column: Expr) -> None:
        """Store the sums, but those past the output's last vector."""
        filters, last = len(sums), self.spec.vectors(self.target.lanes)
        for f, vector in enumerate(sums):
            place = T.bind(group * filters + f)

            def store(vector: list[Variable] = vector, place: Expr = place) -> None:
                for pixel, variable in enumerate(vector):
                    total = as_float(variable.value, self.target)
                    self._p.store(total, place, row, column + pixel)

            if self._groups * filters == last:
                store()
            else:
                with T.If(place < last), T.Then():
                    store()


def _one_row(sums: _Sums) -> None:
    """A product: all pixels are one row, whose last tile goes back as far as it must to be full."""
    width, pixels = sums.spec.conv.out_size[1], sums.at_once.pixels
    with grid(sums.target, -(-width // pixels)) as (i,):
        sums.tile(0, T.bind(T.min(i * pixels, width - pixels)), pixels, inside=True)


def _rows(sums: _Sums) -> None:
    """Any other: a task is a row."""
    conv = sums.spec.conv
    with grid(sums.target, conv.out_size[0]) as (row,):

        def compute(column: Expr, pixels: int, inside: bool) -> None:
            sums.tile(row, column, pixels, inside=inside)

        conv_dense.walk_row(conv, sums.at_once.pixels, compute)
