"""What a Relax call of a convolution or product asks of our kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, te, topi

from graphopt.codegen.importing.quantised_weights import by_filters
from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.kernels.conv.template import ConvSpec, blocks, pack_channels
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.lowering.fusion import FusedRegion
from graphopt.errors import Unsupported

Expr = Any


def spec_of(region: FusedRegion) -> ConvSpec | None:
    """What our kernels must compute for a region; None where they cannot."""
    attrs = region.call.attrs
    batch, channels, height, width = shape_of(region.call.args[0])
    transposed = is_transposed(region.call)
    weight = weight_of(region.call)
    if batch != 1:
        raise Unsupported(
            f"the batch size is {batch}, but a bundle processes one photo at a time",
            hint="--input-shape 1,3,HEIGHT,WIDTH",
        )
    if str(region.call.args[0].ty.dtype) != "float32":
        return None
    if attrs.data_layout != "NCHW":
        return None
    top, left, bottom, right = (int(v) for v in attrs.padding)
    if transposed:
        bottom -= int(attrs.output_padding[0])
        right -= int(attrs.output_padding[1])
    return ConvSpec(
        in_channels=(channels,),
        out_channels=weight.shape[0],
        size=(height, width),
        kernel=weight.shape[2:],
        strides=(int(attrs.strides[0]), int(attrs.strides[1])),
        pads=(top, left, bottom, right),
        dilations=(int(attrs.dilation[0]), int(attrs.dilation[1])),
        groups=int(attrs.groups),
        transposed=transposed,
        epilogue=region.epilogue,
    )


def is_transposed(call: Expr) -> bool:
    """Whether a call is a transposed convolution."""
    return bool(call.op.name == "relax.nn.conv2d_transpose")


def weight_of(call: Expr) -> Floats:
    """A convolution's weight as (O, I of a group, kh, kw)."""
    weight: Floats = call.args[1].value.numpy()
    if not is_transposed(call):
        return weight
    return by_filters(weight, int(call.attrs.groups))


def flat(arguments: Sequence[Expr]) -> list[Expr]:
    """The arguments of a call, those in tuples one by one."""
    return [
        leaf
        for a in arguments
        for leaf in (a.fields if isinstance(a, relax.Tuple) else [a])
        if isinstance(leaf, (relax.Var, tvm.ir.GenericConst))
    ]


def blocks_of(runs: Runs, first: int, last: int, lanes: int) -> tuple[int, Runs] | None:
    """The first block, and the runs, of channels `first` to `last`; None if they start inside one.

    >>> _blocks_of((16, 20), 8, 24, 8)
    (1, (8, 8))
    """
    start = block = begin = 0
    found: list[int] = []
    for run in runs:
        inside, until = max(first - start, 0), min(last - start, run)
        if inside < until:
            if inside % lanes:
                return None
            begin = begin if found else block + inside // lanes
            found.append(until - inside)
        start += run
        block += blocks((run,), lanes)
    return (begin, tuple(found)) if found else None


def empty_lanes(runs: Runs, lanes: int) -> NDArray[np.bool_]:
    """True in the lanes (blocks, 1, 1, lanes) that hold no channel."""
    channels = np.ones((sum(runs), 1, 1), np.float32)
    return np.equal(pack_channels(channels, lanes, runs), 0)


def has_weight(call: Expr) -> bool:
    """Whether a matrix product is of some rows and a constant matrix, both float32."""
    x, weight = call.args
    if not isinstance(weight, tvm.ir.GenericConst) or str(x.ty.dtype) != "float32":
        return False
    return len(x.ty.shape) >= 2 and weight.value.numpy().ndim == 2


def as_1x1(x: Expr, packed: Expr) -> Expr:
    """(…, rows, inner) times the matrix that (parts, inner, width) is by columns."""
    parts, inner, width = (int(extent) for extent in packed.shape)
    k = te.reduce_axis((0, inner), "k")

    def value(*index: Expr) -> Expr:
        *rows, column = index
        return te.sum(x(*rows, k) * packed[column // width, k, column % width], axis=k)

    return te.compute((*x.shape[:-1], parts * width), value, name="matmul")


def is_mean_of_pixels(call: Expr) -> bool:
    """Whether a mean is that of all pixels, (1, C, 1, 1)."""
    axes = sorted(int(axis) % 4 for axis in call.attrs.axis)
    return axes == [2, 3] and bool(call.attrs.keepdims)


def mean_of(x: Expr) -> Expr:
    """The mean over all pixels; TVM would not make the conversion from halves part of its own."""
    total = topi.sum(x.astype("float32"), axis=[2, 3], keepdims=True)
    return total / (x.shape[2] * x.shape[3]).astype("float32")


Runs = tuple[int, ...]
"""Channels of a blocked tensor: runs that each start a new block (see `ConvSpec.in_channels`)."""
