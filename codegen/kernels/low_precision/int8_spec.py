"""A convolution of quantised numbers: its specification, its NumPy reference, how tensors lie.

The input holds q = round(x / scale) + zero, the weight integers with a scale a filter. A kernel
adds up (q - zero) * weight in 32 bits, exactly; its epilogue begins with those sums as float32. The
arithmetic is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.

Quantised tensors are blocked as others are, with blocks as wide as their tensor asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import ConvSpec, Number
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.low_precision.stored_conv import Stored, StoredConv
from graphopt.codegen.targets import Target

Integers = NDArray[np.integer]

SMALLEST = 128
"""A weight is no larger than this, without its sign."""
WIDTHS = (4, 16, 32, 64)
"""Channels of a block of bytes: 4 are a number that instructions take at once, 64 a row of a matrix
unit's tile."""


def byte_lanes(channels: int, widest: int = WIDTHS[-1]) -> int:
    """Channels of a block of a quantised tensor: the narrowest that holds all, or `widest`."""
    return min(next((width for width in WIDTHS if channels <= width), widest), widest)


@dataclass(frozen=True)
class Int8Conv(StoredConv):
    """One convolution of quantised numbers, batch 1.

    Args:
        conv: what is convolved; its epilogue takes the sums as float32. Not planar.
        x: how the input lies; its type is uint8.
        zero: the input's zero point, which padding is made of.
        y: how the output lies: uint8, or float32.
        tensors: how the epilogue's tensors lie.
        apart: how far apart its pixels are in their buffer (`StoredConv`).
        weight_sum: no filter's weights add up to more than this, without their signs; None: as much
            as there can be.
    """

    conv: ConvSpec
    x: Stored
    zero: int
    y: Stored
    tensors: tuple[Stored, ...] = ()
    apart: tuple[int, int] = (1, 1)
    weight_sum: int | None = None

    sums = "int32"
    weights = "int8"
    product = "tdpbusd"

    @property
    def largest_weights(self) -> int:
        """What a filter's weights add up to at most, without their signs."""
        if self.weight_sum is not None:
            return self.weight_sum
        return (
            SMALLEST * sum(self.conv.in_channels) // self.conv.groups * math.prod(self.conv.kernel)
        )

    def reference(
        self,
        x: Integers,
        weight: Integers,
        start: Integers,
        channels: Sequence[Floats] = (),
        tensors: Sequence[Floats] = (),
    ) -> Floats:
        """The convolution in NumPy, exact up to the epilogue.

        Args:
            x: (1, C, H, W), quantised.
            weight: (filters, C / groups, kh, kw).
            start: what a filter's sum begins with, (filters,): the bias.
            channels: the epilogue's vectors.
            tensors: the epilogue's tensors, (1, filters, oh, ow), as they are stored.

        Returns:
            (1, filters, oh, ow), as it is stored.
        """
        sums = self.conv.sums(x.astype(np.float64) - self.zero, weight)
        total = (sums + start.reshape(-1, 1, 1)).astype(np.float32)
        result = self.conv.epilogue.reference(
            total, channels, [tensor.astype(np.float32) for tensor in tensors]
        )
        stored: Floats = result.astype(self.y.dtype)
        return stored


def sums_from(start: Integers, weight: Integers, taken_off: int) -> Integers:
    """What sums begin with, so that they end as if a number were taken off every input: (filters,).

    Args:
        start: the bias, (filters,).
        weight: (filters, C / groups, kh, kw).
        taken_off: the number.
    """
    every = weight.astype(np.int64).sum(axis=(1, 2, 3))
    corrected: Integers = (start.astype(np.int64) - taken_off * every).astype(np.int32)
    return corrected


def starting_sums(start: Integers, weight: Integers, spec: Int8Conv, _target: Target) -> Integers:
    """What sums over q itself begin with, so that they end as those over q - zero: (filters,).

    Args:
        start: the bias, (filters,).
        weight: (filters, C / groups, kh, kw).
    """
    return sums_from(start, weight, spec.zero)


def pack_vectors(values: NDArray[Number], spec: Int8Conv, target: Target) -> NDArray[Number]:
    """A number a channel, (C,), as a kernel reads them: (vectors, lanes)."""
    return spec.packed(values, target.lanes)
