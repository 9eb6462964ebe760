"""A convolution's kernel as a stack of smaller ones.

Convolutions with nothing between them compose to one convolution whose kernel is the product of
theirs: matrices over channels, convolution over taps. `fit_stack` is the inverse: factors whose
product comes close to a given kernel.

Kernels here are (group, out / group, in / group, height, width); groups are problems of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.factors import Kernel, Search
from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant, emit, remove_nodes

STARTS = 64
"""Random starts of a depthwise kernel; w channels between the factors get 1/w of them. The fewer
channels, the more it matters where a fit starts, and the less it costs."""


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
    spec = Convolution.of(node)
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
    metric: Kernel | None = None,
    enough: float = np.inf,
    steps: int | None = None,
    seed: int = 0,
) -> Stack:
    """Factors of 3x3 whose product comes close to a kernel.

    Args:
        kernel: of 2 * depth + 1 taps in height and width.
        depth: how many factors.
        width: channels of a group between two factors.
        metric: [group, values, values], where the values are those of a filter: for an error E of
            the weights, the sum of e M e over filters e of E is what is made small. By default all
            weights count the same.
        enough: the residual up to which the factors are of use; the search ends early where it is
            out of reach.
        steps: at most, from the best start of each group; by default what the search needs.
        seed: of the random starts.
    """
    search = Search.of(kernel, depth, width, metric, enough)
    rng = np.random.default_rng(seed)
    tried = [search.glance(search.random(rng)) for _ in range(max(1, STARTS // width))]
    best = np.argmin([search.errors(factors) for factors in tried], axis=0)
    groups = np.arange(len(kernel))
    best_start = [np.stack(alternatives)[best, groups] for alternatives in zip(*tried, strict=True)]
    factors = search.descend(best_start, search.steps if steps is None else steps)
    return Stack(tuple(search.kernels(factors)), search.residual(factors))


def blank_stack(kernel: Kernel, depth: int, width: int) -> Stack:
    """Factors of the right shapes, all zero: to see what a stack would cost.

    Args: as those of `fit_stack`.
    """
    group, out, channels = kernel.shape[:3]
    widths = [channels, *[width] * (depth - 1), out]
    factors = (np.zeros((group, after, before, 3, 3)) for before, after in pairwise(widths))
    return Stack(tuple(factors), 1.0)
