"""Operators on quantised tensors as float operators between DequantizeLinear and QuantizeLinear.

That is the one form that passes and the compiler know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant, emit, remove_nodes, rewire, sort_nodes
from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_graph_output,
    is_standard,
    static_shape,
)

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""


@dataclass(frozen=True)
class _Form:
    """How an operator on quantised tensors reads, and what it stands for.

    Args:
        op: the float operator.
        operands: where each tensor, its scale and its zero are among the inputs.
        result: where the result's scale and zero are.
        kept: attributes that the float operator has as well.
        plain: inputs, by position, that are not quantised; they come first.
        bias: where an int32 bias is.
        axes: the axis along which an operand may have several scales.
    """

    op: str
    operands: tuple[int, ...]
    result: tuple[int, int]
    kept: tuple[str, ...] = ()
    plain: tuple[int, ...] = ()
    bias: int | None = None
    axes: tuple[int, ...] = (0, 0)


_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

_FORMS: Mapping[str, _Form] = {
    "QLinearConv": _Form("Conv", (0, 3), (6, 7), _CONV, bias=8),
    "QLinearMatMul": _Form("MatMul", (0, 3), (6, 7), axes=(-2, -1)),
    "QLinearAdd": _Form("Add", (0, 3), (6, 7)),
    "QLinearMul": _Form("Mul", (0, 3), (6, 7)),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), (3, 4), ("alpha",)),
    "QLinearSigmoid": _Form("Sigmoid", (0,), (3, 4)),
    "QLinearSoftmax": _Form("Softmax", (0,), (3, 4), ("axis",)),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), (3, 4)),
    "QLinearAveragePool": _Form("AveragePool", (0,), (3, 4), _POOL),
    "QLinearWhere": _Form("Where", (1, 4), (7, 8), plain=(0,)),
    "QGemm": _Form("Gemm", (0, 3), (7, 8), ("alpha", "transA", "transB"), bias=6),
}
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_STANDARD = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def is_qoperator(node: gs.Node) -> bool:
    """Whether a node is an operator on quantised tensors that `expand` may know a form of.

    ConvInteger and MatMulInteger are, whose results are whole numbers of 32 bits; so are
    onnxruntime's own QuantizeLinear and DequantizeLinear, where ONNX's can do it too.
    """
    if is_standard(node):
        return node.op in _STANDARD
    if node.domain != MICROSOFT:
        return False
    if node.op in _LINEAR:
        tensor = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
        return tensor.dtype in (np.uint8, np.int8, np.int32)
    return node.op in _RULES and node.op not in _STANDARD


def has_qoperators(graph: gs.Graph) -> bool:
    """Whether a network has operators on quantised tensors."""
    return any(is_qoperator(node) for node in graph.nodes)


def expand(graph: gs.Graph, node: gs.Node) -> None:
    """Write an operator on quantised tensors as DequantizeLinear, a float one, QuantizeLinear.

    ConvInteger and MatMulInteger become float operators on tensors of scale 1, and a Cast where
    anyone reads whole numbers. `node` is one that `objection` has nothing against.
    """
    _RULES[node.op](graph, node)


def expand_all(graph: gs.Graph) -> None:
    """Write every operator on quantised tensors so, as far as that is possible."""
    for node in list(graph.nodes):
        if is_qoperator(node) and not objection(graph, node):
            expand(graph, node)
    sort_nodes(graph)


def objection(graph: gs.Graph, node: gs.Node) -> str:
    """Why an operator on quantised tensors stays as it is."""
    if node.attrs.get("channels_last", 0):
        return "its channels are last"
    if node.op == "QLinearSoftmax":
        shape, axis = node.inputs[0].shape, node.attrs.get("axis", -1)
        last = shape is not None and axis % len(shape) == len(shape) - 1
        if not last and min(node.attrs.get("opset", 13), graph.opset) < 13:
            return "it is a Softmax over several axes"
    form = _FORMS.get(node.op)
    for place in form.operands if form is not None else ():
        scale = static_shape(node.inputs[place + 1])
        if scale is None or (len(scale) > 1 and math.prod(scale) > 1):
            return "an operand has scales along several axes"
    if form is not None and form.bias is not None and input_of(node, form.bias) is not None:
        scales = [constant_of(node.inputs[place + 1]) for place in form.operands]
        if any(scale is None for scale in scales):
            return "the scale of its bias is computed by the network"
    return ""


def _standard(_: gs.Graph, node: gs.Node) -> None:
    node.domain = None


# Tensors


def _restored(graph: gs.Graph, node: gs.Node, place: int, axis: int) -> gs.Tensor:
    """The float tensor behind an operand whose scale and zero follow it."""
    tensor, scale, zero = node.inputs[place], node.inputs[place + 1], input_of(node, place + 2)
    return _dequantized(graph, tensor, scale, zero, axis)


def _dequantized(
    graph: gs.Graph,
    tensor: gs.Tensor,
    scale: gs.Tensor,
    zero: gs.Tensor | None,
    axis: int = 0,
) -> gs.Tensor:
    """A DequantizeLinear's result: of one that is there, or of a new one."""
    inputs = [tensor, scale, *([] if zero is None else [zero])]
    values = constant_of(scale)
    attrs: dict[str, Any] = {} if values is None or values.size == 1 else {"axis": axis}
    for reader in tensor.outputs:
        same = is_standard(reader, "DequantizeLinear") and len(reader.inputs) == len(inputs)
        if (
            same
            and dict(reader.attrs) == attrs
            and all(a is b for a, b in zip(reader.inputs, inputs, strict=True))
        ):
            return reader.outputs[0]
    result = emit(graph, "DequantizeLinear", *inputs, out=f"{tensor.name}.float", **attrs)
    result.dtype, result.shape = np.dtype(np.float32), tensor.shape
    return result


def _operator(
    graph: gs.Graph,
    node: gs.Node,
    inputs: Sequence[gs.Tensor],
    op: str,
    kept: Sequence[str],
) -> gs.Tensor:
    """The float operator's result, of the shape of a node's."""
    attrs = {name: node.attrs[name] for name in kept if name in node.attrs}
    name = f"{node.outputs[0].name}.exact"
    result = emit(graph, op, *inputs, out=name, **attrs)
    result.dtype, result.shape = np.dtype(np.float32), node.outputs[0].shape
    return result


# Operators


def _expand(graph: gs.Graph, node: gs.Node) -> None:
    form = _FORMS[node.op]
    inputs = [node.inputs[place] for place in form.plain]
    for place, axis in zip(form.operands, form.axes, strict=False):
        inputs.append(_restored(graph, node, place, _axis(node, place, axis)))
    bias = None if form.bias is None else input_of(node, form.bias)
    if bias is not None:
        inputs.append(_bias(graph, node, bias, form))
    result = _operator(graph, node, inputs, form.op, form.kept)
    _give_back(graph, node, result, form.result)


def _axis(node: gs.Node, place: int, axis: int) -> int:
    """The axis of an operand's channels, counted from the front."""
    if node.op == "QGemm" and place:
        return 0 if node.attrs.get("transB", 0) else 1
    shape = node.inputs[place].shape
    return axis % len(shape) if shape is not None and len(shape) >= -axis else 0


def _bias(graph: gs.Graph, node: gs.Node, bias: gs.Tensor, form: _Form) -> gs.Tensor:
    """A bias, whose steps are the products of those of what is multiplied."""
    scale: Array = np.asarray(node.attrs.get("alpha", 1.0), np.float32)
    for place in form.operands:
        factor = constant_of(node.inputs[place + 1])
        assert factor is not None
        scale = np.multiply(scale, factor.reshape(()) if factor.size == 1 else factor)
    axis = max(len(bias.shape or ()) - 1, 0)
    return _dequantized(graph, bias, constant(graph, f"{bias.name}.scale", scale), None, axis)


def _give_back(graph: gs.Graph, node: gs.Node, result: gs.Tensor, places: tuple[int, int]) -> None:
    """Let what a node made be made from a float tensor; a QGemm may make floats itself."""
    output = node.outputs[0]
    scale, zero = (input_of(node, place) for place in places)
    remove_nodes(graph, [node])
    if scale is None:
        result.inputs[0].outputs[0] = output
        return
    emit(
        graph,
        "QuantizeLinear",
        result,
        scale,
        *([] if zero is None else [zero]),
        out=output,
    )


def _concat(graph: gs.Graph, node: gs.Node) -> None:
    """QLinearConcat, whose result's scale and zero come first."""
    parts = [_restored(graph, node, place, 0) for place in range(2, len(node.inputs), 3)]
    result = _operator(graph, node, parts, "Concat", ("axis",))
    _give_back(graph, node, result, (0, 1))


def _integer(op: str, kept: Sequence[str], axes: tuple[int, int]) -> Callable[..., None]:
    """The rule of an operator on whole numbers whose result has 32 bits."""

    def rule(graph: gs.Graph, node: gs.Node) -> None:
        one = constant(graph, f"{node.outputs[0].name}.one", np.asarray(1, np.float32))
        operands = []
        for place, axis in enumerate(axes):
            tensor, zero = node.inputs[place], input_of(node, place + 2)
            shape = tensor.shape
            along = axis % len(shape) if shape is not None and len(shape) >= -axis else 0
            scale = one
            if zero is not None and len(several := static_shape(zero) or ()) == 1 != several[0]:
                scale = constant(graph, f"{zero.name}.ones", np.ones(several, np.float32))
            operands.append(_dequantized(graph, tensor, scale, zero, along))
        result = _operator(graph, node, operands, op, kept)
        whole = node.outputs[0]
        remove_nodes(graph, [node])
        for reader in list(whole.outputs):
            floats = is_standard(reader, "Cast") and reader.attrs["to"] == onnx.TensorProto.FLOAT
            if floats and not is_graph_output(graph, reader.outputs[0]):
                made = reader.outputs[0]
                remove_nodes(graph, [reader])
                rewire(graph, made, result)
        emit(graph, "Cast", result, out=whole, to=onnx.TensorProto.INT32)

    return rule


_RULES: Mapping[str, Callable[[gs.Graph, gs.Node], None]] = {
    **dict.fromkeys(_FORMS, _expand),
    "QLinearConcat": _concat,
    "ConvInteger": _integer("Conv", _CONV, (0, 0)),
    "MatMulInteger": _integer("MatMul", (), (-2, -1)),
    # onnxruntime's become ONNX's.
    **dict.fromkeys(_LINEAR, _standard),
}
"""How each operator is rewritten, in a graph."""
