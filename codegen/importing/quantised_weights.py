"""Weights that an ONNX file holds as 8-bit numbers, read before they are folded to floats."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Number = TypeVar("Number", bound=np.generic)

FILTERS: Mapping[str, int] = MappingProxyType({"Conv": 0, "ConvTranspose": 1})
"""Operators with filters, and the axis of the weight along which these (of a group) are."""


class QuantisedWeight(NamedTuple):
    """A convolution's weight: `values` times a scale a filter.

    Args:
        values: int8, (O, I of a group, kh, kw).
        scales: (filters,), float32.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantised_weights(model: onnx.ModelProto) -> Mapping[str, QuantisedWeight]:
    """Weights of convolutions behind a DequantizeLinear whose zero points are all zero, by node.

    Unsigned ones around 128 are the same as signed ones around zero. Others, which take more than a
    product of bytes, are left out, and so are weights of less or more than 8 bits.
    """
    graph = model.graph
    constants = constants_of(graph)
    producers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        source = producers.get(node.input[1]) if node.op_type in FILTERS else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        if all(name in constants for name in source.input):
            weight = _weight(source, constants, FILTERS[node.op_type])
            if weight is not None and node.op_type == "ConvTranspose":
                weight = _by_filters(weight, _groups(node))
            if weight is not None:
                found[node.name] = weight
    return found


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """A graph's constants, by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return constants


def _weight(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], filters: int
) -> QuantisedWeight | None:
    """A weight as it is written, with a scale for each number along the axis `filters`."""
    values, scales, *zeros = (numpy_helper.to_array(constants[name]) for name in node.input)
    zero = zeros[0].astype(np.int64) if zeros else np.int64(0)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    blocked = any(a.name == "block_size" and a.i for a in node.attribute)
    if values.dtype not in (np.int8, np.uint8) or values.ndim != 4 or blocked:
        return None
    count = values.shape[filters]
    if scales.size > 1 and (axis % values.ndim != filters or scales.shape != (count,)):
        return None
    if np.any(zero != (128 if values.dtype == np.uint8 else 0)):
        return None
    signed = (values.astype(np.int16) - (128 if values.dtype == np.uint8 else 0)).astype(np.int8)
    every = np.broadcast_to(scales.astype(np.float32).reshape(-1), (count,))
    return QuantisedWeight(signed, np.ascontiguousarray(every))


def _groups(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _by_filters(weight: QuantisedWeight, groups: int) -> QuantisedWeight:
    """A transposed convolution's weight, written as (I, O of a group, kh, kw), whose groups share
    their scales.
    """
    return QuantisedWeight(by_filters(weight.values, groups), np.tile(weight.scales, groups))


def by_filters(weight: NDArray[Number], groups: int) -> NDArray[Number]:
    """A transposed convolution's (I, O of a group, kh, kw) as (O, I of a group, kh, kw)."""
    apart = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(apart.reshape(-1, *apart.shape[2:]))
