"""Nodes that hand their input on, or that of the node before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_standard,
    producer_of,
    scalar_of,
    static_shape,
)
from graphopt.ir.operators import Kind, operator_of
from graphopt.optimizer.simplify.rule import Site, Source, no_op


@no_op("Identity")
def identity(node: gs.Node) -> Source:
    """Identity is taken out."""
    return node.inputs[0]


@no_op("Dropout")
def dropout(node: gs.Node) -> Source:
    """Dropout that is not in training mode is taken out."""
    training = input_of(node, 2)
    return node.inputs[0] if training is None or scalar_of(training) == 0 else None


@no_op("Cast")
def same_cast(node: gs.Node) -> Source:
    """A Cast to the type that is there is taken out."""
    source = node.inputs[0].dtype
    same = isinstance(source, np.dtype) and (
        onnx.helper.np_dtype_to_tensor_dtype(source) == node.attrs["to"]
    )
    return node.inputs[0] if same else None


@no_op("Concat", "Sum", "Max", "Min", "Mean")
def single_operand(node: gs.Node) -> Source:
    """Concat, Sum, Max, Min and Mean of one tensor are taken out."""
    return node.inputs[0] if len(node.inputs) == 1 else None


@no_op("Split")
def single_part(node: gs.Node) -> Source:
    """A Split into one is taken out."""
    return node.inputs[0] if len(node.outputs) == 1 else None


@no_op("Pad")
def empty_pad(node: gs.Node) -> Source:
    """A Pad by nothing is taken out."""
    pads = constant_of(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


@no_op("Slice")
def whole_slice(node: gs.Node) -> Source:
    """A Slice of everything, in order, is taken out."""
    shape = node.inputs[0].shape
    starts, ends = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    if shape is None or starts is None or ends is None:
        return None
    given = input_of(node, 3), input_of(node, 4)
    axes = np.arange(starts.size) if given[0] is None else constant_of(given[0])
    steps = np.ones_like(starts) if given[1] is None else constant_of(given[1])
    if axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = shape[int(axis)]
        reaches = end >= dim if isinstance(dim, int) else end >= np.iinfo(np.int32).max
        if start != 0 or step != 1 or not reaches:
            return None
    return node.inputs[0]


def _reshapes(node: gs.Node) -> bool:
    """Whether a node gives the same elements in another shape."""
    operator = operator_of(node)
    return operator.kind is Kind.VIEW and not operator.elementwise


_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@no_op(*_RESHAPES)
def same_shape(node: gs.Node) -> Source:
    """A Reshape, Squeeze, Unsqueeze or Flatten to the shape that is there, or was, is taken out."""
    shape = static_shape(node.outputs[0])
    sources = (source for source in _before_reshapes(node) if static_shape(source) == shape)
    return None if shape is None else next(sources, None)


@no_op("Reshape")
def undone_reshape(node: gs.Node) -> Source:
    """A Reshape reads from before the Reshape, Squeeze, Unsqueeze or Flatten that it undoes."""
    target, source = constant_of(node.inputs[1]), list(_before_reshapes(node))[-1]
    if target is None or source is node.inputs[0] or (target == 0).any():
        return None

    def edit(_: gs.Graph) -> None:
        node.inputs[0] = source

    return Site(node, "reads from before another Reshape", edit)


def _before_reshapes(node: gs.Node) -> Iterator[gs.Tensor]:
    """What a node reads, and what that was before it was reshaped, nearest first."""
    source = node.inputs[0]
    yield source
    while (maker := producer_of(source)) is not None and _reshapes(maker):
        source = maker.inputs[0]
        yield source


@no_op("Reshape")
def copied_shape(node: gs.Node) -> Source:
    """A Reshape of a partly dynamic tensor to its own extents is taken out."""
    target, dims = constant_of(node.inputs[1]), node.inputs[0].shape
    if target is None or dims is None or len(dims) != target.size:
        return None
    if node.attrs.get("allowzero", 0):
        return None
    kept = [t == 0 or (isinstance(d, int) and t == d) for t, d in zip(target, dims, strict=True)]
    # One extent at most is left to be computed.
    copied = all(k or t == -1 for k, t in zip(kept, target, strict=True)) and kept.count(False) <= 1
    return node.inputs[0] if copied else None


@no_op("Expand")
def same_expand(node: gs.Node) -> Source:
    """An Expand to the shape that is there is taken out."""
    shape = static_shape(node.inputs[0])
    return node.inputs[0] if shape is not None and shape == static_shape(node.outputs[0]) else None


@no_op("Transpose")
def identity_transpose(node: gs.Node) -> Source:
    """A Transpose that leaves the axes in order is taken out."""
    perm = _permutation(node)
    return node.inputs[0] if perm is not None and perm == sorted(perm) else None


@no_op("Transpose")
def double_transpose(node: gs.Node) -> Source:
    """Transpose after Transpose becomes one or none."""
    perm, maker = _permutation(node), producer_of(node.inputs[0])
    first = _permutation(maker) if maker is not None and is_standard(maker, "Transpose") else None
    if perm is None or maker is None or first is None:
        return None
    both = [first[axis] for axis in perm]
    if both == sorted(both):
        return maker.inputs[0]

    def edit(_: gs.Graph) -> None:
        node.inputs[0] = maker.inputs[0]
        node.attrs["perm"] = both

    return Site(node, "Transpose takes in the one before it", edit)


def _permutation(node: gs.Node) -> list[int] | None:
    if "perm" in node.attrs:
        return list(node.attrs["perm"])
    shape = node.inputs[0].shape
    return None if shape is None else list(range(len(shape)))[::-1]


@no_op("MaxPool", "AveragePool")
def single_element_pool(node: gs.Node) -> Source:
    """MaxPool and AveragePool over single elements are taken out."""
    attrs = node.attrs
    ones = [*attrs["kernel_shape"], *(attrs.get("strides") or [1])]
    plain = all(n == 1 for n in ones) and not any(attrs.get("pads") or [0])
    return node.inputs[0] if plain else None


@no_op("Resize")
def unit_resize(node: gs.Node) -> Source:
    """A Resize by one is taken out."""
    scales = input_of(node, 2)
    values = None if scales is None else constant_of(scales)
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return node.inputs[0] if values is not None and values.size and (values == 1).all() else None


_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
_EITHER_SIDE = {"Add", "Mul"}


@no_op(*_NEUTRAL)
def neutral_operand(node: gs.Node) -> Source:
    """+ 0, - 0, * 1 and / 1 are taken out where they do not change the shape."""
    for x, other in ((0, 1), (1, 0))[: 2 if node.op in _EITHER_SIDE else 1]:
        values, source = constant_of(node.inputs[other]), node.inputs[x]
        if values is None or not values.size or (values != _NEUTRAL[node.op]).any():
            continue
        if source.shape is not None and source.shape == node.outputs[0].shape:
            return source
    return None


_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp"}


@no_op("Relu")
def needless_relu(node: gs.Node) -> Source:
    """A Relu after what is never negative is taken out."""
    maker = producer_of(node.inputs[0])
    if maker is None or not is_standard(maker):
        return None
    if operator_of(maker).never_negative:
        return node.inputs[0]
    if maker.op == "Clip":
        low = input_of(maker, 1)
        bound = None if low is None else scalar_of(low)
        return node.inputs[0] if bound is not None and bound >= 0 else None
    return None
