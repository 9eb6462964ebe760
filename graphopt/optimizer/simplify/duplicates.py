"""Nodes that compute the same from the same, and weights that are equal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.edit import can_rewire, remove_nodes, rewire
from graphopt.ir.graph import (
    constant_of,
    is_graph_output,
    is_standard,
    label,
)
from graphopt.optimizer.simplify.constants import NEVER_FOLDED
from graphopt.optimizer.simplify.rule import Edit, Site, Sweep, graph_rule, node_rule


@node_rule()
def duplicate_node(sweep: Sweep, node: gs.Node) -> Site | Skip | None:
    """Of nodes that compute the same from the same, the first remains."""
    if node.op in NEVER_FOLDED or node.op in ("Constant", "Dropout") or any(node.subgraphs()):
        return None
    key = (
        node.op,
        tuple(t.name for t in node.inputs),
        tuple(t.is_empty() for t in node.outputs),
        tuple(sorted((name, _frozen(value)) for name, value in node.attrs.items())),
    )
    first = sweep.seen.get(key, node)
    if first is node or not first.outputs:  # there is none, or it was taken out
        sweep.seen[key] = node
        return None
    pairs = [(t, kept) for t, kept in zip(node.outputs, first.outputs, strict=True) if t.name]
    if not all(can_rewire(sweep.graph, old, new) for old, new in pairs):
        return Skip(label(node), f"computes what {label(first)} does, but both are outputs")

    def edit(graph: gs.Graph) -> None:
        for old, new in pairs:
            rewire(graph, old, new)
        remove_nodes(graph, [node])

    return Site(node, f"computes what {label(first)} does", edit)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, gs.Constant):
        return (
            hashlib.sha256(value.values.tobytes()).hexdigest(),
            str(value.dtype),
            tuple(value.shape),
        )
    return repr(value)


def _only_reads(node: gs.Node) -> bool:
    """Whether an operator surely leaves its inputs as they are.

    Other domains' may keep state there (optimizers, caches), normalization in training mode its
    statistics, and loops their variables.
    """
    training = node.op == "BatchNormalization" and (
        node.attrs.get("training_mode", 0) or len(node.outputs) > 1
    )
    return is_standard(node) and not training and not any(node.subgraphs())


@graph_rule
def equal_initializers(graph: gs.Graph) -> Iterator[Site]:
    """Of equal initializers, one remains."""
    alike: dict[Hashable, list[gs.Constant]] = defaultdict(list)
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant) or not isinstance(tensor.dtype, np.dtype):
            continue
        if all(_only_reads(node) for node in tensor.outputs):
            alike[str(tensor.dtype), tuple(tensor.shape)].append(tensor)
    for tensors in alike.values():
        if len(tensors) == 1:
            continue  # nothing to compare with: large weights are not even read
        kept: dict[bytes, gs.Constant] = {}
        for tensor in tensors:
            values = constant_of(tensor)
            if values is None or is_graph_output(graph, tensor):
                continue
            first = kept.setdefault(hashlib.sha256(values.tobytes()).digest(), tensor)
            if first is not tensor and tensor.outputs:
                reader = tensor.outputs[0]
                yield Site(
                    reader, f"shares {first.name} instead of {tensor.name}", _sharing(tensor, first)
                )


def _sharing(tensor: gs.Constant, first: gs.Constant) -> Edit:
    return lambda graph: rewire(graph, tensor, first)
