"""How much of each layer is pruned, for a target: the fewest losses that reach it.

The paper's rule (section 2.2): "since sparse computation introduces execution overhead […] only
with a prune ratio that exceeds a threshold can achieve actual acceleration. Our prune strategy for
each layer is either prune with a relatively high ratio or not prune." The threshold is the
device's: a ratio is a choice only where the sparse kernel is predicted to beat the layer's best
dense one. One choice a layer among the ratios that were measured is a multiple-choice knapsack
problem, solved to its optimum as a mixed-integer linear program (HiGHS, by SciPy).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import onnx_graphsurgeon as gs
import scipy
from numpy.typing import NDArray

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.device import Device
from graphopt.analysis.latency.predict import judged_shapes, network_ms, time_of
from graphopt.analysis.latency.work import work_of
from graphopt.display.numbers import human
from graphopt.errors import InputError, UsageError
from graphopt.ir.graph import label
from graphopt.optimizer.sensitivity_file import Loss, Sensitivity
from graphopt.sparsity.plan import PruningPlan

Doubles = NDArray[np.float64]

STEP = 0.05
"""Between two ratios that a layer may be pruned by."""
PRUNING = "prune-blocks"
"""The pass that prunes by a plan."""
LEAST = 1e-6
"""Losses below this count as zero."""


class Goal(str, Enum):
    """What pruning is to reach."""

    COMPRESSION = "compression"
    """So many times fewer multiply-adds."""
    SPEEDUP = "speedup"
    """So many times faster, as predicted for the device."""
    LATENCY = "latency-ms"
    """So many milliseconds, as predicted for the device."""
    LOSS = "max-ap-drop"
    """As fast as can be while poses keep an OKS of at least 1 minus this to the dense network's:
    without labels, OKS stands in for AP."""


TIMES = frozenset({Goal.SPEEDUP, Goal.LATENCY})
"""Goals that need a device."""
Targets = Mapping[Goal, float]
"""What to reach, all of it: a value for each goal."""


@dataclass(frozen=True)
class Allocation:
    """What to prune, and what is predicted to come of it."""

    plan: PruningPlan
    error: float
    """The maps' error before recovery: the losses of single layers, as if they were independent."""
    macs: tuple[int, int]
    """Multiply-adds before and after."""
    ms: tuple[float, float] | None
    """Predicted milliseconds before and after; None without a device."""

    def __str__(self) -> str:
        counts = " → ".join(map(human, self.macs))
        text = f"pruned layers: {len(self.plan.layers)}, multiply-adds {counts}"
        if self.ms:
            text += ", {:.1f} → {:.1f} ms predicted".format(*self.ms)
        return text


@dataclass(frozen=True)
class _Choice:
    """Pruning one layer by one ratio."""

    layer: str
    loss: Loss
    macs: float
    """Saved."""
    ms: float
    """Saved; 0 without a device."""


def allocate(
    graph: gs.Graph,
    measured: Sensitivity,
    targets: Targets,
    *,
    device: Device | None = None,
    original: gs.Graph | None = None,
) -> Allocation:
    """Choose a ratio, or none, for each layer.

    Args:
        graph: the dense network that was measured.
        measured: its sensitivity.
        targets: what to reach.
        device: what the network is to be fast on; layers are pruned only where that pays there.
        original: what factors of the targets are relative to, `graph` by default.

    Raises:
        InputError: no choice reaches the targets; one is a time, and there is no device; or another
            network was measured.
    """
    present = {label(node) for node in graph.nodes}
    if missing := [layer.name for layer in measured.layers if layer.name not in present]:
        raise InputError(
            f"the sensitivities are another network's: this one has no layer {missing[0]}",
            hint="measure the network as the passes before leave it, or let it be measured here",
        )
    for goal in TIMES & targets.keys():
        if device is None:
            raise UsageError(f"--{goal.value} needs a device", hint="name it with --device")
    choices = _choices(graph, measured, device)
    before = _Size.of(graph, device)
    whole = _Size.of(original, device) if original is not None else before
    losses = np.array([choice.loss.error**2 for choice in choices])
    macs = np.array([choice.macs for choice in choices])
    ms = np.array([choice.ms for choice in choices])
    oks = np.array([choice.loss.oks - 1 for choice in choices])
    bounds = {
        Goal.COMPRESSION: lambda value: (macs, before.macs - whole.macs / value),
        Goal.SPEEDUP: lambda value: (ms, before.ms - whole.ms / value),
        Goal.LATENCY: lambda value: (ms, before.ms - value),
        Goal.LOSS: lambda value: (oks, -value),
    }
    cost = -(ms if device else macs) if Goal.LOSS in targets else losses
    chosen = _solve(choices, cost, [bounds[goal](value) for goal, value in targets.items()])
    if chosen is None:
        raise InputError(_out_of_reach(targets, choices, before, whole, device))
    picked = [choice for choice, taken in zip(choices, chosen, strict=True) if taken]
    left = before.macs - round(sum(choice.macs for choice in picked))
    time = before.ms - sum(choice.ms for choice in picked)
    return Allocation(
        plan=PruningPlan(
            block=measured.block, layers={choice.layer: choice.loss.ratio for choice in picked}
        ),
        error=float(np.sqrt(losses[chosen].sum())),
        macs=(whole.macs, left),
        ms=(whole.ms, time) if device else None,
    )


@dataclass(frozen=True)
class _Size:
    """What a network costs."""

    macs: int
    ms: float
    """0 without a device."""

    @classmethod
    def of(cls, graph: gs.Graph, device: Device | None) -> _Size:
        return cls(
            cost_of(graph, judged_shapes(graph)).macs,
            network_ms(graph, device) if device else 0.0,
        )


def _choices(graph: gs.Graph, measured: Sensitivity, device: Device | None) -> list[_Choice]:
    """What may be pruned, by how much: what is no faster than the dense kernel is no choice."""
    works = work_of(graph, device, judged_shapes(graph)) if device else []
    kernels = {label(work.node): work for work in works}
    choices = []
    for layer in measured.layers:
        for loss in layer.losses:
            ms = 0.0
            if device:
                work = kernels[layer.name]
                pruned = replace(work, kept=1 - loss.ratio)
                ms = time_of(work, device)[0] - time_of(pruned, device)[0]
            if ms > 0 or not device:
                choices.append(_Choice(layer.name, loss, loss.ratio * layer.macs, ms))
    return choices


def pruned_ms(graph: gs.Graph, plan: PruningPlan, device: Device) -> tuple[float, float]:
    """Predicted milliseconds of a network before and after it is pruned by a plan.

    Raises:
        InputError: a shape that the time depends on is not known.
    """
    before = after = network_ms(graph, device)
    for work in work_of(graph, device, judged_shapes(graph)):
        if ratio := plan.layers.get(label(work.node)):
            pruned = replace(work, kept=1 - ratio)
            after -= time_of(work, device)[0] - time_of(pruned, device)[0]
    return before, after


def interpolated(measured: Sensitivity) -> Sensitivity:
    """The same with losses at ratios `STEP` apart between those that were measured, by layer."""
    layers = [replace(layer, losses=tuple(_between(layer.losses))) for layer in measured.layers]
    return replace(measured, layers=tuple(layers))


def _between(losses: Sequence[Loss]) -> Iterator[Loss]:
    """Losses grow about exponentially with the ratio: their logarithms are interpolated."""
    known = sorted(losses, key=lambda loss: loss.ratio)
    ratios = [loss.ratio for loss in known]
    steps = np.arange(ratios[0], ratios[-1], STEP)

    def at(ratio: float, values: Sequence[float]) -> float:
        logs = np.log(np.maximum(values, LEAST))
        return float(np.exp(np.interp(ratio, ratios, logs)))

    for ratio in np.unique(np.round([*ratios, *steps], 6)).tolist():
        yield Loss(
            ratio=ratio,
            error=at(ratio, [loss.error for loss in known]),
            shift=at(ratio, [loss.shift for loss in known]),
            oks=1 - at(ratio, [1 - loss.oks for loss in known]),
        )


def _solve(
    choices: Sequence[_Choice], cost: Doubles, bounds: Sequence[tuple[Doubles, float]]
) -> NDArray[np.bool_] | None:
    """Choose at most one way for each layer, at the least total cost that keeps to all bounds.

    A bound is what each choice gains, and how much is needed in all. None where no choice does.
    """
    if not choices:
        return np.zeros(0, bool) if all(least <= 0 for _, least in bounds) else None
    layers = list(dict.fromkeys(choice.layer for choice in choices))
    one_each = np.array([[choice.layer == layer for choice in choices] for layer in layers], float)
    constraints = [scipy.optimize.LinearConstraint(one_each, ub=1)]
    for gain, least in bounds:
        scale = max(float(np.abs(gain).max()), 1e-30)
        constraints.append(scipy.optimize.LinearConstraint(gain[None] / scale, lb=least / scale))
    with _results_apart():
        result = scipy.optimize.milp(
            cost / max(float(np.abs(cost).max()), 1e-30),
            integrality=np.ones(len(choices)),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
    return None if result.x is None else result.x > 0.5


@contextmanager
def _results_apart() -> Iterator[None]:
    """Lead the process's stdout, where results go, to stderr: HiGHS may write a line there."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _out_of_reach(
    targets: Targets, choices: Sequence[_Choice], before: _Size, whole: _Size, device: Device | None
) -> str:
    """Why targets cannot be reached, with the nearest that can be."""

    def most(saved: Callable[[_Choice], float]) -> float:
        best: dict[str, float] = {}
        for choice in choices:
            best[choice.layer] = max(best.get(choice.layer, 0.0), saved(choice))
        return sum(best.values())

    macs = whole.macs / (before.macs - most(lambda choice: choice.macs))
    where = f" on {device.name}" if device else ""
    wanted = " with ".join(f"--{goal.value} {value:g}" for goal, value in targets.items())
    nearest = f"at most {macs:.2f} times fewer multiply-adds"
    if device:
        ms = before.ms - most(lambda choice: choice.ms)
        nearest += f", {ms:.2f} ms ({whole.ms / ms:.2f} times faster)"
    return (
        f"{wanted} is out of reach{where}: pruning where it pays, by "
        f"at most the largest ratio that was measured, gives {nearest}"
    )
