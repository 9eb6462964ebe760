"""What was fitted again, and how well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.fitting.chained_least_squares import unpacked
from graphopt.ir.arrays import Array
from graphopt.ir.changes import Skip
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import is_standard, only_consumer


@dataclass(frozen=True)
class LayerFit:
    """What became of one convolution.

    Errors are those of its output on held-out images, relative to the target's deviation: 1 for a
    layer that always gives the mean.
    """

    node: str
    before: float
    after: float

    @property
    def accepted(self) -> bool:
        """Whether the fitted weights are better, and so were taken over."""
        return self.after < self.before


@dataclass(frozen=True)
class ReconstructReport:
    """What `reconstruct` did."""

    layers: tuple[LayerFit, ...]
    skips: tuple[Skip, ...]
    before: float
    """Error of the network's outputs on held-out images, see `verify.output_error`."""
    after: float
    """The same with the fitted weights; where it is not less, the old ones are back in place."""
    images: int
    """How many were fitted on."""
    seconds: float


@dataclass(frozen=True)
class FoundSite:
    """A layer's errors before and after its fit, and its new weights where they are better."""

    before: float
    after: float
    values: tuple[Array, Array] | None
    """Weight and bias."""

    @classmethod
    def of(cls, spec: Convolution, solution: Doubles, before: float, after: float) -> FoundSite:
        """From a solution [group, unknowns + 1, filters]."""
        weight, bias = (part.astype(spec.weight.dtype) for part in unpacked(solution, spec))
        return cls(before, after, (weight, bias) if after < before else None)


def before_relu(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether only a Relu reads a tensor."""
    reader = only_consumer(graph, tensor)
    return reader is not None and is_standard(reader, "Relu")


def error_within(solution: Doubles, judged: Pairs, *, rectified: bool = False) -> float:
    """Relative error of a solution on patches and targets; `rectified`: behind a Relu."""
    floor = 0.0 if rectified else -np.inf
    weights = solution.astype(np.float32)
    wrong = 0.0
    targets = []
    for patches, target in judged:
        made, wanted = (np.maximum(values, floor) for values in (patches @ weights, target))
        wrong += float(np.square(made - wanted).sum())
        targets.append(wanted)
    spread = np.concatenate(targets, axis=1)
    right = float(np.square(spread - spread.mean(axis=1, keepdims=True)).sum())
    return math.sqrt(wrong / max(right, 1e-30))


def distance(values: Sequence[Floats], targets: Sequence[Floats]) -> float:
    """The same for values and targets [positions, channels] of each image."""
    a, b = np.concatenate(values), np.concatenate(targets)
    spread = float(np.square(b - b.mean(axis=0)).sum())
    return math.sqrt(float(np.square(a - b).sum()) / max(spread, 1e-30))


def relative(values: Array, reference: Array) -> float:
    """The norm of the difference of two arrays, relative to that of the second."""
    expected = reference.astype(np.float64)
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(values.astype(np.float64) - expected)) / max(norm, 1e-30)


Floats = NDArray[np.float32]


Doubles = NDArray[np.float64]


Pairs = Sequence[tuple[Floats, Floats]]
"""Patches [group, positions, K+1] and targets [group, positions, filters]."""
