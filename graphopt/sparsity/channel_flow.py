"""How channels go through nodes: which leave each in its place, what becomes of a constant one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import constant_of, input_of


class ChannelRule(Enum):
    """What an operator does with channels."""

    MIXES = auto()
    """A convolution that makes each channel from all that it reads."""
    FILTERS = auto()
    """A depthwise convolution."""
    POINTWISE = auto()
    """Each element from those at its place, and from constants."""
    SPATIAL = auto()
    """Each channel by itself; what is zero everywhere stays so."""
    JOINS = auto()
    """A Concat of channels."""
    HOLDS = auto()
    """Anything else: the channels that it touches must stay."""


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a weight."""
    return isinstance(tensor, gs.Constant)


def leaves_channels(node: gs.Node) -> bool:
    """Whether a Resize or Pad leaves the batch and channels as they are; other operators do."""
    if node.op == "Resize":
        if "axes" in node.attrs:
            return not {0, 1} & set(node.attrs["axes"]) and min(node.attrs["axes"]) >= 0
        scales = input_of(node, 2)
        values = None if scales is None else constant_of(scales)
        return values is not None and values.size > 2 and bool((values[:2] == 1).all())
    if node.op == "Pad":
        amounts = constant_of(node.inputs[1])
        if amounts is None or input_of(node, 3) is not None:
            return False
        return not amounts.reshape(2, -1)[:, :2].any()
    return True


def keeps_zeros(node: gs.Node) -> bool:
    """Whether a channel of zeros stays one: not behind a Pad with something else."""
    value = input_of(node, 2) if node.op == "Pad" else None
    return value is None or not np.any(constant_of(value))


def filtered(spec: Convolution, given: Doubles) -> Doubles:
    """What a convolution makes of channels that are the same everywhere."""
    bias = np.zeros(spec.out_channels) if spec.bias is None else spec.bias.astype(np.float64)
    known = ~np.isnan(given) if is_even(spec) else given == 0
    weight = spec.weight.astype(np.float64)
    if spec.op == "ConvTranspose" and not spec.depthwise:
        weight = weight.swapaxes(0, 1)
    taps = tuple(range(2, weight.ndim))
    depends = (weight != 0).any(axis=taps) & ~(known[:, None] if spec.depthwise else known)
    inputs = np.where(known, given, 0.0)
    sums = weight.sum(axis=taps)
    made = bias + (sums[:, 0] * inputs if spec.depthwise else sums @ inputs)
    return np.where(depends.any(axis=1), np.nan, made)


def evaluate(graph: gs.Graph, node: gs.Node, given: Sequence[Doubles | None]) -> Doubles:
    """What a pointwise operator makes of channels that are the same everywhere."""
    rank, count = len(node.outputs[0].shape), int(node.outputs[0].shape[1])
    known = np.ones(count, bool)
    feeds: dict[str, Array] = {}
    for tensor, values in zip(node.inputs, given, strict=True):
        if values is not None:
            known &= ~np.isnan(values)
            some = np.nan_to_num(values, nan=1.0).astype(tensor.dtype)
            feeds[tensor.name] = some.reshape(1, count, *[1] * (rank - 2))
        elif not tensor.is_empty():
            operand = constant_of(tensor)
            assert operand is not None
            feeds[tensor.name] = operand
    proto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    try:
        with np.errstate(all="ignore"):
            (made,) = ReferenceEvaluator(proto, opsets={"": graph.opset}).run(None, feeds)
    except RuntimeContextError:  # an operator that ONNX defines by others, as Gelu
        return np.full(count, np.nan)
    if made.size != count:  # a constant differs from place to place
        return np.full(count, np.nan)
    values = made.astype(np.float64).ravel()
    if node.op == "Mul":
        known |= values == 0
    elif node.op == "BatchNormalization":
        known |= feeds[node.inputs[1].name] == 0
    return np.where(known & np.isfinite(values), values, np.nan)


Doubles = NDArray[np.float64]


def is_even(spec: Convolution) -> bool:
    """Whether a convolution makes the same everywhere of what is the same everywhere.

    With pads that only holds for zeros, and behind a transposed one, too.
    """
    return spec.op == "Conv" and spec.pads is not None and not any(spec.pads)
