"""Asking a graph questions: the vocabulary that passes are written in (`edit` changes it).

Graphs are `onnx_graphsurgeon` graphs; the one of a whole file is a `Network`. Three rules hold
everywhere:

- A pass keeps the name of every tensor whose producer it replaces, so that `original[name]` and
  `optimised[name]` can always be compared; a tensor whose value changes meaning gets a new name.
- Constant arrays are shared between copies of a graph: they are replaced, never edited in place.
- Nodes and tensors are the same only if they are one object: compare them with `is`, and look them
  up in the sets and maps of `graphopt.ir.identity`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.identity import IdentityMap

STANDARD_DOMAINS = (None, "", "ai.onnx")


def is_standard(node: gs.Node, *ops: str) -> bool:
    """Whether `node` is an operator of the ONNX standard, and one of `ops` where any are given."""
    return node.domain in STANDARD_DOMAINS and (not ops or node.op in ops)


def label(node: gs.Node) -> str:
    """What reports call a node: its name, or where it has none its first output's name."""
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def constant_of(tensor: gs.Tensor) -> Array | None:
    """The value of a tensor that is known before the network runs; None for every other tensor.

    Sparse constants, strings, and element types that NumPy has no name for, count as not known.
    """
    if not isinstance(tensor, gs.Constant) or not isinstance(tensor.dtype, np.dtype):
        return None
    if tensor.dtype.hasobject:  # strings: onnx_graphsurgeon writes them only if nobody read them
        return None
    if isinstance(tensor._values, gs.ir.tensor.SparseValues):
        return None
    values: Array = tensor.values
    return values


def scalar_of(tensor: gs.Tensor) -> float | None:
    """The value of a constant with exactly one element."""
    values = constant_of(tensor)
    return float(values.reshape(())) if values is not None and values.size == 1 else None


def input_of(node: gs.Node, index: int) -> gs.Tensor | None:
    """An optional input: None where it is left out, by position or by an empty name."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def producer_of(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes `tensor`; None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def stored(tensor: gs.Tensor) -> gs.Tensor:
    """What memory holds of a tensor: the quantised one that it is the meaning of, or itself."""
    maker = producer_of(tensor)
    if maker is None or not is_standard(maker, "DequantizeLinear"):
        return tensor
    return maker.inputs[0]


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the network hands `tensor` to its caller."""
    return any(output is tensor for output in graph.outputs)


def is_graph_input(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the network's caller provides `tensor`."""
    return any(given is tensor for given in graph.inputs)


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads `tensor`, once, when nothing else can see it; else None."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape, when every extent is a known number."""
    shape = tensor.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(shape)


def positions(graph: gs.Graph) -> IdentityMap[gs.Node, int]:
    """The place of each node in the graph's order."""
    return IdentityMap((node, index) for index, node in enumerate(graph.nodes))


def reads_of(node: gs.Node) -> Iterator[gs.Tensor]:
    """Every tensor that a node needs, including those that its subgraphs take from outside."""
    yield from (t for t in node.inputs if not t.is_empty())
    for subgraph in node.subgraphs():
        yield from subgraph._foreign_tensors().values()
