"""Quantised tensors: how they are made, changed in layout, and what a convolution of them asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from graphopt.codegen.importing.quantisation import Quantisation, number_of, step_of
from graphopt.codegen.importing.quantised_weights import QuantisedWeight
from graphopt.codegen.importing.relax_shapes import Expr
from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Epilogue, EpilogueStep, Floats, Operand
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers, byte_lanes
from graphopt.codegen.kernels.low_precision.stored_conv import Stored
from graphopt.codegen.lowering.blocked_layout import in_blocks, planar_in_blocks, unpack_blocks
from graphopt.codegen.lowering.conv_calls import Runs
from graphopt.codegen.lowering.fusion import (
    FusedRegion,
    dequantise_step,
    quantise_steps,
    scalar,
)
from graphopt.codegen.targets import Target

Doubles = NDArray[np.float64]

LARGEST_BIAS, LARGEST_DEPTHWISE_BIAS = 2**30, 2**23
"""What sums may begin with: half of what 32 bits hold; half of what float32 holds exactly."""
SMALLEST_LANES = 16
"""Channels of the narrowest blocks that kernels write."""


class Bytes(NamedTuple):
    """A tensor as bytes, blocked.

    Args:
        expr: (1, blocks, height, width, lanes), uint8.
        lanes: channels of a block.
        runs: runs of channels, each of which starts a block.
        means: what the bytes stand for.
    """

    expr: Expr
    lanes: int
    runs: Runs
    means: Quantisation


@dataclass(frozen=True)
class QuantisedRegion:
    """A convolution of bytes with what it does besides.

    Args:
        spec: what a kernel must compute.
        weight: (O, I of a group, kh, kw).
        start: the bias as a whole number of steps of the sums, (O,).
        channels: the epilogue's vectors, (O,) each.
        y: what the result's bytes stand for; None: it is floats.
    """

    spec: Int8Conv
    weight: Integers
    start: Integers
    channels: tuple[Floats, ...]
    y: Quantisation | None


def quantised_region(
    conv: ConvSpec,
    region: FusedRegion,
    weight: QuantisedWeight,
    x: Bytes,
    tensors: Sequence[Bytes | Stored],
    target: Target,
) -> QuantisedRegion:
    """A region of floats over dequantised tensors, as a convolution of bytes.

    Args:
        conv: the convolution of floats; `in_channels` as the bytes lie.
        region: what it does besides.
        weight: as bytes.
        x: its input as bytes.
        tensors: its epilogue's tensors: as bytes, or how their floats lie.
        target: where it will run.
    """
    steps, channels, y = region.before_quantising, list(region.channels), region.quantised
    scales = weight.scales.astype(np.float64) * x.means.scale
    bias = _bias(steps)
    added = np.zeros(conv.out_channels) if bias is None else channels[bias].astype(np.float64)
    values, scales = _with_room(weight.values, scales, added, conv)
    start = np.rint(added / scales).astype(np.int32)
    narrowest = byte_lanes(conv.out_channels, target.byte_lanes)
    width = x.lanes if conv.depthwise else max(SMALLEST_LANES, narrowest)
    found = _epilogue(steps, bias is not None, channels, scales.astype(np.float32), tensors, y)
    epilogue, vectors = found
    stored = Stored("uint8", width) if y is not None else Stored("float32", target.lanes)
    spec = Int8Conv(
        replace(conv, epilogue=epilogue),
        Stored("uint8", x.lanes),
        x.means.zero,
        stored,
        tuple(Stored("uint8", t.lanes) if isinstance(t, Bytes) else t for t in tensors),
        weight_sum=int(np.abs(values.astype(np.int64)).sum(axis=(1, 2, 3)).max()),
    )
    return QuantisedRegion(spec, values, start, tuple(vectors), y)


def _with_room(
    weight: Integers, scales: Doubles, bias: Doubles, conv: ConvSpec
) -> tuple[Integers, Doubles]:
    """Weights and scales of filters whose biases are whole numbers of steps that sums can hold.

    Where a bias is too many steps, those of the filter are made larger: its weights are next to
    nothing beside the bias.
    """
    largest = LARGEST_DEPTHWISE_BIAS if conv.depthwise else LARGEST_BIAS
    wider = np.maximum(scales, np.abs(bias) / (largest - 1))
    # A filter of zeros may come with a scale of zero.
    wider = np.where(wider > 0, wider, 1.0)
    fewer = (scales / wider).reshape(-1, 1, 1, 1)
    return np.rint(weight * fewer).astype(np.int8), wider


def _bias(steps: Sequence[EpilogueStep]) -> int | None:
    """The vector that the first step adds to the sum, which no other step reads."""
    total = Operand("step", -1)
    if not steps or steps[0].operation != "add" or total not in steps[0].operands:
        return None
    if any(total in step.operands for step in steps[1:]):
        return None
    return next((int(o.value) for o in steps[0].operands if o.kind == "channel"), None)


def _epilogue(
    steps: Sequence[EpilogueStep],
    biased: bool,
    channels: list[Floats],
    scales: Floats,
    tensors: Sequence[Bytes | Stored],
    y: Quantisation | None,
) -> tuple[Epilogue, list[Floats]]:
    """The steps after the whole numbers' sum, and their vectors.

    Args:
        steps: of the region of floats.
        biased: whether the first of them is the bias, which the sum begins with.
        scales: what a step of the sum is worth, (O,).
    """
    rest = steps[1:] if biased else steps
    bounds = _bounds(rest, first=0 if biased else -1)
    if y is not None and bounds is not None:
        low, high = (_byte(bound, y) for bound in bounds)
        return _requantised(low, high, y), [(scales / np.float32(y.scale)).astype(np.float32)]
    made = [EpilogueStep("multiply", (Operand("step", -1), Operand("channel", len(channels))))]
    as_floats: dict[int, Operand] = {}
    for n, tensor in enumerate(tensors):
        if isinstance(tensor, Bytes):
            as_floats[n] = Operand("step", len(made))
            made.append(dequantise_step(Operand("tensor", n), tensor.means))
    offset = len(made) - (1 if biased else 0)

    def moved(operand: Operand) -> Operand:
        if operand.kind == "tensor":
            return as_floats.get(int(operand.value), operand)
        if operand.kind != "step":
            return operand
        begins = int(operand.value) == (0 if biased else -1)
        return Operand("step", 0 if begins else int(operand.value) + offset)

    made += [step._replace(operands=tuple(map(moved, step.operands))) for step in rest]
    if y is not None:
        last = Operand("step", len(made) - 1 if rest else 0)
        made += quantise_steps(last, y, len(made))
    return Epilogue(tuple(made)), [*channels, scales]


def _requantised(low: float, high: float, y: Quantisation) -> Epilogue:
    """Sums to bytes: the scales of sum and result are one vector."""
    return Epilogue(
        (
            EpilogueStep(
                "multiply_add", (Operand("step", -1), Operand("channel", 0), scalar(y.zero))
            ),
            EpilogueStep("as_byte", (Operand("step", 0), scalar(low), scalar(high))),
        )
    )


def _bounds(steps: Sequence[EpilogueStep], first: int) -> tuple[float, float] | None:
    """What steps bound the sum by, where they do no more than that.

    Args:
        first: the number of the step that `steps` begin after.
    """
    low, high = -np.inf, np.inf
    for n, step in enumerate(steps):
        value, bound = step.operands[0], step.operands[-1]
        if value != Operand("step", first + n) or bound.kind != "scalar":
            return None
        if step.operation == "maximum":
            low, high = max(low, bound.value), max(high, bound.value)
        elif step.operation == "minimum":
            low, high = min(low, bound.value), min(high, bound.value)
        else:
            return None
    return low, high


def _byte(bound: float, y: Quantisation) -> float:
    """A bound as a byte of the result."""
    return float(np.clip(np.rint(np.clip(bound / y.scale, -1e6, 1e6)) + y.zero, 0, 255))


# Kernels of TVM's that change how tensors lie


def quantise_blocks(x: Expr, runs: Runs, lanes: int, means: Quantisation) -> Expr:
    """Blocked floats to bytes in blocks of `lanes`."""
    return in_blocks(x, runs, lanes, "quantise", lambda value: _quantised(value, means))


def quantise_planar(x: Expr, lanes: int, means: Quantisation) -> Expr:
    """(1, C, H, W) of floats to bytes in blocks of `lanes`."""
    return planar_in_blocks(x, lanes, "quantise", lambda value: _quantised(value, means))


def _quantised(value: Expr, means: Quantisation) -> Expr:
    return step_of(value, *_constants(means), "uint8")


def _constants(means: Quantisation) -> tuple[Expr, Expr]:
    return tirx.const(means.scale, "float32"), tirx.const(means.zero, "int32")


def dequantise_blocks(x: Expr, runs: Runs, lanes: int, means: Quantisation) -> Expr:
    """Blocked bytes to floats in blocks of `lanes`."""
    constants = _constants(means)
    return in_blocks(x, runs, lanes, "dequantise", lambda value: number_of(value, *constants))


def unpack_bytes(x: Expr, shape: Sequence[int], runs: Runs, *, signed: bool) -> Expr:
    """(1, blocks, H, W, lanes) to (1, C, H, W); `signed`: to int8, of bytes 128 higher."""
    planar = unpack_blocks(x, shape, runs)
    if not signed:
        return planar

    def value(*index: Expr) -> Expr:
        return (planar(*index).astype("int32") - 128).astype("int8")

    return te.compute(tuple(shape), value, name="signed")
