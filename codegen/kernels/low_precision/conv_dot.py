"""Dense convolution of bytes, or of bfloat16, by instructions that multiply four pairs, or two, and
add them to a sum.

As `conv_dense`: a register tile is some pixels of a row times some vectors of filters, and where
taps fall outside the picture is known where the code is made. A step of the inner loop is a word,
four channels of a pixel or two, which is broadcast and multiplied into the weights of as many
filters as a vector has lanes. Blocks whose last channels are empty end with the words that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_1x1, conv_dense
from graphopt.codegen.kernels.conv.template import Tile, pack_channels
from graphopt.codegen.kernels.emit import Expr, Variable, grid, kernel
from graphopt.codegen.kernels.low_precision.dot import DotUnit, unit_of
from graphopt.codegen.kernels.low_precision.grouping import Parts, parts_of
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers, sums_from
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import WORD, Segment, StoredConv, joined
from graphopt.codegen.targets import Target


def segments(spec: StoredConv, word: int = 0) -> list[Segment]:
    """The input's blocks, those with equally many words together; `word`: channels of one, where
    it is not the usual one.
    """
    lanes, taps = spec.x.lanes, spec.conv.kernel[0] * spec.conv.kernel[1]
    words = [
        -(-min(lanes, run - first) // (word or spec.word))
        for run in spec.conv.in_channels
        for first in range(0, run, lanes)
    ]
    return joined(words, taps)


def steps(spec: StoredConv, word: int = 0) -> int:
    """Words that a pixel of the output is made of; `word` as of `segments`."""
    taps = spec.conv.kernel[0] * spec.conv.kernel[1]
    return sum(segment.blocks * taps * segment.words for segment in segments(spec, word))


Conv = TypeVar("Conv", bound=StoredConv)


def is_product(spec: StoredConv) -> bool:
    """Whether all pixels can be seen as one row: of a 1x1 convolution, if they lie side by side."""
    return conv_1x1.is_product(spec.conv) and spec.apart == (1, 1)


def seen(spec: Conv) -> Conv:
    """The same over one row of all pixels, where it is a 1x1 convolution."""
    if not is_product(spec):
        return spec
    changed: Conv = replace(spec, conv=conv_1x1.one_row(spec.conv))  # type: ignore[type-var]
    return changed


def parts_here(spec: Conv, target: Target) -> Parts[Conv]:
    """The parts of a grouped one."""
    return parts_of(spec, spec.width(target.lanes), words=target.kind == "cpu")


def tiles(spec: StoredConv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is depthwise, or for a GPU."""
    unit, spec = unit_of(spec, target), parts_here(spec, target).spec
    if spec.conv.depthwise or unit is None or target.kind == "gpu":
        return []
    plain = replace(seen(spec).conv, in_channels=(target.lanes,), planar=False)
    plain = replace(plain, out_channels=spec.vectors(target.lanes) * target.lanes)
    left = replace(target, registers=target.registers - unit.spare)
    return conv_dense.row_tiles(plain, left, plain.out_size[1])


def cost(spec: StoredConv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions of a 32-bit sum."""
    parts = parts_here(spec, target)
    spec = parts.spec
    row = replace(seen(spec).conv, out_channels=spec.vectors(target.lanes) * target.lanes)
    unit = unit_of(spec, target)
    each = unit.instructions if unit else 0
    return (
        parts.count
        * steps(spec)
        * each
        * row.out_size[0]
        * conv_dense.row_cost(row, target, tile, row.out_size[1])
    )


def pack_weight(weight: Integers, spec: StoredConv, target: Target, tile: Tile) -> Integers:
    """(O, I, kh, kw) to (O groups, steps, filters of a tile, lanes * channels of a word)."""
    parts = parts_here(spec, target)
    packed = [_packed(part, parts.spec, target, tile) for part in parts.weights(weight)]
    return np.concatenate(packed)


def _packed(weight: Integers, spec: StoredConv, target: Target, tile: Tile) -> Integers:
    unit = unit_of(spec, target)
    assert unit is not None  # there are no tiles without one
    return pack_steps(weight, spec, target, tile, unit.pack, spec.word)


def pack_steps(
    weight: Integers,
    spec: StoredConv,
    target: Target,
    tile: Tile,
    pack: Callable[[Integers], Integers],
    word: int,
) -> Integers:
    """Weights by words of so many channels; `pack` puts a vector's, (…, lanes, word), in order."""
    filters = spec.packed(weight, target.lanes)  # (OB, I, kh, kw, lanes)
    inputs = pack_channels(np.moveaxis(filters, 1, 0), spec.x.lanes, spec.conv.in_channels)
    parts = []
    for segment in segments(spec, word):
        # (blocks, OB, kh, kw, lanes, channels)
        here = inputs[segment.first : segment.first + segment.blocks, ..., : segment.words * word]
        ib, ob, kh, kw, lanes, _ = here.shape
        words = here.reshape(ib, ob // tile.filters, tile.filters, kh, kw, lanes, -1, word)
        ordered = pack(words.transpose(1, 0, 3, 4, 6, 2, 5, 7))
        parts.append(ordered.reshape(ob // tile.filters, -1, tile.filters, lanes * word))
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def starting_sums(start: Integers, weight: Integers, spec: Int8Conv, target: Target) -> Integers:
    """What sums over the unit's bytes begin with, so that they end as those over q - zero."""
    unit = unit_of(spec, target)
    assert unit is not None  # there are no tiles without one
    return sums_from(start, weight, spec.zero - unit.offset)


def build(spec: StoredConv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    with kernel("conv_int8") as get:
        shape = weight_shape(spec, target, tile)
        product = is_product(parts_here(spec, target).spec)
        p = StoredParameters(spec, target, (shape, spec.weights), one_row=product)
        with p.instructions():
            emit(spec, target, tile, p)
    return get()


def weight_shape(spec: StoredConv, target: Target, tile: Tile) -> tuple[int, ...]:
    """The shape of the packed weight."""
    groups = spec.vectors(target.lanes) // tile.filters
    part = parts_here(spec, target).spec
    return groups, steps(part), tile.filters, target.lanes * spec.word


def emit(spec: StoredConv, target: Target, tile: Tile, p: StoredParameters) -> None:
    """The kernel's body."""
    unit = unit_of(spec, target)
    assert unit is not None  # there are no tiles without one
    groups, parts = spec.vectors(target.lanes) // tile.filters, parts_here(spec, target)
    sums = _Sums(seen(parts.spec), target, tile, p, unit, lambda group: parts.start(group, groups))
    walk(sums, groups)


class TileSums(Protocol):
    """What computes a register tile."""

    target: Target
    at_once: Tile

    @property
    def spec(self) -> StoredConv:
        """The convolution, as the tile sees it."""

    def tile(self, group: Expr, row: Expr, column: Expr, pixels: int, *, inside: bool) -> None:
        """Compute and store one tile; unless `inside`, its column is a number."""


class _Sums:
    """A register tile's sums, from the bias to the stored result.

    Args:
        spec: the convolution, or a part of a grouped one.
        target: where it will run.
        tile: the register tile.
        p: the kernel's parameters.
        unit: what multiplies.
        start: the block and the word at which the inputs of a group of filters begin.
    """

    def __init__(
        self,
        spec: StoredConv,
        target: Target,
        tile: Tile,
        p: StoredParameters,
        unit: DotUnit,
        start: Callable[[Expr], tuple[Expr, Expr]],
    ) -> None:
        self._start = start
        self.spec, self.target, self.at_once = spec, target, tile
        self._p, self._unit, self._words = p, unit, p.words()
        # Whether padding is what the unit multiplies as zeros.
        self._skipped = spec.zero == unit.offset
        self._vector = tirx.Ramp(0, 1, spec.word * target.lanes)

    def tile(self, group: Expr, row: Expr, column: Expr, pixels: int, *, inside: bool) -> None:
        """Compute and store one tile; unless `inside`, its column is a number."""
        conv, target, filters = self.spec.conv, self.target, self.at_once.filters
        dtype = f"{self.spec.sums}x{target.lanes}"
        sums = [[Variable(target, dtype) for _ in range(pixels)] for _ in range(filters)]
        for f, block in enumerate(sums):
            start = self._p.first_sums(group * filters + f)
            for variable in block:
                variable.value = start
        first = T.bind(row * conv.strides[0] - conv.pads[0])
        taps_down = conv_dense.rows_inside(conv, first) if self._skipped else (0, conv.kernel[0])
        for segment in segments(self.spec):
            with T.serial(0, segment.blocks) as block, T.serial(*taps_down) as ky:
                self._taps(sums, group, segment, block, ky, first, column, inside=inside)
        for pixel in range(pixels):
            for f in range(filters):
                total = self._p.as_float(sums[f][pixel].value)
                self._p.store(total, group * filters + f, row, column + pixel)

    def _taps(
        self,
        sums: list[list[Variable]],
        group: Expr,
        segment: Segment,
        block: Expr,
        ky: Expr,
        first: Expr,
        column: Expr,
        *,
        inside: bool,
    ) -> None:
        """Add the taps of a row of the kernel, for a block of channels."""
        spec, conv, target = self.spec, self.spec.conv, self.target
        (kh, kw), words = conv.kernel, segment.words
        height, width = conv.size
        in_row = T.bind(first + ky * conv.dilations[0])
        row_inside: Expr = None
        if not self._skipped and (conv.pads[0] or conv.pads[2]):
            row_inside = T.bind(tirx.all(in_row >= 0, in_row < height))
        at_row = in_row if row_inside is None else T.bind(T.min(T.max(in_row, 0), height - 1))
        per_pixel = spec.x.lanes // spec.word
        before, begin = self._start(group)
        padding = tirx.IntImm("int32", repeated(spec.zero))
        with T.serial(0, words) as word:
            for kx in range(kw):
                step = segment.start + ((block * kh + ky) * kw + kx) * words + word
                weights = [
                    self._unit.weights(T.bind(self._p.weight[group, step, f, self._vector]), target)
                    for f in range(len(sums))
                ]
                for pixel in range(len(sums[0])):
                    at = (column + pixel) * conv.strides[1] + kx * conv.dilations[1] - conv.pads[1]
                    outside = not inside and not 0 <= at < width
                    if outside and self._skipped:
                        continue
                    if outside:
                        value: Expr = padding
                    else:
                        place = ((before + segment.first + block) * height + at_row) * width + at
                        value = self._words[place * per_pixel + begin + word]
                        if row_inside is not None:
                            value = tirx.Select(row_inside, value, padding)
                    wide = self._unit.words(T.bind(tirx.Broadcast(value, target.lanes)), target)
                    for f, weight in enumerate(weights):
                        total = sums[f][pixel]
                        total.value = self._unit.dot(total.value, wide, weight, target)


def walk(sums: TileSums, groups: int) -> None:
    """Cover the output with tiles; a product's is one row."""
    (_one_row if is_product(sums.spec) else _rows)(sums, groups)


def _one_row(sums: TileSums, groups: int) -> None:
    """A product: all pixels are one row."""
    conv = sums.spec.conv

    def compute(group: Expr, column: Expr, pixels: int) -> None:
        sums.tile(group, 0, column, pixels, inside=True)

    conv_1x1.walk_pixels(
        conv.out_size[1],
        sums.at_once.pixels,
        groups,
        sum(conv.in_channels) * sums.spec.itemsize,
        sums.target,
        compute,
    )


def _rows(sums: TileSums, groups: int) -> None:
    """Any other: a task takes some rows."""
    conv, target = sums.spec.conv, sums.target
    row_bytes = conv.size[1] * sum(conv.in_channels) * sums.spec.itemsize
    rows, tasks = conv_dense.rows_in_cache(conv, row_bytes, target.cache_bytes)
    with (
        grid(target, tasks, groups) as (task, group),
        T.serial(0, T.min(rows, conv.out_size[0] - task * rows)) as r,
    ):
        row = T.bind(task * rows + r)

        def compute(column: Expr, pixels: int, inside: bool) -> None:
            sums.tile(group, row, column, pixels, inside=inside)

        conv_dense.walk_row(conv, sums.at_once.pixels, compute)


def repeated(byte: int) -> int:
    """A word of four equal bytes, as a signed number."""
    return int(np.array([byte] * WORD, np.uint8).view(np.int32)[0])
