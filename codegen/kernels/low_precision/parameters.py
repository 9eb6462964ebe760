"""The parameters of a convolution of bytes or of bfloat16, and storing its sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import TypeAlias

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr, Scalars, Vectors, argument, broadcast, view, zeros
from graphopt.codegen.kernels.epilogue import Epilogue
from graphopt.codegen.kernels.epilogue import rounded as to_whole
from graphopt.codegen.kernels.low_precision import bfloat16 as bf16
from graphopt.codegen.kernels.low_precision import byte_blocks
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv
from graphopt.codegen.kernels.low_precision.stored_conv import WORD, StoredConv
from graphopt.codegen.targets import Target

Pixel: TypeAlias = tuple[int, int]
"""A row and a column."""


class PixelVectors:
    """A blocked buffer, read and written by vectors of a pixel's channels, numbered through.

    Args:
        buffer: (1, blocks, height, width, lanes).
        lanes: numbers in a vector; divides the buffer's.
    """

    def __init__(self, buffer: Expr, lanes: int) -> None:
        _, _, _, _, width = (int(extent) for extent in buffer.shape)
        self._buffer, self._per_block = buffer, width // lanes
        self._lanes = lanes

    def _place(self, vector: Expr, row: Expr, column: Expr) -> list[Expr]:
        block, part = tirx.floordiv(vector, self._per_block), tirx.floormod(vector, self._per_block)
        return [0, block, row, column, tirx.Ramp(part * self._lanes, 1, self._lanes)]

    def load(self, vector: Expr, row: Expr, column: Expr) -> Expr:
        """A vector as float32."""
        value = self._buffer[tuple(self._place(vector, row, column))]
        if self._buffer.dtype == "float32":
            return value
        if self._buffer.dtype == bf16.BITS:
            return bf16.widened(value, self._lanes)
        wide = tirx.Cast(f"int32x{self._lanes}", value)
        return tirx.Cast(f"float32x{self._lanes}", wide)

    def block(self, block: Expr, row: Expr, column: Expr) -> Expr:
        """A pixel's block of 64 bytes."""
        return self._buffer[tuple(block_place(block, row, column))]

    def store(self, value: Expr, vector: Expr, row: Expr, column: Expr) -> None:
        """Store a vector of float32: as such, as bfloat16, or as bytes, of what are whole numbers
        from 0 to 255.
        """
        if self._buffer.dtype == bf16.BITS:
            value = bf16.nearest(value, self._lanes)
        elif self._buffer.dtype != "float32":
            whole = tirx.Cast(f"int32x{self._lanes}", value)
            value = tirx.Cast(f"{self._buffer.dtype}x{self._lanes}", whole)
        T.buffer_store(self._buffer, value, self._place(vector, row, column))


class StoredParameters:
    """A conv kernel's parameters in the order of every call: x, weight, index (of sparse ones),
    start (of bytes), channels, tensors, y.

    Args:
        spec: the convolution.
        target: where it will run.
        weight: the packed weight's shape and type.
        one_row: whether the kernel sees all pixels as one row, as a 1x1 convolution may.
        vectors: how many hold the channels of the bias and the epilogue; None: as many as it takes.
        indices: length of the array of indices of a sparse kernel.
        starts: how many beginnings of the sums there are.
    """

    def __init__(
        self,
        spec: StoredConv,
        target: Target,
        weight: tuple[Sequence[int], str],
        *,
        one_row: bool = False,
        vectors: int | None = None,
        indices: int = 0,
        starts: int = 1,
    ) -> None:
        epilogue, lanes = spec.conv.epilogue, target.lanes
        vectors = vectors or spec.vectors(lanes)
        self._spec, self._target = spec, target

        def seen(buffer: Expr) -> Expr:
            _, count, height, width, block = (int(extent) for extent in buffer.shape)
            return view(buffer, (1, count, 1, height * width, block)) if one_row else buffer

        x = argument("x", spec.input_shape, spec.x.dtype)
        self.weight = argument("weight", *weight)
        """As the template packs it."""
        if indices:
            self.index = Scalars(argument("index", (indices,), "int32"), "int32")
            """Where the weights of a sparse kernel are."""
        self.start: Expr = None
        """What sums begin with: [vector, filter]; None: zeros."""
        if isinstance(spec, Int8Conv):
            self.start = argument("start", (starts * vectors, lanes), "int32")
        self._channels = [
            Vectors(argument(f"channel{n}", (vectors, lanes)))
            for n in range(epilogue.count("channel"))
        ]
        tensors = [
            argument(f"tensor{n}", spec.output_shape(stored), stored.dtype)
            for n, stored in enumerate(spec.tensors)
        ]
        y = argument("y", spec.output_shape(), spec.y.dtype)
        self._whole = (tensors, y)
        self.x = seen(x)
        """The input: [0, block, row, column, channel]."""
        self._tensors = [PixelVectors(seen(tensor), lanes) for tensor in tensors]
        self._stored = seen(y)
        self._y = PixelVectors(self._stored, lanes)

    def phase(
        self,
        spec: StoredConv,
        part: tuple[int, int],
        weight: tuple[Sequence[int], int],
        first: Pixel,
    ) -> StoredParameters:
        """The parameters of an ordinary convolution that computes a part of a transposed one.

        Args:
            spec: that convolution, over the same input.
            part: its number, and how many there are: so what their sums begin with follows.
            weight: its packed weight's shape, and where that starts in the whole one, in numbers.
            first: its first pixel in the whole output.
        """
        lanes, (tensors, y) = self._target.lanes, self._whole

        def spread(whole: Expr) -> Expr:
            _, _, height, width, block = (int(extent) for extent in whole.shape)
            (down, across), (row, column) = spec.apart, first
            strides = (0, height * width * block, down * width * block, across * block, 1)
            shape = (1, int(whole.shape[1]), *spec.conv.out_size, block)
            return view(whole, shape, (row * width + column) * block, strides)

        seen = copy(self)
        seen._spec = spec
        seen.weight = view(self.weight, *weight)
        if self.start is not None:
            rows = int(self.start.shape[0]) // part[1]
            seen.start = view(self.start, (rows, lanes), part[0] * rows * lanes)
        seen._tensors = [PixelVectors(spread(tensor), lanes) for tensor in tensors]
        seen._stored = spread(y)
        seen._y = PixelVectors(seen._stored, lanes)
        return seen

    def words(self, dtype: str = "int32") -> Expr:
        """The input as 32-bit numbers of four channels each, or two, or wider ones: one index."""
        size = math.prod(map(int, self.x.shape)) * self._spec.itemsize
        count = size // np.dtype(dtype).itemsize
        return T.decl_buffer((count,), dtype, data=self.x.data, layout=None)

    def weight_words(self) -> Expr:
        """The weight's bytes as 32-bit numbers, four of a filter each: one index."""
        return T.decl_buffer(
            (math.prod(map(int, self.weight.shape)) // WORD,),
            "int32",
            data=self.weight.data,
            elem_offset=self.weight.elem_offset // WORD,
            layout=None,
        )

    def instructions(self) -> AbstractContextManager[object]:
        """What a kernel's body must be within."""
        of_bytes = isinstance(self._spec, Int8Conv)
        return nullcontext() if of_bytes else bf16.instructions(self._target.lanes)

    def first_sums(self, vector: Expr) -> Expr:
        """What a vector's sums begin with, in the type that they are added up in."""
        if self.start is None:
            return zeros(self._target)
        return T.bind(self.start[vector, tirx.Ramp(0, 1, self._target.lanes)])

    def as_float(self, sums: Expr) -> Expr:
        """A vector of sums as float32."""
        return sums if self.start is None else as_float(sums, self._target)

    def store(self, total: Expr, vector: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on one vector of float32 sums and store it."""
        self._y.store(self._finished(total, vector, row, column), vector, row, column)

    def store_all(self, totals: Sequence[Expr], vector: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on vectors of sums that follow one another, and store them.

        Two of them that fill a block of bfloat16 are stored as one.
        """
        y = self._spec.y
        if y.dtype == bf16.BITS and len(totals) * self._target.lanes == y.lanes == 2 * bf16.WIDE:
            low, high = (
                T.bind(self._finished(total, vector + n, row, column))
                for n, total in enumerate(totals)
            )
            block = tirx.floordiv(vector, len(totals))
            place = [0, block, row, column, tirx.Ramp(0, 1, y.lanes)]
            T.buffer_store(self._stored, bf16.nearest_two(low, high), place)
            return
        for n, total in enumerate(totals):
            self.store(total, vector + n, row, column)

    def _finished(self, total: Expr, vector: Expr, row: Expr, column: Expr) -> Expr:
        """What the epilogue makes of a vector of sums."""
        return self._result(
            self._spec.conv.epilogue,
            total,
            vector,
            lambda n: self._tensors[n].load(vector, row, column),
        )

    def _result(
        self, epilogue: Epilogue, total: Expr, vector: Expr, tensor: Callable[[int], Expr]
    ) -> Expr:
        return epilogue.emit(
            self._target,
            total,
            channel=lambda n: self._channels[n][(vector,)],
            tensor=tensor,
        )

    def store_block(self, totals: Sequence[Expr], block: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on four vectors of sums, and store the bytes that they become.

        They are 64 of one pixel, and lie as `byte_blocks.ORDER` says.
        """
        whole = self._spec.conv.epilogue
        before, low, high = whole.to_bytes() or (whole, 0, 255)
        tensors = [
            [as_float(part, self._target) for part in byte_blocks.unpacked(T.bind(values))]
            for values in (tensor.block(block, row, column) for tensor in self._tensors)
        ]

        def rounded(part: int, total: Expr) -> Expr:
            vector = block * len(totals) + part
            result = self._result(before, total, vector, lambda n: tensors[n][part])
            return to_whole(self._target, result, broadcast(float(high), self._target.lanes))

        values = byte_blocks.packed(
            [T.bind(rounded(part, total)) for part, total in enumerate(totals)]
        )
        if low:
            values = T.max(values, tirx.Broadcast(tirx.IntImm("uint8", low), byte_blocks.CHANNELS))
        T.buffer_store(self._stored, values, block_place(block, row, column))


def block_place(block: Expr, row: Expr, column: Expr) -> list[Expr]:
    """Where in a buffer of blocks of 64 channels a pixel's block is."""
    return [0, block, row, column, tirx.Ramp(0, 1, byte_blocks.CHANNELS)]


def as_float(sums: Expr, target: Target) -> Expr:
    """A vector of 32-bit sums as float32."""
    return tirx.Cast(f"float32x{target.lanes}", sums)
