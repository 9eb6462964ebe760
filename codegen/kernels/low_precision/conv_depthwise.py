"""Depthwise convolution of bytes or bfloat16, in float32: the few products of bytes add up to whole
numbers below 2^24, which float32 holds exactly.

As `conv_depthwise` of floats: the taps of a row slide over the tile, so each vector of the input is
loaded, made float32 and freed of its zero point once a row, and used for every tap that covers it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv import conv_depthwise as of_floats
from graphopt.codegen.kernels.conv.register_tile import RegisterTile
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.emit import Expr, Vectors, broadcast, grid, kernel
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.parameters import PixelVectors, StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import StoredConv
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
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    with kernel("conv_int8_depthwise") as get:
        p = StoredParameters(spec, target, (weight_shape(spec, target, tile), "float32"))
        with p.instructions():
            emit(spec, target, tile, p)
    return get()


def weight_shape(spec: StoredConv, target: Target, _: Tile) -> tuple[int, ...]:
    """The shape of the packed weight."""
    return spec.vectors(target.lanes), *spec.conv.kernel, target.lanes


def emit(spec: StoredConv, target: Target, tile: Tile, p: StoredParameters) -> None:
    """The kernel's body."""
    vectors, (height, width) = spec.vectors(target.lanes), spec.conv.out_size
    x, weight = PixelVectors(p.x, target.lanes), Vectors(p.weight)
    if target.kind == "cpu":
        with grid(target, vectors, height) as (vector, row):
            _cpu(spec, target, tile, p, x, weight, vector, row)
    else:
        with grid(target, vectors, height, -(-width // tile.pixels)) as (vector, row, i):
            column = T.bind(i * tile.pixels)
            _gpu(spec, target, tile, p, x, weight, vector, row, column)


def _cpu(
    spec: StoredConv,
    target: Target,
    tile: Tile,
    p: StoredParameters,
    x: PixelVectors,
    weight: Vectors,
    vector: Expr,
    row: Expr,
) -> None:
    """An output row of a vector of channels."""
    of_floats.slide(
        spec.conv,
        tile,
        row,
        sums=lambda pixels: _sums(target, p, vector, pixels),
        weight=lambda ky, kx: weight[vector, ky, kx],
        load=lambda in_row, column: _load(spec, target, x, vector, in_row, column),
        store=lambda sums, pixel, column: p.store(
            sums.total(0, pixel), vector, row, column + pixel
        ),
    )


def _gpu(
    spec: StoredConv,
    target: Target,
    tile: Tile,
    p: StoredParameters,
    x: PixelVectors,
    weight: Vectors,
    vector: Expr,
    row: Expr,
    column: Expr,
) -> None:
    """A work-item's tile of a vector of channels."""
    # The epilogue is of float32, whatever floats are multiplied in.
    here = replace(target, arithmetic="float32")

    def load(in_row: Expr, at: Expr) -> Expr:
        return conv_dense.padded_pixel(
            spec.conv, here, at, lambda inside: _load(spec, here, x, vector, in_row, inside)
        )

    of_floats.slide_here(
        spec.conv,
        row,
        column,
        _sums(here, p, vector, tile.pixels),
        tile.pixels,
        weight=lambda ky, kx: weight[vector, ky, kx],
        load=load,
        store=lambda sums, pixel: p.store(sums.total(0, pixel), vector, row, column + pixel),
    )


def _sums(target: Target, p: StoredParameters, vector: Expr, pixels: int) -> RegisterTile:
    start = p.as_float(p.first_sums(vector))
    return RegisterTile(target, 1, pixels, T.bind(start))


def _load(
    spec: StoredConv, target: Target, x: PixelVectors, vector: Expr, row: Expr, column: Expr
) -> Expr:
    """A vector of the input, free of its zero point."""
    value = x.load(vector, row, column)
    return value - broadcast(float(spec.zero), target.lanes) if spec.zero else value
