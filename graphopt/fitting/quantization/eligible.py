"""Which networks can be written in eight bits: not too old, and not in eight bits already."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.ir.graph import is_standard, label
from graphopt.ir.operators import Kind, operator_of
from graphopt.ir.qoperators import is_qoperator

OPSET = 13
"""From it on, QuantizeLinear and DequantizeLinear have an axis."""
CHANGED = (
    *("Softmax", "LogSoftmax", "Hardmax", "Squeeze", "Unsqueeze", "ReduceSum", "Split"),
    *("Dropout", "Resize", "Upsample", "If", "Loop", "Scan"),
)
"""Operators that mean something else, or are written otherwise, from opset 12 or 13 on, or hold
others."""


def objection(graph: gs.Graph) -> str | None:
    """Why a network cannot be written in eight bits; None if it can."""
    for node in graph.nodes:
        if operator_of(node).kind is Kind.QUANTISATION or is_qoperator(node):
            return f"the network is quantised already: {label(node)} is {node.op}"
    if graph.opset >= OPSET:
        return None
    for node in graph.nodes:
        if is_standard(node, *CHANGED):
            return (
                f"its opset {graph.opset} has no steps for each channel, opset {OPSET} has; "
                f"{label(node)} ({node.op}) keeps it from being raised: export it again with "
                f"opset_version={OPSET}"
            )
    return None


def raise_opset(graph: gs.Graph) -> None:
    """Declare the opset that is needed, of a network without `objection`."""
    if graph.opset < OPSET:
        graph.opset = OPSET
        for domain in graph.import_domains or ():
            if domain.domain in ("", "ai.onnx"):
                domain.version = OPSET
