"""Which blocks of a layer to drop, where those that stay are fitted again: optimal brain surgeon.

Dropping the numbers q of a least-squares solution w of A w = b, and letting the others make up for
it, costs w_q^T ([A^-1]_qq)^-1 w_q (Hassibi and Stork, "Second order derivatives for network
pruning", NIPS 1992; for blocks: Frantar and Alistarh, "Optimal Brain Compression", NeurIPS 2022,
section 4). The costs hold for one block at a time, so blocks go a few at a time, and those that are
left are costed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from graphopt.ir.block_structure import Block, Mask, without

Doubles = NDArray[np.float64]

AT_A_TIME = 1 / 16
"""The part of a layer's blocks that go at a time. On layers of Lightweight OpenPose pruned by half,
eight steps left an error of 0.167 behind the fit where two left 0.182 and one 0.202 (3x3), and
0.319, 0.323 and 0.332 (1x1)."""


def cheapest_masks(
    system: Doubles,
    right: Doubles,
    weight_shape: tuple[int, ...],
    block: Block,
    counts: Sequence[int],
) -> list[Mask]:
    """Masks without the blocks that a layer's fit can best do without, one for each count.

    Args:
        system: A, [K+1, K+1], positive definite: what the filters see, and a one for the bias.
        right: b, [K+1, filters].
        weight_shape: (O, I, kh, kw), with K = I kh kw.
        block: the extent of a block.
        counts: how many blocks go, in rising order: each mask is a part of the one before.
    """
    mask = np.ones(block.mask_shape(weight_shape), bool)
    numbers = np.arange(len(system) - 1).reshape(weight_shape[1:])
    parts = [
        numbers[block.channels * channels :][: block.channels, y, x]
        for channels, y, x in np.ndindex(mask.shape[1:])
    ]
    masks = []
    for before, count in pairwise([0, *counts]):
        steps = max(1, round((count - before) / (AT_A_TIME * mask.size)))
        for num_pruned in np.linspace(before, count, steps + 1).astype(int)[1:]:
            mask = without(mask, _all_costs(system, right, mask, block, parts), num_pruned)
        masks.append(mask)
    return masks


def _all_costs(
    system: Doubles, right: Doubles, mask: Mask, block: Block, parts: list[NDArray[np.intp]]
) -> Doubles:
    """What dropping each block of a mask would cost."""
    costs = np.empty(mask.shape)
    inverses: dict[bytes, Doubles] = {}
    for row, kept in enumerate(mask):
        key = kept.tobytes()
        if key not in inverses:
            inverses[key] = _inverse(system, parts, kept)
        filters = right[:, block.filters * row :][:, : block.filters]
        costs[row] = _costs(inverses[key], filters, parts).reshape(kept.shape)
    return costs


def _inverse(system: Doubles, parts: list[NDArray[np.intp]], kept: Mask) -> Doubles:
    """The inverse of the system without the blocks that are gone; zero there."""
    present = np.ones(len(system), bool)
    for part, stays in zip(parts, kept.ravel(), strict=True):
        present[part] = stays
    chosen = np.ix_(present, present)
    inverse = np.zeros_like(system)
    inverse[chosen] = scipy.linalg.inv(system[chosen])
    return inverse


def _costs(inverse: Doubles, right: Doubles, parts: list[NDArray[np.intp]]) -> Doubles:
    """What dropping each block would cost the filters that share it; zero for those gone."""
    weights = inverse @ right
    costs = np.zeros(len(parts))
    sizes = np.array([len(part) for part in parts])
    for size in np.unique(sizes):
        of_size = np.flatnonzero(sizes == size)
        cut = np.stack([parts[index] for index in of_size])  # [blocks, size]
        there = weights[cut].any(axis=(1, 2))
        cut, of_size = cut[there], of_size[there]
        step = np.linalg.solve(inverse[cut[:, :, None], cut[:, None, :]], weights[cut])
        costs[of_size] = (weights[cut] * step).sum(axis=(1, 2))
    return costs
