"""Activations by cheap forms, fitted to photos one after the other: each behind those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.fitting.activation_surrogates import Doubles, Form
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import LayerwiseRunner, extract_subgraph, make_session
from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant, emit, sort_nodes
from graphopt.ir.graph import positions
from graphopt.ir.identity import IdentityMap

_IMAGES = 60
"""To fit on, at most."""
_JUDGES = 20
"""To judge the fits on, at most; nothing is fitted on them."""
_POSITIONS_PER_IMAGE = 32
"""Positions of each image that are fitted on: two or three numbers a channel need no more."""


@dataclass(frozen=True)
class ActivationSite:
    """An activation in a network: it makes `y` of `x`, both [1,C,…], and is to become a form."""

    x: str
    y: str
    start: Form


@dataclass(frozen=True)
class FittedActivation:
    """What became of a place."""

    form: Form
    error: float
    """The error of the place's output on held-out images: what it makes in the changed network
    against what the original has there, relative to the deviation within channels."""
    kept: bool
    """Whether the error is small enough; else the activation stays as it is."""


def fit_in_order(
    graph: gs.Graph,
    places: Sequence[ActivationSite],
    original: gs.Graph,
    calibration: Calibration,
    *,
    max_error: float = math.inf,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, FittedActivation]:
    """Fit a form to each place, from what the changed network feeds it to what the original makes.

    Places that would err by more than `max_error` stay; those that follow are fitted behind that.

    Args:
        graph: the network with the activations in place; it is not changed.
        places: where they are; the original has a tensor of each `y`'s name and shape.
        original: whose outputs are the targets.
        calibration: images to fit on, and others to judge by.
        max_error: the largest error that is accepted, see `FittedActivation`.
        progress: told what is being fitted.

    Returns:
        By the name of a place's `y`.
    """
    if not places:
        return {}
    fitting, judging = calibration.fitting[:_IMAGES], calibration.held_out[:_JUDGES]
    images = [*fitting, *judging]
    targets = _sampled(original, [place.y for place in places], calibration.feeds(images))
    scratch = graph.copy()
    trials = _prepared(scratch, places, {y: len(found[0].values) for y, found in targets.items()})
    walk = LayerwiseRunner(scratch, [trial.head for trial in trials], calibration.feeds(images))
    fits = {}
    for count, trial in enumerate(trials, 1):
        progress(f"{trial.place.y}: {count} of {len(trials)}")
        samples = targets.pop(trial.place.y)
        inputs = walk.advance_to(trial.head)
        seen = [_columns(x, sample.at) for x, sample in zip(inputs, samples, strict=True)]
        wanted = [sample.values for sample in samples]
        end = len(fitting)
        form = trial.place.start.fitted(_joined(seen[:end]), _joined(wanted[:end]))
        error = _error(form(_joined(seen[end:])), _joined(wanted[end:]))
        fit = fits[trial.place.y] = FittedActivation(form, error, error <= max_error)
        trial.settle(fit)
    return fits


@dataclass(frozen=True)
class _Trial:
    """A place in the scratch copy: activation and form side by side, and a choice between them."""

    place: ActivationSite
    head: gs.Node
    """The form's first node."""
    numbers: Sequence[gs.Constant]
    choice: gs.Constant

    def settle(self, fit: FittedActivation) -> None:
        for tensor, values in zip(self.numbers, fit.form.arrays(self.head.inputs[0]), strict=True):
            tensor.values = values
        self.choice.values = np.array(fit.kept)


def _prepared(
    graph: gs.Graph, places: Iterable[ActivationSite], channels: Mapping[str, int]
) -> list[_Trial]:
    """Write the forms beside the activations; the trials in topological order."""
    tensors = graph.tensors()
    order = IdentityMap((node, float(index)) for node, index in positions(graph).items())
    trials = []
    for place in places:
        x, y = tensors[place.x], tensors[place.y]
        # Before the activation's first node: so both are behind the point where `x` is looked at.
        first = min(order[reader] for reader in x.outputs if reader in order)
        activation = y.inputs[0]
        last = order[activation]
        stays = gs.Variable(f"{y.name}.stays", dtype=y.dtype, shape=y.shape)
        activation.name, activation.outputs[0] = stays.name, stays
        count = len(graph.nodes)
        taken = gs.Variable(f"{y.name}.fitted", dtype=x.dtype, shape=y.shape)
        numbers = place.start.spread(channels[place.y]).write(graph, x, taken)
        choice = constant(graph, f"{y.name}.choice", np.array(True))
        emit(graph, "Where", choice, taken, stays, out=y)
        form, where = graph.nodes[count:-1], graph.nodes[-1]
        order.update((node, first - 0.5) for node in form)
        order[where] = last + 0.25
        trials.append(_Trial(place, form[0], numbers, choice))
    graph.nodes.sort(key=lambda node: order[node])
    sort_nodes(graph)
    at = positions(graph)
    return sorted(trials, key=lambda trial: at[trial.head])


@dataclass(frozen=True)
class _Sample:
    """Some positions of one image, flattened, and a tensor's values there, [channels, n]."""

    at: NDArray[np.intp]
    values: Doubles


def _sampled(
    graph: gs.Graph, names: Sequence[str], feeds: Iterable[Mapping[str, Array]]
) -> dict[str, list[_Sample]]:
    """Random positions of each named tensor, for each input."""
    rng = np.random.default_rng(0)
    engine = make_session(extract_subgraph(graph, outputs=names))
    samples: dict[str, list[_Sample]] = {name: [] for name in names}
    for feed in feeds:
        for name, values in engine.run(feed).items():
            size = math.prod(values.shape[2:])
            at = rng.choice(size, min(_POSITIONS_PER_IMAGE, size), replace=False)
            samples[name].append(_Sample(at, _columns(values, at)))
    return samples


def _columns(values: Array, at: NDArray[np.intp]) -> Doubles:
    columns: Doubles = values[0].reshape(values.shape[1], -1)[:, at].astype(np.float64)
    return columns


def _joined(columns: Sequence[Doubles]) -> Doubles:
    joined: Doubles = np.concatenate(columns, axis=1)
    return joined


def _error(made: Doubles, wanted: Doubles) -> float:
    deviation = wanted - wanted.mean(axis=1, keepdims=True)
    wrong, whole = (float(np.square(v).sum()) for v in (made - wanted, deviation))
    return float(np.sqrt(wrong / max(whole, 1e-30)))
