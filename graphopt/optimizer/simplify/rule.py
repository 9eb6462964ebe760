"""What a rule of `canonicalize` is, and what it finds: a node, what is done about it, and how."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.edit import can_rewire, remove_nodes, rewire
from graphopt.ir.graph import is_graph_output, label

Edit: TypeAlias = Callable[[gs.Graph], None]
"""Makes a change that is known to be possible."""


@dataclass(frozen=True)
class Site:
    """A node, what is done about it, and how."""

    node: gs.Node
    summary: str
    edit: Edit


Found: TypeAlias = Site | Skip | None
"""What a rule makes of a node: nothing where it has nothing to say."""
Source: TypeAlias = gs.Tensor | Site | None
"""The tensor that equals a node's result; or another rewriting; or nothing."""


@dataclass(frozen=True)
class Sweep:
    """One walk over a graph."""

    graph: gs.Graph
    fold_limit: int
    """Largest folded constant in bytes, unless it is no larger than what it is computed from."""
    seen: dict[Hashable, gs.Node] = field(default_factory=dict)
    """The first node of each kind, for `duplicate-node`."""


@dataclass(frozen=True)
class Rule:
    """A named simplification."""

    name: str
    summary: str
    """Its line in the manual page."""


@dataclass(frozen=True)
class NodeRule(Rule):
    """One that looks at single nodes of standard operators."""

    ops: frozenset[str]
    """The operators that it looks at; all where there are none."""
    find: Callable[[Sweep, gs.Node], Found]


@dataclass(frozen=True)
class GraphRule(Rule):
    """One that looks at a whole graph."""

    find: Callable[[gs.Graph], Iterator[Site | Skip]]


def node_rule(*ops: str) -> Callable[[Callable[[Sweep, gs.Node], Found]], NodeRule]:
    """Make a rule of a function: its name is the rule's, its first line the rule's summary."""
    return lambda find: NodeRule(*_title(find), frozenset(ops), find)


def graph_rule(find: Callable[[gs.Graph], Iterator[Site | Skip]]) -> GraphRule:
    """The same for a whole graph."""
    return GraphRule(*_title(find), find)


def no_op(*ops: str) -> Callable[[Callable[[gs.Node], Source]], NodeRule]:
    """The same of a function that names the tensor that a node hands on: the node is taken out."""

    def make(source_of: Callable[[gs.Node], Source]) -> NodeRule:
        def find(sweep: Sweep, node: gs.Node) -> Found:
            source = source_of(node)
            return (
                _handed_on(sweep.graph, node, source) if isinstance(source, gs.Tensor) else source
            )

        return NodeRule(*_title(source_of), frozenset(ops), find)

    return make


BOTH_ENDS = "its input and its output both belong to the caller"


def _handed_on(graph: gs.Graph, node: gs.Node, source: gs.Tensor) -> Site | Skip:
    result, *extras = node.outputs
    if any(extra.outputs or is_graph_output(graph, extra) for extra in extras):
        return Skip(label(node), "another of its outputs is in use")
    if not can_rewire(graph, result, source):
        return Skip(label(node), BOTH_ENDS)

    def edit(graph: gs.Graph) -> None:
        rewire(graph, result, source)
        remove_nodes(graph, [node])

    return Site(node, f"{node.op} changes nothing", edit)


def _title(function: Callable[..., Any]) -> tuple[str, str]:
    """The name and the summary of a rule."""
    lines = (function.__doc__ or "").splitlines()
    return function.__name__.strip("_").replace("_", "-"), lines[0]
