"""What each layer in eight bits costs at the network's outputs, and which stay float for that.

Of a float network only what one layer reads is rounded, and its weights, and the outputs are
compared. Errors of different layers are hardly correlated, so that their squares roughly add up. A
few, often of depthwise layers with few multiply-adds, make most of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import onnx_graphsurgeon as gs

from graphopt.fitting.layerwise_runner import make_session, shapes_of
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.placement import Placement, placement_of
from graphopt.fitting.quantization.qdq import put_weights, store_all
from graphopt.ir.arrays import Array
from graphopt.ir.network import Network
from graphopt.runtime.differences import OutputError

Weights: TypeAlias = tuple[Array, Array | None]
"""Of a layer, and its bias."""
TROUBLE = 0.1
"""The outputs' error, relative to their deviation, below which all that can be is in eight bits."""
TOLERANCE = 0.03
"""Where it is more, layers stay float until it is expected to be less than this."""


@dataclass(frozen=True)
class Cost:
    """What it costs that layers are in eight bits."""

    layers: tuple[str, ...]
    """Those that read one grid, by the names of their outputs."""
    error: float
    """Of the network's outputs, relative to their deviation, where nothing else is rounded."""
    share: float
    """Of the multiply-adds of all layers."""


def costs_of(
    graph: gs.Graph,
    placement: Placement,
    grids: Mapping[str, Grid],
    feeds: Sequence[Mapping[str, Array]],
    rounded: Mapping[str, Weights] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda _: None,
) -> list[Cost]:
    """What it costs that the layers of each grid are computed in eight bits.

    Args:
        graph: the float network; it is not changed.
        placement: what of it may be computed in eight bits.
        grids: of the tensors that are stored so.
        feeds: inputs to look at, a few.
        rounded: weights in eight bits, and biases, by the name of a layer's output; others are
            taken as they are.
        progress: told what is being done.
    """
    engine = make_session(graph)
    expected = [engine.run(feed) for feed in feeds]
    shares = shares_of(graph, placement, feeds[0])
    units: dict[str, list[str]] = {}
    for node in placement.layers:
        grid = placement.grids[node.inputs[0].name]
        units.setdefault(grid, []).append(node.outputs[0].name)
    found = []
    for number, names in enumerate(units.values(), 1):
        progress(f"quantize: what rounding costs, {number} of {len(units)} ({names[0]})")
        alone = placement_of(graph, shares.keys() - set(names), joint=placement.joint)
        error = _error(graph, alone, grids, feeds, expected, rounded)
        found.append(Cost(tuple(names), error, sum(shares[name] for name in names)))
    return found


def rounding_error(
    graph: gs.Graph,
    placement: Placement,
    grids: Mapping[str, Grid],
    feeds: Sequence[Mapping[str, Array]],
) -> float:
    """The outputs' error, relative to their deviation, where all that a placement has is rounded,
    and no weight is.
    """
    engine = make_session(graph)
    return _error(graph, placement, grids, feeds, [engine.run(feed) for feed in feeds])


def shares_of(graph: gs.Graph, placement: Placement, feed: Mapping[str, Array]) -> dict[str, float]:
    """The part of all layers' multiply-adds that each has, by the name of its output."""
    shapes = shapes_of(graph, feed)
    work = {node.outputs[0].name: _multiplies(node, shapes) for node in placement.layers}
    return {name: count / max(1, sum(work.values())) for name, count in work.items()}


def costliest(costs: Sequence[Cost], share: float, tolerance: float = TOLERANCE) -> list[Cost]:
    """Which layers are to stay float, the costliest first.

    Those that save most for their multiply-adds, until what is left costs less than the tolerance;
    none that costs a tenth of that by itself, which would only bring more conversions.

    Args:
        costs: of all layers.
        share: of the multiply-adds that may stay float.
        tolerance: the outputs' error, relative to their deviation, that is aimed at.
    """
    left, free = sum(cost.error**2 for cost in costs), share
    chosen = []
    for cost in sorted(costs, key=lambda cost: -(cost.error**2) / max(cost.share, 1e-9)):
        if left > tolerance**2 and cost.share <= free and cost.error > tolerance / 10:
            chosen.append(cost)
            left -= cost.error**2
            free -= cost.share
    return sorted(chosen, key=lambda cost: -cost.error)


def reasons_of(costs: Sequence[Cost]) -> dict[str, str]:
    """Why each layer stays float, by the name of its output."""
    return {
        name: f"it stays float, since eight bits cost much here: alone they move the "
        f"outputs by {cost.error:.3f} of their deviation, for {cost.share:.1%} of the multiply-adds"
        for cost in costs
        for name in cost.layers
    }


def _error(
    graph: gs.Graph,
    placement: Placement,
    grids: Mapping[str, Grid],
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Mapping[str, Array]],
    weights: Mapping[str, Weights] = MappingProxyType({}),
) -> float:
    rounded = Network.of(graph).copy()
    tensors = rounded.tensors()
    for node in placement.layers:
        name = node.outputs[0].name
        if name in weights:
            put_weights(rounded, tensors[name].inputs[0], *weights[name])
    layers = {node.outputs[0].name for node in placement.layers}
    others = {node.outputs[0].name for node in placement_of(graph).layers} - layers
    store_all(rounded, placement_of(rounded, others, joint=placement.joint), grids)
    engine = make_session(rounded)
    error = OutputError()
    for feed, wanted in zip(feeds, expected, strict=True):
        error.add(engine.run(feed), wanted)
    return error.value


def _multiplies(node: gs.Node, shapes: Mapping[str, Sequence[int]]) -> int:
    """A layer's multiply-adds."""
    weight = math.prod(int(extent) for extent in node.inputs[1].shape)
    if node.op in ("Gemm", "MatMul"):
        return weight * math.prod(shapes[node.outputs[0].name][:-1])
    over = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    return weight * math.prod(shapes[over.name][2:])
