"""Values that never change: Constant nodes, decided branches, known shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import InputError
from graphopt.ir.arrays import Array
from graphopt.ir.changes import Skip
from graphopt.ir.conversion import export_message
from graphopt.ir.edit import inline_branch, remove_nodes
from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_graph_output,
    is_standard,
    label,
    producer_of,
    scalar_of,
    static_shape,
)
from graphopt.ir.operators import Kind, standard_operators
from graphopt.optimizer.simplify.rule import Site, Sweep, node_rule
from graphopt.runtime.engine import OnnxRuntimeEngine

NEVER_FOLDED = frozenset([*standard_operators(Kind.RANDOM), "DequantizeLinear"])
"""What is not computed beforehand: other numbers at each run, and weights that are kept small."""


def results_of(node: gs.Node) -> list[gs.Tensor]:
    """A node's results: its outputs but those that it leaves out."""
    return [tensor for tensor in node.outputs if not tensor.is_empty()]


def becomes_constant(node: gs.Node, values: Sequence[Array], why: str) -> Site:
    """A node's results become initializers."""

    def edit(graph: gs.Graph) -> None:
        results = results_of(node)
        remove_nodes(graph, [node])
        for tensor, value in zip(results, values, strict=True):
            tensor.to_constant(np.asarray(value, order="C"))

    return Site(node, f"{node.op} becomes a constant ({why})", edit)


@node_rule("Constant")
def constant_node(_: Sweep, node: gs.Node) -> Site | None:
    """A Constant node becomes an initializer, unless it is an output of the network."""
    if not node.outputs[0].outputs:
        return None
    forms: Mapping[str, Callable[[Any], Array | None]] = {
        "value": constant_of,
        "value_float": lambda number: np.asarray(number, np.float32),
        "value_floats": lambda numbers: np.asarray(numbers, np.float32),
        "value_int": lambda number: np.asarray(number, np.int64),
        "value_ints": lambda numbers: np.asarray(numbers, np.int64),
    }
    for name, read in forms.items():
        value = read(node.attrs[name]) if name in node.attrs else None
        if value is not None:
            return becomes_constant(node, [value], "Constant")
    return None


def evaluate(graph: gs.Graph, node: gs.Node) -> list[Array]:
    """What onnxruntime computes for a node whose inputs are constant."""
    lone = gs.Graph(opset=graph.opset, import_domains=graph.import_domains)
    lone.ir_version = graph.ir_version
    outputs = [
        gs.Variable.empty() if t.is_empty() else gs.Variable(t.name, dtype=t.dtype)
        for t in node.outputs
    ]
    inputs = [gs.Variable.empty() if t.is_empty() else t.copy() for t in node.inputs]
    lone.nodes = [gs.Node(node.op, node.name, node.attrs, inputs, outputs, node.domain)]
    lone.outputs = [tensor for tensor in outputs if not tensor.is_empty()]
    model = export_message(lone).SerializeToString()
    values = OnnxRuntimeEngine(model, threads=1, optimize=False).run({})
    return [values[tensor.name] for tensor in lone.outputs]


@node_rule("If")
def decided_if(_: Sweep, node: gs.Node) -> Site | None:
    """Of an If whose condition never changes, the branch that it takes remains."""
    condition = scalar_of(node.inputs[0])
    if condition is None:
        return None
    if any(reader.op == "Range" for tensor in node.outputs for reader in tensor.outputs):
        # Range wants scalars. onnxruntime takes vectors of one number as well, but ONNX's checker
        # refuses them as soon as it sees their shape, which an If hides.
        return None
    taken = "then_branch" if condition else "else_branch"

    def edit(graph: gs.Graph) -> None:
        inline_branch(graph, node, node.attrs[taken])

    return Site(node, f"always takes its {taken}", edit)


_UNKNOWN = -1
"""Stands for an extent that is not known, in a shape."""


def known_shape_value(node: gs.Node) -> Array | None:
    """What Shape and Size give where it is known, and the entries of a Shape that are."""
    if node.op in ("Shape", "Size"):
        dims = node.inputs[0].shape
        if dims is None:
            return None
        picked = dims[_slice_of_shape(node)] if node.op == "Shape" else dims
        if not all(isinstance(dim, int) for dim in picked):
            return None
        return np.asarray(math.prod(picked) if node.op == "Size" else picked, np.int64)
    maker = producer_of(node.inputs[0]) if node.inputs else None
    if maker is None or not is_standard(maker, "Shape") or maker.inputs[0].shape is None:
        return None
    # Entries that are not known are marked, carried through, and looked for in the result.
    dims = maker.inputs[0].shape[_slice_of_shape(maker)]
    entries = np.asarray([d if isinstance(d, int) else _UNKNOWN for d in dims], np.int64)
    chosen = _picked(node, entries)
    return None if chosen is None or (chosen == _UNKNOWN).any() else chosen


def _slice_of_shape(node: gs.Node) -> slice:
    return slice(node.attrs.get("start", 0), node.attrs.get("end"))


def _picked(node: gs.Node, entries: Array) -> Array | None:
    """The result of a Gather or Slice with constant positions on a vector."""
    given = [input_of(node, index) for index in range(1, 5)]
    positions = [None if t is None else constant_of(t) for t in given]
    if any((t is None) != (p is None) for t, p in zip(given, positions, strict=True)):
        return None  # positions that are computed
    first, stop, _, step = (None if p is None else p.astype(np.int64) for p in positions)
    if first is None:
        return None
    if node.op == "Gather":
        return np.asarray(entries[first])
    if node.op == "Slice" and stop is not None:
        stride = 1 if step is None else int(step.reshape(-1)[0])
        picked = slice(int(first.reshape(-1)[0]), int(stop.reshape(-1)[0]), stride)
        return np.asarray(entries[picked]) if stride > 0 else None
    return None


@node_rule("Shape", "Size", "Gather", "Slice")
def known_shape(_: Sweep, node: gs.Node) -> Site | None:
    """Known shapes are constants, as are extents: Gather(Shape(x), 1) -> the number of channels."""
    shape = known_shape_value(node)
    return None if shape is None else becomes_constant(node, [shape], "shape is known")


@node_rule()
def constant_folding(sweep: Sweep, node: gs.Node) -> Site | Skip | None:
    """A node whose inputs are all constant becomes its values, computed by onnxruntime."""
    graph, limit = sweep.graph, sweep.fold_limit
    if not node.inputs or not all(isinstance(t, gs.Constant) or t.is_empty() for t in node.inputs):
        return None
    if node.op in NEVER_FOLDED or any(node.subgraphs()):
        return None
    size = 0
    for tensor in results_of(node):
        shape_out, dtype = static_shape(tensor), tensor.dtype
        if shape_out is None or not isinstance(dtype, np.dtype) or dtype.hasobject:
            return None  # strings are objects to NumPy: what they take is not known
        if is_graph_output(graph, tensor):
            return None
        size += math.prod(shape_out) * dtype.itemsize
    sources = sum(t._values.nbytes for t in node.inputs if isinstance(t, gs.Constant))
    if size > max(limit, sources):
        return Skip(label(node), f"its value would take more than {limit} bytes")
    try:
        values = evaluate(graph, node)
    except InputError as error:
        return Skip(label(node), f"onnxruntime cannot compute it: {error.message}")
    return becomes_constant(node, values, "constant")
