"""Changing a graph: nodes and constants come, go and are wired anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import InputError
from graphopt.ir.arrays import Array
from graphopt.ir.graph import is_graph_input, is_graph_output, label, producer_of, reads_of
from graphopt.ir.identity import IdentitySet


def _free(base: str, taken: set[str]) -> str:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _names(graph: gs.Graph) -> set[str]:
    return set(graph.tensors()) | {node.name for node in graph.nodes}


def constant(graph: gs.Graph, base: str, values: Array) -> gs.Constant:
    """A new constant named `base`, or `base_1`, `base_2` … where that name is taken."""
    return gs.Constant(_free(base, _names(graph)), np.asarray(values, order="C"))


def emit(
    graph: gs.Graph,
    op: str,
    *inputs: gs.Tensor | Array | float | None,
    out: gs.Tensor | str,
    domain: str | None = None,
    **attrs: Any,
) -> gs.Tensor:
    """Add a node, and return its output.

    Args:
        graph: the graph to add to; `sort_nodes` finds the node's place later.
        op: the operator.
        inputs: tensors; arrays and numbers, which become constants (numbers of the first tensor's
            element type); None for an optional input that is left out, and not written at the end.
        out: the tensor that the node makes from now on, or the first choice of a new one's name.
        domain: the operator's domain, where it is not the ONNX standard's.
        attrs: the operator's attributes.
    """
    taken = _names(graph)
    like = next((t.dtype for t in inputs if isinstance(t, gs.Tensor)), None)
    dtype = np.dtype(np.float32) if like is None else like
    output = gs.Variable(_free(out, taken), dtype=dtype) if isinstance(out, str) else out
    tensors: list[gs.Tensor] = []
    for given in inputs:
        if given is None:
            tensors.append(gs.Variable.empty())
        elif isinstance(given, gs.Tensor):
            tensors.append(given)
        else:
            values = given if isinstance(given, np.ndarray) else np.asarray(given, dtype=dtype)
            tensors.append(gs.Constant(_free(f"{output.name}.{op.lower()}", taken), values))
    while tensors and tensors[-1].is_empty():
        tensors.pop()
    name = _free(output.name, taken - {output.name})
    graph.nodes.append(gs.Node(op, name, attrs, tensors, [output], domain))
    return output


def remove_nodes(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take nodes out; the tensors that they made wait for a new producer under the same names."""
    doomed = IdentitySet(nodes)
    for node in doomed:
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if node not in doomed]


def remove_unread(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take those of `nodes` out (readers first, please) whose outputs nobody needs any more."""
    for node in nodes:
        if not any(t.outputs or is_graph_output(graph, t) for t in node.outputs):
            remove_nodes(graph, [node])


def absorb(graph: gs.Graph, producer: gs.Node, consumer: gs.Node) -> None:
    """Let `producer` make what its only reader `consumer` made; the tensor between vanishes."""
    result = consumer.outputs[0]
    remove_nodes(graph, [consumer])
    producer.outputs[0] = result


def can_rewire(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> bool:
    """Whether `rewire` can do it: not when the names of both tensors belong to the caller."""
    inner = new.inputs and not is_graph_output(graph, new) and not is_graph_input(graph, new)
    return bool(inner) or not is_graph_output(graph, old)


def rewire(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let everyone who reads `old` read `new`, which has the same value; `old` has no maker then.

    An output of the graph keeps its name: then `new`, an inner tensor, takes it over instead.
    """
    if is_graph_output(graph, old):
        maker = new.inputs[0]
        old.inputs.clear()
        _replace_reads(new, old)
        index = next(i for i, t in enumerate(maker.outputs) if t is new)
        maker.outputs[index] = old
    else:
        old.inputs.clear()
        _replace_reads(old, new)


def _replace_reads(old: gs.Tensor, new: gs.Tensor) -> None:
    for reader in list(old.outputs):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new


def inline_branch(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    """Put the nodes of one of a node's subgraphs, which has no inputs, in the node's place.

    Its tensors keep their names where those are free; the node's outputs keep theirs in any case.
    """
    taken = _names(graph)
    outside = IdentitySet(branch._foreign_tensors().values())
    for tensor in branch.tensors().values():
        if tensor not in outside:
            tensor.name = _free(tensor.name, taken)
    for inner in branch.nodes:
        inner.name = _free(inner.name, taken) if inner.name else ""
    own = IdentitySet(branch.nodes)
    results = list(node.outputs)
    remove_nodes(graph, [node])
    graph.nodes.extend(branch.nodes)
    for result, made in zip(results, list(branch.outputs), strict=True):
        maker = producer_of(made)
        if maker is None or maker not in own or not isinstance(made, gs.Variable):
            emit(graph, "Identity", made, out=result)
            continue
        for reader in list(made.outputs):
            for index, tensor in enumerate(reader.inputs):
                if tensor is made:
                    reader.inputs[index] = result
        index = next(i for i, t in enumerate(maker.outputs) if t is made)
        maker.outputs[index] = result


def live_nodes(graph: gs.Graph) -> IdentitySet[gs.Node]:
    """Every node that an output of the graph depends on."""
    live: IdentitySet[gs.Node] = IdentitySet()
    pending = [node for tensor in graph.outputs for node in tensor.inputs]
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending += [maker for tensor in reads_of(node) for maker in tensor.inputs]
    return live


def flaw_of(graph: gs.Graph, outer: Collection[str] = ()) -> str | None:
    """Why a graph is none: a tensor that nothing makes, or that two nodes do; None where it is one.

    Args:
        outer: the tensors that a body (of an If, a Loop) sees of the graphs around it.
    """
    makers: dict[str, gs.Node] = {}
    given = {*outer, *(tensor.name for tensor in graph.inputs)}
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.name and tensor.name in makers:
                return f"{label(makers[tensor.name])} and {label(node)} both make {tensor.name}"
            makers[tensor.name] = node
    known = {*given, *makers}
    for node in graph.nodes:
        for tensor in node.inputs:
            if not (tensor.name in known or isinstance(tensor, gs.Constant) or tensor.is_empty()):
                return f"{label(node)} reads {tensor.name}, which nothing makes"
        for body in node.attrs.values():
            if isinstance(body, gs.Graph) and (flaw := flaw_of(body, known)):
                return flaw
    for tensor in graph.outputs:
        if not (tensor.name in known or isinstance(tensor, gs.Constant)):
            return f"nothing makes the output {tensor.name}"
    return None


def sort_nodes(graph: gs.Graph) -> None:
    """Order the nodes so that each follows what it reads; nodes already in order stay in place.

    Raises:
        InputError: when the graph has a cycle.
    """
    own = IdentitySet(graph.nodes)
    placed: IdentitySet[gs.Node] = IdentitySet()
    waiting: IdentitySet[gs.Node] = IdentitySet()
    for root in graph.nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in placed:
                stack.pop()
                continue
            missing = [
                maker
                for tensor in reads_of(node)
                for maker in tensor.inputs
                if maker in own and maker not in placed
            ]
            if not missing:
                placed.add(stack.pop())
            elif node in waiting:
                raise InputError("the graph has a cycle", node=label(node))
            else:
                waiting.add(node)
                stack += missing
    graph.nodes = list(placed)
