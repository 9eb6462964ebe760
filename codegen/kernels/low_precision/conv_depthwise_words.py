"""Depthwise convolution of bytes by dot products: the taps of a column of the kernel are a word.

An instruction that multiplies four pairs of bytes and adds them up is made for four channels of one
filter. Here the four bytes of a lane are one channel's, from four rows: 64 channels of each row are
interleaved with those of the others, which gives four vectors of words, and these serve every tap
whose column they are. The way back, from sums to bytes, undoes the order in which interleaving left
the channels (`ORDER`), since both work within 128 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv import conv_depthwise as of_floats
from graphopt.codegen.kernels.conv.template import Tile, blocks, pack_channels
from graphopt.codegen.kernels.emit import Expr, Variable, grid, kernel
from graphopt.codegen.kernels.low_precision.byte_blocks import (
    BLOCK,
    CHANNELS,
    LANES,
    ORDER,
    PARTS,
)
from graphopt.codegen.kernels.low_precision.byte_blocks import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.dot import UNITS
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.int8_spec import starting_sums as starting_sums
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters, as_float
from graphopt.codegen.kernels.low_precision.stored_conv import WORD
from graphopt.codegen.targets import Target

MOST = 5
"""Pixels at once: their sums are twenty vectors, words and bytes of a column ten more."""


def tiles(spec: Int8Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none where blocks are narrower or tensors are read."""
    blocked = spec.x.lanes == CHANNELS and spec.y == BLOCK
    if target.dot != "avx512_vnni" or not spec.conv.depthwise or not blocked or spec.tensors:
        return []
    most = min(MOST, spec.conv.out_size[1])
    return [Tile(PARTS, pixels) for pixels in range(max(1, most - 1), most + 1)]


def cost(spec: Int8Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds: a word is four, interleaving as many."""
    return of_floats.cost(spec.conv, target, Tile(1, tile.pixels)) / 2


def pack_weight(weight: Integers, spec: Int8Conv, _: Target, __: Tile) -> Integers:
    """(C, 1, kh, kw) to (blocks, words of rows, kw, 4 vectors, 64)."""
    kh, kw = spec.conv.kernel
    rows = -(-kh // WORD) * WORD
    taps = np.zeros((len(weight), rows, kw), weight.dtype)
    taps[:, :kh] = weight[:, 0]
    spread = pack_channels(taps, CHANNELS, spec.conv.out_runs)[..., ORDER]  # (blocks, rows, kw, 64)
    words = spread.reshape(len(spread), rows // WORD, WORD, kw, PARTS, LANES)
    ordered = words.transpose(0, 1, 3, 4, 5, 2)
    return np.ascontiguousarray(ordered.reshape(*ordered.shape[:4], LANES * WORD))


def build(spec: Int8Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    count = blocks(spec.conv.out_runs, CHANNELS)
    kh, kw = spec.conv.kernel
    shape = (count, -(-kh // WORD), kw, PARTS, LANES * WORD)
    with kernel("conv_int8_words") as get:
        p = StoredParameters(spec, target, (shape, "int8"), vectors=count * PARTS)
        with grid(target, count, spec.conv.out_size[0]) as (block, row):
            _Row(spec, target, tile, p, block, row).compute()
    return get()


class _Row:
    """A row of the output of a block of channels, while the kernel is written."""

    def __init__(
        self,
        spec: Int8Conv,
        target: Target,
        tile: Tile,
        p: StoredParameters,
        block: Expr,
        row: Expr,
    ) -> None:
        self._spec, self._target, self._tile, self._p = spec, target, tile, p
        self._block, self._row = block, row
        self._bytes, self._lanes = tirx.Ramp(0, 1, CHANNELS), tirx.Ramp(0, 1, LANES)
        self._zero = tirx.Broadcast(tirx.IntImm("uint8", spec.zero), CHANNELS)

    def compute(self) -> None:
        """Cover the row with tiles."""
        conv_dense.walk_row(self._spec.conv, self._tile.pixels, self._tile_of)

    def _tile_of(self, column: Expr, pixels: int, inside: bool) -> None:
        conv, target = self._spec.conv, self._target
        unit = UNITS[target.dot]
        dtype = f"int32x{LANES}"
        sums = [[Variable(target, dtype) for _ in range(PARTS)] for _ in range(pixels)]
        for j in range(PARTS):
            start = T.bind(self._p.start[self._block * PARTS + j, self._lanes])
            for parts in sums:
                parts[j].value = start
        stride, dilation, pad = conv.strides[1], conv.dilations[1], conv.pads[1]
        first = T.bind(self._row * conv.strides[0] - conv.pads[0])
        for group in range(-(-conv.kernel[0] // WORD)):
            used: dict[int, list[tuple[int, int]]] = {}
            for pixel in range(pixels):
                for kx in range(conv.kernel[1]):
                    used.setdefault(pixel * stride + kx * dilation - pad, []).append((pixel, kx))
            for tap, readers in sorted(used.items()):
                at = column * stride + tap
                words = self._words(first, group, at, inside=inside)
                for pixel, kx in readers:
                    for j in range(PARTS):
                        weight = self._p.weight[self._block, group, kx, j, self._bytes]
                        sums[pixel][j].value = unit.dot(
                            sums[pixel][j].value, [words[j]], [weight], target
                        )
        for pixel in range(pixels):
            totals = [as_float(part.value, target) for part in sums[pixel]]
            self._p.store_block(totals, self._block, self._row, column + pixel)

    def _words(self, first: Expr, group: int, column: Expr, *, inside: bool) -> list[Expr]:
        """The words of a column of the input, four vectors."""
        conv = self._spec.conv
        height, width = conv.size
        if not inside and not 0 <= column < width:
            word = tirx.Broadcast(tirx.IntImm("uint8", self._spec.zero), CHANNELS)
            return [word] * PARTS
        rows = []
        for ky in range(WORD * group, WORD * (group + 1)):
            if ky >= conv.kernel[0]:
                rows.append(tirx.Broadcast(tirx.IntImm("uint8", 0), CHANNELS))
                continue
            row = first + ky * conv.dilations[0]
            if conv.pads[0] or conv.pads[2]:
                clamped = T.min(T.max(row, 0), height - 1)
                loaded = self._p.x[0, self._block, clamped, column, self._bytes]
                here = tirx.all(row >= 0, row < height)
                rows.append(T.bind(tirx.Select(here, loaded, self._zero)))
            else:
                rows.append(T.bind(self._p.x[0, self._block, row, column, self._bytes]))
        return _interleaved(*rows)


def _interleaved(a: Expr, b: Expr, c: Expr, d: Expr) -> list[Expr]:
    """64 channels of four rows as four vectors of words, bytes of one channel in each."""

    def unpacked(x: Expr, y: Expr, count: int, upper: int) -> Expr:
        """The `count` elements of x and y in turns: of each 128 bits, the lower or upper half."""
        each, half = count // 4, count // 8
        places = [
            source + each * lane + half * upper + i
            for lane in range(4)
            for i in range(half)
            for source in (0, count)
        ]
        return T.bind(tirx.Shuffle([x, y], places))

    def joined(x: Expr, y: Expr, upper: int) -> Expr:
        return T.bind(tirx.reinterpret("uint16x32", unpacked(x, y, 64, upper)))

    pairs = [(joined(a, b, upper), joined(c, d, upper)) for upper in (0, 1)]
    return [
        T.bind(tirx.reinterpret("uint8x64", unpacked(*pair, 32, upper)))
        for pair in pairs
        for upper in (0, 1)
    ]
