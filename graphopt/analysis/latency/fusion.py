"""Which nodes one kernel does together, as the compiler decides it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.analysis.cost import Shapes
from graphopt.ir.arrays import Dim
from graphopt.ir.graph import constant_of, is_graph_output, is_standard, positions
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.operators import Fusion, Kind, operator_of

MULTIPLY_ADDS = (Kind.CONVOLUTION, Kind.MATRIX_PRODUCT)
"""Kinds of operators whose kernels take others in."""


def fused_into(graph: gs.Graph, shapes: Shapes) -> IdentityMap[gs.Node, gs.Node]:
    """Which nodes are done by the kernel of another: node -> the node that the kernel is of.

    As the compiler does: from a convolution, a region grows over element-wise nodes whose other
    operands are tensors of the same shape, or constants of one value or one a channel, as long as
    in the end one value alone leaves it. Later convolutions choose first. What is left of
    element-wise and reordering nodes joins the one before it that it alone reads.

    Args:
        graph: the graph, its nodes in order.
        shapes: of its tensors.
    """
    place = positions(graph)
    owner: IdentityMap[gs.Node, gs.Node] = IdentityMap()
    for node in reversed(graph.nodes):
        if operator_of(node).kind in MULTIPLY_ADDS:
            owner.update((other, node) for other in _region(graph, node, shapes, place, owner))
    for node in graph.nodes:
        if node in owner or not _is_chained(node):
            continue
        for tensor in node.inputs:
            maker = tensor.inputs[0] if tensor.inputs else None
            if maker is None or maker not in place or not _is_chained(maker):
                continue
            root = owner.get(maker, maker)
            if _is_chained(root) and _read_by_one(graph, tensor):
                owner[node] = root
                break
    for node in graph.nodes:
        # Whatever makes a tensor stores it quantised.
        maker = _alone_before(graph, node) if is_standard(node, "QuantizeLinear") else None
        if maker is not None and maker in place and node not in owner:
            owner[node] = owner.get(maker, maker)
    return owner


def _alone_before(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """The node with a kernel whose result a node alone reads."""
    tensor = node.inputs[0]
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or operator_of(maker).kind in (Kind.VIEW, Kind.QUANTISATION):
        return None
    return maker if _read_by_one(graph, tensor) else None


def _is_chained(node: gs.Node) -> bool:
    return operator_of(node).fusion is not Fusion.ALONE


def _read_by_one(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return len(IdentitySet(tensor.outputs)) == 1 and not is_graph_output(graph, tensor)


def _region(
    graph: gs.Graph,
    root: gs.Node,
    shapes: Shapes,
    place: IdentityMap[gs.Node, int],
    taken: IdentityMap[gs.Node, gs.Node],
) -> list[gs.Node]:
    """The nodes after `root` that its kernel does too."""
    shape = shapes.get(root.outputs[0].name)
    members = [root]
    size = 1
    refused: IdentitySet[gs.Node] = IdentitySet()
    while True:
        inside = IdentitySet(members)
        leaving = [
            member
            for member in members
            if is_graph_output(graph, member.outputs[0])
            or any(reader not in inside for reader in member.outputs[0].outputs)
        ]
        if len(leaving) == 1 and leaving[0] is members[-1]:
            size = len(members)
        candidates = [
            reader
            for member in members
            for reader in member.outputs[0].outputs
            if reader in place
            and reader not in inside
            and reader not in taken
            and reader not in refused
        ]
        if not candidates:
            return members[1:size]
        nearest = min(candidates, key=lambda node: place[node])
        if operator_of(nearest).fusion is Fusion.EPILOGUE and _fits(nearest, shape, shapes):
            members.append(nearest)
        else:
            refused.add(nearest)


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
