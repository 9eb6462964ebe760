"""Networks of half precision, computed in float32."""

from __future__ import annotations

from itertools import chain

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, computed in float32: only inputs and outputs are float16.

    Our kernels compute in float32 whatever is stored; --fp16 then decides what is stored in half
    precision. `model` is changed.
    """
    graph = model.graph
    halves = {
        value.name
        for value in chain(graph.input, graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    known = {i.name for i in graph.input}
    for tensor in graph.initializer:
        _to_float32(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            _to_float32(attribute.t)
            if (attribute.name, attribute.i) in _TO_FLOAT16:
                attribute.i = TensorProto.FLOAT
    renamed = {name: f"{name}_float32" for name in halves}
    for values in [t for node in graph.node for t in (node.input, node.output)]:
        for i, name in enumerate(values):
            values[i] = renamed.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    nodes = list(graph.node)
    for name, inside in renamed.items():
        if name in known:
            nodes.insert(0, _cast(name, inside, TensorProto.FLOAT))
        else:
            nodes.append(_cast(inside, name, TensorProto.FLOAT16))
    del graph.node[:], graph.value_info[:]  # whose types were others
    graph.node.extend(nodes)
    return model


_TO_FLOAT16 = {
    (name, kind)
    for name in ("to", "dtype", "output_dtype")
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
}
"""Attributes that ask for half precision."""


def _to_float32(tensor: onnx.TensorProto) -> None:
    """Change a constant of half precision."""
    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        value = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}/Cast", to=to)
