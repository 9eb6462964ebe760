"""What function of one number a few nodes compute, however they spell it.

Exporters write GELU in five ways and Mish in three. Instead of a pattern for each, the element-wise
nodes between two tensors are evaluated in NumPy; what they compute can then be compared with what
is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import scipy.special
from numpy.typing import NDArray

from graphopt.ir.graph import STANDARD_DOMAINS, is_graph_output, producer_of, scalar_of
from graphopt.ir.identity import IdentityMap, IdentitySet

Doubles = NDArray[np.float64]
Attributes = Mapping[str, Any]

_LARGEST = 12
"""Nodes that are looked at from one: GELU, the longest spelling in use, takes nine."""


def _gelu(x: Doubles, attributes: Attributes) -> Doubles:
    if attributes.get("approximate", "none") == "tanh":
        return _fast_gelu(x)
    return np.asarray(x * scipy.special.ndtr(x))


def _fast_gelu(x: Doubles) -> Doubles:
    return np.asarray(x * scipy.special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)))


def _elu(x: Doubles, alpha: float) -> Doubles:
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0))


_ARITHMETIC: Mapping[str, Callable[..., Doubles]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
}

_CURVES: Mapping[str, Callable[[Doubles, Attributes], Doubles]] = {
    "Elu": lambda x, a: _elu(x, a.get("alpha", 1.0)),
    "Erf": lambda x, _: np.asarray(scipy.special.erf(x)),
    "Exp": lambda x, _: np.exp(x),
    "Gelu": _gelu,
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "Log": lambda x, _: np.log(x),
    "Mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "Selu": lambda x, a: (
        a.get("gamma", 1.0507009873554805) * _elu(x, a.get("alpha", 1.6732632423543772))
    ),
    "Sigmoid": lambda x, _: np.asarray(scipy.special.expit(x)),
    "Softplus": lambda x, _: np.logaddexp(0, x),
    "Swish": lambda x, a: x * np.asarray(scipy.special.expit(a.get("alpha", 1.0) * x)),
    "Tanh": lambda x, _: np.tanh(x),
    "com.microsoft.FastGelu": lambda x, _: _fast_gelu(x),
    "com.microsoft.Gelu": _gelu,
    "com.microsoft.QuickGelu": lambda x, a: (
        x * np.asarray(scipy.special.expit(a.get("alpha", 1.702) * x))
    ),
}
"""Operators of one input that are more than arithmetic; other domains' with the domain's name."""


@dataclass(frozen=True)
class Pointwise:
    """Nodes that compute each element of a tensor from the element of `x` at the same place."""

    x: gs.Tensor
    nodes: tuple[gs.Node, ...]
    """Readers before what they read."""

    @property
    def bends(self) -> bool:
        """Whether it is more than arithmetic."""
        return any(_operator(node) in _CURVES for node in self.nodes)

    def __call__(self, x: Doubles) -> Doubles:
        """What the nodes make of these values; not a number where they are not defined."""
        known = IdentityMap([(self.x, np.asarray(x, np.float64))])
        with np.errstate(all="ignore"):
            for node in reversed(self.nodes):
                operands = [
                    known[t] if t in known else np.float64(scalar_of(t) or 0.0) for t in node.inputs
                ]
                operator = _operator(node)
                if operator in _CURVES:
                    made = _CURVES[operator](np.asarray(operands[0]), node.attrs)
                else:
                    made = _ARITHMETIC[operator](*operands)
                known[node.outputs[0]] = made
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


def _operator(node: gs.Node) -> str:
    return str(node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op}")


def _is_pointwise(node: gs.Node) -> bool:
    operator = _operator(node)
    if operator in _CURVES:
        return len(node.inputs) == 1
    if operator not in _ARITHMETIC:
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
