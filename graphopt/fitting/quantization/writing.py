"""A recipe written into a network, node by node."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphopt.fitting.quantization.eligible import raise_opset
from graphopt.fitting.quantization.fit_layer import FittedLayer
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.qdq import put_weights, store, write_layer
from graphopt.fitting.quantization.quantization import Recipe
from graphopt.ir.edit import sort_nodes
from graphopt.ir.shape_inference import refresh_shapes


@dataclass(frozen=True)
class Site:
    """A node to compute in eight bits."""

    node: gs.Node
    grids: tuple[Grid | None, ...]
    """Of what it reads, as it is before anything is rewritten."""
    fitted: FittedLayer | None
    """Its weights, if it has any."""
    joint: bool = True
    """Whether all else that reads the same reads it rounded."""


def write(graph: gs.Graph, recipe: Recipe, floats: Collection[str]) -> None:
    """Write all of a recipe into the network that it was made for, or a copy.

    Args:
        graph: the network.
        recipe: its numbers.
        floats: layers that stay float, by the names of their outputs.
    """
    begin(graph, recipe)
    for site in sites_of(graph, recipe, floats):
        write_site(graph, site)
    sort_nodes(graph)
    refresh_shapes(graph)


def begin(graph: gs.Graph, recipe: Recipe) -> None:
    """Give the layers their weights as they are before they are rounded."""
    raise_opset(graph)
    for node in graph.nodes:
        fitted = recipe.layers.get(node.outputs[0].name) if node.outputs else None
        if fitted is not None:
            put_weights(graph, node, *fitted.floats)


def sites_of(graph: gs.Graph, recipe: Recipe, floats: Collection[str]) -> list[Site]:
    """What is computed in eight bits, of a network that nothing was written into."""
    placement = placement_of(graph, floats, joint=recipe.joint)
    return [
        Site(
            node,
            tuple(recipe.grids.get(tensor.name) for tensor in node.inputs),
            recipe.layers.get(node.outputs[0].name),
            recipe.joint,
        )
        for node in (*placement.layers, *placement.carriers)
    ]


def write_site(graph: gs.Graph, site: Site) -> None:
    """Have one node compute in eight bits."""
    if site.fitted is not None:
        grid = site.grids[0]
        assert grid is not None
        write_layer(graph, site.node, site.fitted.weights, grid, joint=site.joint)
        return
    for tensor, grid in zip(list(site.node.inputs), site.grids, strict=True):
        if grid is not None:
            store(graph, tensor, grid)
