"""What a convolution is to make at some positions of an image, and what it sees there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution

Floats = NDArray[np.float32]


def salience(outputs: Sequence[Array]) -> Floats | None:
    """Where in an image a network finds something, [H,W].

    How far each position's outputs are from the image's median. Most of a photo is background,
    where maps are right as soon as they are flat.

    Args:
        outputs: all outputs for one image; those [1,C,H,W] count.

    Returns:
        Numbers above zero; None where no output has positions or all are the same everywhere.
    """
    maps = [v[0] for v in outputs if v.ndim == 4 and min(v.shape[2:]) > 1]
    if not maps:
        return None
    size = max((m.shape[1:] for m in maps), key=math.prod)
    total = np.zeros(size, np.float32)
    for values in maps:
        away = values - np.median(values, axis=(1, 2), keepdims=True)
        energy = np.square(away).sum(axis=0)
        total += resized(energy / max(float(energy.mean()), 1e-30), size)
    return np.sqrt(total + 1e-6) if total.any() else None


def resized(values: Floats, size: tuple[int, int]) -> Floats:
    """A map [H,W] at another size, by the nearest pixel."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for old, new in zip(values.shape, size, strict=True)
    )
    chosen: Floats = values[rows[:, None], columns]
    return chosen


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
    def of(
        cls,
        target: Array,
        count: int,
        rng: np.random.Generator,
        where: Floats | None = None,
    ) -> Sample:
        """Random positions of [1,C,H,W], each at most once.

        Args:
            target: the tensor.
            count: how many; fewer if it has fewer.
            rng: what chooses them.
            where: `salience` of the image, for positions of which half are where people are.
        """
        height, width = target.shape[2:]
        size = height * width
        odds = None
        if where is not None:
            there = resized(where, (height, width)).ravel().astype(np.float64)
            odds = (1 / size + there / there.sum()) / 2
        chosen = rng.choice(size, min(count, size), replace=False, p=odds)
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

    def patches(self, values: Array, spec: Convolution) -> Floats:
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
