"""What every convolution kernel shares: its specification, its NumPy meaning, its parameters.

Activations are blocked, NCHW[c]c: (1, blocks, height, width, lanes). The lanes past a tensor's last
channel hold finite numbers of no meaning; a convolution's packed weights are zero there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.emit import (
    Accumulator,
    Expr,
    Scalars,
    Vectors,
    argument,
    broadcast,
    view,
)
from graphopt.codegen.kernels.epilogue import NOTHING, Epilogue, Floats
from graphopt.codegen.targets import Target


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
        depthwise: one filter a channel.
        planar: the input is (1, C, H, W) rather than blocked (for a first layer of few channels).
        epilogue: what is done before storing.
        half: parameters, named as in `Parameters`, that are stored as float16.
    """

    in_channels: tuple[int, ...]
    out_channels: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    depthwise: bool = False
    planar: bool = False
    epilogue: Epilogue = NOTHING
    half: frozenset[str] = frozenset()

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        height, width = (
            (self.size[i] + self.pads[i] + self.pads[i + 2] - self.dilations[i] * (k - 1) - 1)
            // self.strides[i]
            + 1
            for i, k in enumerate(self.kernel)
        )
        return height, width

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
        """Multiply-adds of the direct algorithm."""
        inputs = 1 if self.depthwise else sum(self.in_channels)
        out = self.out_size
        return self.out_channels * out[0] * out[1] * inputs * self.kernel[0] * self.kernel[1]

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

    def meaning(
        self,
        x: Floats,
        weight: Floats,
        channels: Sequence[Floats] = (),
        tensors: Sequence[Floats] = (),
    ) -> Floats:
        """The convolution in NumPy, float64 inside.

        Args:
            x: (1, C, H, W).
            weight: (filters, C, kh, kw), or (filters, 1, kh, kw) when depthwise.
            channels: the epilogue's vectors.
            tensors: the epilogue's tensors, (1, filters, oh, ow).
        """
        top, left, bottom, right = self.pads
        padded = np.pad(x[0].astype(np.float64), ((0, 0), (top, bottom), (left, right)))
        out = np.zeros((self.out_channels, *self.out_size))
        oh, ow = self.out_size
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                y0, x0 = ky * self.dilations[0], kx * self.dilations[1]
                tap = padded[
                    :,
                    y0 : y0 + (oh - 1) * self.strides[0] + 1 : self.strides[0],
                    x0 : x0 + (ow - 1) * self.strides[1] + 1 : self.strides[1],
                ]
                if self.depthwise:
                    out += tap * weight[:, 0, ky, kx, None, None]
                else:
                    out += np.einsum("oc,chw->ohw", weight[:, :, ky, kx], tap)
        return self.epilogue.meaning(out[None].astype(np.float32), channels, tensors)


def pack_channels(values: Floats, lanes: int, runs: Sequence[int] | None = None) -> Floats:
    """Spread axis 0 (channels) over blocks: (C, …) to (blocks, …, lanes), zeros in between."""
    runs = runs or (values.shape[0],)
    packed: NDArray[np.float32] = np.zeros(
        (blocks(runs, lanes) * lanes, *values.shape[1:]), np.float32
    )
    read = write = 0
    for run in runs:
        packed[write : write + run] = values[read : read + run]
        read += run
        write += blocks((run,), lanes) * lanes
    split = packed.reshape(-1, lanes, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(split, 1, -1))


class Parameters:
    """A conv kernel's parameters in the order of every call: x, weight, channels, tensors, y.

    Args:
        spec: the convolution as the graph has it.
        target: where it will run.
        weight_shape: the packed weight's shape.
        seen_as: the same convolution over other spatial extents, which the kernel's indices mean
            (conv_1x1 sees all pixels as one row).
    """

    def __init__(
        self,
        spec: ConvSpec,
        target: Target,
        weight_shape: Sequence[int],
        seen_as: ConvSpec | None = None,
    ) -> None:
        lanes, out = target.lanes, spec.output_shape(target.lanes)
        epilogue = spec.epilogue
        self._spec, self._target = spec, target

        def parameter(name: str, shape: Sequence[int]) -> Expr:
            return argument(name, shape, spec.dtype(name))

        x = parameter("x", spec.input_shape(lanes))
        weight = parameter("weight", weight_shape)
        channels = [
            parameter(f"channel{n}", (out[1], lanes)) for n in range(epilogue.count("channel"))
        ]
        tensors = [parameter(f"tensor{n}", out) for n in range(epilogue.count("tensor"))]
        y = parameter("y", out)
        if seen_as is not None:
            x = view(x, seen_as.input_shape(lanes))
            y = view(y, seen_as.output_shape(lanes))
            tensors = [view(t, seen_as.output_shape(lanes)) for t in tensors]
        self.scalars = Scalars(x)
        """The input, element by element."""
        self.vectors = Vectors(x)
        """The input (unless planar), a block of channels at a time: [0, block, row, column]."""
        self.weight = Vectors(weight)
        """The packed weight, a vector of filters at a time."""
        self._channels = [Vectors(c) for c in channels]
        self._tensors = [Vectors(t) for t in tensors]
        self._y = Vectors(y)

    def store(self, total: Expr, block: Expr, row: Expr, column: Expr) -> None:
        """Run the epilogue on one vector of sums and store it."""
        value = self._spec.epilogue.emit(
            self._target,
            total,
            channel=lambda n: self._channels[n][(block,)],
            tensor=lambda n: self._tensors[n][0, block, row, column],
        )
        self._y[0, block, row, column] = value


class RegisterTile:
    """Sums of some blocks of filters times some pixels, in registers, starting at zero."""

    def __init__(self, target: Target, filters: int, pixels: int) -> None:
        self._sums = [[Accumulator(target) for _ in range(pixels)] for _ in range(filters)]
        for accumulator in (a for block in self._sums for a in block):
            accumulator.value = broadcast(0.0, target.lanes)

    def add(self, pixel: int, weights: Sequence[Expr], value: Expr) -> None:
        """Add weights[f] * value to every block f of a pixel."""
        for block, weight in zip(self._sums, weights, strict=True):
            block[pixel].value = block[pixel].value + weight * value

    def total(self, block: int, pixel: int) -> Expr:
        """The sums of a block of filters at a pixel, so far."""
        return self._sums[block][pixel].value

    def store(self, p: Parameters, block: Expr, row: Expr, column: Expr, pixel: int) -> None:
        """Store a pixel's sums: its first block of filters is `block`, its place row, column."""
        for f in range(len(self._sums)):
            p.store(self.total(f, pixel), block + f, row, column + pixel)
