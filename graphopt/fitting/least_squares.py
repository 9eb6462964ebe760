"""Least squares for the weights of one convolution, some of which are zero and stay zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from graphopt.ir.block_structure import Block, Mask, trainable_mask
from graphopt.ir.convolution import Convolution
from graphopt.sparsity.optimal_brain_surgeon import cheapest_masks

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.intp]

RECTIFIED_STEPS = 8
"""Solutions for one layer before a Relu: each takes what the last one made for the target where
both are negative. Step by step, that minimises the error behind the Relu (after Zhang et al., TPAMI
2016, section 3.3, whose relaxation is another)."""


class LeastSquares:
    """Normal equations of a convolution's filters, a system for each group.

    Blocks of weights that are zero stay zero: the filters that share them are solved for together,
    without them.

    Args:
        spec: the convolution.
        ridge: pull toward the present weights, relative to the mean square of what it sees.
    """

    def __init__(self, spec: Convolution, ridge: float) -> None:
        weight = spec.weight.reshape(spec.group, spec.out_channels // spec.group, -1)
        bias = np.zeros(spec.out_channels) if spec.bias is None else spec.bias
        bias = bias.reshape(spec.group, -1, 1)
        self.present: Doubles = (
            np.concatenate([weight, bias], axis=2).transpose(0, 2, 1).astype(np.float64)
        )
        """Weights, then the bias: [group, K+1, filters]."""
        groups, unknowns, filters = self.present.shape
        self._gram = np.zeros((groups, unknowns, unknowns))
        self._moment = np.zeros((groups, unknowns, filters))
        self._ridge = ridge
        self._seen: list[tuple[Floats, Floats]] = []
        self._shape = spec.weight.shape
        self.restrict(trainable_mask(spec.weight))

    def add(self, patches: Floats, target: Floats) -> None:
        """Take in patches [group, positions, K+1] and their targets [group, positions, filters]."""
        turned = patches.transpose(0, 2, 1)
        self._gram += turned @ patches
        self._moment += turned @ target
        self._seen.append((patches, target))

    def masks(self, block: Block, counts: Sequence[int]) -> list[Mask]:
        """The masks without so many blocks that cost the fit least, see `cheapest_masks`."""
        penalty = self._penalty(0)
        system = self._gram[0] + np.diag(penalty)
        right = self._moment[0] + penalty[:, None] * self.present[0]
        return cheapest_masks(system, right, self._shape, block, counts)

    def restrict(self, numbers: Mask) -> None:
        """Fit only these numbers of the weight (O, I, kh, kw), and the bias; others become zero."""
        self._free = np.ones(self.present.shape, bool)
        shape = (len(self.present), self.present.shape[2], -1)
        self._free[:, :-1] = numbers.reshape(shape).transpose(0, 2, 1)

    def solve(self, *, rectified: bool = False) -> Doubles:
        """The solution, like `present`; the bias is not pulled.

        Args:
            rectified: only what is positive counts: the layer is before a Relu.
        """
        systems = self._systems()
        solution = self._solved(systems, self._moment)
        for _ in range(RECTIFIED_STEPS if rectified else 0):
            moment = np.zeros_like(self._moment)
            weights = solution.astype(np.float32)
            for patches, target in self._seen:
                # What is negative in both is right behind a Relu, however far apart they are.
                made = np.minimum(patches @ weights, 0)
                moment += patches.transpose(0, 2, 1) @ np.where(target > 0, target, made)
            solution = self._solved(systems, moment)
        return solution

    def parts(self) -> Iterator[tuple[int, Numbers, Numbers]]:
        """What is solved together: a group, which of its unknowns are free, and which filters."""
        for group, free in enumerate(self._free):
            if free.all():
                unknowns, count = free.shape
                yield group, np.arange(unknowns), np.arange(count)
                continue
            patterns, of_filter = np.unique(free.T, axis=0, return_inverse=True)
            for index, pattern in enumerate(patterns):
                filters = np.flatnonzero(of_filter.ravel() == index)
                yield group, np.flatnonzero(pattern), filters

    def matrix(self, group: int) -> Doubles:
        """What a group's filters see, with the pull: [K+1, K+1], positive definite."""
        matrix: Doubles = self._gram[group] + np.diag(self._penalty(group))
        return matrix

    def _systems(self) -> list[_System]:
        """What is solved together: filters of a group whose unknowns are the same."""
        systems: list[_System] = []
        for group, pattern, filters in self.parts():
            factor = scipy.linalg.cho_factor(self.matrix(group)[np.ix_(pattern, pattern)])
            systems.append((group, np.ix_(pattern, filters), factor))
        return systems

    def _solved(self, systems: list[_System], moment: Doubles) -> Doubles:
        """The solution for some target, of which only the products with the patches are known."""
        solution: Doubles = np.where(self._free, self.present, 0.0)
        residual = moment - self._gram @ solution
        for group, where, factor in systems:
            solution[group][where] += scipy.linalg.cho_solve(factor, residual[group][where])
        return solution

    def _penalty(self, group: int) -> Doubles:
        """The pull on each unknown toward what it is."""
        diagonal = np.diag(self._gram[group])
        penalty = np.full(len(diagonal), self._ridge * diagonal[:-1].mean() + 1e-6 * diagonal[-1])
        penalty[-1] = 1e-9 * diagonal[-1]
        return penalty


_System = tuple[int, tuple[NDArray[np.intp], ...], tuple[Doubles, bool]]
"""A group, where in its solution [K+1, filters] the unknowns are, and their system's factor."""
