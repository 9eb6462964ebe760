"""One layer's weights in eight bits: fitted to what it reads, then rounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.fitting.chained_least_squares import unpacked
from graphopt.fitting.least_squares import LeastSquares, Numbers
from graphopt.fitting.patch_sampling import Sample
from graphopt.fitting.quantization.grids import LARGEST_BIAS, LayerWeights
from graphopt.fitting.quantization.ordinary import Ordinary
from graphopt.fitting.quantization.rounding import rounded, steps_of, whole_of
from graphopt.fitting.reconstruct_report import error_within
from graphopt.ir.arrays import Array

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FittedLayer:
    """What became of a layer."""

    weights: LayerWeights
    floats: tuple[Floats, Floats | None]
    """The weight and bias before they were rounded, for where the layer is not to be."""
    error: float | None
    """Of its output on held-out photos, relative to its deviation; None if it was not measured."""


def fit_convolution(
    layer: Ordinary,
    inputs: Sequence[Array],
    samples: Sequence[Sample],
    count: int,
    step: float,
    *,
    ridge: float,
) -> FittedLayer:
    """Fit a convolution to what it makes in the float network, from what the rounded one feeds it.

    Args:
        layer: the convolution.
        inputs: what it reads in the rounded network, [1,C,H,W] for each image.
        samples: what it makes in the float network, at some positions of each.
        count: how many of the images are fitted on; the others judge.
        step: of what it reads.
        ridge: pull toward the present weights, relative to the mean square of what it sees.
    """
    spec = layer.spec
    pairs = [
        (sample.patches(layer.seen(values), spec), sample.grouped(spec.group))
        for values, sample in zip(inputs, samples, strict=True)
    ]
    system, judged = LeastSquares(spec, ridge), pairs[count:]
    for pair in pairs[:count]:
        system.add(*pair)
    found = []
    for solution, compensated in (
        (system.present, False),
        (system.solve(), True),
    ):
        whole, steps, bias = _rounded(system, solution, step, compensated=compensated)
        made = np.concatenate([whole * steps[:, None], bias[:, None]], axis=1)
        error = error_within(made, judged)
        found.append((error, solution, whole, steps, bias))
    error, solution, whole, steps, bias = min(found, key=lambda item: item[0])
    weight, filter_bias = unpacked(solution, spec)
    numbers = whole.transpose(0, 2, 1).reshape(spec.weight.shape)
    return FittedLayer(
        LayerWeights(
            whole=layer.as_written(numbers.astype(np.int8)),
            scales=steps.ravel().astype(np.float32),
            axis=layer.axis,
            bias=bias.ravel(),
        ),
        (layer.as_written(weight.astype(np.float32)), filter_bias.astype(np.float32)),
        error,
    )


def _rounded(
    system: LeastSquares, solution: Doubles, step: float, *, compensated: bool
) -> tuple[Doubles, Doubles, Doubles]:
    """Whole numbers [group, K, filters], steps and biases [group, filters] of a solution."""
    groups, unknowns, filters = solution.shape
    whole = np.zeros((groups, unknowns - 1, filters))
    steps, bias = np.ones((groups, filters)), np.zeros((groups, filters))
    for these, free, chosen in _batches(system):
        matrices = np.stack([system.matrix(group)[np.ix_(free, free)] for group in these])
        part = solution[np.ix_(these, free, chosen)]
        least = np.abs(part[:, -1]) / (step * LARGEST_BIAS)
        energy = np.diagonal(matrices, axis1=1, axis2=2)[:, :-1]
        found = steps_of(part[:, :-1], energy, least)
        if compensated:
            numbers, offsets = rounded(part, matrices, found)
        else:
            numbers = whole_of(part[:, :-1], found[:, None])
            lost = part[:, :-1] - numbers * found[:, None]
            means = matrices[:, -1:, :-1] / matrices[:, -1:, -1:]
            offsets = part[:, -1] + (means @ lost)[:, 0]
        whole[np.ix_(these, free[:-1], chosen)] = numbers
        steps[np.ix_(these, chosen)], bias[np.ix_(these, chosen)] = found, offsets
    return whole, steps, bias


def _batches(system: LeastSquares) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Groups, unknowns and filters that are rounded together."""
    whole: list[int] = []
    for group, free, filters in system.parts():
        if (len(free), len(filters)) == system.present.shape[1:]:
            whole.append(group)
        else:
            yield np.array([group]), free, filters
    if whole:
        _, unknowns, filters = system.present.shape
        yield np.array(whole), np.arange(unknowns), np.arange(filters)


def plain_rounding(weight: Floats, bias: Array | None, axis: int, *, each: bool) -> FittedLayer:
    """A layer's weights rounded as they are.

    Args:
        weight: in the shape of the node's.
        bias: of its output channels.
        axis: of the output channels.
        each: a step for each of them, or one for all.
    """
    flat = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis]).astype(np.float64)
    flat = flat if each else flat.reshape(-1, 1)
    steps = steps_of(flat[None], np.ones((1, len(flat))))[0].astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = len(steps)
    whole = np.clip(np.rint(weight / steps.reshape(shape)), -127, 127).astype(np.int8)
    offsets = None if bias is None else bias.astype(np.float64)
    kept = None if bias is None else bias.astype(np.float32)
    return FittedLayer(LayerWeights(whole, steps, axis, offsets), (weight, kept), None)
