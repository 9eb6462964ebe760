"""The search for factors of a kernel: small kernels whose product comes close to a large one.

All factors are changed at once, from random starts; solving for one after the other, as is usual,
gets stuck far from what they can do. Depthwise kernels are many small problems, which
Levenberg-Marquardt steps solve side by side (Marquardt, SIAM Journal 1963); of a dense kernel there
are too many unknowns for their equations: L-BFGS (Liu and Nocedal, Mathematical Programming 1989).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import ClassVar, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Doubles: TypeAlias = NDArray[np.float64]
Kernel: TypeAlias = Doubles

SINGLE_PRECISION = 16
"""Channels from which on rounding is what matters least."""


class Search(ABC):
    """The search for one kernel's factors; here taps come before channels: (group, taps, out, in).

    Groups are scaled to the same size, that one search may serve them all. Products are taken at
    the frequencies of a discrete Fourier transform of the kernel's own size, which is as large as
    the product's support: nothing wraps around.
    """

    glances: ClassVar[int]
    """Steps that show what a start is worth."""
    steps: ClassVar[int]
    """The most steps of a search to its end."""

    @staticmethod
    def of(kernel: Kernel, depth: int, width: int, metric: Kernel | None, enough: float) -> Search:
        """The search that suits a kernel.

        Args: as those of `fit_stack`.
        """
        depthwise = kernel.shape[1:3] == (1, 1) and width == 1
        return (Depthwise if depthwise else Dense)(kernel, depth, width, metric, enough)

    def __init__(
        self, kernel: Kernel, depth: int, width: int, metric: Kernel | None, enough: float
    ) -> None:
        self._enough = enough
        group, out, inner, size, _ = kernel.shape
        self._dtype = np.dtype(np.float64 if width < SINGLE_PRECISION else np.float32)
        self._widths = [inner, *[width] * (depth - 1), out]
        self._metric = None
        if metric is not None:
            order = np.arange(inner * size**2).reshape(inner, -1).T.ravel()
            self._metric = metric[:, order[:, None], order].astype(self._dtype)
        target = np.moveaxis(kernel.reshape(group, out, inner, -1), -1, 1).astype(self._dtype)
        self._sizes = np.sqrt(np.maximum(_dot(target, self._weighed(target)), 0)) + 1e-30
        self._target = target / self._sizes
        # Of each pair of conjugate frequencies one is enough, counted twice.
        frequencies = np.indices((size, size // 2 + 1)).reshape(2, -1)
        taps = [np.indices((extent, extent)).reshape(2, -1) for extent in (3, size)]
        small, full = (np.exp(-2j * np.pi / size * (frequencies.T @ tap)) for tap in taps)
        inverse = full.conj().T * np.where(frequencies[1] == 0, 1, 2) / size**2
        precision = np.result_type(self._dtype, np.complex64)
        self._forward, self._inverse = small.astype(precision), inverse.astype(precision)

    def random(self, rng: np.random.Generator) -> list[Kernel]:
        """Random factors, and the last one zero: it is found first."""
        blur = np.outer([1, 2, 1], [1, 2, 1]).reshape(9, 1, 1) / 4
        groups = len(self._target)
        shapes = [(groups, 9, outputs, inputs) for inputs, outputs in pairwise(self._widths)]
        factors = [
            (rng.standard_normal(shape) * blur / np.sqrt(9 * shape[-1])).astype(self._dtype)
            for shape in shapes
        ]
        factors[-1][:] = 0
        return factors

    def errors(self, factors: Sequence[Kernel]) -> Kernel:
        """The squared error of each group, relative to its size."""
        error = self._target - self._product(self._prefixes(factors))
        return _dot(error, self._weighed(error)).reshape(-1)

    def residual(self, factors: Sequence[Kernel]) -> float:
        """What the factors' product lacks of the kernel, all groups together."""
        sizes = self._sizes.reshape(-1).astype(np.float64) ** 2
        return float(np.sqrt(max(self.errors(factors) @ sizes, 0.0) / sizes.sum()))

    def kernels(self, factors: Sequence[Kernel]) -> list[Kernel]:
        """The factors of the kernel itself, as kernels, all of a group as large as each other."""
        norms = [np.sqrt(_dot(factor, factor)) + 1e-30 for factor in factors]
        mean = np.exp(sum(np.log(norm) for norm in [*norms, self._sizes]) / len(factors))
        scaled = [factor * (mean / norm) for factor, norm in zip(factors, norms, strict=True)]
        return [
            np.moveaxis(x.astype(np.float64), 1, -1).reshape(len(x), *x.shape[2:], 3, 3)
            for x in scaled
        ]

    def glance(self, start: Sequence[Kernel]) -> list[Kernel]:
        """Where the first steps from a start lead."""
        return self.descend(start, self.glances)

    @abstractmethod
    def descend(self, start: Sequence[Kernel], steps: int) -> list[Kernel]:
        """Go down from a start until that gains little, or `enough` is out of reach."""

    def _prefixes(self, factors: Sequence[Kernel]) -> list[Kernel]:
        """The spectra of the products of the first, the first two, ... factors."""
        spectra = (_along_taps(self._forward, factor) for factor in factors)
        return list(accumulate(spectra, lambda before, after: _times(after, before)))

    def _product(self, prefixes: Sequence[Kernel]) -> Kernel:
        return _real(self._inverse, prefixes[-1])

    def _weighed(self, error: Kernel) -> Kernel:
        if self._metric is None:
            return error
        group, taps, out, inner = error.shape
        filters = error.swapaxes(1, 2).reshape(group, out, -1)
        weighed: Kernel = (filters @ self._metric).reshape(group, out, taps, inner).swapaxes(1, 2)
        return weighed


class Dense(Search):
    """L-BFGS over all weights of all factors."""

    glances = 20
    steps = 1000

    MEMORY = 20
    """Steps whose slopes are remembered."""
    ROUND = 50
    """Steps between two looks at what they gain."""
    GAIN = 0.03
    """What a round must take off the squared error for another one to follow."""

    def descend(self, start: Sequence[Kernel], steps: int) -> list[Kernel]:
        ends = [0, *accumulate(factor.size for factor in start)]
        slots = [slice(*pair) for pair in pairwise(ends)]

        def factors_of(values: Doubles) -> list[Kernel]:
            return [
                values[slot].reshape(factor.shape).astype(self._dtype)
                for slot, factor in zip(slots, start, strict=True)
            ]

        def objective(values: Doubles) -> tuple[float, Doubles]:
            error, slopes = self._slopes(factors_of(values))
            return error, np.concatenate([slope.ravel() for slope in slopes], dtype=np.float64)

        taken, before = 0, np.inf

        def look(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            nonlocal taken, before
            taken += 1
            if taken % self.ROUND == 0:
                after = self.residual(factors_of(intermediate_result.x)) ** 2
                left, rounds = min(after / before, 1.0), (steps - taken) / self.ROUND
                # Later rounds gain less than this one did.
                if left > 1 - self.GAIN or left**rounds * after > self._enough**2:
                    raise StopIteration
                before = after

        limits = {"maxcor": self.MEMORY, "maxiter": steps, "maxfun": 2 * steps}
        # Products as small as these take many times longer on threads that wait for each other.
        with threadpool_limits(1, "blas"):
            found = scipy.optimize.minimize(
                objective,
                np.concatenate([factor.ravel() for factor in start], dtype=np.float64),
                jac=True,
                method="L-BFGS-B",
                callback=look,
                options={**limits, "ftol": 0, "gtol": 0},
            )
        return factors_of(found.x)

    def _slopes(self, factors: Sequence[Kernel]) -> tuple[float, list[Kernel]]:
        """The sum of all groups' errors, and its derivatives."""
        prefixes = self._prefixes(factors)
        error = self._target - self._product(prefixes)
        weighed = self._weighed(error)
        outer = _along_taps(self._inverse.conj().T, -2 * weighed)
        slopes = []
        for index in reversed(range(len(factors))):
            inner = _times(outer, _adjoint(prefixes[index - 1])) if index else outer
            slopes.append(_real(self._forward.conj().T, inner))
            if index:
                outer = _times(_adjoint(_along_taps(self._forward, factors[index])), outer)
        return float(_dot(error, weighed).sum()), slopes[::-1]


class Depthwise(Search):
    """Levenberg-Marquardt steps of all groups side by side, each with a damping of its own."""

    glances = 8
    steps = 60

    DAMPING = 1e-3
    """Damping of the first step, as a part of the equations' mean diagonal."""
    CHANGE = 4.0
    """By how much it falls after a step that was good, and rises after one that was not."""

    def descend(self, start: Sequence[Kernel], steps: int) -> list[Kernel]:
        factors, errors = list(start), self.errors(start)
        damping = np.full(len(errors), self.DAMPING)
        unknowns = 9 * len(factors)
        for _ in range(steps):
            jacobian = self._jacobian(factors)
            weighed = self._weighed(jacobian)[..., 0].swapaxes(1, 2)
            rest = self._target - self._product(self._prefixes(factors))
            normal = weighed @ jacobian[..., 0]
            mean = np.trace(normal, axis1=1, axis2=2) / unknowns
            normal += (damping * mean + 1e-30)[:, None, None] * np.eye(unknowns)
            moves = np.linalg.solve(normal, weighed @ rest[..., 0]).reshape(len(errors), -1, 9)
            trial = [x + moves[:, index, :, None, None] for index, x in enumerate(factors)]
            after = self.errors(trial)
            good = after < errors
            errors = np.where(good, after, errors)
            factors = [
                np.where(good[:, None, None, None], *pair)
                for pair in zip(trial, factors, strict=True)
            ]
            damping = np.where(good, damping / self.CHANGE, damping * self.CHANGE)
            damping = damping.clip(1e-12, 1e6)
        return factors

    def _jacobian(self, factors: Sequence[Kernel]) -> Kernel:
        """What each weight of each factor does to the product: (group, taps, weights, 1)."""
        spectra = [_along_taps(self._forward, factor) for factor in factors]
        columns = []
        for index in range(len(factors)):
            others = reduce(_times, [*spectra[:index], *spectra[index + 1 :]])
            columns.append(_real(self._inverse, others * self._forward[:, :, None]))
        return np.concatenate(columns, axis=2)


def _along_taps(transform: Kernel, x: Kernel) -> Kernel:
    """A linear map of the axis of taps or frequencies."""
    result: Kernel = (transform @ x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])
    return result


def _real(transform: Kernel, spectrum: Kernel) -> Kernel:
    return np.ascontiguousarray(_along_taps(transform, spectrum).real)


def _times(left: Kernel, right: Kernel) -> Kernel:
    """The product over channels."""
    # A product of numbers, as in depthwise kernels, is no matter for BLAS.
    result: Kernel = left * right if left.shape[-1] == 1 else left @ right
    return result


def _adjoint(spectrum: Kernel) -> Kernel:
    adjoint: Kernel = spectrum.conj().swapaxes(-1, -2)
    return adjoint


def _dot(a: Kernel, b: Kernel) -> Kernel:
    """<A, B> of each group, shaped to multiply kernels."""
    dot: Kernel = (a * b).sum(axis=(1, 2, 3), keepdims=True)
    return dot
