"""A task of Winograd's algorithm in whole numbers: some squares of the picture, how their channels
are cut, and the three steps while the kernel is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.template import Tile, blocks
from graphopt.codegen.kernels.conv.winograd_squares import (
    Window,
    both_ways,
    place,
    squares_of,
    store_square,
)
from graphopt.codegen.kernels.conv.winograd_transforms import TAPS
from graphopt.codegen.kernels.emit import Expr, Variable, scratch
from graphopt.codegen.kernels.low_precision.dot import PAIRS
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv
from graphopt.codegen.kernels.low_precision.parameters import StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import Segment, joined
from graphopt.codegen.kernels.low_precision.winograd_integers import (
    INPUT,
    OUTPUT,
    SIDE,
    SQUARE,
    WEIGHT,
    moved,
    narrow_sum,
    output_of,
    wrapped_sum,
)
from graphopt.codegen.targets import Target

FREQUENCIES = SIDE * SIDE
PAIR = 2
"""Channels of a word."""
TASK_BYTES = 192 * 1024
"""Bytes of transformed input that a task keeps; products and weights pass the same cache."""
TASKS = 8
"""Tasks come in as many: a handful of cores share them evenly."""


def chunk_of(spec: Int8Conv, target: Target) -> int:
    """Channels that are transformed at once: a vector of 16-bit numbers."""
    return min(spec.x.lanes, PAIR * target.lanes)


def parts_of(spec: Int8Conv, target: Target) -> list[Segment]:
    """The transformed input's chunks as blocks, those with equally many words together."""
    lanes, chunk = spec.x.lanes, chunk_of(spec, target)
    words = [
        -(-min(chunk, max(0, run - first)) // PAIR)
        for run in spec.conv.in_channels
        for block in range(0, run, lanes)
        for first in range(block, block + lanes, chunk)
    ]
    return joined(words)


def steps_of(spec: Int8Conv, target: Target) -> int:
    """Words that a product is made of."""
    return sum(part.blocks * part.words for part in parts_of(spec, target))


class Tasks(NamedTuple):
    """How the picture is cut into tasks, which have equally many register tiles, or one more.

    Args:
        tiles: register tiles; the last one's last squares may lie below the picture.
        tasks: tasks.
    """

    tiles: int
    tasks: int

    @property
    def most(self) -> int:
        """Register tiles of the largest task."""
        return -(-self.tiles // self.tasks)

    def first(self, task: Expr) -> Expr:
        """A task's first register tile."""
        return tirx.floordiv(task * self.tiles, self.tasks)


def tasks_of(spec: Int8Conv, tile: Tile) -> Tasks:
    """How a convolution's picture is cut."""
    tiles_ = -(-math.prod(squares_of(spec.conv, SQUARE)) // tile.pixels)
    channels = blocks(spec.conv.in_channels, spec.x.lanes) * spec.x.lanes
    tile_bytes = 2 * FREQUENCIES * tile.pixels * channels
    wanted = -(-tiles_ * tile_bytes // TASK_BYTES)
    return Tasks(tiles_, min(tiles_, -(-wanted // TASKS) * TASKS))


class Weight:
    """The transformed weight, which all tasks read."""

    def __init__(self, spec: Int8Conv, target: Target, tile: Tile, p: StoredParameters) -> None:
        self._filters, self._bytes = tile.filters, p.weight
        self._steps, self._width = steps_of(spec, target), PAIR * target.lanes
        groups = spec.vectors(target.lanes) // tile.filters
        # One more step than there are: numbers of neighbouring frequencies should not lie as far
        # apart as caches repeat.
        self._numbers = scratch(
            (groups, FREQUENCIES, self._steps + 1, tile.filters, self._width), "int16"
        )

    def transform(self, vector: Expr) -> None:
        """Transform the weights of a vector of filters."""
        lanes = tirx.Ramp(0, 1, self._width)
        group, filter_ = (f(vector, self._filters) for f in (tirx.floordiv, tirx.floormod))
        with T.serial(0, self._steps) as step:

            def load(y: int, x: int, step: Expr = step) -> Expr:
                taps = self._bytes[vector, step, y * TAPS + x, lanes]
                return tirx.Cast(f"int16x{self._width}", taps)

            for frequency, value in enumerate(both_ways(WEIGHT, load, narrow_sum)):
                T.buffer_store(self._numbers, value, [group, frequency, step, filter_, lanes])

    def vectors(self, group: Expr, frequency: Expr, step: Expr) -> list[Expr]:
        """A step's numbers of a group of filters, a vector each."""
        lanes = tirx.Ramp(0, 1, self._width)
        return [
            T.bind(self._numbers[group, frequency, step, f, lanes]) for f in range(self._filters)
        ]


class Task:
    """Some squares of the picture, while the kernel is written."""

    def __init__(
        self,
        spec: Int8Conv,
        target: Target,
        tile: Tile,
        p: StoredParameters,
        weight: Weight,
        task: Expr,
    ) -> None:
        self._spec, self._target, self._tile, self._p = spec, target, tile, p
        self._weight = weight
        tasks = tasks_of(spec, tile)
        self._first = T.bind(tasks.first(task))
        self._count = T.bind(tasks.first(task + 1) - self._first)
        self._width = chunk_of(spec, target)
        self._per_block = spec.x.lanes // self._width
        self._chunks = blocks(spec.conv.in_channels, spec.x.lanes) * self._per_block
        shape = (tasks.most, self._chunks, FREQUENCIES, tile.pixels, self._width)
        self._inputs = scratch(shape, "int16")
        self._words = T.decl_buffer(
            (math.prod(shape) // PAIR,), "int32", data=self._inputs.data, layout=None
        )
        self._products = scratch(
            (tasks.most, FREQUENCIES, tile.filters, tile.pixels, target.lanes), "int32"
        )

    @contextmanager
    def _each_square(self) -> Iterator[tuple[Expr, ...]]:
        """Walk the squares: register tile, place in it, row and column of the output."""
        with T.serial(0, self._count) as i, T.serial(0, self._tile.pixels) as pixel:
            square = (self._first + i) * self._tile.pixels + pixel
            yield i, pixel, *place(self._spec.conv, SQUARE, square)

    def transform_input(self) -> None:
        """Fill the task's transformed input."""
        spec, width = self._spec, self._width

        def channels(chunk: Expr, row: Expr, column: Expr) -> Expr:
            block, part = (f(chunk, self._per_block) for f in (tirx.floordiv, tirx.floormod))
            values = self._p.x[0, block, row, column, tirx.Ramp(part * width, 1, width)]
            return tirx.Cast(f"int16x{width}", values)

        def chosen(inside: Expr, pixel: Expr) -> Expr:
            # Where the one or the other is selected, LLVM makes branches, which are guessed wrong.
            zero = tirx.Broadcast(tirx.IntImm("int16", spec.zero), width)
            mask = tirx.Broadcast(-tirx.Cast("int16", inside), width)
            return ((pixel ^ zero) & mask) ^ zero if spec.zero else pixel & mask

        def transform(load: Callable[[Expr, int, int], Expr], i: Expr, pixel: Expr) -> None:
            with T.serial(0, self._chunks) as chunk:
                values = both_ways(INPUT, partial(load, chunk), narrow_sum)
                for frequency, value in enumerate(values):
                    if off := moved(frequency):
                        value = value - tirx.Broadcast(tirx.IntImm("int16", off), width)
                    at = [i, chunk, frequency, pixel, tirx.Ramp(0, 1, width)]
                    T.buffer_store(self._inputs, value, at)

        with self._each_square() as (i, pixel, row, column):
            window = Window(spec.conv, SQUARE, row, column, channels, chosen)
            with T.If(window.inside):
                with T.Then():
                    transform(window.load, i, pixel)
                with T.Else():
                    transform(window.load_padded, i, pixel)

    def multiply(self, group: Expr) -> None:
        """Fill the task's products of a group of filters."""
        # Weights of one frequency stay in the nearest cache for all register tiles of the task.
        with T.serial(0, FREQUENCIES) as frequency, T.serial(0, self._count) as i:
            filters, pixels, _ = self._tile
            dtype = f"int32x{self._target.lanes}"
            zeros = tirx.Broadcast(tirx.IntImm("int32", 0), self._target.lanes)
            sums = [
                [Variable(self._target, dtype, zeros) for _ in range(pixels)]
                for _ in range(filters)
            ]
            for part in parts_of(self._spec, self._target):
                with T.serial(0, part.blocks) as chunk, T.serial(0, part.words) as word:
                    step = part.start + chunk * part.words + word
                    first = (i * self._chunks + part.first + chunk) * FREQUENCIES + frequency
                    weights = self._weight.vectors(group, frequency, step)
                    self._add(sums, weights, first * pixels, word)
            for f, vector in enumerate(sums):
                for pixel, total in enumerate(vector):
                    at = [i, frequency, f, pixel, tirx.Ramp(0, 1, self._target.lanes)]
                    T.buffer_store(self._products, total.value, at)

    def _add(
        self, sums: list[list[Variable]], weights: list[Expr], first: Expr, word: Expr
    ) -> None:
        """Add a word's products to every sum; `first` is the first of the pixels side by side."""
        unit, lanes, per_pixel = PAIRS[self._target.dot], self._target.lanes, self._width // PAIR
        for pixel in range(len(sums[0])):
            value = self._words[(first + pixel) * per_pixel + word]
            wide = unit.words(T.bind(tirx.Broadcast(value, lanes)), self._target)
            for vector, weight in zip(sums, weights, strict=True):
                total = vector[pixel]
                total.value = unit.dot(total.value, wide, [weight], self._target)

    def transform_output(self, group: Expr) -> None:
        """Turn products into pixels, and store those."""
        filters, lanes = self._tile.filters, tirx.Ramp(0, 1, self._target.lanes)
        with self._each_square() as (i, pixel, row, column), T.serial(0, filters) as f:
            vector = T.bind(group * filters + f)
            start = self._p.first_sums(vector)

            def load(y: int, x: int, at: tuple[Expr, ...] = (i, f, pixel)) -> Expr:
                tile, filter_, square = at
                return self._products[tile, y * SIDE + x, filter_, square, lanes]

            values = (
                self._p.as_float(T.bind(output_of(number, value)) + start)
                for number, value in enumerate(both_ways(OUTPUT, load, wrapped_sum))
            )

            def store(value: Expr, y: Expr, x: Expr, vector: Expr = vector) -> None:
                self._p.store(value, vector, y, x)

            store_square(self._spec.conv, SQUARE, values, store, row, column)
