"""Dense convolution of bytes on a GPU: as `conv_dense` there, a work-item computes a register tile.

A step multiplies a word, four channels of a pixel, by those of four filters. By which function of
the device is decided where the kernel's text is compiled (`linking.opencl_dot`): some multiply
unsigned bytes by signed ones, others only signed ones, for which bytes lose `SIGN`. So there are
two vectors of what sums begin with, and padding is multiplied like everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Variable, grid, kernel, tile_chunks
from graphopt.codegen.kernels.low_precision.conv_dot import cost as cost
from graphopt.codegen.kernels.low_precision.conv_dot import (
    is_product,
    parts_here,
    repeated,
    seen,
    segments,
    steps,
)
from graphopt.codegen.kernels.low_precision.conv_dot import pack_weight as pack_weight
from graphopt.codegen.kernels.low_precision.conv_dot import weight_shape as weight_shape
from graphopt.codegen.kernels.low_precision.dot import SIGN
from graphopt.codegen.kernels.low_precision.grouping import Parts
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers, sums_from
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters, as_float
from graphopt.codegen.kernels.low_precision.stored_conv import WORD, Segment
from graphopt.codegen.targets import Target

WIDTHS = (WORD, 4 * WORD)
"""Channels of blocks that are read at once: a number, or a vector of four."""


def tiles(spec: Int8Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is depthwise, or for a CPU."""
    if target.kind == "cpu" or spec.conv.depthwise or spec.x.lanes not in WIDTHS:
        return []
    spec = parts_here(spec, target).spec
    plain = replace(seen(spec).conv, in_channels=(target.lanes,), planar=False)
    return conv_dense.row_tiles(plain, target, plain.out_size[1])


def starting_sums(start: Integers, weight: Integers, spec: Int8Conv, _: Target) -> Integers:
    """What sums begin with, (2, filters): over unsigned bytes, and over bytes less `SIGN`."""
    return np.stack([sums_from(start, weight, spec.zero - offset) for offset in (0, SIGN)])


def build(spec: Int8Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    with kernel("conv_int8_gpu") as get:
        shape = weight_shape(spec, target, tile)
        product = is_product(parts_here(spec, target).spec)
        p = StoredParameters(spec, target, (shape, "int8"), one_row=product, starts=2)
        emit(spec, target, tile, p)
    return get()


def emit(spec: Int8Conv, target: Target, tile: Tile, p: StoredParameters) -> None:
    """The kernel's body."""
    parts = parts_here(spec, target)
    whole = replace(parts, spec=seen(parts.spec))
    _Tile(whole, target, tile, p, spec.vectors(target.lanes)).emit()


@dataclass
class _Tile:
    """A work-item's tile while it is written.

    Args:
        parts: the convolution's, as one row where it is a product.
        target: where it will run.
        size: filters and pixels at once.
        p: the kernel's parameters.
        vectors: of filters, in all.
    """

    parts: Parts[Int8Conv]
    target: Target
    size: Tile
    p: StoredParameters
    vectors: int

    @property
    def spec(self) -> Int8Conv:
        """The convolution, or that of a part of a grouped one."""
        return self.parts.spec

    def emit(self) -> None:
        """The kernel's body."""
        conv, (filters, pixels, _) = self.spec.conv, self.size
        out_height, out_width = conv.out_size
        chunks, beside = tile_chunks(-(-out_width // pixels))
        work = (out_height, chunks, self.vectors // filters, beside)
        with grid(self.target, *work) as (row, chunk, group, i):
            column = T.bind((chunk * beside + i) * pixels)
            sums = [self._start(T.bind(group * filters + f), pixels) for f in range(filters)]
            first = T.bind(row * conv.strides[0] - conv.pads[0])
            for segment in segments(self.spec):
                with T.serial(0, segment.blocks) as block, T.serial(0, conv.kernel[0]) as ky:
                    self._taps(sums, group, segment, block, ky, first, column)
            for pixel in range(pixels):
                with T.If(column + pixel < out_width), T.Then():
                    for f in range(filters):
                        total = as_float(sums[f][pixel].value, self.target)
                        self.p.store(total, group * filters + f, row, column + pixel)

    def _start(self, vector: Expr, pixels: int) -> list[Variable]:
        """Sums of a vector of filters, as they begin."""
        dtype, lanes = f"int32x{self.target.lanes}", tirx.Ramp(0, 1, self.target.lanes)
        both = [self.p.start[vector + n * self.vectors, lanes] for n in range(2)]
        start = T.bind(tirx.call_pure_extern(dtype, "STARTING_SUMS", *both))
        return [Variable(self.target, dtype, start) for _ in range(pixels)]

    def _taps(
        self,
        sums: list[list[Variable]],
        group: Expr,
        segment: Segment,
        block: Expr,
        ky: Expr,
        first: Expr,
        column: Expr,
    ) -> None:
        """Add the taps of a row of the kernel, for a block of channels."""
        conv, lanes, (filters, pixels, _) = self.spec.conv, self.target.lanes, self.size
        before, _ = self.parts.start(group, self.vectors // filters)
        (kh, kw), words = conv.kernel, segment.words
        dtype, weight = f"int32x{lanes}", self.p.weight_words()
        in_row = T.bind(first + ky * conv.dilations[0])
        for kx in range(kw):
            values = [
                self._pixel(
                    before + segment.first + block,
                    in_row,
                    (column + pixel) * conv.strides[1] + kx * conv.dilations[1] - conv.pads[1],
                )
                for pixel in range(pixels)
            ]
            for word in range(words):
                step = segment.start + ((block * kh + ky) * kw + kx) * words + word
                place = T.bind((group * steps(self.spec) + step) * filters)
                for f in range(filters):
                    here = T.bind(weight[tirx.Ramp((place + f) * lanes, 1, lanes)])
                    for pixel, value in enumerate(values):
                        one = value if self._scalar else tirx.Shuffle([value], [word])
                        total = sums[f][pixel]
                        total.value = tirx.call_pure_extern(dtype, "DOT4", total.value, one, here)

    @property
    def _scalar(self) -> bool:
        """Whether a pixel's block is one word."""
        return self.spec.x.lanes == WORD

    def _pixel(self, block: Expr, row: Expr, column: Expr) -> Expr:
        """The words of a block of one pixel, padding outside the picture.

        As in `conv_dense`, the load itself is always inside.
        """
        conv, words = self.spec.conv, self.spec.x.lanes // WORD
        height, width = conv.size
        at = T.bind(T.min(T.max(column, 0), width - 1))
        padded, padded_down = any(conv.pads), conv.pads[0] or conv.pads[2]
        at_row = T.bind(T.min(T.max(row, 0), height - 1)) if padded_down else row
        place = ((block * height + at_row) * width + at) * words
        value = self.p.words()[place if self._scalar else tirx.Ramp(place, 1, words)]
        if padded:
            across = [column >= 0, column < width]
            down = [row >= 0, row < height] if padded_down else []
            padding: Expr = tirx.IntImm("int32", repeated(self.spec.zero))
            if not self._scalar:
                padding = tirx.Broadcast(padding, words)
            value = tirx.Select(tirx.all(*across, *down), value, padding)
        kind = "int32" if self._scalar else f"int32x{words}"
        return T.bind(tirx.call_pure_extern(kind, "BYTES", T.bind(value)))
