"""What every convolution kernel shares: its specification, its NumPy reference, its parameters.

Activations are blocked, NCHW[c]c: (1, blocks, height, width, lanes). The lanes past a tensor's last
channel hold finite numbers of no meaning; a convolution's packed weights are zero there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import (
    Expr,
    Scalars,
    Vectors,
    argument,
    view,
)
from graphopt.codegen.kernels.epilogue import NOTHING, Epilogue, Floats
from graphopt.codegen.targets import Target
from graphopt.ir.block_structure import Block


def blocks(channels: Sequence[int], lanes: int) -> int:
    """Blocks that hold runs of channels, each run starting a block of its own."""
    return sum(-(-run // lanes) for run in channels)


class Tile(NamedTuple):
    """What a kernel computes at once, in registers.

    Args:
        filters: blocks of filters.
        pixels: pixels of a row; for Winograd's algorithm, squares of pixels.
        square: pixels a side of such a square, 1 for the direct algorithms.
    """

    filters: int
    pixels: int
    square: int = 1


@dataclass(frozen=True)
class ConvSpec:
    """One convolution, batch 1.

    Args:
        in_channels: runs of input channels; each starts a new block, as a concatenation of blocked
            tensors leaves them.
        out_channels: filters.
        size: (height, width) of the input.
        kernel: (kh, kw).
        strides: (sh, sw).
        pads: (top, left, bottom, right), of zeros.
        dilations: (dh, dw).
        groups: equal groups of channels, each convolved with filters of its own. Unless depthwise,
            a grouped convolution reads one run of channels.
        transposed: the adjoint, which spreads every input pixel over a kernel's extent of the
            output, `strides` apart. There `pads` are cut off; negative ones add rows and columns.
        planar: the input is (1, C, H, W) rather than blocked (for a first layer of few channels).
        epilogue: what is done before storing.
        half: parameters, named as in `Parameters`, that are stored as float16.
        block: the blocks in which zeros are left out of the weight; None: it is dense.
        kept: how many of them are not zero.
    """

    in_channels: tuple[int, ...]
    out_channels: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    planar: bool = False
    epilogue: Epilogue = NOTHING
    half: frozenset[str] = frozenset()
    block: Block | None = None
    kept: int = 0

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the output."""

        def extent(i: int) -> int:
            size, stride, pads = self.size[i], self.strides[i], self.pads[i] + self.pads[i + 2]
            reach = self.dilations[i] * (self.kernel[i] - 1)
            if self.transposed:
                return (size - 1) * stride + reach + 1 - pads
            return (size + pads - reach - 1) // stride + 1

        return extent(0), extent(1)

    @property
    def depthwise(self) -> bool:
        """Whether every channel has one filter, to itself."""
        return 1 < self.groups == sum(self.in_channels) == self.out_channels

    @property
    def key(self) -> str:
        """A text that names all that decides which kernel is fastest.

        The epilogue hardly does, and what is stored in half precision is decided after that.
        """
        return " ".join(
            f"{field.name}={getattr(self, field.name)}".replace(" ", "")
            for field in fields(self)
            if field.name not in ("epilogue", "half") and getattr(self, field.name) != field.default
        )

    @property
    def macs(self) -> int:
        """Multiply-adds of the direct algorithm, with the blocks that are kept."""
        inputs = sum(self.in_channels) // self.groups
        height, width = self.size if self.transposed else self.out_size
        if self.block is not None:
            return self.kept * self.block.filters * self.block.channels * height * width
        return self.out_channels * height * width * inputs * self.kernel[0] * self.kernel[1]

    def parts(self, lanes: int) -> int:
        """How many dense convolutions, over whole blocks of channels, a grouped one falls into.

        A part is a group, or as many neighbours as it takes to fill blocks, with zeros in between.
        """
        inputs, outputs = sum(self.in_channels) // self.groups, self.out_channels // self.groups
        for together in range(1, self.groups):
            whole = inputs * together % lanes == outputs * together % lanes == 0
            if whole and self.groups % together == 0:
                return self.groups // together
        return 1

    def dtype(self, parameter: str) -> str:
        """How a parameter is stored."""
        return "float16" if parameter in self.half else "float32"

    def input_shape(self, lanes: int) -> tuple[int, ...]:
        """The input buffer's shape."""
        if self.planar:
            return (1, sum(self.in_channels), *self.size)
        return (1, blocks(self.in_channels, lanes), *self.size, lanes)

    @property
    def out_runs(self) -> tuple[int, ...]:
        """Runs of output channels: a depthwise convolution leaves them where they are."""
        return self.in_channels if self.depthwise else (self.out_channels,)

    def output_shape(self, lanes: int) -> tuple[int, ...]:
        """The output buffer's shape, always blocked."""
        return (1, blocks(self.out_runs, lanes), *self.out_size, lanes)

    def reference(
        self,
        x: Floats,
        weight: Floats,
        channels: Sequence[Floats] = (),
        tensors: Sequence[Floats] = (),
    ) -> Floats:
        """The convolution in NumPy, float64 inside.

        Args:
            x: (1, C, H, W).
            weight: (filters, C / groups, kh, kw).
            channels: the epilogue's vectors.
            tensors: the epilogue's tensors, (1, filters, oh, ow).
        """
        return self.epilogue.reference(self.sums(x, weight).astype(np.float32), channels, tensors)

    def sums(self, x: NDArray[np.generic], weight: NDArray[np.generic]) -> NDArray[np.float64]:
        """What the epilogue begins with, (1, filters, oh, ow); `x` and `weight` as there."""
        (top, left, bottom, right), (oh, ow) = self.pads, self.out_size
        image = x[0].astype(np.float64).reshape(self.groups, -1, *self.size)
        filters = weight.astype(np.float64).reshape(self.groups, -1, *weight.shape[1:])
        out = np.zeros((self.groups, filters.shape[1], oh, ow))
        # The larger picture of the two, pads included, in which every tap is at home.
        margins = ((0, 0), (0, 0), (top, max(bottom, 0)), (left, max(right, 0)))
        larger = np.pad(out if self.transposed else image, margins)
        for ky, kx in np.ndindex(*self.kernel):
            rows, columns = (
                slice(k * d, k * d + (extent - 1) * s + 1, s)
                for k, d, s, extent in zip(
                    (ky, kx),
                    self.dilations,
                    self.strides,
                    self.size if self.transposed else self.out_size,
                    strict=True,
                )
            )
            tap = filters[..., ky, kx]
            if self.transposed:
                larger[..., rows, columns] += np.einsum("goc,gchw->gohw", tap, image)
            else:
                out += np.einsum("goc,gchw->gohw", tap, larger[..., rows, columns])
        if self.transposed:
            out = larger[..., top : top + oh, left : left + ow]
        return out.reshape(1, self.out_channels, oh, ow)


Number = TypeVar("Number", bound=np.generic)


def pack_channels(
    values: NDArray[Number], lanes: int, runs: Sequence[int] | None = None
) -> NDArray[Number]:
    """Spread axis 0 (channels) over blocks: (C, …) to (blocks, …, lanes), zeros in between."""
    runs = runs or (values.shape[0],)
    packed = np.zeros((blocks(runs, lanes) * lanes, *values.shape[1:]), values.dtype)
    read = write = 0
    for run in runs:
        packed[write : write + run] = values[read : read + run]
        read += run
        write += blocks((run,), lanes) * lanes
    split = packed.reshape(-1, lanes, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(split, 1, -1))


class Parameters:
    """A conv kernel's parameters in the order of every call: x, weight, index (of sparse ones),
    channels, tensors, y.

    Args:
        spec: the convolution as the graph has it.
        target: where it will run.
        weight_shape: the packed weight's shape.
        seen_as: the same convolution over other spatial extents, which the kernel's indices mean
            (conv_1x1 sees all pixels as one row).
        indices: length of the array of indices of a sparse kernel.
    """

    def __init__(
        self,
        spec: ConvSpec,
        target: Target,
        weight_shape: Sequence[int],
        seen_as: ConvSpec | None = None,
        indices: int = 0,
    ) -> None:
        lanes, out = target.lanes, spec.output_shape(target.lanes)
        epilogue = spec.epilogue
        self._spec, self._target, self._parts = spec, target, 1

        def parameter(name: str, shape: Sequence[int]) -> Expr:
            return argument(name, shape, spec.dtype(name))

        x = parameter("x", spec.input_shape(lanes))
        weight = parameter("weight", weight_shape)
        if indices:
            self.index = Scalars(argument("index", (indices,), "int32"), "int32")
        channels = [
            parameter(f"channel{n}", (out[1], lanes)) for n in range(epilogue.count("channel"))
        ]
        tensors = [parameter(f"tensor{n}", out) for n in range(epilogue.count("tensor"))]
        y = parameter("y", out)
        if seen_as is not None:
            x = view(x, seen_as.input_shape(lanes))
            y = view(y, seen_as.output_shape(lanes))
            tensors = [view(t, seen_as.output_shape(lanes)) for t in tensors]
        self._x, self._buffers = x, (weight, channels, tensors, y)
        self.scalars = Scalars(x, target.arithmetic)
        """The input, element by element."""
        self.vectors = Vectors(x, target.arithmetic)
        """The input (unless planar), a block of channels at a time: [0, block, row, column]."""
        self.weight = Vectors(weight, target.arithmetic)
        """The packed weight, a vector of filters at a time."""
        self._channels = [Vectors(c) for c in channels]
        self._tensors = [Vectors(t) for t in tensors]
        self._y = Vectors(y)

    def flat(self) -> tuple[Scalars, Vectors]:
        """The input with one index: over its numbers, and over its vectors."""
        count, lanes = math.prod(map(int, self._x.shape)), self._target.lanes
        rows, dtype = view(self._x, (count // lanes, lanes)), self._target.arithmetic
        return Scalars(view(self._x, (count,)), dtype), Vectors(rows, dtype)

    def in_parts(self, lanes: int) -> Parameters:
        """The same parameters, of which shorter vectors are stored: blocks count those, too."""

        def cut(whole: Expr) -> Vectors:
            *shape, vector = map(int, whole.shape)
            return Vectors(view(whole, (*shape, vector // lanes, lanes)))

        _, channels, tensors, y = self._buffers
        seen = copy(self)
        seen._target = replace(self._target, lanes=lanes)
        seen._parts = self._target.lanes // lanes
        seen._channels, seen._tensors = [*map(cut, channels)], [*map(cut, tensors)]
        seen._y = cut(y)
        return seen

    def phase(
        self, spec: ConvSpec, weight_shape: Sequence[int], weight_start: int, first: tuple[int, int]
    ) -> Parameters:
        """The parameters of an ordinary convolution that computes a part of a transposed one.

        Args:
            spec: that convolution, over the same input.
            weight_shape: its packed weight's shape.
            weight_start: where that starts in the whole weight, in elements.
            first: row and column of its first output pixel in the whole output, where its pixels
                are as far apart as the transposed convolution's strides.
        """
        lanes = self._target.lanes
        height, width = self._spec.out_size
        (row, column), (down, across) = first, self._spec.strides
        strides = (0, height * width * lanes, down * width * lanes, across * lanes, 1)

        def pixels(whole: Expr) -> Expr:
            start = (row * width + column) * lanes
            return view(whole, spec.output_shape(lanes), start, strides)

        weight, _, tensors, y = self._buffers
        seen = copy(self)
        seen.weight = Vectors(view(weight, weight_shape, weight_start), self._target.arithmetic)
        seen._y = Vectors(pixels(y))
        seen._tensors = [Vectors(pixels(tensor)) for tensor in tensors]
        return seen

    def store(self, total: Expr, block: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on one vector of sums and store it."""
        part: tuple[Expr, ...] = ()
        if self._parts > 1:
            part = (T.bind(tirx.floormod(block, self._parts)),)
            block = T.bind(tirx.floordiv(block, self._parts))
        channel, pixel = (block, *part), (0, block, row, column, *part)
        self._y[pixel] = self._spec.epilogue.emit(
            self._target,
            total,
            channel=lambda n: self._channels[n][channel],
            tensor=lambda n: self._tensors[n][pixel],
        )
