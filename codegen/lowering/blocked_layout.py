"""Tensors in blocks of channels: packed, unpacked, halved, in blocks of another width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.codegen.kernels.conv.template import blocks
from graphopt.codegen.kernels.emit import in_half
from graphopt.codegen.lowering.conv_calls import (
    Expr,
    Runs,
)
from graphopt.codegen.lowering.schedule import UNPACKS_CHANNELS


def halve(x: Expr) -> Expr:
    """The same as float16."""

    def value(*index: Expr) -> Expr:
        return in_half(x[index], tirx.const).astype("float16")

    return te.compute(x.shape, value, name="halve")


def pack_blocks(x: Expr, runs: Runs, lanes: int) -> Expr:
    """(1, C, H, W) to (1, blocks, H, W, lanes), zeros where there is no channel."""
    height, width = x.shape[2], x.shape[3]

    def value(n: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        result = tirx.FloatImm("float32", 0.0)
        first_block = first_channel = 0
        for run in runs:
            channel = (block - first_block) * lanes + lane
            here = tirx.all(block >= first_block, channel < run)
            source = tirx.min(tirx.max(first_channel + channel, 0), sum(runs) - 1)
            element = x[n, source, row, column]
            # Later runs win, since `here` is true of every run before them as far as it reaches.
            result = tirx.if_then_else(here, element, result)
            first_block += blocks((run,), lanes)
            first_channel += run
        return result

    return te.compute((1, blocks(runs, lanes), height, width, lanes), value, name="pack")


def unpack_blocks(x: Expr, shape: Sequence[int], runs: Runs) -> Expr:
    """(1, blocks, H, W, lanes) to (1, C, H, W)."""
    lanes = int(x.shape[4])

    def value(n: Expr, channel: Expr, row: Expr, column: Expr) -> Expr:
        # Where a channel lies: in the last run that starts at or before it.
        block, lane = channel // lanes, channel % lanes
        first_block = first_channel = 0
        for run in runs:
            inner = channel - first_channel
            started = channel >= first_channel
            block = tirx.if_then_else(started, first_block + inner // lanes, block)
            lane = tirx.if_then_else(started, inner % lanes, lane)
            first_block += blocks((run,), lanes)
            first_channel += run
        return x[n, block, row, column, lane]

    return te.compute(tuple(shape), value, name="unpack", attrs={UNPACKS_CHANNELS: True})


def reblocked(x: Expr, runs: Runs, lanes: int) -> Any:
    """Read a blocked tensor as if its blocks had `lanes` channels.

    Where a wider block has channels that the tensor's own blocks do not reach, the last are read
    once more: they have no meaning.
    """
    width, count = int(x.shape[4]), int(x.shape[1])

    def value(n: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        source = inside = None
        first = first_source = 0
        for run in runs:
            at = (block - first) * lanes + lane
            this = (first_source + tirx.floordiv(at, width), tirx.floormod(at, width))
            if source is None:
                source, inside = this
            else:
                here = block >= first
                source = tirx.if_then_else(here, this[0], source)
                inside = tirx.if_then_else(here, this[1], inside)
            first += blocks((run,), lanes)
            first_source += blocks((run,), width)
        if lanes > width:
            source = tirx.min(source, count - 1)
        return x[n, source, row, column, inside]

    return value


def in_blocks(
    x: Expr,
    runs: Runs,
    lanes: int,
    name: str,
    convert: Callable[[Expr], Expr] = lambda value: value,
) -> Expr:
    """A blocked tensor in blocks of `lanes`, each of its numbers converted; see `reblocked`."""
    read = reblocked(x, runs, lanes)
    shape = (1, blocks(runs, lanes), x.shape[2], x.shape[3], lanes)
    return te.compute(shape, lambda *index: convert(read(*index)), name=name)


def planar_in_blocks(x: Expr, lanes: int, name: str, convert: Callable[[Expr], Expr]) -> Expr:
    """(1, C, H, W) in blocks of `lanes`, each number converted; the last block repeats the last."""
    channels = int(x.shape[1])

    def value(n: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        return convert(x[n, tirx.min(block * lanes + lane, channels - 1), row, column])

    shape = (1, blocks((channels,), lanes), x.shape[2], x.shape[3], lanes)
    return te.compute(shape, value, name=name)
