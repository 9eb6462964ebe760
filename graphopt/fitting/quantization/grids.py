"""The numbers that eight bits can hold: scales, zero points, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.arrays import Array

Doubles = NDArray[np.float64]
LARGEST_WEIGHT = 127
"""Weights are symmetric: -128 is left out."""
LARGEST_BIAS = 2**30
"""Biases are 32-bit numbers in steps of an input's times a weight's scale, with room for sums."""


@dataclass(frozen=True)
class Grid:
    """The numbers (q - zero) * scale, where q goes over all of a type of eight bits."""

    scale: float
    zero: int
    signed: bool = False

    @property
    def dtype(self) -> np.dtype[np.int8] | np.dtype[np.uint8]:
        """The type of q."""
        return np.dtype(np.int8) if self.signed else np.dtype(np.uint8)

    @property
    def lowest(self) -> int:
        """The least q."""
        return int(np.iinfo(self.dtype).min)

    @property
    def low(self) -> float:
        """The least number."""
        return (self.lowest - self.zero) * self.scale

    @property
    def high(self) -> float:
        """The largest number."""
        return (self.lowest + 255 - self.zero) * self.scale

    @classmethod
    def over(cls, low: float, high: float, *, signed: bool = False) -> Grid:
        """255 steps over a range, stretched to hold zero, which is a number of every grid."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32(max(high - low, 1e-12) / 255)
        lowest = -128 if signed else 0
        return cls(float(scale), lowest + round(-low / float(scale)), signed)

    def nearest(self, values: Array) -> Array:
        """Each value's nearest number, as QuantizeLinear and DequantizeLinear make it."""
        steps = np.rint(values / np.float32(self.scale)) + self.zero
        kept = np.clip(steps, self.lowest, self.lowest + 255) - self.zero
        rounded: Array = (kept * np.float32(self.scale)).astype(values.dtype)
        return rounded


@dataclass(frozen=True)
class LayerWeights:
    """A layer's weights as whole numbers, and its bias as it was before it is rounded."""

    whole: NDArray[np.int8]
    """In the shape of the node's weight."""
    scales: NDArray[np.float32]
    """A step for each output channel, or one for all."""
    axis: int
    """Of the output channels in the weight."""
    bias: Doubles | None

    @property
    def values(self) -> NDArray[np.float32]:
        """The weights as numbers."""
        shape = [1] * self.whole.ndim
        shape[self.axis] = -1
        steps = self.scales.reshape(shape) if len(self.scales) > 1 else self.scales
        numbers: NDArray[np.float32] = self.whole.astype(np.float32) * steps
        return numbers
