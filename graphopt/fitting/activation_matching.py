"""The activations with exponentials: how they are known, and what takes their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
import scipy

from graphopt.fitting.activation_surrogates import Doubles, Form, Gate, PiecewiseLinear, PowerTail
from graphopt.ir.graph import only_consumer, positions, scalar_of
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.pointwise import pointwise

Function: TypeAlias = Callable[[Doubles], Doubles]

_TOLERANCE = 2e-3
"""Relative to the scale. Covers GELU's tanh form (5e-4), and constants in half precision."""
_GRID = np.concatenate([[-40.0, -20.0], np.linspace(-8, 8, 161), [20.0, 40.0]])


@dataclass(frozen=True)
class Activation:
    """scale * curve(x, beta): a curve that tends to x on the right, with at most one parameter."""

    kind: str
    """As the pass's option names it."""
    title: str
    curve: Callable[[Doubles, float], Doubles]
    measure: Callable[[Function], tuple[float, float]]
    """Scale and beta, read off a function as if it were this activation."""
    form: Callable[[float, float], Form]
    """What takes its place, unfitted, for a scale and a beta."""
    tail: tuple[int, float, float] | None = None
    """Power, slope and height of a `PowerTail` that comes nearer, for beta 1, if there is one."""


def _scale(function: Function) -> float:
    near, far = function(np.array([20.0, 40.0]))
    return float(far - near) / 20


def _by_scale(function: Function) -> tuple[float, float]:
    return _scale(function), 1.0


def _by_rise(function: Function) -> tuple[float, float]:
    """Scale and beta of what only rises: a negative scale is another function."""
    scale = _scale(function)
    return scale, float(scale > 0)


def _by_slope(function: Function) -> tuple[float, float]:
    """Scale and beta of a Sigmoid: sigmoid(beta) + sigmoid(-beta) is one."""
    left, right = function(np.array([-1.0, 1.0]))
    return float(right - left), float(scipy.special.logit(right / (right - left)))


def _by_depth(function: Function) -> tuple[float, float]:
    """Scale and beta of ELU: what it tends to on the left."""
    scale = _scale(function)
    return scale, float(-function(np.array([-40.0]))[0] / scale) if scale > 0 else 0.0


def _lines(*numbers: float) -> Callable[[float, float], Form]:
    return lambda scale, beta: PiecewiseLinear.plain([scale * beta * n for n in numbers], scale)


def _gate(*numbers: float) -> Callable[[float, float], Form]:
    slope, offset = numbers
    return lambda scale, beta: Gate.plain([slope * beta, offset], scale)


ACTIVATIONS: Sequence[Activation] = (
    Activation(
        "swish", "Swish", lambda x, b: x * scipy.special.expit(b * x), _by_slope, _gate(1 / 6, 0.5),
        tail=(8, 0.081, 0.928),
    ),
    Activation(
        "swish", "HardSwish", lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1), _by_scale,
        _gate(1 / 6, 0.5),
    ),
    Activation(
        "gelu", "GELU", lambda x, _: x * scipy.special.ndtr(x), _by_scale, _gate(0.2782, 0.5),
        tail=(4, 0.236, 0.864),
    ),
    Activation(
        "mish", "Mish", lambda x, _: x * np.tanh(np.logaddexp(0, x)), _by_scale,
        _gate(0.1856, 0.5645),
    ),
    Activation(
        "elu", "ELU", lambda x, b: np.maximum(x, 0) + b * np.expm1(np.minimum(x, 0)), _by_depth,
        _lines(0.325, -0.2497, -0.9402),
    ),
    Activation(
        "softplus", "Softplus", lambda x, _: np.logaddexp(0, x), _by_rise,
        _lines(0.5, 0.8578, 0.0),
    ),
)  # fmt: skip
"""Their unfitted forms have the smallest largest error that there is, but for Swish, where it is
the published hard gate."""

KINDS = tuple(dict.fromkeys(activation.kind for activation in ACTIVATIONS))


@dataclass(frozen=True)
class Found:
    """An activation in a graph: y = scale * curve(x, beta)."""

    activation: Activation
    scale: float
    beta: float
    x: gs.Tensor
    y: gs.Tensor
    nodes: tuple[gs.Node, ...]
    """What computes it, readers before what they read."""

    @property
    def form(self) -> Form:
        """What takes its place, unfitted."""
        return self.activation.form(self.scale, self.beta)

    @property
    def smooth_form(self) -> Form:
        """The same without corners where there is such a form."""
        if self.activation.tail is None or self.beta <= 0:
            return self.form
        power, slope, height = self.activation.tail
        numbers = np.array([slope * self.beta, height])[:, None, None]
        return PowerTail(numbers, self.scale, power)


def find_activations(graph: gs.Graph) -> IdentityMap[gs.Node, Found]:
    """By the node that makes its result, each activation in a sorted graph.

    A constant factor behind an activation belongs to it, unless somebody else reads what the factor
    multiplies. Nodes inside an activation that nobody else reads are no activations of their own.
    """
    order = positions(graph)
    found: IdentityMap[gs.Node, Found] = IdentityMap()
    inside: IdentitySet[gs.Node] = IdentitySet()
    for node in reversed(graph.nodes):
        if node in inside or _scales_shared(graph, node):
            continue
        for place in pointwise(node, order):
            known = recognised(place) if place.bends else None
            # ONNX's number stands for element types that NumPy has no name for.
            if known is not None and not isinstance(place.x.dtype, int):
                found[node] = Found(*known, place.x, node.outputs[0], place.nodes)
                inside.update(place.private(graph, inside | found))
                break
    return found


def _scales_shared(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a node multiplies something by a constant that others read too."""
    others = [t for t in node.inputs if scalar_of(t) is None]
    return len(node.inputs) == 2 and len(others) == 1 and only_consumer(graph, others[0]) is None


def recognised(function: Function) -> tuple[Activation, float, float] | None:
    """The activation that a function is, its scale and its beta."""
    with np.errstate(all="ignore"):
        made = function(_GRID)
        for activation in ACTIVATIONS:
            scale, beta = activation.measure(function)
            expected = scale * np.asarray(activation.curve(_GRID, beta))
            near = np.abs(made - expected).max() <= _TOLERANCE * abs(scale)
            if near and scale and beta:
                return activation, round(scale, 6), round(beta, 6)
    return None
