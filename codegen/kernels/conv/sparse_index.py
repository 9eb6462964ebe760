"""Where the weights of a block-sparse kernel are: the array of indices that it reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv import conv_1x1
from graphopt.codegen.kernels.conv.template import ConvSpec, blocks, pack_channels
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target
from graphopt.ir.block_structure import Block, Mask, kept_mask


def pack_index(weight: Floats, spec: ConvSpec, target: Target) -> NDArray[np.int32]:
    """The array of indices that goes with `pack_weight`, as the module's text has it."""
    assert spec.block is not None
    return _index(mask_of(weight, spec, spec.block, target), spec, target)


def random_index(spec: ConvSpec, target: Target) -> NDArray[np.int32]:
    """Indices for some weight of which as many blocks are kept, to measure kernels with."""
    assert spec.block is not None
    shape = (spec.out_channels, sum(spec.in_channels), *spec.kernel)
    dense = np.ones_like(mask_of(np.ones(shape, np.float32), spec, spec.block, target))
    mask = np.arange(dense.size) < spec.kept
    return _index(np.random.default_rng(0).permuted(mask).reshape(dense.shape), spec, target)


def _index(mask: Mask, spec: ConvSpec, target: Target) -> NDArray[np.int32]:
    assert spec.block is not None
    mask = mask.transpose(0, 2, 3, 1)  # (groups, kh, kw, blocks of inputs)
    counts = mask.sum(axis=-1).ravel()
    starts = np.concatenate([[0], np.cumsum(counts)])
    _, ky, kx, block = np.nonzero(mask)
    inside, channel = np.divmod(block * spec.block.channels, target.lanes)
    (height, width), (down, across) = seen_by(spec).size, spec.dilations
    pixels = (inside * height + ky * down) * width + kx * across
    places = pixels if whole_vectors(spec.block, target) else pixels * target.lanes + channel
    index = np.zeros(indices_of(spec, target), np.int32)
    both = np.concatenate([starts, places])
    index[: len(both)] = both
    return index


def weight_shape(spec: ConvSpec, target: Target) -> tuple[int, ...]:
    """The shape that `pack_weight` gives."""
    assert spec.block is not None
    lanes, vectors = vectors_of(spec.block, target)
    return max(1, spec.kept), spec.block.channels, vectors, lanes


def vectors_of(block: Block, target: Target) -> tuple[int, int]:
    """Lanes of a vector of filters, and how many vectors a block of filters has."""
    lanes = min(block.filters, target.lanes)
    return lanes, block.filters // lanes


def whole_vectors(block: Block, target: Target) -> bool:
    """Whether a block's channels are read as a vector rather than as single numbers."""
    return target.kind == "gpu" and block.channels == target.lanes


def groups_of(spec: ConvSpec, block: Block, target: Target) -> int:
    """Blocks of filters, as many as fill the layout's blocks."""
    return -(-blocks((spec.out_channels,), target.lanes) * target.lanes // block.filters)


def seen_by(spec: ConvSpec) -> ConvSpec:
    """A 1x1 convolution over one long row; any other as it is."""
    return conv_1x1.one_row(spec) if conv_1x1.is_product(spec) else spec


def indices_of(spec: ConvSpec, target: Target) -> int:
    """How many numbers the array of indices has."""
    assert spec.block is not None
    positions = spec.kernel[0] * spec.kernel[1]
    return groups_of(spec, spec.block, target) * positions + 1 + spec.kept


def mask_of(weight: Floats, spec: ConvSpec, block: Block, target: Target) -> Mask:
    """Which blocks the kernel multiplies by, (groups, blocks of blocked inputs, kh, kw)."""
    mask = kept_mask(with_empty_lanes(weight, spec, target), block)
    missing = groups_of(spec, block, target) - len(mask)
    return np.pad(mask, ((0, missing), (0, 0), (0, 0), (0, 0)))


def with_empty_lanes(weight: Floats, spec: ConvSpec, target: Target) -> Floats:
    """(O, I, kh, kw) to (O, I with zeros where the blocked input has no channel, kh, kw)."""
    lanes = pack_channels(np.moveaxis(weight, 1, 0), target.lanes, spec.in_channels)
    spread: Floats = np.moveaxis(lanes, -1, 1).reshape(-1, *weight[:, 0].shape)
    return np.moveaxis(spread, 0, 1)
