"""Which nodes one kernel does together, as the compiler decides it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from graphopt.analysis.cost import Shapes
from graphopt.ir.arrays import Dim
from graphopt.ir.graph import constant_of, is_graph_output
from graphopt.ir.operators import Fusion, Kind, operator_of

MULTIPLY_ADDS = (Kind.CONVOLUTION, Kind.MATRIX_PRODUCT)
"""Kinds of operators whose kernels take others in."""


def fused_into(graph: gs.Graph, shapes: Shapes) -> dict[int, gs.Node]:
    """Which nodes are done by the kernel of another: `id(node)` -> the node that the kernel is of.

    As the compiler does: from a convolution, a region grows over element-wise nodes whose other
    operands are tensors of the same shape, or constants of one value or one a channel, as long as
    in the end one value alone leaves it. Later convolutions choose first. What is left of
    element-wise and reordering nodes joins the one before it that it alone reads.

    Args:
        graph: the graph, its nodes in order.
        shapes: of its tensors.
    """
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    owner: dict[int, gs.Node] = {}
    for node in reversed(graph.nodes):
        if operator_of(node).kind in MULTIPLY_ADDS:
            owner |= {id(member): node for member in _region(graph, node, shapes, place, owner)}
    for node in graph.nodes:
        if id(node) in owner or not _is_chained(node):
            continue
        for tensor in node.inputs:
            maker = tensor.inputs[0] if tensor.inputs else None
            if maker is None or id(maker) not in place or not _is_chained(maker):
                continue
            root = owner.get(id(maker), maker)
            if _is_chained(root) and _read_by_one(graph, tensor):
                owner[id(node)] = root
                break
    return owner


def _is_chained(node: gs.Node) -> bool:
    return operator_of(node).fusion is not Fusion.ALONE


def _read_by_one(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return len({id(n) for n in tensor.outputs}) == 1 and not is_graph_output(graph, tensor)


def _region(
    graph: gs.Graph,
    root: gs.Node,
    shapes: Shapes,
    place: Mapping[int, int],
    taken: Mapping[int, gs.Node],
) -> list[gs.Node]:
    """The nodes after `root` that its kernel does too."""
    shape = shapes.get(root.outputs[0].name)
    members = [root]
    size = 1
    refused = set(taken)
    while True:
        inside = {id(member) for member in members}
        leaving = [
            member
            for member in members
            if is_graph_output(graph, member.outputs[0])
            or any(id(reader) not in inside for reader in member.outputs[0].outputs)
        ]
        if len(leaving) == 1 and leaving[0] is members[-1]:
            size = len(members)
        candidates = [
            reader
            for member in members
            for reader in member.outputs[0].outputs
            if id(reader) in place and id(reader) not in inside and id(reader) not in refused
        ]
        if not candidates:
            return members[1:size]
        nearest = min(candidates, key=lambda node: place[id(node)])
        if operator_of(nearest).fusion is Fusion.EPILOGUE and _fits(nearest, shape, shapes):
            members.append(nearest)
        else:
            refused.add(id(nearest))


def _fits(node: gs.Node, shape: tuple[Dim, ...] | None, shapes: Shapes) -> bool:
    """Whether a kernel whose result has that shape can read a node's operands as it stores."""
    if shape is None or shapes.get(node.outputs[0].name) != shape:
        return False
    statistics = node.op == "BatchNormalization"  # one value a channel by definition
    for tensor in node.inputs[:1] if statistics else node.inputs:
        if tensor.is_empty():
            continue
        value = constant_of(tensor)
        if value is None:
            if shapes.get(tensor.name) != shape:
                return False
        elif value.size != 1 and (
            len(shape) < 3 or value.shape[-len(shape) + 1 :] != (shape[1], *[1] * (len(shape) - 2))
        ):
            return False
    return True
