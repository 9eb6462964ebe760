"""What layers compute in, and how many bytes an element of a tensor takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.analysis.latency.device import Device, Precision
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import constant_of, is_graph_output, is_standard, stored

_QUANTISED = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")
"""Operators on quantised tensors that multiply."""


def precision_of(node: gs.Node, device: Device) -> Precision:
    """What a node's kernel multiplies in.

    Convolutions and products with a matrix whose input and weight are quantised: in int8, as far as
    the device has a rate for any such layer.
    """
    if "int8" not in device.precisions:
        return "float32"
    if node.op in _QUANTISED:
        return "int8"
    product = (
        is_standard(node, "MatMul", "Gemm") and constant_of(stored(node.inputs[1])) is not None
    )
    if Convolution.as_stored(node) is None and not product:
        return "float32"
    return "int8" if is_quantised_layer(node) else "float32"


def is_quantised_layer(node: gs.Node) -> bool:
    """Whether a network has both what a node multiplies in 8 bits."""
    return node.op in _QUANTISED or all(stored(tensor) is not tensor for tensor in node.inputs[:2])


def is_reading(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a node is but how others read quantised tensors, and has no kernel."""
    return is_standard(node, "DequantizeLinear") and not is_graph_output(graph, node.outputs[0])


_NARROW: Mapping[object, int] = MappingProxyType(
    {np.dtype(name): np.dtype(name).itemsize for name in ("int8", "uint8", "int16", "uint16")}
)


def element_bytes(dtype: object, device: Device) -> int:
    """Bytes of an element of a tensor of a type: NumPy's, or ONNX's number where NumPy has none."""
    if dtype is None or isinstance(dtype, int):
        return device.element_bytes
    return _NARROW.get(np.dtype(dtype), device.element_bytes)  # type: ignore[call-overload]
