"""A convolution of numbers that are narrower than float32, as its templates see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import ConvSpec, Number, blocks, pack_channels


class Stored(NamedTuple):
    """How a tensor lies in memory: numbers of a type, in blocks of so many channels."""

    dtype: str
    lanes: int


WORD = 4
"""Bytes of an input's channels that one instruction multiplies and adds up into a 32-bit sum."""


class Segment(NamedTuple):
    """Blocks of channels that hold equally many words.

    Args:
        first: the first block.
        blocks: how many.
        words: words of a pixel in each.
        start: steps of the kernel before it.
    """

    first: int
    blocks: int
    words: int
    start: int


def joined(words: Sequence[int], taps: int = 1) -> list[Segment]:
    """Blocks in order, those with equally many words together; those without are left out.

    Args:
        words: of a pixel in each block.
        taps: steps of the kernel that each word takes.
    """
    found: list[Segment] = []
    start = 0
    for block, count in enumerate(words):
        if found and found[-1].words == count:
            found[-1] = found[-1]._replace(blocks=found[-1].blocks + 1)
        else:
            found.append(Segment(block, 1, count, start))
        start += taps * count
    return [segment for segment in found if segment.words]


class StoredConv:
    """A convolution of numbers that are narrower than float32: what templates ask of one.

    Those that compute with bytes and those that compute with bfloat16 are subclasses.
    """

    conv: ConvSpec
    x: Stored
    y: Stored
    tensors: tuple[Stored, ...]
    apart: tuple[int, int]
    """How far apart the result's pixels are in its buffer: more than 1 in a part of a picture."""

    zero: int
    """What padding is made of."""
    sums: str
    """The type that products are added up in."""
    weights: str
    """That of a packed weight."""
    product: str
    """The matrix unit's instruction."""

    @property
    def itemsize(self) -> int:
        """Bytes of an input's number."""
        return np.dtype(self.x.dtype).itemsize

    @property
    def word(self) -> int:
        """Channels of a word."""
        return WORD // self.itemsize

    def shape(self, stored: Stored, runs: Sequence[int], size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a buffer of those runs of channels."""
        return (1, blocks(runs, stored.lanes), *size, stored.lanes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The input buffer's shape."""
        return self.shape(self.x, self.conv.in_channels, self.conv.size)

    def output_shape(self, stored: Stored | None = None) -> tuple[int, ...]:
        """The shape of the output's buffer, or of an epilogue's tensor."""
        return self.shape(stored or self.y, self.conv.out_runs, self.conv.out_size)

    def width(self, lanes: int) -> int:
        """Channels of a block of the output, as far as vectors of `lanes` see it."""
        return self.y.lanes if len(self.conv.out_runs) > 1 else lanes

    def packed(self, values: NDArray[Number], lanes: int) -> NDArray[Number]:
        """Values of the output's channels, (C, …), as vectors of a kernel: (vectors, …, lanes)."""
        width = self.width(lanes)
        spread = pack_channels(values, width, self.conv.out_runs)
        parts = spread.reshape(*spread.shape[:-1], width // lanes, lanes)
        vectors = np.moveaxis(parts, -2, 1).reshape(-1, *spread.shape[1:-1], lanes)
        return np.ascontiguousarray(vectors)

    def vectors(self, lanes: int) -> int:
        """Vectors of `lanes` that hold the output's channels."""
        width = self.width(lanes)
        return blocks(self.conv.out_runs, width) * (width // lanes)
