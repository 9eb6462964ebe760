"""Operators on quantised tensors, in the one form that passes and the compiler know."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.graph import label
from graphopt.ir.qoperators import expand, is_qoperator, objection
from graphopt.optimizer.simplify.rule import Site, Sweep, node_rule


@node_rule()
def quantised_operator(sweep: Sweep, node: gs.Node) -> Site | Skip | None:
    """QLinearConv, ConvInteger and kin become the float operator between Dequantize and Quantize.

    Engines read it as they read the operator, and the weights stay whole numbers.
    """
    if not is_qoperator(node):
        return None
    against = objection(sweep.graph, node)
    if against:
        return Skip(label(node), against)
    what = f"{node.op} becomes a float operator between DequantizeLinear and QuantizeLinear"
    return Site(node, what, lambda graph: expand(graph, node))
