"""Block-punched masks over weights that blocks do not divide evenly."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.block_structure import (
    BLOCKS,
    FINEST,
    Block,
    density,
    expand,
    extent,
    kept_mask,
    sums,
    trainable_mask,
)
from graphopt.sparsity.optimal_brain_surgeon import cheapest_masks


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (19, 6, 3, 3), (5, 3, 1, 1)])
@pytest.mark.parametrize("block", [Block(), Block(4, 4), Block(16, 4)])
def test_a_mask_is_what_is_kept(shape: tuple[int, ...], block: Block) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(block.mask_shape(shape)) < 0.5
    weight = rng.standard_normal(shape).astype(np.float32) * expand(mask, block, shape)
    np.testing.assert_array_equal(kept_mask(weight, block), mask)
    assert density(weight, block) == np.count_nonzero(weight) / weight.size


@pytest.mark.parametrize("block", BLOCKS.values())
def test_the_extent_of_what_is_pruned(block: Block) -> None:
    rng = np.random.default_rng(0)
    shape = (40, 18, 3, 3)
    mask = rng.random(block.mask_shape(shape)) < 0.5
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[3, 2] = 0  # zeros that are no blocks
    assert extent(weight) == FINEST
    weight *= expand(mask, block, shape)
    assert extent(weight) == block
    np.testing.assert_array_equal(trainable_mask(weight), expand(mask, block, shape))


def test_sums_of_blocks() -> None:
    values = np.arange(3 * 5, dtype=np.float32).reshape(3, 5, 1, 1)
    expected = [[0 + 1 + 5 + 6, 2 + 3 + 7 + 8, 4 + 9], [10 + 11, 12 + 13, 14]]
    np.testing.assert_array_equal(sums(values, Block(2, 2))[:, :, 0, 0], expected)


@pytest.mark.parametrize("shape", [(6, 10, 1, 1), (5, 4, 3, 1)])
def test_the_block_that_a_fit_can_best_do_without(shape: tuple[int, ...]) -> None:
    """Compared with fits without each block, also where channels go together and blocks are cut."""
    rng = np.random.default_rng(0)
    unknowns = int(np.prod(shape[1:])) + 1
    seen = rng.standard_normal((50, unknowns)) @ rng.standard_normal((unknowns, unknowns))
    target = rng.standard_normal((50, shape[0]))
    block = Block(4, 4)
    system, right = seen.T @ seen, seen.T @ target
    gains = np.empty(block.mask_shape(shape))
    for at in np.ndindex(gains.shape):
        mask = np.ones(gains.shape, bool)
        mask[at] = False
        free = expand(mask, block, shape).reshape(shape[0], -1)
        gains[at] = 0
        for values, wanted in zip(free, right.T, strict=True):
            fitted = np.append(values, True)
            solution = np.linalg.solve(system[np.ix_(fitted, fitted)], wanted[fitted])
            gains[at] += solution @ wanted[fitted]
    chosen, more = cheapest_masks(system, right, shape, block, [1, 3])
    expected = np.ones(gains.shape, bool)
    expected.flat[gains.argmax()] = False
    np.testing.assert_array_equal(chosen, expected)
    assert np.count_nonzero(~more) == 3
    assert (more <= chosen).all()
