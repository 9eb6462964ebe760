"""What a network costs: parameters, multiply-accumulates (MACs) and bytes, a layer at a time.

MACs are counted for convolutions and matrix products only, as the literature on pose networks
does; bias, activations and element-wise arithmetic count as nothing. Parameters are the elements of
floating-point constants, each shared constant once; bytes are those of all constants, as stored.
Blocks of zeros count in all of them; how much is left without is said beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.display.numbers import human, part_of_whole
from graphopt.ir.arrays import Dim
from graphopt.ir.block_structure import FINEST, density
from graphopt.ir.graph import constant_of, is_standard, label, stored
from graphopt.ir.operators import Kind, operator_of
from graphopt.ir.records import HIDDEN, Record
from graphopt.ir.shape_inference import infer_shapes

Shapes: TypeAlias = Mapping[str, tuple[Dim, ...] | None]


@dataclass(frozen=True, slots=True)
class LayerCost(Record):
    """One node's cost."""

    name: str
    op: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    group: int | None
    """Empty tuples and None for nodes other than convolutions."""
    output_shape: tuple[Dim, ...] | None
    params: int
    macs: int | None
    """None where a shape that it depends on is not known."""
    bytes: int
    kept: float
    """The part of a convolution's weight in blocks that are not zero (see `kept_part`)."""


@dataclass(frozen=True)
class Cost(Record):
    """A network's cost. Its JSON form has the sums, and not the layers."""

    params: int
    """Elements of floating-point constants."""
    macs: int
    """Multiply-accumulates of one run, over the layers whose shapes are known."""
    kept_params: int
    """`params` without those in blocks of zeros."""
    kept_macs: int
    """`macs` without those in blocks of zeros."""
    bytes: int
    """Bytes of all constants."""
    nodes: int
    layers: Annotated[tuple[LayerCost, ...], HIDDEN]

    @classmethod
    def of(cls, layers: Iterable[LayerCost]) -> Cost:
        """The sums over layers."""
        layers = tuple(layers)
        return cls(
            params=sum(layer.params for layer in layers),
            macs=sum(layer.macs or 0 for layer in layers),
            kept_params=round(sum(layer.params * layer.kept for layer in layers)),
            kept_macs=round(sum((layer.macs or 0) * layer.kept for layer in layers)),
            bytes=sum(layer.bytes for layer in layers),
            nodes=len(layers),
            layers=layers,
        )

    @property
    def uncounted(self) -> int:
        """Layers whose MACs are missing from the sum."""
        return sum(layer.macs is None for layer in self.layers)

    def cells(self) -> tuple[str, str, str]:
        """Parameters, multiply-adds and bytes as people read them."""
        params = part_of_whole(self.kept_params, self.params)
        return params, part_of_whole(self.kept_macs, self.macs), human(self.bytes)


def cost_of(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Cost:
    """The cost of every node of a graph.

    Args:
        graph: the graph, its nodes in order.
        input_shapes: the sizes to count MACs at, by input; dynamic inputs need them.
    """
    shapes = {name: shape for name, (_, shape) in infer_shapes(graph, input_shapes).items()}
    for name, tensor in graph.tensors().items():
        shapes.setdefault(name, None if tensor.shape is None else tuple(tensor.shape))
    counted: set[str] = set()
    return Cost.of(_layer(node, shapes, counted) for node in graph.nodes)


def _layer(node: gs.Node, shapes: Shapes, counted: set[str]) -> LayerCost:
    params = size = 0
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and tensor.name not in counted:
            counted.add(tensor.name)
            size += tensor._values.nbytes
            dtype = tensor.dtype
            floats = isinstance(dtype, np.dtype) and np.issubdtype(dtype, np.floating)
            if tensor is _whole_weight(node) or (floats and node.op not in _QUANTISED):
                params += math.prod(tensor.shape)
    kind = operator_of(node).kind
    count = _MACS.get(kind) or (_WHOLE_MACS.get(node.op) if is_standard(node) else None)
    conv = kind is Kind.CONVOLUTION
    kernel = tuple((shapes.get(node.inputs[1].name) or ())[2:]) if conv else ()
    return LayerCost(
        name=label(node),
        op=node.op if is_standard(node) else f"{node.domain}.{node.op}",
        kernel=tuple(dim for dim in kernel if isinstance(dim, int)),
        stride=tuple(node.attrs.get("strides") or [1] * len(kernel)) if conv else (),
        dilation=tuple(node.attrs.get("dilations") or [1] * len(kernel)) if conv else (),
        group=int(node.attrs.get("group", 1)) if conv else None,
        output_shape=shapes.get(node.outputs[0].name) if node.outputs else None,
        params=params,
        macs=count(node, shapes) if count else 0,
        bytes=size,
        kept=kept_part(node),
    )


def kept_part(node: gs.Node) -> float:
    """The part of a convolution's weight in blocks that are not zero; 1 where pruning is not for.

    A weight of nothing but zeros stands for one that is not known.
    """
    if not is_standard(node, "Conv") or node.attrs.get("group", 1) > 1:
        return 1.0
    weight = constant_of(stored(node.inputs[1]))
    if weight is None or weight.ndim != 4 or not weight.any():
        return 1.0
    return density(weight, FINEST)


def _product(*dims: Dim) -> int | None:
    numbers = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(numbers) if len(numbers) == len(dims) else None


def _whole_weight(node: gs.Node) -> gs.Tensor | None:
    """The weight of whole numbers that a node reads, where it would be a float one elsewhere."""
    if is_standard(node, "DequantizeLinear"):
        return node.inputs[0]
    place = _WEIGHTS.get(node.op) if is_standard(node) else None
    return None if place is None else node.inputs[place]


_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
"""Operators whose float constants are scales."""
_WEIGHTS = {"QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1}
"""Where operators on quantised tensors have their weight."""


def _conv_macs(node: gs.Node, shapes: Shapes) -> int | None:
    # A weight is (out, in / group, *kernel): every output element reads in / group * kernel values.
    # Transposed, it is (in, out / group, *kernel): every input element is spread as often.
    spread = node.op == "ConvTranspose"
    elements = shapes.get((node.inputs if spread else node.outputs)[0].name)
    weight = shapes.get(node.inputs[_WEIGHTS.get(node.op, 1)].name)
    return None if elements is None or weight is None else _product(*elements, *weight[1:])


def _matmul_macs(node: gs.Node, shapes: Shapes) -> int | None:
    left, out = shapes.get(node.inputs[0].name), shapes.get(node.outputs[0].name)
    if left is None or out is None:
        return None
    transposed = node.op == "Gemm" and node.attrs.get("transA", 0)
    return _product(*out, left[0] if transposed else left[-1])


_MACS: Mapping[Kind, Callable[[gs.Node, Shapes], int | None]] = {
    Kind.CONVOLUTION: _conv_macs,
    Kind.MATRIX_PRODUCT: _matmul_macs,
}
_WHOLE_MACS: Mapping[str, Callable[[gs.Node, Shapes], int | None]] = {
    "QLinearConv": _conv_macs,
    "ConvInteger": _conv_macs,
    "QLinearMatMul": _matmul_macs,
    "MatMulInteger": _matmul_macs,
}
