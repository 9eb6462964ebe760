"""What a model file must be to be read: opset, operators, types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import onnx
import onnxruntime as ort

from graphopt.errors import InputError, Unsupported
from graphopt.ir.external_data import INLINE_LIMIT
from graphopt.ir.graph import STANDARD_DOMAINS
from graphopt.ir.shape_inference import reason_of

OLDEST_OPSET = 11
"""Before it, Clip, Pad, Dropout and BatchNormalization meant other things."""


RUNTIME_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc")
"""Domains beyond the standard one whose operators onnxruntime may know."""


_LOST_ATTRIBUTES = {
    onnx.AttributeProto.SPARSE_TENSOR,
    onnx.AttributeProto.TENSORS,
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.SPARSE_TENSORS,
    onnx.AttributeProto.TYPE_PROTO,
    onnx.AttributeProto.TYPE_PROTOS,
}
"""Attribute types that onnx_graphsurgeon would drop without a word."""


_LOST_TYPES = ("optional_type", "map_type", "opaque_type")
"""Kinds of values that it does not read."""


def check_opset(model: onnx.ModelProto, path: Path) -> None:
    """Refuse an opset that is too old, or that the installed onnxruntime does not run."""
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), None)
    if opset is None:
        raise InputError(f"{path} does not say which ONNX opset it uses")
    if opset < OLDEST_OPSET:
        raise Unsupported(
            f"{path} uses opset {opset}; the oldest supported is {OLDEST_OPSET}",
            hint=f"export it again with opset_version={OLDEST_OPSET} or newer, "
            "or use onnx.version_converter",
        )
    if not runtime_accepts(opset):
        newest = next(n for n in range(opset - 1, 0, -1) if runtime_accepts(n))
        raise Unsupported(
            f"{path} uses opset {opset}; "
            f"the newest that onnxruntime {ort.__version__} runs is {newest}",
            hint=f"export it with opset_version={newest}, or upgrade onnxruntime",
        )


@cache
def runtime_accepts(opset: int) -> bool:
    """Whether the installed onnxruntime runs models of this opset: it is asked, not looked up."""
    helper = onnx.helper
    value = [onnx.TensorProto.FLOAT, [1]]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", *value)],
        [helper.make_tensor_value_info("y", *value)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime raises a class of its own for each status code
        return False
    return True


def nodes_of(
    graph: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Refuse operators that neither ONNX, onnxruntime nor the model itself defines."""
    functions = {(f.domain, f.name) for f in model.functions}
    for holder in (model.graph, *model.functions):
        for node in nodes_of(holder):
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            standard = node.domain in STANDARD_DOMAINS
            known = (
                (node.domain, node.op_type) in functions
                or (standard and onnx.defs.has(node.op_type, ""))
                or node.domain in RUNTIME_DOMAINS
            )
            if not known:
                raise Unsupported(
                    f"{path} uses the operator {name}, which neither ONNX nor the model defines",
                    node=node_name(node),
                    hint="export with standard operators, or add it as a model-local function",
                )
            for attribute in node.attribute:
                if attribute.type in _LOST_ATTRIBUTES:
                    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                    raise Unsupported(
                        f"{path}: attribute {attribute.name} of {name} is a {kind}, "
                        "which cannot be carried through",
                        node=node_name(node),
                    )


def check_types(graph: onnx.GraphProto, path: Path, lost: Sequence[str] = _LOST_TYPES) -> None:
    """Refuse kinds of tensors that a graph in memory would lose (`_LOST_TYPES`)."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        if kind in lost:
            raise Unsupported(
                f"{path}: {value.name} is not a tensor but of {kind.replace('_', ' ')}, "
                "which cannot be carried through"
            )
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                check_types(attribute.g, path, (*_LOST_TYPES, "sequence_type"))


def check_model(model: onnx.ModelProto, path: Path) -> None:
    """The ONNX checker's opinion; weights past protobuf's limit are judged without it."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INLINE_LIMIT:
        return
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{path} is not a valid ONNX model: {reason_of(error)}") from error


def node_name(node: onnx.NodeProto) -> str:
    """What a node is called in messages: its name, its first output's, or its operator's."""
    return str(node.name or next((name for name in node.output if name), node.op_type))
