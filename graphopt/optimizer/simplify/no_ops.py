"""Nodes that hand their input on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import can_rewire, remove_nodes, rewire
from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_graph_output,
    is_standard,
    label,
    producer_of,
    scalar_of,
    static_shape,
)
from graphopt.ir.operators import Kind, operator_of
from graphopt.optimizer.pass_contract import Skip
from graphopt.optimizer.simplify.rule import Edit, Site

BOTH_ENDS = "its input and its output both belong to the caller"


def no_op(graph: gs.Graph, node: gs.Node) -> Site | Skip | None:
    """Take out a node that hands its input on, by the rule of its operator (`_NO_OPS`)."""
    rule = _NO_OPS.get(node.op)
    source = rule(node) if rule else None
    if source is None or isinstance(source, Site):
        return source
    result, *extras = node.outputs
    if any(extra.outputs or is_graph_output(graph, extra) for extra in extras):
        return Skip(label(node), "another of its outputs is in use")
    if not can_rewire(graph, result, source):
        return Skip(label(node), BOTH_ENDS)

    def edit(graph: gs.Graph) -> None:
        rewire(graph, result, source)
        remove_nodes(graph, [node])

    return Site(node, f"{node.op} changes nothing", edit)


Source: TypeAlias = "gs.Tensor | Site | None"
"""The tensor that equals a node's result; or another rewriting; or nothing."""


def _always(node: gs.Node) -> Source:
    return node.inputs[0]


def _dropout(node: gs.Node) -> Source:
    training = input_of(node, 2)
    return node.inputs[0] if training is None or scalar_of(training) == 0 else None


def _cast(node: gs.Node) -> Source:
    source = node.inputs[0].dtype
    same = isinstance(source, np.dtype) and (
        onnx.helper.np_dtype_to_tensor_dtype(source) == node.attrs["to"]
    )
    return node.inputs[0] if same else None


def _one_input(node: gs.Node) -> Source:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _split(node: gs.Node) -> Source:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _pad(node: gs.Node) -> Source:
    pads = constant_of(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


def _slice(node: gs.Node) -> Source:
    """Slices that take everything, in order."""
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


def _same_shape(node: gs.Node) -> Source:
    """Reshape and its kin, when the shape comes out as it was, here or some nodes earlier."""
    shape = static_shape(node.outputs[0])
    source = node.inputs[0]
    while True:
        if shape is not None and static_shape(source) == shape:
            return source
        maker = producer_of(source)
        if maker is None or not _reshapes(maker):
            break
        source = maker.inputs[0]
    if node.op != "Reshape":
        return None
    target = constant_of(node.inputs[1])
    if target is None:
        return None
    if source is not node.inputs[0] and (target != 0).all():
        return Site(node, "reads from before another Reshape", _reading(node, source))
    return node.inputs[0] if _copies_every_dim(node, target) else None


def _reshapes(node: gs.Node) -> bool:
    """Whether a node gives the same elements in another shape."""
    operator = operator_of(node)
    return operator.kind is Kind.VIEW and not operator.elementwise


def _copies_every_dim(node: gs.Node, target: Array) -> bool:
    """Reshape of a partly dynamic tensor to its own extents; one at most is left to be computed."""
    dims = node.inputs[0].shape
    if dims is None or len(dims) != target.size or node.attrs.get("allowzero", 0):
        return False
    kept = [t == 0 or (isinstance(d, int) and t == d) for t, d in zip(target, dims, strict=True)]
    return all(k or t == -1 for k, t in zip(kept, target, strict=True)) and kept.count(False) <= 1


def _reading(node: gs.Node, source: gs.Tensor) -> Edit:
    def edit(_: gs.Graph) -> None:
        node.inputs[0] = source

    return edit


def _expand(node: gs.Node) -> Source:
    shape = static_shape(node.inputs[0])
    return node.inputs[0] if shape is not None and shape == static_shape(node.outputs[0]) else None


def _transpose(node: gs.Node) -> Source:
    perm = _permutation(node)
    if perm is None:
        return None
    if perm == sorted(perm):
        return node.inputs[0]
    maker = producer_of(node.inputs[0])
    first = _permutation(maker) if maker is not None and is_standard(maker, "Transpose") else None
    if maker is None or first is None:
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


def _pool(node: gs.Node) -> Source:
    attrs = node.attrs
    ones = [*attrs["kernel_shape"], *(attrs.get("strides") or [1])]
    plain = all(n == 1 for n in ones) and not any(attrs.get("pads") or [0])
    return node.inputs[0] if plain else None


def _resize(node: gs.Node) -> Source:
    scales = input_of(node, 2)
    values = None if scales is None else constant_of(scales)
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return node.inputs[0] if values is not None and values.size and (values == 1).all() else None


def _neutral(element: float, *, either_side: bool) -> Callable[[gs.Node], Source]:
    """Arithmetic with a constant that changes neither value nor shape."""

    def rule(node: gs.Node) -> Source:
        for x, other in ((0, 1), (1, 0))[: 2 if either_side else 1]:
            values, source = constant_of(node.inputs[other]), node.inputs[x]
            if values is None or not values.size or (values != element).any():
                continue
            if source.shape is not None and source.shape == node.outputs[0].shape:
                return source
        return None

    return rule


def _relu(node: gs.Node) -> Source:
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


def _conv(node: gs.Node) -> Source:
    """Padding where every reader understands it: as explicit pads of the convolution itself."""
    spec = Convolution.of(node)
    if spec is None or spec.pads is None:
        return None
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return Site(node, "auto_pad becomes explicit pads", _padding(node, spec.pads))
    maker = producer_of(node.inputs[0])
    before = _zero_padding(maker) if maker is not None and is_standard(maker, "Pad") else None
    if maker is None or before is None:
        return None
    pads = tuple(int(a + b) for a, b in zip(spec.pads, before, strict=True))
    return Site(node, f"takes in {label(maker)}", _padding(node, pads, maker.inputs[0]))


def _zero_padding(pad: gs.Node) -> list[int] | None:
    """Begins and ends of the spatial axes, where nothing else is padded and with zeros only."""
    amounts, value = constant_of(pad.inputs[1]), input_of(pad, 2)
    if amounts is None or pad.attrs.get("mode", "constant") != "constant" or input_of(pad, 3):
        return None
    begins, ends = np.split(amounts.astype(np.int64), 2)
    if (value is not None and scalar_of(value) != 0) or min(*begins, *ends) < 0:
        return None
    return None if begins[:2].any() or ends[:2].any() else [*begins[2:], *ends[2:]]


def _padding(node: gs.Node, pads: Sequence[int], source: gs.Tensor | None = None) -> Edit:
    def edit(_: gs.Graph) -> None:
        node.attrs.pop("auto_pad", None)
        node.attrs["pads"] = list(pads)
        if source is not None:
            node.inputs[0] = source

    return edit


_NO_OPS: Mapping[str, Callable[[gs.Node], Source]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Conv": _conv,
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Mean": _one_input,
    "Split": _split,
    "Pad": _pad,
    "Slice": _slice,
    "Reshape": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Flatten": _same_shape,
    "Expand": _expand,
    "Transpose": _transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Resize": _resize,
    "Add": _neutral(0, either_side=True),
    "Sub": _neutral(0, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Relu": _relu,
}
