"""The rules of `canonicalize`, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.edit import live_nodes, remove_nodes
from graphopt.ir.graph import is_standard
from graphopt.ir.qoperators import is_qoperator
from graphopt.optimizer.simplify import no_ops
from graphopt.optimizer.simplify.constants import (
    constant_folding,
    constant_node,
    decided_if,
    known_shape,
)
from graphopt.optimizer.simplify.duplicates import duplicate_node, equal_initializers
from graphopt.optimizer.simplify.padding import absorbed_pad, explicit_pads
from graphopt.optimizer.simplify.quantised import quantised_operator
from graphopt.optimizer.simplify.rule import (
    Edit,
    GraphRule,
    NodeRule,
    Rule,
    Site,
    Sweep,
    graph_rule,
)


@graph_rule
def dead_node(graph: gs.Graph) -> Iterator[Site]:
    """What no output depends on is removed."""
    live = live_nodes(graph)
    for node in list(graph.nodes):
        if node not in live:
            yield Site(node, "no output depends on it", _removing(node))


def _removing(node: gs.Node) -> Edit:
    return lambda graph: remove_nodes(graph, [node])


NODE_RULES: Sequence[NodeRule] = (
    quantised_operator,
    constant_node,
    decided_if,
    known_shape,
    constant_folding,
    no_ops.identity,
    no_ops.dropout,
    no_ops.same_cast,
    no_ops.single_operand,
    no_ops.single_part,
    no_ops.empty_pad,
    no_ops.whole_slice,
    no_ops.same_shape,
    no_ops.undone_reshape,
    no_ops.copied_shape,
    no_ops.same_expand,
    no_ops.identity_transpose,
    no_ops.double_transpose,
    no_ops.single_element_pool,
    no_ops.unit_resize,
    no_ops.neutral_operand,
    no_ops.needless_relu,
    explicit_pads,
    absorbed_pad,
    duplicate_node,
)
"""What a node is asked, one after the other: the first that finds something has it."""
LAST: Sequence[GraphRule] = (equal_initializers, dead_node)
"""What the whole graph is asked after all nodes; `dead_node` also before them."""
RULES: Sequence[Rule] = (*NODE_RULES, *LAST)


def simplifications(
    sweep: Sweep, rules: Sequence[NodeRule] = NODE_RULES, last: Sequence[GraphRule] = LAST
) -> Iterator[Site | Skip]:
    """What rules find in one walk; each site is edited before the next one is looked for."""
    yield from dead_node.find(sweep.graph)
    for node in list(sweep.graph.nodes):
        if node.outputs and (is_standard(node) or is_qoperator(node)):
            found = _first(rules, sweep, node)
            if found is not None:
                yield found
    for rule in last:
        yield from rule.find(sweep.graph)


def _first(rules: Sequence[NodeRule], sweep: Sweep, node: gs.Node) -> Site | Skip | None:
    for rule in rules:
        if not rule.ops or node.op in rule.ops:
            found = rule.find(sweep, node)
            if found is not None:
                return found
    return None
