"""Shapes and types of tensors, inferred by ONNX and, where it knows none, asked of onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from graphopt.errors import InputError
from graphopt.ir.arrays import Dim
from graphopt.ir.conversion import export_message
from graphopt.ir.graph import static_shape
from graphopt.ir.identity import IdentitySet

Facts: TypeAlias = tuple["np.dtype[Any] | int | None", "tuple[Dim, ...] | None"]
"""A tensor's element type and shape, where they are known."""


_SHAPE_CARRIER_ELEMENTS = 4096
"""Shape inference reads values only of constants that may describe shapes: all small."""


def infer_shapes(
    graph: gs.Graph,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    strict: bool = False,
) -> dict[str, Facts]:
    """Element type and shape of every tensor; the graph is not changed.

    ONNX's shape inference finds them; where it has no rule for an operator, what the file declares
    counts (at the graph's own sizes), then what onnxruntime infers. Weights are left out of what is
    inferred on, so that the cost does not grow with the model.

    Args:
        graph: the graph, its nodes in order.
        input_shapes: the sizes to infer at; without them the graph's own.
        strict: raise where an operator rejects its inputs' shapes.

    Raises:
        InputError: (strict) with the operator's reason.
    """
    skeleton = _without_weights(graph, input_shapes)
    proto = export_message(skeleton, check_types=False)
    made = [t.name for node in graph.nodes for t in node.outputs if not t.is_empty()]
    try:
        known = _inferred(proto, strict=strict)
    except onnx.shape_inference.InferenceError as error:
        # Strictness objects to operators that ONNX has no rule for, too; onnxruntime decides.
        if not strict or _ask_runtime(proto, made)[1]:
            raise InputError(f"shapes do not fit: {reason_of(error)}") from error
        known = _inferred(proto)

    def learn(values: Sequence[onnx.ValueInfoProto]) -> dict[str, Facts]:
        proto.graph.value_info.extend(values)
        return _inferred(proto) if values else known

    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    sizes = [(static_shape(t), given.get(t.name, static_shape(t))) for t in graph.inputs]
    if all(own is not None and own == size for own, size in sizes):
        vague = [name for name in made if not _is_whole(known.get(name))]
        known = learn(_declared(graph.tensors(), vague))
    gaps = [name for name in made if known.get(name, (None, None))[1] is None]
    if gaps:
        values, objection = _ask_runtime(proto, gaps)
        if strict and "ShapeInferenceError" in objection:
            raise InputError(f"shapes do not fit: {objection}")
        known = learn(values)
    return known


def _is_whole(facts: Facts | None) -> bool:
    return facts is not None and all(isinstance(dim, int) for dim in facts[1] or (None,))


def _without_weights(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]] | None) -> gs.Graph:
    """A copy in which large constants are inputs, and of inner tensors nothing is known."""
    skeleton = graph.copy()
    outputs = IdentitySet(skeleton.outputs)
    inputs = IdentitySet(skeleton.inputs)
    for tensor in skeleton.tensors().values():
        if isinstance(tensor, gs.Constant):
            if math.prod(tensor.shape) > _SHAPE_CARRIER_ELEMENTS:
                tensor.to_variable(shape=tensor.shape)
                tensor.type = "tensor_type"
                skeleton.inputs.append(tensor)
        elif tensor in inputs:
            if input_shapes and tensor.name in input_shapes:
                tensor.shape = list(input_shapes[tensor.name])
        else:
            tensor.shape = None
            if tensor not in outputs:
                tensor.dtype = None
    return skeleton


def _inferred(proto: onnx.ModelProto, *, strict: bool = False) -> dict[str, Facts]:
    """What ONNX's own shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=True)
    return {
        value.name: _type_and_shape(value)
        for values in (inferred.graph.input, inferred.graph.value_info, inferred.graph.output)
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
    }


def _type_and_shape(value: onnx.ValueInfoProto) -> Facts:
    importer = gs.importers.onnx_importer
    dims = importer.get_onnx_tensor_shape(value)
    return importer.get_onnx_tensor_dtype(value), None if dims is None else tuple(dims)


def _declared(tensors: Mapping[str, gs.Tensor], names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    """What the file says of tensors, or an earlier inference, where it is whole."""
    return [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype), shape
        )
        for name in names
        if (tensor := tensors.get(name)) is not None
        and isinstance(tensor, gs.Variable)
        and isinstance(tensor.dtype, np.dtype)
        and (shape := static_shape(tensor)) is not None
    ]


def _ask_runtime(
    proto: onnx.ModelProto, names: Sequence[str]
) -> tuple[list[onnx.ValueInfoProto], str]:
    """What onnxruntime infers of tensors, whose own operators it knows too; or why it refuses."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    outputs = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class of its own for each status code
        return [], str(error)
    wanted = set(names)
    # It says of a tensor whose rank it does not know what it says of a number: nothing is known.
    return [
        onnx.helper.make_tensor_value_info(value.name, element, value.shape)
        for value in session.get_outputs()
        if value.name in wanted and value.shape and (element := _ELEMENTS.get(value.type))
    ], ""


_ELEMENTS: Mapping[str, int] = {
    f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()
}
"""Element types as onnxruntime writes them."""


def reason_of(error: Exception) -> str:
    """What ONNX's checker or shape inference says, on one line, without the node's whole text."""
    return " ".join(str(error).partition("==> Context")[0].split())


def refresh_shapes(graph: gs.Graph, *, outputs: bool = False) -> None:
    """Bring every inner tensor's element type and shape up to date after a change.

    Args:
        graph: the graph, its nodes in order.
        outputs: the shapes of its outputs too.
    """
    known = infer_shapes(graph)
    edges = IdentitySet([*graph.inputs, *([] if outputs else graph.outputs)])
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable) and tensor not in edges and name in known:
            tensor.dtype, shape = known[name]
            tensor.shape = None if shape is None else list(shape)
