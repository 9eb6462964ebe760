"""Block-punched masks: whole blocks of filters x channels are kept or dropped, a kernel position at
a time.

A convolution's weight (O, I, kh, kw) is cut into blocks of some filters x some channels. At each of
the kh x kw positions a block is kept or is zero, so that a kernel may skip it while filters and
channels of a block still fill vectors (Niu et al., "YOLObile", AAAI 2021, section 3; the paper's
"fine-grained structured pruning", section 2.2). The last blocks may be smaller than the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.arrays import Array

Mask = NDArray[np.bool_]
"""Which blocks are kept, (blocks of filters, blocks of channels, kh, kw)."""


class Block(NamedTuple):
    """A block's extent: so many filters x so many channels, at one position of the kernel."""

    filters: int = 8
    channels: int = 4

    def mask_shape(self, weight_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """The shape of a mask over a weight (O, I, kh, kw)."""
        filters, channels, height, width = weight_shape
        return -(-filters // self.filters), -(-channels // self.channels), height, width


BlockName = Literal["8x4", "4x4", "16x4", "16x1", "8x1"]
"""Filters x channels, as options and files write it."""
BLOCKS: Mapping[BlockName, Block] = {
    "8x4": Block(),
    "4x4": Block(4, 4),
    "16x4": Block(16, 4),
    "16x1": Block(16, 1),
    "8x1": Block(8, 1),
}
MEASURED: Mapping[Literal["float32", "int8"], BlockName] = {"float32": "16x1", "int8": "16x4"}
"""The extent whose effect is measured before it is decided what goes, by what weights are stored in
at last. Of a 1x1 layer of Lightweight OpenPose pruned by half the rest is off by 0.33 with 16x1,
0.30 with 8x1, 0.38 with 4x4, 0.40 with 8x4; 16 filters fill vectors. Instructions for bytes
multiply four channels at once, which are there or not together."""
FINEST = Block(4, 1)
"""Divides every block: what is zero in a block of any extent is zero in these, too."""
BY_CHANCE = 0.02
"""The part of all zero blocks that may be no part of larger ones: zeros of a quantised weight."""


def sums(values: NDArray[np.floating[Any]], block: Block) -> NDArray[np.float64]:
    """The sum of `values` (O, I, kh, kw) over each block, in a mask's shape."""
    filters, channels = (
        np.arange(0, extent, step) for extent, step in zip(values.shape[:2], block, strict=True)
    )
    wide = values.astype(np.float64)
    return np.add.reduceat(np.add.reduceat(wide, filters, axis=0), channels, axis=1)


def kept_mask(weight: Array, block: Block) -> Mask:
    """The blocks of a weight that hold anything but zeros."""
    return sums(np.asarray(weight != 0, np.float32), block) > 0


def without(mask: Mask, importance: NDArray[np.floating[Any]], num_pruned: int) -> Mask:
    """Drop `num_pruned` blocks of a mask: those dropped already, then the least important."""
    # What is of no importance may still be there.
    order = np.argsort(np.where(mask, importance, -1), axis=None, kind="stable")
    left = np.ones(mask.shape, bool)
    left.flat[order[:num_pruned]] = False
    return left


def expand(mask: Mask, block: Block, weight_shape: tuple[int, ...]) -> Mask:
    """A mask over blocks as one over all numbers of a weight (O, I, kh, kw)."""
    rows = np.repeat(mask, block.filters, axis=0)[: weight_shape[0]]
    return np.repeat(rows, block.channels, axis=1)[:, : weight_shape[1]]


def extent(weight: Array) -> Block:
    """The largest block that a weight's zeros are pruned in; `FINEST` where nothing is pruned."""
    zeros = 1 - density(weight, FINEST)
    explained = {block: 1 - density(weight, block) for block in BLOCKS.values()}
    fitting = (block for block, share in explained.items() if share >= (1 - BY_CHANCE) * zeros)
    return max(fitting, default=FINEST) if zeros else FINEST


def trainable_mask(weight: Array) -> Mask:
    """The numbers of a weight (O, I, kh, kw) that lie in no zero block of its `extent`.

    They may be fitted and trained; the others stay zero.
    """
    block = extent(weight)
    return expand(kept_mask(weight, block), block, weight.shape)


def density(weight: Array, block: Block) -> float:
    """The part of a weight's numbers that lie in blocks that are kept."""
    return float(expand(kept_mask(weight, block), block, weight.shape).mean())
