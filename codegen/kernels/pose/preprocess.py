"""From a photo's bytes to the network's input: scaled, padded, normalised.

The reference is `graphopt.pose.preprocess.prepare`, to the last bit: a photo is scaled along
its rows and then along its columns, each pixel a sum of neighbours by the tables of
`graphopt.pose.resample`. Photos may have any size up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import (
    Expr,
    Variable,
    argument,
    grid,
    kernel,
    scratch,
    view,
)
from graphopt.codegen.targets import Target
from graphopt.pose.resample import GEOMETRY, HEAD, PRECISION
from graphopt.pose.spec import Preprocess

COLORS = 3
PIXEL = 4
"""Numbers of a pixel where it lies in memory: red, green, blue, and one that counts for nothing.
So Pillow has it, and four of them fill a vector."""
TASKS = 16
"""Tasks of a CPU, each with every 16th row: the last rows of the largest photo are rarely there."""
REACH = 4
"""Neighbouring pixels whose numbers are one vector, a power of two."""
VECTOR = REACH * PIXEL
"""Lanes of it."""
GROUP = 64
"""Numbers of a row that a task adds up at once, in several vectors."""
SHIFT = 20
"""Bits behind the point of what makes a network's bytes of a photo's."""


@dataclass(frozen=True)
class PhotoSpec:
    """What photos become.

    Args:
        preprocess: colour order, normalisation and border of the network.
        size: the input's height and width.
        side: most pixels of a photo's side.
        neighbours: most weights of a pixel.
    """

    preprocess: Preprocess
    size: tuple[int, int]
    side: int
    neighbours: int


def pack_colors(preprocess: Preprocess) -> NDArray[np.float32]:
    """(3, 3): of each channel of the input the mean, the scale, and the border's value 0..255.

    They are not written into the kernels, which are the same for every network of a size.
    """
    border = (preprocess.pad_value,) * COLORS
    return np.array([preprocess.mean, preprocess.scale, border], np.float32)


def padded(width: int) -> int:
    """Pixels from a narrow row to the next: whole groups, so that none reaches beyond the last."""
    return -(-width * PIXEL // GROUP) * GROUP // PIXEL


def build_narrow(spec: PhotoSpec, target: Target) -> Any:
    """Scaling along rows, as a TIR PrimFunc.

    Parameters: photo (side * side * 4,), uint8: rows of pixels, one behind the other; geometry
    and columns as of `graphopt.pose.resample.tables`; narrow (side, padded(width), 4), uint8.
    """
    with kernel("narrow_photo") as get:
        photo = argument("photo", (spec.side * spec.side * PIXEL,), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        columns = argument("columns", (HEAD + spec.neighbours, spec.size[1]), "int32")
        narrow = argument("narrow", (spec.side, padded(spec.size[1]), PIXEL), "uint8")

        if target.kind == "cpu":
            _narrow_on_cpu(target, spec, photo, geometry, columns, narrow)
        else:
            with grid(target, spec.side, spec.size[1]) as (y, x):
                there = tirx.all(y < geometry[0], x < geometry[3])
                with T.If(there), T.Then():
                    start = T.bind((y * geometry[1] + columns[0, x]) * PIXEL)
                    sums = _sums(target)
                    with T.serial(0, T.bind(columns[1, x])) as k:
                        weight = T.bind(columns[HEAD + k, x])
                        for c, total in enumerate(sums):
                            value = T.cast(photo[start + k * PIXEL + c], "int32")
                            total.value = total.value + weight * value
                    for c, total in enumerate(sums):
                        T.buffer_store(narrow, T.cast(_rounded(total.value), "uint8"), [y, x, c])
    return get()


def _narrow_on_cpu(
    target: Target, spec: PhotoSpec, photo: Expr, geometry: Expr, columns: Expr, narrow: Expr
) -> None:
    """Scale rows, a pixel's neighbours side by side in vectors.

    The numbers of `REACH` neighbours are one vector, in the photo as in a table of weights that
    each task makes; a pixel's sums are what lanes of one colour add up to.
    """
    chunks = -(-spec.neighbours // REACH)
    width = spec.size[1]
    numbers = width * PIXEL
    lanes = tirx.Ramp(0, 1, VECTOR)
    with grid(target, TASKS) as (task,):
        weights = scratch((width, chunks, VECTOR), "int32")
        used = Variable(target, "int32", 0)
        with T.serial(0, T.bind(geometry[3])) as x:
            used.value = T.max(used.value, columns[1, x])
            with T.serial(0, chunks) as chunk:
                T.buffer_store(weights, tirx.Broadcast(0, VECTOR), [x, chunk, lanes])
                for k in range(REACH):
                    neighbour = T.bind(chunk * REACH + k)
                    with T.If(neighbour < columns[1, x]), T.Then():
                        weight = T.bind(columns[HEAD + neighbour, x])
                        for c in range(COLORS):
                            T.buffer_store(weights, weight, [x, chunk, k * PIXEL + c])
        chunks_used = T.bind(tirx.floordiv(used.value + REACH - 1, REACH))
        # Vectors reach beyond a row's end, where they meet weights of 0.
        pixels = scratch((spec.side * PIXEL + chunks * VECTOR,), "uint8")
        sums = scratch((numbers,), "int32")
        y = Variable(target, "int32", task)
        with T.While(y.value < geometry[0]):
            row = T.bind(y.value)
            count = T.bind(geometry[1] * PIXEL)
            with T.serial(0, count) as i:
                T.buffer_store(pixels, photo[row * count + i], [i])
            with T.serial(0, T.bind(geometry[3])) as x:
                start = T.bind(columns[0, x] * PIXEL)
                total = Variable(target, f"int32x{VECTOR}", tirx.Broadcast(0, VECTOR))
                with T.serial(0, chunks_used) as chunk:
                    found = pixels[tirx.Ramp(start + chunk * VECTOR, 1, VECTOR)]
                    weight = weights[x, chunk, lanes]
                    total.value = total.value + weight * T.cast(found, f"int32x{VECTOR}")
                _store_sums(sums, total.value, T.bind(x * PIXEL))
            with T.serial(0, T.bind(geometry[3] * PIXEL)) as i:
                value = T.cast(_rounded(sums[i]), "uint8")
                T.buffer_store(narrow, value, [row, i // PIXEL, i % PIXEL])
            y.value = y.value + TASKS


def _store_sums(sums: Expr, total: Expr, at: Expr) -> None:
    """Add lanes of one colour, and write a pixel's sums.

    Of `REACH` neighbours' lanes, those of the second half are added to the first, and again.
    """
    halves = REACH
    while halves > 1:
        halves //= 2
        moved = [(i + halves * PIXEL) % VECTOR for i in range(VECTOR)]
        total = T.bind(total + tirx.Shuffle([total], moved))
    few = tirx.Shuffle([total], list(range(PIXEL))) + tirx.Broadcast(HALF, PIXEL)
    T.buffer_store(sums, few, [tirx.Ramp(at, 1, PIXEL)])


def build_place(spec: PhotoSpec, target: Target) -> Any:
    """Scaling along columns, border and normalisation, as a TIR PrimFunc.

    Parameters: narrow and geometry as of `build_narrow`; rows as of
    `graphopt.pose.resample.tables`; colors as packed; input (1, 3, height, width).
    """
    height, width = spec.size
    with kernel("place_photo") as get:
        narrow = argument("narrow", (spec.side, padded(width), PIXEL), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        rows = argument("rows", (HEAD + spec.neighbours, height), "int32")
        canvas = _Canvas(
            spec, argument("colors", (3, COLORS)), argument("input", (1, 3, *spec.size))
        )
        place = _place_on_cpu if target.kind == "cpu" else _place_on_gpu
        place(target, narrow, geometry, rows, canvas)
    return get()


@dataclass(frozen=True)
class _Canvas:
    """The network's input, as the photo's colours are written into it."""

    spec: PhotoSpec
    colors: Expr
    """As packed."""
    tensor: Expr
    """(1, 3, height, width)."""

    def store(self, y: Expr, x: Expr, c: int, value: Expr) -> None:
        """Write a pixel's value 0..255 of the photo's colour `c`, normalised."""
        channel = self._channel(c)
        value = (value - self.colors[0, channel]) * self.colors[1, channel]
        T.buffer_store(self.tensor, value, [0, channel, y, x])

    def border(self, c: int) -> Expr:
        """What lies around the photo, 0..255."""
        return self.colors[2, self._channel(c)]

    def _channel(self, c: int) -> int:
        return c if self.spec.preprocess.color == "rgb" else COLORS - 1 - c


def _place_on_cpu(
    target: Target, narrow: Expr, geometry: Expr, rows: Expr, canvas: _Canvas
) -> None:
    """A row at a time, all its numbers side by side: the compiler makes them vectors."""
    height, width = canvas.spec.size
    with grid(target, height) as (y,):
        sums = scratch((width * PIXEL,), "int32")
        row, left, across = T.bind(y - geometry[4]), T.bind(geometry[5]), geometry[3]
        there = tirx.all(row >= 0, row < geometry[2])
        with T.If(there), T.Then():
            numbers = T.bind(across * PIXEL)
            with T.serial(0, numbers) as i:
                T.buffer_store(sums, HALF, [i])
            with T.serial(0, T.bind(rows[1, row])) as k:
                weight, from_row = T.bind(rows[HEAD + k, row]), T.bind(rows[0, row] + k)
                with T.serial(0, numbers) as i:
                    value = narrow[from_row, i // PIXEL, i % PIXEL]
                    total = sums[i] + weight * T.cast(value, "int32")
                    T.buffer_store(sums, total, [i])
            with T.serial(0, across) as x:
                for c in range(COLORS):
                    value = T.cast(_rounded(sums[x * PIXEL + c]), "float32")
                    canvas.store(y, left + x, c, value)
        before = T.bind(tirx.Select(there, left, width))
        behind = T.bind(tirx.Select(there, left + across, width))
        for c in range(COLORS):
            border = T.bind(canvas.border(c))
            for start, end in ((0, before), (behind, width)):
                with T.serial(0, end - start) as x:
                    canvas.store(y, start + x, c, border)


def build_place_bytes(spec: PhotoSpec, target: Target) -> Any:
    """Scaling along columns, border, and the bytes that a network makes of its input, for a CPU.

    Parameters: narrow, geometry and rows as of `build_place`; steps (3, 4), int32: of each channel
    factor and start of what a photo's value becomes, (value * factor + start) >> SHIFT as 0..255,
    and what the border becomes; input (1, 1, height, width, 4), uint8.
    """
    height, width = spec.size
    order = [0, 1, 2, 3] if spec.preprocess.color == "rgb" else [2, 1, 0, 3]
    moved = [i - i % PIXEL + order[i % PIXEL] for i in range(GROUP)]
    wide = f"int32x{GROUP}"

    def every(value: Expr) -> Expr:
        return tirx.Broadcast(value, GROUP)

    def byte(value: Expr) -> Expr:
        return T.max(T.min(value, every(255)), every(0))

    with kernel("place_photo") as get:
        narrow = argument("narrow", (spec.side, padded(width), PIXEL), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        rows = argument("rows", (HEAD + spec.neighbours, height), "int32")
        steps = argument("steps", (3, PIXEL), "int32")
        result = argument("input", (1, 1, height, width, PIXEL), "uint8")
        from_photo = view(narrow, (spec.side, padded(width) * PIXEL))
        to = view(result, (height, width * PIXEL))
        lanes = tirx.Ramp(0, 1, GROUP)
        with grid(target, height) as (y,):
            line = scratch((padded(width) * PIXEL,), "uint8")
            factors, starts = scratch((GROUP,), "int32"), scratch((GROUP,), "int32")
            with T.serial(0, GROUP) as i:
                T.buffer_store(factors, steps[0, i % PIXEL], [i])
                T.buffer_store(starts, steps[1, i % PIXEL], [i])
            row, left, across = T.bind(y - geometry[4]), T.bind(geometry[5]), geometry[3]
            there = tirx.all(row >= 0, row < geometry[2])
            with T.If(there), T.Then():
                numbers = T.bind(across * PIXEL)
                with T.serial(0, T.bind((numbers + GROUP - 1) // GROUP)) as group:
                    at = T.bind(group * GROUP)
                    total = Variable(target, wide, every(HALF))
                    with T.serial(0, T.bind(rows[1, row])) as k:
                        found = from_photo[rows[0, row] + k, tirx.Ramp(at, 1, GROUP)]
                        weight = every(T.bind(rows[HEAD + k, row]))
                        total.value = total.value + weight * T.cast(found, wide)
                    value = byte(T.shift_right(total.value, every(PRECISION)))
                    value = T.bind(tirx.Shuffle([value], moved))
                    made = T.shift_right(value * factors[lanes] + starts[lanes], every(SHIFT))
                    T.buffer_store(
                        line, T.cast(byte(made), f"uint8x{GROUP}"), [tirx.Ramp(at, 1, GROUP)]
                    )
                with T.serial(0, numbers) as i:
                    T.buffer_store(to, line[i], [y, left * PIXEL + i])
            before = T.bind(tirx.Select(there, left, width))
            behind = T.bind(tirx.Select(there, left + across, width))
            for start, end in ((0, before), (behind, width)):
                with T.serial(0, (end - start) * PIXEL) as i:
                    value = T.cast(steps[2, i % PIXEL], "uint8")
                    T.buffer_store(to, value, [y, start * PIXEL + i])
    return get()


def _place_on_gpu(
    target: Target, narrow: Expr, geometry: Expr, rows: Expr, canvas: _Canvas
) -> None:
    """A pixel for each work-item."""
    with grid(target, *canvas.spec.size) as (y, x):
        row, column = T.bind(y - geometry[4]), T.bind(x - geometry[5])
        there = tirx.all(row >= 0, row < geometry[2], column >= 0, column < geometry[3])
        with T.If(there):
            with T.Then():
                totals = _sums(target)
                with T.serial(0, T.bind(rows[1, row])) as k:
                    weight, from_row = T.bind(rows[HEAD + k, row]), T.bind(rows[0, row] + k)
                    for c, total in enumerate(totals):
                        value = T.cast(narrow[from_row, column, c], "int32")
                        total.value = total.value + weight * value
                for c, total in enumerate(totals):
                    canvas.store(y, x, c, T.cast(_rounded(total.value), "float32"))
            with T.Else():
                for c in range(COLORS):
                    canvas.store(y, x, c, canvas.border(c))


HALF = 1 << (PRECISION - 1)


def _sums(target: Target) -> list[Variable]:
    return [Variable(target, "int32", HALF) for _ in range(COLORS)]


def _rounded(total: Expr) -> Expr:
    """A sum as a whole number 0..255."""
    return T.max(T.min(T.shift_right(total, PRECISION), 255), 0)
