"""Depthwise convolution of bytes, in float32: its few products add up to whole numbers below 2^24,
which float32 holds exactly.

As `conv_depthwise` of floats: the taps of a row slide over the tile, so each vector of the input is
loaded, made float32 and freed of its zero point once a row, and used for every tap that covers it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv import conv_depthwise as of_floats
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Vectors, broadcast, grid, kernel
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.int8.parameters import Int8Parameters, PixelVectors
from graphopt.codegen.kernels.int8.spec import Int8Conv, Integers
from graphopt.codegen.kernels.int8.spec import pack_vectors as pack_vectors
from graphopt.codegen.targets import Target

LARGEST_SUM = 2**24
"""Up to here float32 holds every whole number."""


def tiles(spec: Int8Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is no depthwise convolution."""
    largest = 255 * 128 * spec.conv.kernel[0] * spec.conv.kernel[1]
    if spec.x.lanes % target.lanes or largest > LARGEST_SUM // 2:
        return []
    return of_floats.tiles(spec.conv, target)


def cost(spec: Int8Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    return of_floats.cost(spec.conv, target, tile)


def pack_weight(weight: Integers, spec: Int8Conv, target: Target, _: Tile) -> Floats:
    """(C, 1, kh, kw) to (vectors, kh, kw, lanes), as float32."""
    return spec.packed(weight[:, 0].astype(np.float32), target.lanes)


def starting_sums(start: Integers, _weight: Integers, _spec: Int8Conv, _target: Target) -> Integers:
    """What sums begin with: the bias itself, since zero points are taken off the input."""
    return start


def build(spec: Int8Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `Int8Parameters`."""
    vectors = spec.vectors(target.lanes)
    shape = (vectors, *spec.conv.kernel, target.lanes)
    with kernel("conv_int8_depthwise") as get:
        p = Int8Parameters(spec, target, (shape, "float32"))
        x, weight = PixelVectors(p.x, target.lanes), Vectors(p.weight)
        with grid(target, vectors, spec.conv.out_size[0]) as (vector, row):
            _row(spec, target, tile, p, x, weight, vector, row)
    return get()


def _row(
    spec: Int8Conv,
    target: Target,
    tile: Tile,
    p: Int8Parameters,
    x: PixelVectors,
    weight: Vectors,
    vector: Expr,
    row: Expr,
) -> None:
    """An output row of a vector of channels."""
    conv = spec.conv
    kw = conv.kernel[1]
    stride, dilation, pad = conv.strides[1], conv.dilations[1], conv.pads[1]
    zero = broadcast(float(spec.zero), target.lanes)

    def load(in_row: Expr, column: Expr) -> Expr:
        value = x.load(vector, in_row, column)
        return T.bind(value - zero if spec.zero else value)

    def compute(column: Expr, pixels: int, inside: bool) -> None:
        start = p.start[vector, tirx.Ramp(0, 1, target.lanes)]
        sums = RegisterTile(target, 1, pixels, T.bind(tirx.Cast(f"float32x{target.lanes}", start)))
        first = T.bind(row * conv.strides[0] - conv.pads[0])
        with T.serial(*conv_dense.rows_inside(conv, first)) as ky:
            in_row = T.bind(first + ky * conv.dilations[0])
            weights = [T.bind(weight[vector, ky, kx]) for kx in range(kw)]
            loaded: dict[int, Expr] = {}
            for kx in range(kw):
                for pixel in range(pixels):
                    tap = pixel * stride + kx * dilation - pad
                    if not inside and not 0 <= column * stride + tap < conv.size[1]:
                        continue
                    if tap not in loaded:
                        loaded[tap] = load(in_row, column * stride + tap)
                    sums.add(pixel, [weights[kx]], loaded[tap])
        for pixel in range(pixels):
            p.store(sums.total(0, pixel), vector, row, column + pixel)

    conv_dense.walk_row(conv, tile.pixels, compute)
