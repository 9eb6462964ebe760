"""Depthwise convolution of bytes or bfloat16, in float32: the few products of bytes add up to whole
numbers below 2^24, which float32 holds exactly.

As `conv_depthwise` of floats: the taps of a row slide over the tile, so each vector of the input is
loaded, made float32 and freed of its zero point once a row, and used for every tap that covers it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_depthwise as of_floats
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Vectors, broadcast, grid, kernel
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.int8.parameters import Int8Parameters, PixelVectors
from graphopt.codegen.kernels.int8.spec import Int8Conv, Integers, StoredConv
from graphopt.codegen.kernels.int8.spec import pack_vectors as pack_vectors
from graphopt.codegen.targets import Target

LARGEST_SUM = 2**24
"""Up to here float32 holds every whole number."""


def tiles(spec: StoredConv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if it is no depthwise convolution."""
    largest = 255 * 128 * spec.conv.kernel[0] * spec.conv.kernel[1]
    inexact = isinstance(spec, Int8Conv) and largest > LARGEST_SUM // 2
    if spec.x.lanes % target.lanes or inexact:
        return []
    return of_floats.tiles(spec.conv, target)


def cost(spec: StoredConv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    return of_floats.cost(spec.conv, target, tile)


def pack_weight(weight: Integers | Floats, spec: StoredConv, target: Target, _: Tile) -> Floats:
    """(C, 1, kh, kw) to (vectors, kh, kw, lanes), as float32."""
    return spec.packed(weight[:, 0].astype(np.float32), target.lanes)


def starting_sums(start: Integers, _weight: Integers, _spec: Int8Conv, _target: Target) -> Integers:
    """What sums begin with: the bias itself, since zero points are taken off the input."""
    return start


def build(spec: StoredConv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `Int8Parameters`."""
    vectors = spec.vectors(target.lanes)
    shape = (vectors, *spec.conv.kernel, target.lanes)
    with kernel("conv_int8_depthwise") as get:
        p = Int8Parameters(spec, target, (shape, "float32"))
        x, weight = PixelVectors(p.x, target.lanes), Vectors(p.weight)
        with p.instructions(), grid(target, vectors, spec.conv.out_size[0]) as (vector, row):
            _row(spec, target, tile, p, x, weight, vector, row)
    return get()


def _row(
    spec: StoredConv,
    target: Target,
    tile: Tile,
    p: Int8Parameters,
    x: PixelVectors,
    weight: Vectors,
    vector: Expr,
    row: Expr,
) -> None:
    """An output row of a vector of channels."""
    zero = broadcast(float(spec.zero), target.lanes)

    def sums(pixels: int) -> RegisterTile:
        start = p.as_float(p.first_sums(vector))
        return RegisterTile(target, 1, pixels, T.bind(start))

    def load(in_row: Expr, column: Expr) -> Expr:
        value = x.load(vector, in_row, column)
        return value - zero if spec.zero else value

    of_floats.slide(
        spec.conv,
        tile,
        row,
        sums=sums,
        weight=lambda ky, kx: weight[vector, ky, kx],
        load=load,
        store=lambda sums, pixel, column: p.store(
            sums.total(0, pixel), vector, row, column + pixel
        ),
    )
