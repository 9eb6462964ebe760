"""What function of one number a few nodes compute, however they spell it.

Exporters write GELU in five ways and Mish in three. Instead of a pattern for each, the element-wise
nodes between two tensors are evaluated in NumPy; what they compute can then be compared with what
is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import is_graph_output, producer_of, scalar_of
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.numpy_operators import Doubles
from graphopt.ir.operators import Form, operator_of

_LARGEST = 12
"""Nodes that are looked at from one: GELU, the longest spelling in use, takes nine."""


@dataclass(frozen=True)
class Pointwise:
    """Nodes that compute each element of a tensor from the element of `x` at the same place."""

    x: gs.Tensor
    nodes: tuple[gs.Node, ...]
    """Readers before what they read."""

    @property
    def bends(self) -> bool:
        """Whether it is more than arithmetic."""
        return any(operator_of(node).elementwise is Form.CURVE for node in self.nodes)

    def __call__(self, x: Doubles) -> Doubles:
        """What the nodes make of these values; not a number where they are not defined."""
        known = IdentityMap([(self.x, np.asarray(x, np.float64))])
        with np.errstate(all="ignore"):
            for node in reversed(self.nodes):
                operands = [
                    known[t] if t in known else np.float64(scalar_of(t) or 0.0) for t in node.inputs
                ]
                compute = operator_of(node).numpy
                assert compute is not None  # it has a `Form`
                known[node.outputs[0]] = compute(node.attrs, *operands)
        return np.broadcast_to(known[self.nodes[0].outputs[0]], np.shape(x))

    def private(self, graph: gs.Graph, others: IdentitySet[gs.Node]) -> IdentitySet[gs.Node]:
        """Each node, the last one aside, that nobody needs but these nodes and others.

        Args:
            graph: the graph.
            others: nodes that may read them besides.
        """
        inside = IdentitySet([self.nodes[0]])
        for node in self.nodes[1:]:
            (made,) = node.outputs
            readers = IdentitySet(made.outputs)
            if not is_graph_output(graph, made) and readers <= inside | others:
                inside.add(node)
        return inside - IdentitySet([self.nodes[0]])


def pointwise(node: gs.Node, order: Mapping[gs.Node, int]) -> Iterator[Pointwise]:
    """The tensors that all of a node's result is computed from alone, the nearest one first.

    Args:
        node: what makes the result.
        order: a place for each node, after those of the nodes that it reads from; nodes without one
            are not looked through.
    """
    nodes: list[gs.Node] = []
    frontier: IdentitySet[gs.Tensor] = IdentitySet()
    next_node: gs.Node | None = node
    while next_node is not None and len(nodes) < _LARGEST and _is_pointwise(next_node):
        nodes.append(next_node)
        frontier.discard(next_node.outputs[0])
        frontier.update(t for t in next_node.inputs if scalar_of(t) is None)
        if len(frontier) == 1:
            (x,) = frontier
            yield Pointwise(x, tuple(nodes))
        # The latest first: then all of its readers among these nodes have been looked at.
        makers = [m for t in frontier if (m := producer_of(t)) and m in order]
        next_node = max(makers, key=lambda maker: order[maker], default=None)


def _is_pointwise(node: gs.Node) -> bool:
    form = operator_of(node).elementwise
    if form is Form.CURVE:
        return len(node.inputs) == 1
    if form is not Form.ARITHMETIC:
        return False
    # A constant of higher rank than the tensor would change the tensor's rank as well.
    return not any(
        scalar_of(t) is not None and _rank(t) and not _reaches(node, t) for t in node.inputs
    )


def _reaches(node: gs.Node, constant: gs.Tensor) -> bool:
    ranks = [_rank(t) for t in node.inputs if t is not constant]
    return any(rank is not None and rank >= (_rank(constant) or 0) for rank in ranks)


def _rank(tensor: gs.Tensor) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)
