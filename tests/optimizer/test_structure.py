"""Block-punched masks over weights that blocks do not divide evenly."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.sparsity.structure import Block, density, expand, kept, sums


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (19, 6, 3, 3), (5, 3, 1, 1)])
@pytest.mark.parametrize("block", [Block(), Block(4, 4), Block(16, 4)])
def test_a_mask_is_what_is_kept(shape: tuple[int, ...], block: Block) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(block.mask_shape(shape)) < 0.5
    weight = rng.standard_normal(shape).astype(np.float32) * expand(mask, block, shape)
    np.testing.assert_array_equal(kept(weight, block), mask)
    assert density(weight, block) == np.count_nonzero(weight) / weight.size


def test_sums_of_blocks() -> None:
    values = np.arange(3 * 5, dtype=np.float32).reshape(3, 5, 1, 1)
    expected = [[0 + 1 + 5 + 6, 2 + 3 + 7 + 8, 4 + 9], [10 + 11, 12 + 13, 14]]
    np.testing.assert_array_equal(sums(values, Block(2, 2))[:, :, 0, 0], expected)
