"""Dense 3x3 convolution of bytes, stride 1, by Winograd's algorithm in whole numbers: a quarter of
the products, each of 16-bit numbers, and bit by bit what the direct one computes.

As `conv_winograd` of floats on a CPU: a task transforms the input of some squares, multiplies it at
all frequencies by one group of filters after the other, and turns the products back into pixels. A
word is two channels of 16 bits, so a CPU computes half as many products at once as of bytes. The
weight is transformed by the kernel, too: that takes less time than reading eight times as many
bytes from where a core's own caches end.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense
from graphopt.codegen.kernels.conv.template import Tile, blocks, pack_channels
from graphopt.codegen.kernels.conv.winograd_squares import squares_of
from graphopt.codegen.kernels.conv.winograd_transforms import TAPS
from graphopt.codegen.kernels.emit import grid, kernel
from graphopt.codegen.kernels.low_precision.dot import PAIRS
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers, sums_from
from graphopt.codegen.kernels.low_precision.int8_spec import pack_vectors as pack_vectors
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.winograd_integers import (
    CENTRE,
    LARGEST,
    SQUARE,
)
from graphopt.codegen.kernels.low_precision.winograd_task import (
    FREQUENCIES,
    PAIR,
    Task,
    Weight,
    chunk_of,
    parts_of,
    steps_of,
    tasks_of,
)
from graphopt.codegen.targets import Target

INPUT_COST, OUTPUT_COST = 8, 12
"""What transforming a vector at a frequency costs: as much as so many products of vectors."""
WEIGHT_COST, FAR_WEIGHT_COST = 4, 50
"""What fetching 64 bytes of weights costs, once a task: where all of them stay in a core's cache,
and where they do not."""
CACHED = 1280 * 1024
"""Bytes of weights that stay in a core's cache of 2 MB, beside what they are multiplied by."""
CORES = 4
"""A picture too small to keep so many cores busy is none for this kernel, whose tasks are large."""
GAIN = 1.1
"""How many times faster it must be by the estimate, to be taken."""


def tiles(spec: Int8Conv, target: Target) -> list[Tile]:
    """The tiles that it can be computed by; none if the algorithm is not for that convolution."""
    conv = spec.conv
    if conv.groups > 1 or conv.kernel != (TAPS, TAPS) or conv.strides != (1, 1):
        return []
    if target.dot not in PAIRS or spec.x.lanes < target.lanes or _largest(spec) >= LARGEST:
        return []
    plain = replace(conv, in_channels=(target.lanes,), planar=False)
    plain = replace(plain, out_channels=spec.vectors(target.lanes) * target.lanes)
    count = math.prod(squares_of(conv, SQUARE))
    return [
        Tile(filters, pixels, SQUARE)
        for filters, pixels, _ in conv_dense.row_tiles(plain, target, count)
    ]


def _largest(spec: Int8Conv) -> int:
    """What no sum is larger than, once bytes are centred."""
    return CENTRE * spec.largest_weights


def cost(spec: Int8Conv, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector instructions of a 32-bit sum."""
    tasks = tasks_of(spec, tile)
    vectors = spec.vectors(target.lanes)
    row = replace(spec.conv, out_channels=vectors * target.lanes)
    steps = steps_of(spec, target)
    squares = tasks.tiles * tile.pixels
    each = PAIRS[target.dot].instructions
    # Loads weigh more than where weights are near.
    loads = (tile.filters + tile.pixels) / 4 * tasks.tiles * (vectors // tile.filters)
    products = steps * each * (conv_dense.row_cost(row, target, tile, squares) + loads)
    inputs = blocks(spec.conv.in_channels, spec.x.lanes) * spec.x.lanes // chunk_of(spec, target)
    transforms = squares * (INPUT_COST * inputs + OUTPUT_COST * vectors)
    rows = steps * vectors * target.lanes / 16
    far = FREQUENCIES * rows * 64 > CACHED
    weights = (FAR_WEIGHT_COST if far else WEIGHT_COST) * rows * tasks.tasks
    idle = max(1.0, CORES / tasks.tasks)
    return GAIN * FREQUENCIES * (products + transforms + weights) * idle


def pack_weight(weight: Integers, spec: Int8Conv, target: Target, _: Tile) -> Integers:
    """(O, I, 3, 3) to (vectors, steps, taps, lanes * 2)."""
    taps = weight.reshape(*weight.shape[:2], TAPS * TAPS)
    filters = spec.packed(taps, target.lanes)  # (vectors, I, taps, lanes)
    inputs = pack_channels(np.moveaxis(filters, 1, 0), spec.x.lanes, spec.conv.in_channels)
    blocks_, vectors, _, lanes, width = inputs.shape
    chunk = chunk_of(spec, target)
    cut = inputs.reshape(blocks_, vectors, TAPS * TAPS, lanes, width // chunk, -1, PAIR)
    ordered = cut.transpose(1, 0, 4, 5, 2, 3, 6)
    # (vectors, chunks, words, taps, lanes, 2)
    words = ordered.reshape(vectors, -1, *ordered.shape[3:])
    steps = [
        words[:, part.first : part.first + part.blocks, : part.words].reshape(
            vectors, -1, TAPS * TAPS, lanes * PAIR
        )
        for part in parts_of(spec, target)
    ]
    return np.ascontiguousarray(np.concatenate(steps, axis=1))


def starting_sums(start: Integers, weight: Integers, spec: Int8Conv, _target: Target) -> Integers:
    """What sums over centred bytes begin with, so that they end as those over q - zero."""
    return sums_from(start, weight, spec.zero - CENTRE)


def build(spec: Int8Conv, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
    vectors = spec.vectors(target.lanes)
    shape = (vectors, steps_of(spec, target), TAPS * TAPS, PAIR * target.lanes)
    with kernel("conv_int8_winograd") as get:
        p = StoredParameters(spec, target, (shape, "int8"))
        weight = Weight(spec, target, tile, p)
        with grid(target, vectors) as (vector,):
            weight.transform(vector)
        with grid(target, tasks_of(spec, tile).tasks) as (task,):
            here = Task(spec, target, tile, p, weight, task)
            here.transform_input()
            with T.serial(0, vectors // tile.filters) as group:
                here.multiply(group)
                here.transform_output(group)
    return get()
