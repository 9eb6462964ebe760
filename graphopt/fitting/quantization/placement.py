"""What of a network is computed in eight bits, and which tensors are stored so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.convolution import CONV_OPS
from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_graph_output,
    is_standard,
    label,
    only_consumer,
    producer_of,
    scalar_of,
)
from graphopt.ir.identity import IdentitySet

LAYERS = (*CONV_OPS, "Gemm", "MatMul")
"""Operators with weights."""
SAME_VALUES = (
    *("MaxPool", "Resize", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice"),
    "Concat",
)
"""Operators whose output has numbers of its inputs, or between them: they share a grid."""
OTHERS = ("Add", "AveragePool", "GlobalAveragePool")
"""More that are computed in eight bits where their reader is."""


@dataclass(frozen=True)
class Placement:
    """What is computed in eight bits.

    A tensor is stored in eight bits where a layer reads it, or what passes values on to one that
    does; the network's outputs stay as they are.
    """

    layers: tuple[gs.Node, ...]
    """Those with weights, in order."""
    carriers: tuple[gs.Node, ...]
    """Sums, pools and others between them, in order."""
    grids: dict[str, str] = field(default_factory=dict)
    """For each tensor that is stored in eight bits, whose grid it has: tensors of the same are in
    one group."""
    skips: tuple[Skip, ...] = ()
    joint: bool = True
    """Whether what Concat and the like join shares a grid, and all that read a tensor read it
    rounded; else each tensor has a grid of its own, which the layers alone see."""

    @property
    def groups(self) -> dict[str, list[str]]:
        """The tensors that share a grid, by the name of that grid."""
        groups: dict[str, list[str]] = {}
        for name, grid in self.grids.items():
            groups.setdefault(grid, []).append(name)
        return groups


def placement_of(graph: gs.Graph, floats: Collection[str] = (), *, joint: bool = True) -> Placement:
    """What can be computed in eight bits.

    Args:
        graph: the network, its nodes in order.
        floats: layers that are not to be, by the names of their outputs.
        joint: whether sums, concatenations and the like between layers are, too.
    """
    layers: list[gs.Node] = []
    skips: list[Skip] = []
    for node in graph.nodes:
        if is_standard(node, *LAYERS):
            reason = _objection(node)
            if reason:
                skips.append(Skip(label(node), reason))
            elif node.outputs[0].name not in floats:
                layers.append(node)
    grids: dict[str, str] = {}
    if not joint:
        grids = {node.inputs[0].name: node.inputs[0].name for node in layers}
        return Placement(tuple(layers), (), grids, tuple(skips), joint=False)
    carriers: IdentitySet[gs.Node] = IdentitySet()
    waiting = [node.inputs[0] for node in layers]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in grids:
            continue
        grids[tensor.name] = tensor.name
        waiting += _followed(graph, tensor, carriers)
    ordered = [node for node in graph.nodes if node in carriers]
    for node in ordered:
        if node.op in SAME_VALUES:
            _unite(grids, [node.outputs[0].name, *(t.name for t in _data(node))])
    return Placement(tuple(layers), tuple(ordered), grids, tuple(skips))


def _followed(
    graph: gs.Graph, tensor: gs.Tensor, carriers: IdentitySet[gs.Node]
) -> list[gs.Tensor]:
    """What a tensor's maker reads, if that is computed in eight bits as well."""
    maker = producer_of(tensor)
    activation = folded_activation(graph, tensor)
    if activation is not None:
        maker = producer_of(activation.inputs[0])
        if maker is not None and maker.op != "Add":
            return []
    if maker is None or not is_standard(maker, *SAME_VALUES, *OTHERS):
        return []
    if len(maker.outputs) != 1 or any(not _is_float(t) for t in (*_data(maker), *maker.outputs)):
        return []
    if maker.op == "Resize" and maker.attrs.get("mode", "nearest") == "cubic":
        return []
    carriers.add(maker)
    return _data(maker)


def folded_activation(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The Relu, or Clip from zero on, that makes a tensor, where rounding to a grid may do it."""
    node = producer_of(tensor)
    if node is None or not is_standard(node, "Relu", "Clip") or is_graph_output(graph, tensor):
        return None
    if only_consumer(graph, node.inputs[0]) is not node or producer_of(node.inputs[0]) is None:
        return None
    return node if ceiling_of(node) is not None else None


def ceiling_of(node: gs.Node) -> float | None:
    """What a Relu or a Clip from zero on lets through at most; None for other Clips."""
    if node.op == "Relu":
        return float("inf")
    low, high = input_of(node, 1), input_of(node, 2)
    if low is None or scalar_of(low) != 0:
        return None
    return float("inf") if high is None else scalar_of(high)


def _data(node: gs.Node) -> list[gs.Tensor]:
    """The tensors whose values a node passes on."""
    return list(node.inputs) if node.op in ("Concat", "Add") else [node.inputs[0]]


def _is_float(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and tensor.dtype == np.float32


def _objection(node: gs.Node) -> str | None:
    """Why a node with weights cannot be computed in eight bits."""
    if not isinstance(node.inputs[0], gs.Variable):
        return "what it reads is constant"
    weight = constant_of(node.inputs[1])
    if weight is None:
        return "its weights are not constant"
    if not (_is_float(node.inputs[0]) and weight.dtype == np.float32):
        return "it does not compute in single precision"
    if node.op in ("Gemm", "MatMul"):
        return _product_objection(node, weight.ndim)
    bias = input_of(node, 2)
    if bias is not None and constant_of(bias) is None:
        return "its bias is not constant"
    if not weight.size:
        return "it has no weights"
    size = node.inputs[0].shape
    if size is not None and list(size[2:]) == [1] * (weight.ndim - 2):
        return "it sees one position of a photo: a gate, which takes no time but is sensitive"
    return None


def _product_objection(node: gs.Node, rank: int) -> str | None:
    plain = node.attrs.get("alpha", 1.0) == 1 and node.attrs.get("beta", 1.0) == 1
    if rank != 2 or node.attrs.get("transA") or not plain:
        return "it is no plain product with a matrix"
    bias = input_of(node, 2)
    if bias is not None:
        values = constant_of(bias)
        if values is None or values.ndim != 1:
            return "its bias is not one number a channel"
    return None


def _unite(grids: dict[str, str], names: list[str]) -> None:
    """Give tensors, and all that share a grid with one of them, the grid of the first."""
    joined = {grids[name] for name in names}
    for name, grid in grids.items():
        if grid in joined:
            grids[name] = grids[names[0]]


def readers_of(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """Each place that a tensor is read at: the node, and the number of its input."""
    for node in IdentitySet(tensor.outputs):
        for index, given in enumerate(node.inputs):
            if given is tensor:
                yield node, index
