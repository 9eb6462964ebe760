"""The words of a punched weight of bytes that are kept: four channels at a position of the kernel.

A word is four channels that lie side by side in the blocked input, for the filters of a group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import blocks, pack_channels
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.stored_conv import WORD
from graphopt.ir.block_structure import Block, Mask


def words_of(weight: Integers, spec: Int8Conv, block: Block) -> Integers:
    """(O, I, kh, kw) to (groups, kh, kw, words of a pixel, filters of a group, 4), zeros between.

    Args:
        weight: the weight.
        spec: how its input lies.
        block: as many filters are a group.
    """
    lanes = spec.x.lanes
    spread = pack_channels(np.moveaxis(weight, 1, 0), lanes, spec.conv.in_channels)
    ib, filters, kh, kw, _ = spread.shape
    groups = groups_of(spec, block)
    padded = np.zeros((ib, groups * block.filters, kh, kw, lanes), weight.dtype)
    padded[:, :filters] = spread
    cut = padded.reshape(ib, groups, block.filters, kh, kw, lanes // WORD, WORD)
    ordered = cut.transpose(1, 3, 4, 0, 5, 2, 6)
    words: Integers = ordered.reshape(groups, kh, kw, ib * (lanes // WORD), block.filters, WORD)
    return words


def kept_words(weight: Integers, spec: Int8Conv, block: Block) -> Mask:
    """Which words hold anything but zeros, (groups, kh, kw, words of a pixel)."""
    mask: Mask = np.any(words_of(weight, spec, block) != 0, axis=(4, 5))
    return mask


def groups_of(spec: Int8Conv, block: Block) -> int:
    """Groups that hold all filters."""
    return blocks((spec.conv.out_channels,), block.filters)


def places_of(mask: Mask, spec: Int8Conv) -> NDArray[np.intp]:
    """Where kept words are read, in words of the input, from the pixel that (0, 0) reads.

    Args:
        mask: see `kept_words`, in whose order they come.
        spec: the convolution, over one row where it is a product.
    """
    conv, per_pixel = spec.conv, spec.x.lanes // WORD
    (height, width), (down, across) = conv.size, conv.dilations
    _, ky, kx, word = np.nonzero(mask)
    block, inside = np.divmod(word, per_pixel)
    return ((block * height + ky * down) * width + kx * across) * per_pixel + inside
