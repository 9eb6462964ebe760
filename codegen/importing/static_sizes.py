"""Which operators a static plan cannot hold: the size of what they give depends on the photo."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_graphsurgeon as gs

from graphopt.errors import Unsupported

NEVER: Mapping[str, str] = MappingProxyType(
    {"NonMaxSuppression": "how many boxes it keeps depends on the photo"}
)
"""Operators that are refused, and why; see `supported.NOT_STATIC` for more."""

FIXED: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "ConstantOfShape": {0: "shape"},
        "Expand": {1: "shape"},
        "Pad": {1: "padding", 3: "axes"},
        "Range": {0: "start", 1: "limit", 2: "step"},
        "Reshape": {1: "shape"},
        "Resize": {1: "region", 2: "scales", 3: "sizes"},
        "Slice": {1: "start", 2: "end", 3: "axes", 4: "steps"},
        "Split": {1: "sizes"},
        "Tile": {1: "repeats"},
        "TopK": {1: "K"},
        "Upsample": {1: "scales"},
    }
)
"""Inputs, by position, that must not depend on the photo."""


def check_sizes(graph: gs.Graph) -> None:
    """Refuse a network in which the size of a tensor is computed from what the inputs hold.

    Args:
        graph: nodes in an order in which they can run. What is computed from constants and shapes
            alone does not count: it is gone when the graph is clean.

    Raises:
        Unsupported: names the node, and where to cut the network.
    """
    varying = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        if node.op in ("Shape", "Size") or varying.isdisjoint(t.name for t in node.inputs):
            continue
        varying |= {tensor.name for tensor in node.outputs}
        if node.op in NEVER:
            raise _refusal(node, f"{node.op} cannot be compiled: {NEVER[node.op]}")
        for position, what in FIXED.get(node.op, {}).items():
            if position < len(node.inputs) and node.inputs[position].name in varying:
                raise _refusal(
                    node, f"the {what} of this {node.op} would be computed from the network's input"
                )


def _refusal(node: gs.Node, what: str) -> Unsupported:
    names = [t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
    tensors = ", ".join(repr(name) for name in names)
    return Unsupported(
        what,
        node=node.name or node.outputs[0].name,
        hint=f"cut the network before it: onnx.utils.extract_model(IN, OUT, INPUTS, [{tensors}]), "
        "and do the rest on the host",
    )
