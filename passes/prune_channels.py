"""`prune-channels`: channels that matter least go, and every shape shrinks with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from pydantic import Field

from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import extract_subgraph, make_session
from graphopt.ir.convolution import CONV_OPS, Convolution, has_quantised_weight, why_unknown
from graphopt.ir.edit import constant
from graphopt.ir.graph import is_standard, label
from graphopt.ir.identity import IdentityMap
from graphopt.optimizer.pass_contract import (
    Change,
    Context,
    Numerics,
    PreparedPass,
    Skip,
    option,
)
from graphopt.sparsity.channel_flow import is_even
from graphopt.sparsity.channel_groups import ChannelGroup, ChannelMap
from graphopt.sparsity.channel_selection import ChannelConsumer, eliminate
from graphopt.sparsity.plan import PruningPlan, plan_for

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]

PHOTOS = 40
"""Calibration images to take statistics from."""


Products: TypeAlias = Mapping[str, Doubles]
"""What channels have in common where convolutions read them, by the tensor's name: [C+1, C+1], the
means of the products of the channels, and of a one, last, over all positions."""


@dataclass(frozen=True)
class Site:
    """Channels of which some are to go."""

    group: ChannelGroup
    channels: ChannelMap
    uniform: IdentityMap[gs.Tensor, Doubles]
    """See `ChannelMap.uniform`, of the network before any channel went."""
    ratio: float
    """The part of them that goes."""
    products: Products | None
    """What layers see; None where nothing was measured."""


@dataclass(frozen=True)
class PruneChannels(PreparedPass[Site, Products | None]):
    """Remove whole channels: filters, and what reads them; the network stays dense, and shrinks.

    Rewrite:
        Channels that are tied to each other go together: through activations, depthwise
        convolutions, BatchNormalization and other constants for each channel, pooling and resizing;
        by an Add (of a residual block, all that is added up shares its channels); and through a
        Concat, behind which they have another place. A channel goes from the filters and biases of
        all convolutions that make it, from every constant on its way, and from the weights of all
        convolutions that read it. First go the dead ones: those that no weight reads, and those
        that have the same value everywhere for any input, which goes into their readers' biases.
        Then, up to the part `ratio` of a group, go those that their readers miss least. With photos
        that is judged by what the channels that stay cannot predict, and the readers' weights make
        up for the rest, by least squares. Without photos it is judged by the filters' and the
        readers' w^2, and nothing is made up for.

    Numerics:
        ratio=0 is exact: only dead channels go. Otherwise approximate: let `reconstruct` follow,
        which fits what is left to the same channels of the original.

    Why:
        Fewer channels make every kernel of every engine faster, without sparse ones (Li et al.,
        "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3). The readers' error is what
        counts, and least squares lowers it (He et al., "Channel Pruning for Accelerating Very Deep
        Neural Networks", ICCV 2017, section 3.1).

    When it skips:
        The channels are those of an input or output of the network, or reach an operator that may
        mix them other than by a convolution with constant weights: a grouped one, Reshape, Shape,
        Split, Slice. The group has no dead channel and is narrower than `narrow`, or the plan names
        none of its convolutions. A multiple of `multiple` that is small enough would leave nothing,
        or all.

    Examples:
        prune-channels{ratio=0.5}
            a = Conv(x, first) b = Relu(a) y = Conv(b, last)
            ->  Conv Relu Conv: 16 of 32 channels go
    """

    name: ClassVar[str] = "prune-channels"

    ratio: Annotated[float, Field(ge=0, lt=1)] = option(
        0.25, "part of a group's channels that goes; 0: only dead ones"
    )
    plan: str = option("", "a JSON file that says it for each convolution, instead of `ratio`")
    multiple: Annotated[int, Field(ge=1)] = option(
        8, "channels that stay are a multiple of it, so that vectors are full"
    )
    score: Literal["activation", "magnitude"] = option(
        "activation",
        "what a channel is worth: what its readers miss, where there are photos; or w^2",
    )
    narrow: Annotated[int, Field(ge=1)] = option(
        32, "channels below which only dead ones of a group go"
    )

    @property
    def numerics(self) -> Numerics:
        return Numerics.APPROXIMATE if self.ratio or self.plan else Numerics.EXACT

    def prepare(self, graph: gs.Graph, context: Context) -> Products | None:
        exact = self.numerics is Numerics.EXACT
        if exact or context.calibration is None or self.score == "magnitude":
            return None
        context.progress(f"{self.name}: what the layers see")
        sites = [found for found in self.match(graph, None) if isinstance(found, Site)]
        return mean_products(graph, sites, context.calibration)

    def match(self, graph: gs.Graph, facts: Products | None) -> Iterator[Site | Skip]:
        plan = plan_for(graph, self.plan) if self.plan else None
        channels = ChannelMap(graph)
        uniform = channels.uniform()
        # Readers first: what they no longer make, they need not read.
        for group in reversed(channels.groups()):
            if group.held:
                yield Skip(group.name, group.held)
            else:
                yield Site(group, channels, uniform, self._ratio(group, plan), facts)
        for node in graph.nodes:
            if is_standard(node, *CONV_OPS) and has_quantised_weight(node):
                yield Skip(label(node), why_unknown(node))

    def _ratio(self, group: ChannelGroup, plan: PruningPlan | None) -> float:
        if plan is None:
            return self.ratio if len(group.classes) >= self.narrow else 0.0
        return max(plan.layers.get(name, 0.0) for name in group.names)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        group, channels = site.group, site.channels
        count = len(group.classes)
        dead = _dead(site)
        wanted = max(int(site.ratio * count + 1e-9), len(dead))
        num_pruned = count - self.multiple * max(-(-(count - wanted) // self.multiple), 1)
        if not wanted:
            return Skip(group.name, self._why_none(count))
        if num_pruned <= 0:
            reason = f"{wanted} of its {count} channels could go"
            return Skip(
                group.name, f"{reason}, which leaves no smaller multiple of {self.multiple}"
            )
        dead = dead[:num_pruned]
        _fold(graph, site, dead)
        channels.remove(dead)
        summary = f"{num_pruned} of {count} channels go"
        if len(dead):
            summary += f", {len(dead)} of them dead"
        if len(dead) < num_pruned:
            alive = np.setdiff1d(group.classes, dead)
            lost = self._eliminate(graph, site, alive, num_pruned - len(dead))
            worth = "w^2" if site.products is None else "what its readers make"
            summary += f", with {lost:.1%} of {worth}"
        if len(group.names) > 1:
            summary += f", also from {', '.join(group.names[1:])}"
        return Change(group.name, summary)

    def _why_none(self, count: int) -> str:
        if self.plan:
            return "the plan leaves it alone, and none of its channels is dead"
        narrow = f"it is narrow, {count} channels, and " if self.ratio else ""
        return f"{narrow}none of its channels is dead"

    def _eliminate(self, graph: gs.Graph, site: Site, alive: Indices, num_pruned: int) -> float:
        """Remove those of `alive` that are missed least; the part of their worth that is lost."""
        readings = [
            ChannelConsumer(
                self._system(site, tensor),
                [_spec(node) for node in nodes],
                alive[:, None] == site.channels.classes[tensor],
            )
            for tensor, nodes in site.group.readers
        ]
        chosen, lost = eliminate(readings, num_pruned)
        for (_, nodes), reading in zip(site.group.readers, readings, strict=True):
            for node, spec in zip(nodes, reading.refitted(), strict=True):
                _write(graph, node, spec)
        site.channels.remove(alive[chosen])
        return lost

    def _system(self, site: Site, tensor: gs.Tensor) -> Doubles:
        """See `ChannelConsumer`: what was measured.

        Without it, as if channels were uncorrelated, and as strong as their filters.
        """
        if site.products is not None:
            left = np.append(site.channels.left[tensor], -1)
            system: Doubles = site.products[tensor.name][np.ix_(left, left)]
            return system
        classes = site.channels.classes
        strength = np.zeros(site.channels.count)
        for node in site.group.producers:
            spec = _spec(node)
            filters = 1 if spec.op == "ConvTranspose" else 0
            others = tuple(axis for axis in range(spec.weight.ndim) if axis != filters)
            energy = np.square(spec.weight, dtype=np.float64).sum(axis=others)
            np.add.at(strength, classes[node.outputs[0]], energy)
        return np.diag(np.append(strength[classes[tensor]], 1.0))


def mean_products(graph: gs.Graph, sites: Sequence[Site], calibration: Calibration) -> Products:
    """What the sites' channels have in common in calibration images."""
    names = sorted({tensor.name for site in sites for tensor, _ in site.group.readers})
    if not names:
        return {}
    engine = make_session(extract_subgraph(graph, outputs=names))
    images = calibration.fitting[:PHOTOS]
    totals: dict[str, Doubles] = {}
    for feed in calibration.feeds(images):
        for name, values in engine.run(feed).items():
            seen = values.astype(np.float32).swapaxes(0, 1).reshape(values.shape[1], -1)
            seen = np.concatenate([seen, np.ones_like(seen[:1])])
            products = (seen @ seen.T).astype(np.float64) / seen.shape[1]
            totals[name] = totals.get(name, 0.0) + products / len(images)
    return totals


def _spec(node: gs.Node) -> Convolution:
    spec = Convolution.of(node)
    assert spec is not None
    return spec


def _dead(site: Site) -> Indices:
    """The classes of channels that can go without a change: nobody would notice."""
    classes = site.group.classes
    for tensor, nodes in site.group.readers:
        value = site.uniform[tensor][site.channels.left[tensor]]
        for node in nodes:
            spec = _spec(node)
            channels = 0 if spec.op == "ConvTranspose" else 1
            read = np.moveaxis(spec.weight, channels, 0).reshape(spec.in_channels, -1).any(axis=1)
            foldable = ~np.isnan(value) if is_even(spec) else value == 0
            classes = np.setdiff1d(classes, site.channels.classes[tensor][read & ~foldable])
    return classes


def _fold(graph: gs.Graph, site: Site, dead: Indices) -> None:
    """Add what dead channels give to their readers to these readers' biases."""
    for tensor, nodes in site.group.readers:
        value = site.uniform[tensor][site.channels.left[tensor]]
        value = np.where(np.isin(site.channels.classes[tensor], dead), np.nan_to_num(value), 0.0)
        for node in nodes if value.any() else ():
            spec = _spec(node)
            if is_even(spec):
                added = spec.weight.sum(axis=tuple(range(2, spec.weight.ndim))) @ value
                bias = added if spec.bias is None else spec.bias + added
                _write(graph, node, replace(spec, bias=bias.astype(spec.weight.dtype)))


def _write(graph: gs.Graph, node: gs.Node, spec: Convolution) -> None:
    """Put a convolution's weight and bias into its node; no bias of zeros where there was none."""
    name = node.inputs[1].name
    bias = spec.bias if len(node.inputs) > 2 or np.any(spec.bias) else None
    values = {name: spec.weight, f"{name}.bias": bias}
    constants = [constant(graph, key, v) for key, v in values.items() if v is not None]
    node.inputs = [node.inputs[0], *constants]
