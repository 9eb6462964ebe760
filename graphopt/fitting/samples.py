"""What a convolution is to make at some positions of an image, and what it sees there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.engine import Array
from graphopt.graph import ConvSpec

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A layer's target at some positions of one image."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Floats
    """[positions, channels]"""
    size: tuple[int, int]
    """Height and width of the whole output."""

    @classmethod
    def of(cls, target: Array, count: int, rng: np.random.Generator) -> Sample:
        """Random positions of [1,C,H,W], each at most once."""
        height, width = target.shape[2:]
        chosen = rng.choice(height * width, min(count, height * width), replace=False)
        rows, columns = np.divmod(chosen, width)
        values = target[0][:, rows, columns].T.astype(np.float32)
        return cls(rows, columns, values, (height, width))

    @classmethod
    def everywhere(cls, target: Array) -> Sample:
        """All positions of [1,C,H,W], in raster order."""
        height, width = target.shape[2:]
        rows, columns = np.divmod(np.arange(height * width), width)
        values = target[0].reshape(len(target[0]), -1).T.astype(np.float32)
        return cls(rows, columns, values, (height, width))

    def grouped(self, group: int) -> Floats:
        """The target as [group, positions, channels of the group]."""
        grouped: Floats = self.values.reshape(len(self.values), group, -1).transpose(1, 0, 2)
        return grouped

    def patches(self, values: Array, spec: ConvSpec) -> Floats:
        """What the filters see there, and a one for the bias: [group, positions, K+1]."""
        assert spec.pads is not None
        top, left, bottom, right = spec.pads
        padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
        (sy, sx), (dy, dx), (kh, kw) = spec.strides, spec.dilations, spec.kernel
        rows = self.rows[:, None] * sy + np.arange(kh) * dy
        columns = self.columns[:, None] * sx + np.arange(kw) * dx
        seen = padded[:, rows[:, :, None], columns[:, None, :]]
        seen = seen.reshape(spec.group, -1, len(rows), kh * kw).transpose(0, 2, 1, 3)
        flat = seen.reshape(spec.group, len(rows), -1).astype(np.float32, copy=False)
        ones = np.ones((*flat.shape[:2], 1), np.float32)
        return np.concatenate([flat, ones], axis=2)
