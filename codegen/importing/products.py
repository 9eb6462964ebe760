"""Products of quantised tensors with quantised matrices, written as 1x1 convolutions.

A row of the left matrix is a pixel, its numbers are the pixel's channels. The tensor is brought
into that order before it is rounded, so that a kernel of bytes reads what was rounded. Rounding is
number by number, and does nothing to what is rounded already, so the network computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from graphopt.codegen.importing.quantised_weights import constants_of

PRODUCTS = ("MatMul", "Gemm")
MOVING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that leave each number as it is."""


def products_as_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, in which such products are convolutions.

    Args:
        model: static shapes; every node has a name. It is not changed.
    """
    if not any(node.op_type in PRODUCTS for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Rewrite(result.graph, _shapes(model)).run()
    return result


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """The shapes of tensors that are known."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(extent.dim_value for extent in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output, *inferred.input)
        if value.type.tensor_type.HasField("shape")
    }


@dataclass
class _Rewrite:
    """The work on one graph, which is changed."""

    graph: onnx.GraphProto
    shapes: Mapping[str, tuple[int, ...]]
    pixels: dict[str, str] = field(default_factory=dict)
    """Names of tensors of pixels, by those of what they are made of."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    """The new graph's, in order."""

    def run(self) -> None:
        self._constants = constants_of(self.graph)
        self._makers = {name: node for node in self.graph.node for name in node.output}
        for node in self.graph.node:
            if node.op_type not in PRODUCTS or not self._rewritten(node):
                self.nodes.append(node)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def _rewritten(self, node: onnx.NodeProto) -> bool:
        """Whether a product could be written as a convolution, and was."""
        source = self._quantised(node.input[0])
        weight, out = self._weight(node), self.shapes.get(node.output[0], ())
        plain = all(
            attribute.f == 1 if attribute.name in ("alpha", "beta") else not attribute.i
            for attribute in node.attribute
            if attribute.name != "transB"
        )
        if source is None or weight is None or not plain or len(out) < 2 or not all(out):
            return False
        if not self.shapes.get(node.input[0]):
            return False
        bias = list(node.input[2:3])
        if bias and self._constant_shape(bias[0]) != (out[-1],):
            return False
        x = self._as_pixels(node.input[0], *source)
        made, name = f"{node.output[0]}.pixels", node.output[0]
        rows = f"{name}.rows"
        shape = self._constant(f"{name}.shape", np.array(out, np.int64))
        self.nodes += [
            helper.make_node("Conv", [x, weight, *bias], [made], name=node.name),
            helper.make_node("Transpose", [made], [rows], name=rows, perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [rows, shape], [name], name=f"{rows}.shape"),
        ]
        return True

    def _quantised(self, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """What makes bytes, on one grid, and numbers of them again, before a tensor's numbers are
        moved at most; None of others.
        """
        reading = self._makers.get(name)
        while reading is not None and reading.op_type in MOVING:
            reading = self._makers.get(reading.input[0])
        if reading is None or reading.op_type != "DequantizeLinear":
            return None
        writing = self._makers.get(reading.input[0])
        if writing is None or writing.op_type != "QuantizeLinear":
            return None
        given = (*writing.input[1:], *reading.input[1:])
        shapes = [self._constant_shape(part) for part in given]
        if any(shape is None or math.prod(shape) != 1 for shape in shapes):
            return None
        return writing, reading

    def _constant_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, quantised or not; None of what is none."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
        constant = self._constants.get(name)
        return None if constant is None else tuple(constant.dims)

    def _weight(self, node: onnx.NodeProto) -> str | None:
        """The name of a product's matrix as a weight (O, I, 1, 1); None if it is none of bytes."""
        reading = self._makers.get(node.input[1])
        if reading is None or reading.op_type != "DequantizeLinear":
            return None
        if any(name not in self._constants for name in reading.input):
            return None
        values, scales, *zeros = (numpy_helper.to_array(self._constants[n]) for n in reading.input)
        by_filters = any(a.name == "transB" and a.i for a in node.attribute)
        axis = next((a.i for a in reading.attribute if a.name == "axis"), 1)
        blocked = any(a.name == "block_size" and a.i for a in reading.attribute)
        if values.ndim != 2 or blocked or (scales.size > 1 and axis % 2 != 1 - by_filters):
            return None
        filters = values if by_filters else values.T
        name = f"{node.output[0]}.weight"
        parts = [filters[:, :, None, None], scales, *zeros]
        given = [self._constant(f"{name}.{n}", part) for n, part in enumerate(parts)]
        self.nodes.append(helper.make_node("DequantizeLinear", given, [name], name=name, axis=0))
        return name

    def _as_pixels(self, name: str, writing: onnx.NodeProto, reading: onnx.NodeProto) -> str:
        """The name of a quantised tensor's numbers as pixels, (1, channels, 1, pixels)."""
        if name in self.pixels:
            return self.pixels[name]
        channels = self.shapes[name][-1]
        source = writing.input[0] if name in reading.output else name
        ahead = f"{name}.as"
        shape = self._constant(f"{ahead}.shape", np.array([1, 1, -1, channels], np.int64))
        steps = [f"{ahead}.{part}" for part in ("rows", "pixels", "quantised", "numbers")]
        wide = {"perm": [0, 3, 1, 2]}
        self.nodes += [
            helper.make_node("Reshape", [source, shape], steps[:1], name=steps[0]),
            helper.make_node("Transpose", steps[:1], steps[1:2], name=steps[1], **wide),
            helper.make_node(
                "QuantizeLinear", [steps[1], *writing.input[1:]], steps[2:3], name=steps[2]
            ),
            helper.make_node(
                "DequantizeLinear", [steps[2], *reading.input[1:]], steps[3:], name=steps[3]
            ),
        ]
        self.pixels[name] = steps[-1]
        return steps[-1]

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name
