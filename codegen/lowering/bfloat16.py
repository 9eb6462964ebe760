"""Tensors of bfloat16: how they are made, widened and changed in layout."""

from __future__ import annotations

from typing import NamedTuple

from tvm import topi

from graphopt.codegen.importing.relax_shapes import Expr
from graphopt.codegen.kernels.low_precision.bfloat16 import narrowed, widened
from graphopt.codegen.lowering.blocked_layout import in_blocks, planar_in_blocks
from graphopt.codegen.lowering.conv_calls import Runs


class Bfloat16(NamedTuple):
    """A tensor as bfloat16, blocked.

    Args:
        expr: (1, blocks, height, width, lanes), the bits of its numbers.
        lanes: channels of a block.
        runs: runs of channels, each of which starts a block.
    """

    expr: Expr
    lanes: int
    runs: Runs


def narrow_blocks(x: Expr, runs: Runs, lanes: int) -> Expr:
    """Blocked float32 to bfloat16 in blocks of `lanes`."""
    return in_blocks(x, runs, lanes, "narrow", narrowed)


def narrow_planar(x: Expr, lanes: int) -> Expr:
    """(1, C, H, W) of float32 to bfloat16 in blocks of `lanes`."""
    return planar_in_blocks(x, lanes, "narrow", narrowed)


def widen_blocks(x: Expr, runs: Runs, lanes: int) -> Expr:
    """Blocked bfloat16 to float32 in blocks of `lanes`."""
    return in_blocks(x, runs, lanes, "widen", widened)


def pooled(x: Expr, call: Expr, runs: Runs, lanes: int) -> Expr:
    """Windows of bfloat16, their largest or their mean in float32, in blocks of `lanes`.

    Args:
        x: (1, blocks, height, width, lanes of its own), bits.
        call: the pooling of planar tensors.
    """
    a = call.attrs
    return topi.nn.pool2d(
        widen_blocks(x, runs, lanes),
        kernel=[int(v) for v in a.pool_size],
        stride=[int(v) for v in a.strides],
        dilation=[int(v) for v in a.dilation],
        padding=[int(v) for v in a.padding],
        pool_type="max" if call.op.name == "relax.nn.max_pool2d" else "avg",
        ceil_mode=bool(a.ceil_mode),
        layout=f"NCHW{lanes}c",
        count_include_pad=bool(a.count_include_pad),
    )
