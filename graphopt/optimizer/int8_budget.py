"""Which layers stay float so that poses stay within a budget: as few multiply-adds as that takes.

Each layer is ranked by what it costs alone: the outputs' error of a network in which nothing else
is in eight bits, for its multiply-adds. Poses are the judge, but of the whole only: those of a
dozen photos say nothing about a single layer. Those that cost most stay float, as many as the
budget needs, found by halving; then the others are fitted again to what they see now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.analysis.compare import PoseChange, compare
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import make_session
from graphopt.fitting.quantization.costs import Cost
from graphopt.fitting.quantization.quantization import Recipe, Settings, quantise
from graphopt.fitting.quantization.writing import write
from graphopt.ir.arrays import Array
from graphopt.ir.network import Network
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.differences import OutputError
from graphopt.runtime.engine import Engine

JUDGED = 80
"""Photos at most, that nothing was fitted on, on which the whole is judged."""
RANKED = 5
"""The same for each layer alone: the outputs' error is smooth."""


@dataclass(frozen=True)
class Budget:
    """How far poses may move."""

    shift: float = float("inf")
    """Mean distance of key points, in pixels of the network's input."""
    drop: float = 1.0
    """1 - OKS to the people that the float network finds."""
    share: float = 1.0
    """Of the multiply-adds that may stay float for it."""

    def holds(self, change: PoseChange) -> bool:
        """Whether poses are within it."""
        return change.mean_shift <= self.shift and 1 - change.oks <= self.drop

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.shift < float("inf") or self.drop < 1


@dataclass(frozen=True)
class Kind:
    """What networks of a kind are to keep where nothing is said."""

    drop: float
    """1 - OKS to the people that the float network finds."""
    tolerance: float
    """The outputs' error from rounding activations to start from."""


ONE_PERSON = Kind(drop=0.025, tolerance=0.03)
"""OKS 0.97 on other photos."""
MANY_PEOPLE = Kind(drop=0.1, tolerance=0.06)
"""Those at the limit of being found come and go, which OKS counts in full and AP hardly notices: at
an OKS of 0.90 Lightweight OpenPose has all of its AP."""


def kind_of(spec: PoseSpec) -> Kind:
    """What a network is to keep where nothing is said."""
    return ONE_PERSON if spec.paf is None else MANY_PEOPLE


def recipe_within(
    graph: gs.Graph,
    recipe: Recipe,
    calibration: Calibration,
    budget: Budget,
    settings: Settings,
    progress: Callable[[str], None] = lambda _: None,
) -> Recipe:
    """A recipe that leaves as few multiply-adds in float as hold a budget.

    Args:
        graph: the float network; it is not changed.
        recipe: what it is in eight bits.
        calibration: photos that the poses are compared on.
        budget: what has to be held.
        settings: how the recipe was found.
        progress: told what is being looked at.
    """
    judge = _Judge(graph, recipe, calibration)
    progress("quantize: the poses")
    if budget.holds(judge.change(())):
        return recipe
    costs = _ranked(judge, recipe, progress)
    costs = _within(costs, budget.share - recipe.float_share)
    few, many = 0, len(costs)  # too few, and enough or all that may
    while many - few > 1:
        middle = (few + many) // 2
        progress(f"quantize: the poses with {middle} more layers in float")
        if budget.holds(judge.change([c.layers[0] for c in costs[:middle]])):
            many = middle
        else:
            few = middle
    floats = dict(recipe.floats) | {
        cost.layers[0]: f"it stays float to hold the budget: alone in eight bits it moves the "
        f"outputs by {cost.error:.3f} of their deviation, for {cost.share:.1%} of the multiply-adds"
        for cost in costs[:many]
    }
    left = replace(recipe, floats=floats)
    if recipe.joint or len(floats) == len(recipe.layers):
        return left
    again = quantise(graph, calibration, settings, floats=floats, progress=progress)
    progress("quantize: the poses")
    changes = [_Judge(graph, one, calibration, judge.engine).change(()) for one in (left, again)]
    return again if changes[1].error <= changes[0].error else left


def _ranked(judge: _Judge, recipe: Recipe, progress: Callable[[str], None]) -> list[Cost]:
    """What is in eight bits, those that cost most for their multiply-adds first."""
    layers = [name for name in recipe.layers if name not in recipe.floats]
    costs = []
    for number, name in enumerate(layers, 1):
        progress(f"quantize: what layer {number} of {len(layers)} costs")
        error = judge.error([other for other in layers if other != name], layers)
        costs.append(Cost((name,), error, recipe.shares[name]))
    return sorted(costs, key=lambda cost: -(cost.error**2) / max(cost.share, 1e-9))


def _within(costs: list[Cost], share: float) -> list[Cost]:
    """The first that together have so much of the multiply-adds at most."""
    chosen = []
    for cost in costs:
        if cost.share <= share:
            chosen.append(cost)
            share -= cost.share
    return chosen


class _Judge:
    """The float network's poses, to compare others with.

    Args:
        graph: the float network.
        recipe: what it is in eight bits.
        calibration: photos.
        engine: the float network's, if it is there already.
    """

    def __init__(
        self,
        graph: gs.Graph,
        recipe: Recipe,
        calibration: Calibration,
        engine: _Remembered | None = None,
    ) -> None:
        self._graph, self._recipe, self._calibration = Network.of(graph), recipe, calibration
        self.engine = engine or _Remembered(make_session(graph))
        self._unseen = [*calibration.held_out, *calibration.fitting[recipe.images :]]
        self._plain: list[Mapping[str, Array]] = []

    def change(self, floats: Collection[str]) -> PoseChange:
        """What becomes of poses where these layers stay float."""
        feeds = self._calibration.feeds(self._unseen[:JUDGED])
        return compare(self.engine, self._written(floats), self._calibration.spec, feeds)

    def error(self, floats: Collection[str], every: Collection[str]) -> float:
        """How far the outputs are from those where every layer stays float."""
        feeds = list(self._calibration.feeds(self._unseen[:RANKED]))
        if not self._plain:
            plain = self._written(every)
            self._plain = [plain.run(feed) for feed in feeds]
        engine, error = self._written(floats), OutputError()
        for feed, expected in zip(feeds, self._plain, strict=True):
            error.add(engine.run(feed), expected)
        return error.value

    def _written(self, floats: Collection[str]) -> Engine:
        written = self._graph.copy()
        write(written, self._recipe, {*floats, *self._recipe.floats})
        return make_session(written)


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
