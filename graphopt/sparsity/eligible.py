"""Which convolutions pruning by blocks is for."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.ir.convolution import CONV_OPS, Convolution, why_unknown
from graphopt.ir.graph import is_standard, reads_of
from graphopt.ir.identity import IdentityMap, IdentitySet

NARROW = 32
"""Channels, in or out, below which a layer has too few blocks to choose from."""


def ineligible_reasons(graph: gs.Graph, narrow: int = NARROW) -> IdentityMap[gs.Node, str]:
    """Why convolutions are left alone; those that are missing may be pruned."""
    reasons = _ends(graph)
    for node in graph.nodes:
        if is_standard(node, "Conv"):
            reason = reasons.get(node) or _unfit(node, narrow)
            if reason:
                reasons[node] = reason
    return reasons


def _ends(graph: gs.Graph) -> IdentityMap[gs.Node, str]:
    """The network's first convolutions, and the last ones."""
    reasons: IdentityMap[gs.Node, str] = IdentityMap()
    behind: IdentitySet[gs.Tensor] = IdentitySet()
    for node in graph.nodes:
        convolves = is_standard(node, *CONV_OPS)
        if convolves and node.inputs[0] not in behind:
            reasons[node] = "it is the network's first"
        if convolves or any(t in behind for t in reads_of(node)):
            behind.update(node.outputs)
    shown = IdentitySet(graph.outputs)
    for node in reversed(graph.nodes):
        if any(t in shown for t in node.outputs):
            if is_standard(node, *CONV_OPS):
                reasons[node] = "its output reaches the network's without another convolution"
            else:
                shown.update(reads_of(node))
    return reasons


def _unfit(node: gs.Node, narrow: int) -> str | None:
    """Why a convolution cannot be pruned, or would not be worth it."""
    spec = Convolution.of(node)
    if spec is None:
        return why_unknown(node)
    if len(spec.kernel) != 2:
        return "it is not two-dimensional"
    if spec.group > 1:
        return "it is depthwise" if spec.depthwise else "it is grouped"
    if min(spec.in_channels, spec.out_channels) < narrow:
        return f"it is narrow: {spec.in_channels} channels in, {spec.out_channels} out"
    return None
