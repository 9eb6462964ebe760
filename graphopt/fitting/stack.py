"""A convolution's kernel as a stack of smaller ones: least squares in the space of weights.

Convolutions with nothing between them compose to one convolution whose kernel is the product of
theirs: matrices over channels, convolution over taps. The inverse, factors whose product comes
closest to a given kernel, is found by alternating least squares: the product is linear in each
factor, and each in turn is solved for by conjugate gradients while the others are held.

Kernels here are (group, out / group, in / group, height, width); groups are problems of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.engine import Array
from graphopt.graph import ConvSpec, constant, emit, remove_nodes

Kernel: TypeAlias = NDArray[np.float64]

Metric: TypeAlias = Callable[[Kernel], Kernel]
"""Maps a kernel E to M E, where <E, M E> is the squared error that E stands for."""

STEPS = 10
"""Of conjugate gradients for one factor; the next round goes on where they end."""
STARTS = 64
"""Random starts of a depthwise kernel; w channels between the factors get 1/w of them. The fewer
channels, the more it matters where a fit starts, and the less it costs."""
GAIN = 1e-4
"""What a round over all factors must take off the squared error for another one to follow; w
channels ask for w times as much, up to a hundredth."""
SINGLE_PRECISION = 16
"""Channels from which on rounding is what matters least."""


@dataclass(frozen=True)
class Stack:
    """Factors of a kernel."""

    factors: tuple[Kernel, ...]
    """The one that is applied first comes first."""
    residual: float
    """What their product lacks, relative to the kernel, in the metric of the fit."""


def compose(after: Kernel, before: Kernel) -> Kernel:
    """The kernel of two convolutions in a row."""
    group, out, inner, kh, kw = after.shape
    _, _, channels, h, w = before.shape
    flat = before.reshape(group, inner, -1)
    result = np.zeros((group, out, channels, h + kh - 1, w + kw - 1))
    for y, x in np.ndindex(kh, kw):
        tap = after[..., y, x] @ flat
        result[..., y : y + h, x : x + w] += tap.reshape(group, out, channels, h, w)
    return result


def product(factors: Sequence[Kernel]) -> Kernel:
    """The kernel of a whole stack, the factor that is applied first at the front."""
    return reduce(lambda before, after: compose(after, before), factors)


def grouped(weight: Array, group: int) -> Kernel:
    """A weight as ONNX has it, as a kernel."""
    kernel: Kernel = weight.astype(np.float64).reshape(group, -1, *weight.shape[1:])
    return kernel


def write_stack(
    graph: gs.Graph,
    node: gs.Node,
    stack: Stack,
    bias: Array | None,
    *,
    each: bool = False,
    between: Callable[[gs.Tensor], gs.Tensor] = lambda x: x,
) -> None:
    """Let a stack compute what a convolution computes; the last one takes strides and bias.

    Args:
        graph: the graph.
        node: the convolution; it is removed.
        stack: its factors.
        bias: of the last convolution.
        each: pad by one before each convolution, where that adds up to the pads of `node`;
            otherwise all is padded before the first one.
        between: adds what stands between two convolutions.
    """
    spec = ConvSpec.of(node)
    assert spec is not None
    assert spec.pads is not None
    depth = len(stack.factors)
    pads = [list(spec.pads), *[[0] * 4] * (depth - 1)]
    if each and set(spec.pads) == {depth}:
        pads = [[1] * 4] * depth
    x, y, weight = node.inputs[0], node.outputs[0], node.inputs[1].name
    remove_nodes(graph, [node])
    for index, (factor, pad) in enumerate(zip(stack.factors, pads, strict=True)):
        last = index == depth - 1
        values = factor.reshape(-1, *factor.shape[2:]).astype(spec.weight.dtype)
        x = emit(
            graph,
            "Conv",
            x,
            constant(graph, f"{weight}.{index}", values),
            bias if last else None,
            out=y if last else f"{y.name}.stack{index}",
            group=spec.group,
            pads=pad,
            strides=list(spec.strides if last else (1, 1)),
        )
        x = x if last else between(x)


def fit_stack(
    kernel: Kernel,
    depth: int,
    width: int,
    *,
    metric: Metric | None = None,
    rounds: int = 150,
    seed: int = 0,
) -> Stack:
    """Factors of 3x3 whose product comes close to a kernel.

    Args:
        kernel: of 2 * depth + 1 taps in height and width.
        depth: how many factors.
        width: channels of a group between two factors.
        metric: which errors count how much; by default all weights count the same.
        rounds: over all factors, at most, for the best start of each group; every start gets two
            to show what it is worth.
        seed: of the random starts.
    """
    rng = np.random.default_rng(seed)
    dtype = np.float64 if width < SINGLE_PRECISION else np.float32
    fit = _Fit(kernel.astype(dtype), metric)
    starts = [_random(fit.kernel, depth, width, rng) for _ in range(max(1, STARTS // width))]
    tried = [fit.alternate(start, 2) for start in starts]
    best = np.argmin([fit.errors(factors) for factors in tried], axis=0)
    groups = np.arange(len(kernel))
    best_start = [np.stack(alternatives)[best, groups] for alternatives in zip(*tried, strict=True)]
    factors = fit.alternate(best_start, rounds)
    residual = np.sqrt(max(fit.errors(factors).sum(), 0.0) / max(fit.size, 1e-30))
    spatial = [
        np.moveaxis(f.astype(np.float64), 1, -1).reshape(len(f), *f.shape[2:], 3, 3)
        for f in factors
    ]
    return Stack(tuple(spatial), float(residual))


def blank_stack(kernel: Kernel, depth: int, width: int) -> Stack:
    """Factors of the right shapes, all zero: to see what a stack would cost.

    Args: as those of `fit_stack`.
    """
    group, out, channels = kernel.shape[:3]
    widths = [channels, *[width] * (depth - 1), out]
    factors = (np.zeros((group, after, before, 3, 3)) for before, after in pairwise(widths))
    return Stack(tuple(factors), 1.0)


def _random(kernel: Kernel, depth: int, width: int, rng: np.random.Generator) -> list[Kernel]:
    """Random factors, and the last one zero: it is solved for first."""
    group, out, channels = kernel.shape[:3]
    widths = [channels, *[width] * (depth - 1), out]
    blur = np.outer([1, 2, 1], [1, 2, 1]).reshape(9, 1, 1) / 4
    factors = [
        (rng.standard_normal((group, 9, outputs, inputs)) * blur / np.sqrt(9 * inputs)).astype(
            kernel.dtype
        )
        for inputs, outputs in pairwise(widths)
    ]
    factors[-1][:] = 0
    return factors


class _Fit:
    """The search for one kernel's factors; here taps come before channels: (group, taps, out, in).

    Products are taken at the frequencies of a discrete Fourier transform of the kernel's own size,
    which is as large as the product's support: nothing wraps around.
    """

    def __init__(self, kernel: Kernel, metric: Metric | None) -> None:
        self.kernel, self._shape, self._metric = kernel, kernel.shape, metric
        size = kernel.shape[-1]
        self._target = np.moveaxis(kernel.reshape(*kernel.shape[:3], -1), -1, 1)
        self.size = float(self._energy(self._target).sum())
        # Of each pair of conjugate frequencies one is enough, counted twice.
        frequencies = np.indices((size, size // 2 + 1)).reshape(2, -1)
        taps = [np.indices((extent, extent)).reshape(2, -1) for extent in (3, size)]
        small, full = (np.exp(-2j * np.pi / size * (frequencies.T @ tap)) for tap in taps)
        inverse = full.conj().T * np.where(frequencies[1] == 0, 1, 2) / size**2
        precision = np.result_type(kernel.dtype, np.complex64)
        self._forward, self._inverse = small.astype(precision), inverse.astype(precision)

    def errors(self, factors: Sequence[Kernel]) -> Kernel:
        """The squared error of each group."""
        spectra = [self._spectrum(factor) for factor in factors]
        image = self._real(self._inverse, reduce(lambda b, a: _times(a, b), spectra))
        return self._energy(self._target - image).reshape(-1)

    def alternate(self, start: Sequence[Kernel], rounds: int) -> list[Kernel]:
        """Solve for each factor in turn, the last one first, until that gains little."""
        factors = list(start)
        gain = min(GAIN * factors[0].shape[2], 0.01)
        error = np.inf
        for _ in range(rounds):
            spectra = [self._spectrum(factor) for factor in factors]
            for index in reversed(range(len(factors))):
                before = reduce(lambda b, a: _times(a, b), spectra[:index]) if index else None
                rest = spectra[index + 1 :]
                after = reduce(lambda b, a: _times(a, b), rest) if rest else None
                factors[index] = self._solve(factors[index], after, before)
                spectra[index] = self._spectrum(factors[index])
            factors = self._balanced(factors)
            previous, error = error, float(self.errors(factors).sum())
            if error > (1 - gain) * previous:
                break
        return factors

    def _spectrum(self, x: Kernel) -> Kernel:
        return _along_taps(self._forward, x)

    @staticmethod
    def _real(transform: Kernel, spectrum: Kernel) -> Kernel:
        return np.ascontiguousarray(_along_taps(transform, spectrum).real)

    def _solve(self, x: Kernel, after: Kernel | None, before: Kernel | None) -> Kernel:
        """Some steps towards the X that brings after * X * before closest to the kernel."""

        def image_of(x: Kernel) -> Kernel:
            inner = _times(self._spectrum(x), before)
            return self._real(self._inverse, _times(after, inner))

        def pulled_back(error: Kernel) -> Kernel:
            outer = _along_taps(self._inverse.conj().T, self._weighed(error))
            inner = _times(_adjoint(after), _times(outer, _adjoint(before)))
            return self._real(self._forward.conj().T, inner)

        error = self._target - image_of(x)
        residual = pulled_back(error)
        direction, energy = residual, _dot(residual, residual)
        for _ in range(STEPS):
            image = image_of(direction)
            step = energy / np.maximum(self._energy(image), 1e-30)
            x = x + step * direction
            error = error - step * image
            residual = pulled_back(error)
            previous, energy = energy, _dot(residual, residual)
            direction = residual + energy / np.maximum(previous, 1e-30) * direction
        return x

    def _weighed(self, error: Kernel) -> Kernel:
        if self._metric is None:
            return error
        spatial = np.moveaxis(error, 1, -1).reshape(self._shape)
        weighed = self._metric(spatial)
        return np.moveaxis(weighed.reshape(*self._shape[:3], -1), -1, 1)

    def _energy(self, error: Kernel) -> Kernel:
        return _dot(error, self._weighed(error))

    @staticmethod
    def _balanced(factors: Sequence[Kernel]) -> list[Kernel]:
        """The same product from factors of the same size, group by group."""
        sizes = [np.sqrt(_dot(factor, factor)) + 1e-30 for factor in factors]
        mean = np.exp(np.mean([np.log(size) for size in sizes], axis=0))
        return [factor * (mean / size) for factor, size in zip(factors, sizes, strict=True)]


def _along_taps(transform: Kernel, x: Kernel) -> Kernel:
    """A linear map of the axis of taps or frequencies."""
    result: Kernel = (transform @ x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])
    return result


def _times(left: Kernel | None, right: Kernel | None) -> Kernel:
    """The product over channels; None stands for one."""
    if left is None or right is None:
        only = right if left is None else left
        assert only is not None
        return only
    # A product of numbers, as in depthwise kernels, is no matter for BLAS.
    result: Kernel = left * right if left.shape[-1] == 1 else left @ right
    return result


def _adjoint(spectrum: Kernel | None) -> Kernel | None:
    return None if spectrum is None else spectrum.conj().swapaxes(-1, -2)


def _dot(a: Kernel, b: Kernel) -> Kernel:
    """<A, B> of each group, shaped to multiply kernels."""
    dot: Kernel = (a * b).sum(axis=(1, 2, 3), keepdims=True)
    return dot
