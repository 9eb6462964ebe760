"""Scaling of a photo along its rows by a CPU's products of bytes, to the last bit.

A weight has 24 bits: three signed bytes. Four neighbours' numbers of one colour form a word, which
an instruction multiplies by four weights; a vector holds several pixels with their four numbers.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr, Variable, argument, grid, kernel, scratch, view
from graphopt.codegen.kernels.low_precision.dot import UNITS, DotUnit
from graphopt.codegen.kernels.pose.preprocess import (
    HALF,
    PIXEL,
    REACH,
    TASKS,
    PhotoSpec,
    padded,
)
from graphopt.codegen.targets import Target
from graphopt.pose.resample import GEOMETRY, HEAD, PRECISION

DIGITS = 3
"""Bytes of a weight."""


def unit(target: Target) -> DotUnit | None:
    """The instruction of a target for this, if it has one: unsigned bytes by signed ones."""
    found = UNITS.get(target.dot) if target.kind == "cpu" else None
    return found if found is not None and found.instructions == 1 and not found.offset else None


def build(spec: PhotoSpec, target: Target, dot: DotUnit) -> Any:
    """The kernel as a TIR PrimFunc; parameters as of `preprocess.build_narrow`."""
    lanes, width = target.lanes, spec.size[1]
    pixels = lanes // PIXEL
    groups, chunks = -(-width // pixels), -(-spec.neighbours // REACH)
    wide = f"int32x{lanes}"

    def every(value: Expr) -> Expr:
        return tirx.Broadcast(value, lanes)

    with kernel("narrow_photo") as get:
        photo = argument("photo", (spec.side * spec.side * PIXEL,), "uint8")
        geometry = argument("geometry", (GEOMETRY,), "int32")
        columns = argument("columns", (HEAD + spec.neighbours, width), "int32")
        narrow = argument("narrow", (spec.side, padded(width), PIXEL), "uint8")
        weights = scratch((chunks, groups, DIGITS, lanes), "int32")
        starts = scratch((groups, pixels), "int32")
        with grid(target, groups) as (group,):
            for p in range(pixels):
                x = T.bind(T.min(group * pixels + p, width - 1))
                T.buffer_store(starts, columns[0, x] * PIXEL, [group, p])
                with T.serial(0, T.bind((columns[1, x] + REACH - 1) // REACH)) as chunk:
                    _store_digits(weights, columns, spec, (chunk, group, p, x))
                with T.serial(T.bind((columns[1, x] + REACH - 1) // REACH), chunks) as chunk:
                    for digit in range(DIGITS):
                        place = tirx.Ramp(p * PIXEL, 1, PIXEL)
                        none = tirx.Broadcast(0, PIXEL)
                        T.buffer_store(weights, none, [chunk, group, digit, place])
        with grid(target, TASKS) as (task,):
            used = Variable(target, "int32", 0)
            with T.serial(0, T.bind(geometry[3])) as x:
                used.value = T.max(used.value, columns[1, x])
            count = T.bind((used.value + REACH - 1) // REACH)
            # Vectors reach beyond a row's end, where they meet weights of 0.
            line = scratch(((spec.side + chunks * REACH) * PIXEL,), "uint8")
            y = Variable(target, "int32", task)
            with T.While(y.value < geometry[0]):
                row, length = T.bind(y.value), T.bind(geometry[1] * PIXEL)
                with T.serial(0, length) as i:
                    T.buffer_store(line, photo[row * length + i], [i])
                with T.serial(0, T.bind((geometry[3] + pixels - 1) // pixels)) as group:
                    first = [T.bind(starts[group, p]) for p in range(pixels)]
                    sums = [Variable(target, wide, every(0)) for _ in range(DIGITS)]
                    with T.serial(0, count) as chunk:
                        words = _words(line, first, T.bind(chunk * (REACH * PIXEL)), lanes)
                        found = dot.words(words, target)
                        for digit, total in enumerate(sums):
                            weight = weights[chunk, group, digit, tirx.Ramp(0, 1, lanes)]
                            bytes_ = tirx.reinterpret(f"int8x{4 * lanes}", weight)
                            by = dot.weights(bytes_, target)
                            total.value = dot.dot(total.value, found, by, target)
                    value = every(HALF) + sums[0].value
                    for digit in range(1, DIGITS):
                        value = value + T.shift_left(sums[digit].value, every(8 * digit))
                    value = T.shift_right(value, every(PRECISION))
                    value = T.max(T.min(value, every(255)), every(0))
                    _store_pixels(narrow, T.cast(value, f"uint8x{lanes}"), row, group, pixels)
                y.value = y.value + TASKS
    return get()


def _store_digits(
    weights: Expr, columns: Expr, spec: PhotoSpec, place: tuple[Expr, Expr, int, Expr]
) -> None:
    """Write four weights of a pixel, byte by byte, for each of its numbers."""
    chunk, group, p, x = place
    words: list[Expr] = [0] * DIGITS
    for k in range(REACH):
        n = T.bind(chunk * REACH + k)
        there = T.bind(columns[HEAD + T.min(n, spec.neighbours - 1), x])
        left = T.bind(tirx.Select(n < columns[1, x], there, 0))
        for digit in range(DIGITS):
            words[digit] = words[digit] + T.shift_left(tirx.bitwise_and(left, 255), 8 * k)
            # What the byte, taken as a signed one, leaves.
            left = T.bind(T.shift_right(left + 128, 8))
    for digit, word in enumerate(words):
        lanes = tirx.Ramp(p * PIXEL, 1, PIXEL)
        T.buffer_store(weights, tirx.Broadcast(word, PIXEL), [chunk, group, digit, lanes])


def _words(line: Expr, first: list[Expr], offset: Expr, lanes: int) -> Expr:
    """Of each pixel and colour the numbers of four neighbours, as a word."""
    size = REACH * PIXEL
    found = [line[tirx.Ramp(start + offset, 1, size)] for start in first]
    order = [
        p * size + k * PIXEL + c
        for p in range(len(first))
        for c in range(PIXEL)
        for k in range(REACH)
    ]
    return T.bind(tirx.reinterpret(f"int32x{lanes}", tirx.Shuffle(found, order)))


def _store_pixels(narrow: Expr, value: Expr, row: Expr, group: Expr, pixels: int) -> None:
    """Write whole pixels side by side."""
    width = int(narrow.shape[1]) * PIXEL
    flat = view(narrow, (int(narrow.shape[0]), width))
    place = tirx.Ramp(group * (pixels * PIXEL), 1, pixels * PIXEL)
    T.buffer_store(flat, value, [row, place])
