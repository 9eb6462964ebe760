"""Weights rounded to whole steps, one after the other, where those that are left make up for it.

With the matrix of what a filter sees, rounding one weight tells how the others best move: optimal
brain surgeon for rounding (Frantar et al., "GPTQ", ICLR 2023; "Optimal Brain Compression", NeurIPS
2022). The bias comes last, so that it makes up for what remains in the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.fitting.quantization.grids import LARGEST_WEIGHT

Doubles = NDArray[np.float64]
CLIPPED = np.linspace(0.5, 1.0, 26)
"""Parts of a filter's largest weight that are tried for the largest whole number."""
CHUNK = 64
"""Weights whose effect on those behind them is summed up before it is taken over."""


def steps_of(weights: Doubles, energy: Doubles, least: Doubles | None = None) -> Doubles:
    """The step of each filter with the least square error of its output, inputs being independent.

    Args:
        weights: [group, K, filters].
        energy: how much an error of each weight counts, [group, K].
        least: the smallest step of each filter that its bias fits.

    Returns:
        [group, filters]
    """
    largest = np.abs(weights).max(axis=1, initial=0)
    largest = np.where(largest > 0, largest, 1.0)
    best, lowest = largest / LARGEST_WEIGHT, np.full(largest.shape, np.inf)
    for part in CLIPPED:
        steps = part * largest / LARGEST_WEIGHT
        wrong = weights - steps[:, None] * whole_of(weights, steps[:, None])
        error = (energy[:, None] @ np.square(wrong))[:, 0]
        better = error < lowest
        best[better], lowest[better] = steps[better], error[better]
    if least is not None:
        best = np.maximum(best, least)
    return best.astype(np.float32).astype(np.float64)


def whole_of(weights: Doubles, steps: Doubles) -> Doubles:
    """The nearest whole number of steps of each weight."""
    return np.clip(np.rint(weights / steps), -LARGEST_WEIGHT, LARGEST_WEIGHT)


def rounded(weights: Doubles, systems: Doubles, steps: Doubles) -> tuple[Doubles, Doubles]:
    """Whole numbers for the weights of filters that see the same, and their biases.

    Args:
        weights: [group, K + 1, filters], the bias last.
        systems: positive definite, [group, K + 1, K + 1]: what the filters of a group see.
        steps: of each filter, [group, filters].

    Returns:
        Whole numbers [group, K, filters], and biases [group, filters].
    """
    count = weights.shape[1] - 1
    energy = np.diagonal(systems, axis1=1, axis2=2)[:, :count]
    order = np.argsort(-energy, axis=1, kind="stable")  # what matters most is rounded first
    order = np.concatenate([order, np.full((len(order), 1), count)], axis=1)
    sorted_rows = np.take_along_axis(systems, order[:, :, None], axis=1)
    inverse = np.linalg.inv(np.take_along_axis(sorted_rows, order[:, None], axis=2))
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    left = np.take_along_axis(weights, order[:, :, None], axis=1)
    whole = np.zeros_like(left[:, :count])
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        errors = np.zeros((len(left), stop - start, left.shape[2]))
        for row in range(start, stop):
            whole[:, row] = whole_of(left[:, row], steps)
            wrong = (left[:, row] - whole[:, row] * steps) / upper[:, row, row, None]
            errors[:, row - start] = wrong
            left[:, row + 1 : stop] -= upper[:, row, row + 1 : stop, None] * wrong[:, None]
        left[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    unsorted = np.empty_like(whole)
    np.put_along_axis(unsorted, order[:, :count, None], whole, axis=1)
    return unsorted, left[:, count]
