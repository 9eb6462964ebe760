"""`fold-batchnorm`: per-channel scales and shifts go into the weights next to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import CONV_OPS, has_quantised_weight
from graphopt.ir.edit import absorb, constant, remove_nodes
from graphopt.ir.graph import constant_of, is_standard, label, only_consumer, producer_of
from graphopt.ir.operators import OPERATORS
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip
from graphopt.optimizer.simplify.channel_weights import (
    Affine,
    Floats,
    Weights,
    fed_conv,
    fed_gemm,
    scaled_conv,
    scaled_gemm,
)

LINEAR_OPS = tuple(operator.name for operator in OPERATORS.values() if operator.has_bias)
AFFINE_OPS = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class Site:
    """A per-channel affine node, and the linear layer that takes it in."""

    affine: gs.Node
    linear: gs.Node
    weights: Weights
    before: bool
    """Whether the affine comes before the linear layer."""


@dataclass(frozen=True)
class FoldBatchNorm(Pass[Site]):
    """Fold BatchNormalization and per-channel arithmetic into the weights beside it.

    Rewrite:
        y = BatchNormalization(Conv(x, W, b))  ->  y = Conv(x, W', b')
        with s = gamma / sqrt(var + epsilon), W' = W * s, b' = (b - mean) * s + beta.
        The same for ConvTranspose and Gemm, and for Mul, Div, Add and Sub by constants that have
        one value for each channel (or one for all); chains of them go in one by one.
        In the other order, y = Conv(scale * x + shift), the scale goes into W's input channels and
        the shift, through W, into the bias.

    Numerics:
        Exact up to rounding: the new weights are computed in double precision. With zero padding a
        shift in front of a convolution is not folded: padding happens after it, so that the border
        would see the shift where it saw zeros.

    Why:
        An inference-time BatchNormalization reads and writes a whole feature map to do what the
        convolution before it can do for nothing (Jacob et al., "Quantization and Training of Neural
        Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2).

    When it skips:
        The layer's output is also read by others or is an output of the network; the parameters are
        not constant, or not one for each channel; the normalization is in training mode; there is
        no convolution or Gemm on either side; a folded weight would overflow its element type, or a
        channel's weights would be so small that the type holds them with less than its precision.

    Examples:
        fold-batchnorm
            a = Conv(x, first) y = BatchNormalization(a, scale, shift, mean, variance)  ->  Conv
    """

    name: ClassVar[str] = "fold-batchnorm"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    repeat: ClassVar[bool] = True

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        for node in list(graph.nodes):
            if not is_standard(node, "BatchNormalization", *AFFINE_OPS) or not node.outputs:
                continue
            found = _find(graph, node)
            if isinstance(found, Site):
                yield found
            elif node.op == "BatchNormalization" or (found and _beside_linear(node)):
                yield Skip(label(node), found)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        linear, affine, new = site.linear, site.affine, site.weights
        dtype = linear.inputs[1].dtype
        with np.errstate(over="ignore"):
            weight = new.weight.astype(dtype)
            bias = None if new.bias is None else new.bias.astype(dtype)
        if not all(np.isfinite(a).all() for a in (weight, bias) if a is not None):
            return Skip(label(affine), f"a folded weight overflows {np.dtype(dtype).name}")
        if _is_coarse(linear, new.weight, weight):
            return Skip(label(affine), f"folded weights are too small for {np.dtype(dtype).name}")
        change = Change(label(affine), f"{affine.op} into {linear.op} {label(linear)}")
        if site.before:
            x = _variable_input(affine)
            remove_nodes(graph, [affine])
            linear.inputs[0] = x
        else:
            absorb(graph, linear, affine)
        # New values get new names, after the tensor they make; others may still read the old ones.
        linear.inputs[1] = constant(graph, f"{linear.outputs[0].name}.weight", weight)
        if bias is not None:
            fresh = constant(graph, f"{linear.outputs[0].name}.bias", bias)
            if len(linear.inputs) > 2:
                linear.inputs[2] = fresh
            else:
                linear.inputs.append(fresh)
        if linear.op == "Gemm":
            linear.attrs["beta"] = 1.0
        return change


def _is_coarse(linear: gs.Node, exact: Floats, stored: Array) -> bool:
    """Whether rounding costs some output channel more of its weights than it usually does."""
    by_column = linear.op == "ConvTranspose" or (
        linear.op == "Gemm" and not linear.attrs.get("transB", 0)
    )
    rows = np.moveaxis(
        np.stack([exact, stored.astype(np.float64) - exact]), 2 if by_column else 1, 0
    )
    whole, lost = np.linalg.norm(rows.reshape(len(rows), 2, -1), axis=2).T
    return bool((lost > np.finfo(str(stored.dtype)).eps * whole).any())


# --- the affine ---------------------------------------------------------------------------------


def _variable_input(node: gs.Node) -> gs.Tensor:
    return next(t for t in node.inputs if not isinstance(t, gs.Constant))


def _affine_of(node: gs.Node) -> Affine | str:
    """The per-channel affine map that a node computes, or why it does not compute one."""
    return _batchnorm(node) if node.op == "BatchNormalization" else _arithmetic(node)


def _batchnorm(node: gs.Node) -> Affine | str:
    extra = [t for t in node.outputs[1:] if not t.is_empty()]
    if node.attrs.get("training_mode", 0) or extra:
        return "it is in training mode"
    values = [constant_of(tensor) for tensor in node.inputs[1:5]]
    if any(value is None for value in values):
        quantised = has_quantised_weight(node)
        return f"its parameters are {'quantised' if quantised else 'not constant'}"
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    if not np.isfinite(scale).all():
        return "its variance is not positive"
    return Affine(node.inputs[0], scale, beta - mean * scale)


def _arithmetic(node: gs.Node) -> Affine | str:
    constants = [constant_of(tensor) for tensor in node.inputs]
    if (constants[0] is None) == (constants[1] is None):
        return ""  # two variables: no affine at all
    side = 0 if constants[1] is None else 1
    x, given = node.inputs[1 - side], constants[side]
    assert given is not None
    values = _per_channel(given, _rank(x))
    if values is None:
        return "its constant is not one value for each channel"
    one, zero = np.ones_like(values), np.zeros_like(values)
    if node.op == "Mul":
        return Affine(x, values, zero)
    if node.op == "Add":
        return Affine(x, one, values)
    if node.op == "Sub":
        return Affine(x, one, -values) if side == 1 else Affine(x, -one, values)
    if side == 0:
        return "it divides a constant by the feature map"
    if not values.all():
        return "it divides by zero"
    return Affine(x, one / values, zero)


def _rank(tensor: gs.Tensor) -> int | None:
    if tensor.shape is not None:
        return len(tensor.shape)
    maker = producer_of(tensor)
    if maker is not None and is_standard(maker, *CONV_OPS) and maker.inputs[1].shape:
        return len(maker.inputs[1].shape)
    return None


def _per_channel(values: Array, rank: int | None) -> Floats | None:
    """A constant as (1,) or (channels,), if it broadcasts along axis 1 of a tensor of that rank."""
    if rank is None or rank < 2 or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(dim != 1 for axis, dim in enumerate(shape) if axis != 1):
        return None
    return values.astype(np.float64).reshape(-1)


def _beside_linear(node: gs.Node) -> bool:
    neighbours = [m for t in node.inputs for m in t.inputs]
    neighbours += [reader for t in node.outputs for reader in t.outputs]
    return any(is_standard(n, *LINEAR_OPS) for n in neighbours)


def _find(graph: gs.Graph, node: gs.Node) -> Site | str:
    """The layer that takes a node in: the one before it if possible, else the one after it."""
    affine = _affine_of(node)
    if isinstance(affine, str):
        return affine
    after = _after(graph, node, affine)
    if isinstance(after, Site):
        return after
    before = _before(graph, node, affine)
    return before if isinstance(before, Site) else f"{after}; {before}"


# --- linear layers ------------------------------------------------------------------------------


def _after(graph: gs.Graph, node: gs.Node, affine: Affine) -> Site | str:
    linear = producer_of(affine.x)
    if linear is None or not is_standard(linear, *LINEAR_OPS):
        return f"its input comes from {linear.op if linear else 'outside'}"
    if only_consumer(graph, affine.x) is not node:
        return f"others read the output of the {linear.op} before it"
    weights = scaled_gemm(linear, affine) if linear.op == "Gemm" else scaled_conv(linear, affine)
    return weights if isinstance(weights, str) else Site(node, linear, weights, before=False)


def _before(graph: gs.Graph, node: gs.Node, affine: Affine) -> Site | str:
    linear = only_consumer(graph, node.outputs[0])
    if linear is None:
        return "its output has several readers, or none"
    if not is_standard(linear, *LINEAR_OPS) or linear.inputs[0] is not node.outputs[0]:
        return f"its output goes into {linear.op}"
    widest = max(affine.scale.size, affine.shift.size)
    if widest > 1 and (affine.x.shape is None or affine.x.shape[1] != widest):
        return "it may spread one channel over several"
    weights = fed_gemm(linear, affine) if linear.op == "Gemm" else fed_conv(linear, affine)
    return weights if isinstance(weights, str) else Site(node, linear, weights, before=True)
