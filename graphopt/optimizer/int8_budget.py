"""Which layers stay float so that poses stay within a budget: as few as that takes.

Each layer is ranked by what it costs alone: the poses of the network in which nothing else is in
eight bits. Those that cost most stay float, as many as the budget needs, found by halving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.analysis.compare import PoseChange, compare
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import make_session
from graphopt.fitting.quantization.quantization import Recipe
from graphopt.fitting.quantization.writing import write
from graphopt.ir.arrays import Array
from graphopt.ir.network import Network
from graphopt.runtime.engine import Engine

JUDGED = 40
"""Held-out photos at most that the whole is judged on."""
RANKED = 12
"""The same for each layer alone: their order is all that is wanted."""


@dataclass(frozen=True)
class Budget:
    """How far poses may move."""

    shift: float = float("inf")
    """Mean distance of key points, in pixels of the network's input."""
    drop: float = 1.0
    """1 - OKS to the people that the float network finds."""

    def holds(self, change: PoseChange) -> bool:
        """Whether poses are within it."""
        return change.mean_shift <= self.shift and 1 - change.oks <= self.drop

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.shift < float("inf") or self.drop < 1


def floats_within(
    graph: gs.Graph,
    recipe: Recipe,
    calibration: Calibration,
    budget: Budget,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """The layers that stay float, by the names of their outputs, and why.

    Args:
        graph: the float network; it is not changed.
        recipe: what it is in eight bits.
        calibration: photos that the poses are compared on.
        budget: what has to be held.
        progress: told which layer is being looked at.
    """
    judge = _Judge(graph, recipe, calibration)
    progress("quantize: the poses")
    if budget.holds(judge.change(())):
        return dict(recipe.floats)
    layers = [name for name in recipe.layers if name not in recipe.floats]
    alone = {}
    for number, name in enumerate(layers, 1):
        progress(f"quantize: what layer {number} of {len(layers)} costs")
        alone[name] = judge.change([other for other in layers if other != name], RANKED)
    order = sorted(layers, key=lambda name: (alone[name].oks, -alone[name].error))
    few, many = 0, len(order)  # too few, and enough
    while many - few > 1:
        middle = (few + many) // 2
        progress(f"quantize: the poses with {middle} layers in float")
        if budget.holds(judge.change(order[:middle])):
            many = middle
        else:
            few = middle
    return dict(recipe.floats) | {
        name: f"it stays float to hold the budget: alone in eight bits it costs "
        f"{1 - alone[name].oks:.4f} OKS, key points move by {alone[name].mean_shift:.2f} pixels"
        for name in order[:many]
    }


class _Judge:
    """The float network's poses, to compare others with."""

    def __init__(self, graph: gs.Graph, recipe: Recipe, calibration: Calibration) -> None:
        self._graph, self._recipe, self._calibration = Network.of(graph), recipe, calibration
        self._engine = _Remembered(make_session(graph))

    def change(self, floats: Collection[str], photos: int = JUDGED) -> PoseChange:
        """What becomes of poses where these layers stay float."""
        written = self._graph.copy()
        write(written, self._recipe, {*floats, *self._recipe.floats})
        calibration = self._calibration
        feeds = calibration.feeds(calibration.held_out[:photos])
        return compare(self._engine, make_session(written), calibration.spec, feeds)


class _Remembered:
    """A network that is asked about the same few images again and again."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._engine = engine
        self._made: dict[bytes, dict[str, Array]] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; computed once for each image."""
        seen = hashlib.blake2b(b"".join(np.ascontiguousarray(v).data for v in feeds.values()))
        key = seen.digest()
        if key not in self._made:
            self._made[key] = self._engine.run(feeds)
        return self._made[key]
