"""`stack-large-conv`: stacks of 3x3 convolutions instead of large kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from pydantic import Field

from graphopt.analysis.latency.device import Device
from graphopt.analysis.latency.predict import network_ms, rewritten_ms
from graphopt.errors import InputError
from graphopt.fitting.stack import (
    blank_stack,
    fit_stack,
    grouped,
    product,
    write_stack,
)
from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution, why_unknown
from graphopt.ir.edit import emit
from graphopt.ir.graph import is_standard, label, only_consumer
from graphopt.ir.identity import IdentityMap
from graphopt.ir.onnx_io import serialised
from graphopt.optimizer.pass_contract import Change, Context, Numerics, PreparedPass, Skip, option
from graphopt.runtime.engine import OnnxRuntimeEngine

Doubles: TypeAlias = NDArray[np.float64]

PHOTOS = 40
"""Calibration images to take statistics from."""
POSITIONS_PER_PHOTO = 150
"""Places looked at in each of them."""
LARGEST_PATCH = 2048
"""Values that a filter sees beyond which their covariance is not worth its size: then all weights
count the same."""
RIDGE = 1e-3
"""Regularisation of every weight, as a part of the covariance's mean variance: images say nothing
about some."""


@dataclass(frozen=True)
class Patches:
    """Statistics of what the filters of a convolution see, a group at a time."""

    mean: Doubles
    """[group, values of a patch]"""
    covariance: Doubles
    """[group, values, values]"""


@dataclass(frozen=True)
class Site:
    """A convolution to replace."""

    node: gs.Node
    spec: Convolution
    depth: int
    """Convolutions of the stack."""
    width: int
    """Channels between two of them."""
    patches: Patches | None = None
    """What its filters see, where that was measured."""


@dataclass(frozen=True)
class Facts:
    """Which convolutions are worth replacing, and what they see; by their outputs' names."""

    order: tuple[str, ...]
    """Those that are replaced, in order."""
    seen: Mapping[str, Patches]
    slow: Mapping[str, str]
    """Why others are not: their stacks would not be faster."""
    progress: Callable[[str], None]
    """Told which one is fitted."""


@dataclass(frozen=True)
class StackLargeConv(PreparedPass[Site, Facts]):
    """Replace convolutions of 5x5 and more by stacks of 3x3 with the same receptive field.

    Rewrite:
        Conv 7x7 -> Conv 3x3, Conv 3x3, Conv 3x3; 5x5 -> two, 9x9 -> four, 11x11 -> five; dense,
        grouped and depthwise. A stride goes to the last one. The result keeps its tensor's name.

    Numerics:
        Approximate. Without activations between them, a stack is one convolution again, whose
        kernel is the product of its factors; these are fitted to the kernel that is replaced, by
        L-BFGS from seeded random starts. A stack has fewer weights, so something
        is left over: the report names it for each site, relative to the kernel. With calibration
        photos it is the deviation of the output that is fitted, where a filter sees at most 2048
        values, and not that of the weights: images are smooth, and much of a kernel's difference
        does not show. `reconstruct` then fits the last convolution and all that follow.
        padding=each also changes what is near the border. activation=between is another function,
        which the literature trains from scratch: it needs training, and the fitted weights are
        merely a start for that. Dense sites of 128 channels take half a minute to two minutes each,
        on one core.

    Why:
        27 instead of 49 multiplications for each output, and kernels that fast algorithms exist for
        (Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, section 2.3; Cao et
        al., "OpenPose", TPAMI 2019, section 3.2).

    When it skips:
        The stack would take more multiply-adds, as for a network's first convolution on three
        channels, or is not predicted to be faster on the device that is given; it would leave more
        than `max_residual`; the kernel is not an odd square; it is dilated; weights are not
        constant, or `width` does not divide by the groups.

    Examples:
        stack-large-conv
            y = Conv<pads=[3,3,3,3], group=3>(x, large)  ->  Conv Conv Conv: 7x7 becomes 3 3x3
        stack-large-conv{activation=between}
            a = Conv<group=3>(x, large) y = Relu(a)  ->  Conv Relu Conv Relu Conv Relu
    """

    name: ClassVar[str] = "stack-large-conv"

    activation: Literal["none", "between"] = option(
        "none", "what stands between the convolutions: nothing, or the activation that follows them"
    )
    width: Annotated[int, Field(ge=0)] = option(
        0, "channels between dense convolutions; 0: as many as come out"
    )
    max_residual: Annotated[float, Field(gt=0)] = option(
        0.5, "largest part of a kernel that may be left over"
    )
    padding: Literal["first", "each"] = option(
        "first",
        "where zeros are added: all before the first convolution, which is exact at the border, or "
        "one row before each, which computes less",
    )
    seed: int = option(0, "of the random starts")

    @property
    def numerics(self) -> Numerics:
        return Numerics.RETRAIN if self.activation == "between" else Numerics.APPROXIMATE

    def prepare(self, graph: gs.Graph, context: Context) -> Facts:
        sites = [found for found in self._candidates(graph) if isinstance(found, Site)]
        slow: Mapping[str, str] = {}
        if context.device is not None:
            slow = self._slow(graph, sites, context.device)
            sites = [site for site in sites if site.node.outputs[0].name not in slow]
        seen: Mapping[str, Patches] = {}
        if context.calibration is not None:
            context.progress(f"{self.name}: what {len(sites)} large convolutions see")
            seen = _statistics(graph, sites, context)
        order = tuple(site.node.outputs[0].name for site in sites)
        return Facts(order, seen, slow, context.progress)

    def _slow(self, graph: gs.Graph, sites: Sequence[Site], device: Device) -> Mapping[str, str]:
        """Why sites stay that a device is not predicted to compute faster as stacks."""
        slow = {}
        faster: dict[object, bool] = {}
        for site in sites:
            spec, x = site.spec, site.node.inputs[0]
            kind = (spec.weight.shape, spec.strides, spec.pads, spec.group, tuple(x.shape or ()))
            if kind not in faster:
                try:
                    faster[kind] = self._is_faster(graph, site, device)
                except InputError:  # a shape is not known: the site is not refused for that
                    faster[kind] = True
            if not faster[kind]:
                reason = f"a stack is not predicted to be faster on {device.name}"
                slow[site.node.outputs[0].name] = reason
        return slow

    def _is_faster(self, graph: gs.Graph, site: Site, device: Device) -> bool:
        spec, name = site.spec, site.node.outputs[0].name

        def replaced(copy: gs.Graph) -> None:
            (node,) = copy.tensors()[name].inputs
            kernel = grouped(spec.weight, spec.group)
            stack = blank_stack(kernel, site.depth, site.width // spec.group)
            write_stack(copy, node, stack, spec.bias, each=self.padding == "each")

        return rewritten_ms(graph, device, replaced) < network_ms(graph, device)

    def match(self, graph: gs.Graph, facts: Facts) -> Iterator[Site | Skip]:
        for found in self._candidates(graph):
            if isinstance(found, Skip):
                yield found
                continue
            name = found.node.outputs[0].name
            if name in facts.slow:
                yield Skip(label(found.node), facts.slow[name])
                continue
            count = f"{facts.order.index(name) + 1} of {len(facts.order)}"
            facts.progress(f"{self.name}: {count} ({label(found.node)})")
            yield replace(found, patches=facts.seen.get(name))

    def _candidates(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        for node in list(graph.nodes):
            if is_standard(node, "Conv") and node.outputs:
                found = self._site(node)
                if found is not None:
                    yield found if isinstance(found, Site) else Skip(label(node), found)

    def _site(self, node: gs.Node) -> Site | str | None:
        """The site that a convolution is; or why it is none, if it looks like one."""
        spec = Convolution.of(node)
        shape = node.inputs[1].shape
        if shape is None or len(shape) != 4 or not all(isinstance(d, int) for d in shape[2:]):
            return None
        if max(shape[2:]) < 5:
            return None
        if spec is None:
            return why_unknown(node)
        height, width = spec.kernel
        if height != width or height % 2 == 0:
            return f"its kernel is {height}x{width}, no odd square"
        if set(spec.dilations) != {1}:
            return "it is dilated: undilate-conv comes first"
        if spec.pads is None:
            return "its pads depend on a size that is not known: fix it with --input-shape"
        site = Site(node, spec, height // 2, self._width(spec))
        if site.width % spec.group:
            return f"{site.width} channels do not divide by its {spec.group} groups"
        before, after = spec.weight[0].size * spec.out_channels, _macs(site)
        if after >= before:
            return f"{site.depth} 3x3 would take {after} multiply-adds a pixel instead of {before}"
        return site

    def _width(self, spec: Convolution) -> int:
        return spec.out_channels if spec.depthwise else self.width or spec.out_channels

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        node, spec, patches = site.node, site.spec, site.patches
        kernel = grouped(spec.weight, spec.group)
        stack = fit_stack(
            kernel,
            site.depth,
            site.width // spec.group,
            metric=None if patches is None else _metric(patches),
            enough=self.max_residual,
            seed=self.seed,
        )
        if stack.residual > self.max_residual:
            return Skip(label(node), f"the stack would leave {stack.residual:.2f} of the kernel")
        bias = spec.bias
        if patches is not None:
            lost = (kernel - product(stack.factors)).reshape(spec.group, -1, patches.mean.shape[1])
            shift = (lost @ patches.mean[:, :, None]).ravel()
            before = np.zeros(spec.out_channels) if bias is None else bias.astype(np.float64)
            bias = (before + shift).astype(spec.weight.dtype)
        name, size = label(node), "x".join(map(str, spec.kernel))
        activation = _activation(graph, node.outputs[0]) if self.activation == "between" else None

        def between(x: gs.Tensor) -> gs.Tensor:
            if activation is None:
                return x
            op, attrs, bounds = activation
            return emit(graph, op, x, *bounds, out=f"{x.name}.active", **attrs)

        write_stack(graph, node, stack, bias, each=self.padding == "each", between=between)
        what = "kernel" if patches is None else "output's deviation"
        return Change(
            name, f"{size} becomes {site.depth} 3x3, {stack.residual:.3f} of the {what} lost"
        )


def _macs(site: Site) -> int:
    """Multiply-adds of the stack for one pixel of its result."""
    spec = site.spec
    widths = [spec.in_channels, *[site.width] * (site.depth - 1), spec.out_channels]
    layers = [9 * a * b // spec.group for a, b in pairwise(widths)]
    return sum(layers[:-1]) * math.prod(spec.strides) + layers[-1]


_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "HardSwish", "HardSigmoid", "Tanh")


def _activation(
    graph: gs.Graph, y: gs.Tensor
) -> tuple[str, dict[str, Any], Sequence[gs.Tensor | None]]:
    """The activation that follows a convolution, or else Relu: operator, attributes, bounds."""
    reader = only_consumer(graph, y)
    if reader is None or not is_standard(reader, *_ACTIVATIONS):
        return "Relu", {}, ()
    bounds = [None if t.is_empty() else t for t in reader.inputs[1:]]
    return reader.op, dict(reader.attrs), bounds


# --- what filters see ---------------------------------------------------------------------------


def _metric(patches: Patches) -> Doubles:
    """The variance that an error of the weights gives the output: [group, values, values]."""
    values = patches.covariance.shape[-1]
    ridge = RIDGE * np.trace(patches.covariance, axis1=1, axis2=2) / values
    weights: Doubles = patches.covariance + ridge[:, None, None] * np.eye(values)
    return weights


def _statistics(graph: gs.Graph, sites: Sequence[Site], context: Context) -> dict[str, Patches]:
    """Mean and covariance of the patches that each site's filters see in calibration images."""
    sites = [site for site in sites if math.prod(site.spec.weight.shape[1:]) <= LARGEST_PATCH]
    assert context.calibration is not None
    images = context.calibration.fitting[:PHOTOS]
    part = graph.copy()
    tensors = part.tensors()
    given = {t.name for t in part.inputs}
    names = sorted({site.node.inputs[0].name for site in sites} - given)
    part.outputs = [tensors[name] for name in names]
    with serialised(part) as model:
        engine = OnnxRuntimeEngine(model)
    rng = np.random.default_rng(0)
    sums = IdentityMap((site, (0, np.zeros(()), np.zeros(()))) for site in sites)
    for feed in context.calibration.feeds(images):
        values = {**feed, **(engine.run(feed) if names else {})}
        for site in sites:
            seen = _patches(values[site.node.inputs[0].name], site.spec, rng)
            count, first, second = sums[site]
            outer = seen.transpose(0, 2, 1) @ seen
            sums[site] = (count + seen.shape[1], first + seen.sum(axis=1), second + outer)
    result = {}
    for site in sites:
        count, first, second = sums[site]
        mean = first / count
        covariance = second / count - mean[:, :, None] * mean[:, None, :]
        result[site.node.outputs[0].name] = Patches(mean, covariance)
    return result


def _patches(x: Array, spec: Convolution, rng: np.random.Generator) -> Doubles:
    """What the filters see at random places: [group, places, values]."""
    assert spec.pads is not None
    top, left, bottom, right = spec.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded[0], spec.kernel, axis=(1, 2))
    rows, columns = (rng.integers(0, extent, POSITIONS_PER_PHOTO) for extent in windows.shape[1:3])
    seen = windows[:, rows, columns].astype(np.float64)
    grouped: Doubles = seen.reshape(spec.group, -1, *seen.shape[1:]).swapaxes(1, 2)
    return grouped.reshape(spec.group, POSITIONS_PER_PHOTO, -1)
