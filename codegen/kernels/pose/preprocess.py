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
)
from graphopt.codegen.targets import Target
from graphopt.pose.resample import GEOMETRY, HEAD, PRECISION
from graphopt.pose.spec import Preprocess

COLORS = 3
TASKS = 64
"""Tasks of a CPU, each with every 64th row: the last rows of the largest photo are rarely there."""


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


def build_narrow(spec: PhotoSpec, target: Target) -> Any:
    """Scaling along rows, as a TIR PrimFunc.

    Parameters: photo (side * side * 3,), uint8: rows of RGB pixels, one behind the other; geometry
    and columns as of `graphopt.pose.resample.tables`; narrow (side, width, 3), uint8.
    """
    with kernel("narrow_photo") as get:
        photo = argument("photo", (spec.side * spec.side * COLORS,), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        columns = argument("columns", (HEAD + spec.neighbours, spec.size[1]), "int32")
        narrow = argument("narrow", (spec.side, spec.size[1], COLORS), "uint8")

        def pixel(y: Expr, x: Expr) -> None:
            start = T.bind((y * geometry[1] + columns[0, x]) * COLORS)
            sums = _sums(target)
            with T.serial(0, T.bind(columns[1, x])) as k:
                weight = T.bind(columns[HEAD + k, x])
                for c, total in enumerate(sums):
                    value = T.cast(photo[start + k * COLORS + c], "int32")
                    total.value = total.value + weight * value
            for c, total in enumerate(sums):
                T.buffer_store(narrow, T.cast(_rounded(total.value), "uint8"), [y, x, c])

        if target.kind == "cpu":
            with grid(target, TASKS) as (task,):
                y = Variable(target, "int32", task)
                with T.While(y.value < geometry[0]):
                    row = T.bind(y.value)
                    with T.serial(0, T.bind(geometry[3])) as x:
                        pixel(row, x)
                    y.value = y.value + TASKS
        else:
            with grid(target, spec.side, spec.size[1]) as (y, x):
                there = tirx.all(y < geometry[0], x < geometry[3])
                with T.If(there), T.Then():
                    pixel(y, x)
    return get()


def build_place(spec: PhotoSpec, target: Target) -> Any:
    """Scaling along columns, border and normalisation, as a TIR PrimFunc.

    Parameters: narrow and geometry as of `build_narrow`; rows as of
    `graphopt.pose.resample.tables`; colors as packed; input (1, 3, height, width).
    """
    height, width = spec.size
    channels = range(COLORS) if spec.preprocess.color == "rgb" else range(COLORS)[::-1]
    with kernel("place_photo") as get:
        narrow = argument("narrow", (spec.side, width, COLORS), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        rows = argument("rows", (HEAD + spec.neighbours, height), "int32")
        colors = argument("colors", (3, COLORS))
        tensor = argument("input", (1, COLORS, height, width))

        def inside(y: Expr, x: Expr) -> tuple[Expr, Expr, Expr]:
            """The row and the column of the scaled photo, and whether there is one."""
            row, column = T.bind(y - geometry[4]), T.bind(x - geometry[5])
            there = tirx.all(row >= 0, row < geometry[2], column >= 0, column < geometry[3])
            return row, column, there

        def store(y: Expr, x: Expr, c: int, value: Expr) -> None:
            """A pixel's value 0..255 of the photo's colour `c`, normalised."""
            channel = channels[c]
            value = (value - colors[0, channel]) * colors[1, channel]
            T.buffer_store(tensor, value, [0, channel, y, x])

        if target.kind == "cpu":
            with grid(target, height) as (y,):
                # A row at a time, all its numbers side by side: the compiler makes them vectors.
                sums = scratch((width * COLORS,), "int32")
                row = T.bind(T.max(T.min(y - geometry[4], geometry[2] - 1), 0))
                with T.serial(0, width * COLORS) as i:
                    T.buffer_store(sums, HALF, [i])
                with T.serial(0, T.bind(rows[1, row])) as k:
                    weight, from_row = T.bind(rows[HEAD + k, row]), T.bind(rows[0, row] + k)
                    with T.serial(0, width * COLORS) as i:
                        value = narrow[from_row, i // COLORS, i % COLORS]
                        total = sums[i] + weight * T.cast(value, "int32")
                        T.buffer_store(sums, total, [i])
                with T.serial(0, width) as x:
                    _, column, there = inside(y, x)
                    at = T.bind(T.max(T.min(column, width - 1), 0))
                    for c in range(COLORS):
                        value = T.cast(_rounded(sums[at * COLORS + c]), "float32")
                        store(y, x, c, tirx.Select(there, value, colors[2, channels[c]]))
        else:
            with grid(target, height, width) as (y, x):
                row, column, there = inside(y, x)
                with T.If(there):
                    with T.Then():
                        totals = _sums(target)
                        with T.serial(0, T.bind(rows[1, row])) as k:
                            weight, from_row = T.bind(rows[HEAD + k, row]), T.bind(rows[0, row] + k)
                            for c, total in enumerate(totals):
                                value = T.cast(narrow[from_row, column, c], "int32")
                                total.value = total.value + weight * value
                        for c, total in enumerate(totals):
                            store(y, x, c, T.cast(_rounded(total.value), "float32"))
                    with T.Else():
                        for c in range(COLORS):
                            store(y, x, c, colors[2, channels[c]])
    return get()


HALF = 1 << (PRECISION - 1)


def _sums(target: Target) -> list[Variable]:
    return [Variable(target, "int32", HALF) for _ in range(COLORS)]


def _rounded(total: Expr) -> Expr:
    """A sum as a whole number 0..255."""
    return T.max(T.min(T.shift_right(total, PRECISION), 255), 0)
