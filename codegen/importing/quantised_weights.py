"""Weights that an ONNX file holds as 8-bit numbers, read before they are folded to floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class QuantisedWeight(NamedTuple):
    """A convolution's weight: `values` times a scale a filter.

    Args:
        values: int8, as the node has them: (O, I of a group, kh, kw) of a Conv.
        scales: (filters,), float32.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantised_weights(model: onnx.ModelProto) -> Mapping[str, QuantisedWeight]:
    """The weights behind a DequantizeLinear whose zero points are all zero, by the Conv's name.

    Unsigned ones around 128 are the same as signed ones around zero. Others, which take more than a
    product of bytes, are left out, and so are weights of less or more than 8 bits.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    producers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        source = producers.get(node.input[1]) if node.op_type == "Conv" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        if all(name in constants for name in source.input):
            weight = _weight(source, constants)
            if weight is not None:
                found[node.name] = weight
    return found


def _weight(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> QuantisedWeight | None:
    values, scales, *zeros = (numpy_helper.to_array(constants[name]) for name in node.input)
    zero = zeros[0].astype(np.int64) if zeros else np.int64(0)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    blocked = any(a.name == "block_size" and a.i for a in node.attribute)
    if values.dtype not in (np.int8, np.uint8) or values.ndim != 4 or blocked:
        return None
    if scales.size > 1 and (axis % values.ndim != 0 or scales.shape != (values.shape[0],)):
        return None
    if np.any(zero != (128 if values.dtype == np.uint8 else 0)):
        return None
    signed = (values.astype(np.int16) - (128 if values.dtype == np.uint8 else 0)).astype(np.int8)
    every = np.broadcast_to(scales.astype(np.float32).reshape(-1), (len(values),))
    return QuantisedWeight(signed, np.ascontiguousarray(every))
