"""Channels that can only go together, and taking them out of a network.

A channel that a convolution makes lives on in every operator that keeps channels apart: behind
activations, depthwise convolutions, and, at another place, behind a Concat; an Add ties the
channels of its operands to each other. What is tied goes from all tensors at once, or not at all
(Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3, which ties layers;
here it is each channel by itself, so that a Concat needs no rule of its own).

Tensors are [N, C, ...]. Operators that are not known to keep channels apart, and the network's
inputs and outputs, hold the channels that they touch in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
import scipy
from numpy.typing import NDArray

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.graph import constant_of, input_of, is_standard, label, positions, reads_of
from graphopt.ir.identity import IdentityMap
from graphopt.ir.network import Network
from graphopt.ir.operators import Kind, operator_of
from graphopt.sparsity.channel_flow import (
    ChannelRule,
    Doubles,
    evaluate,
    filtered,
    is_constant,
    keeps_zeros,
    leaves_channels,
)

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of the same tensors; each of them is a class of places that are tied together."""

    classes: Indices
    """A number for each channel, see `ChannelMap.classes`."""
    producers: tuple[gs.Node, ...]
    """The convolutions whose filters make them, in the graph's order."""
    readers: tuple[tuple[gs.Tensor, tuple[gs.Node, ...]], ...]
    """The tensors that convolutions mix them from, and these convolutions."""
    held: str | None
    """Why none of them may go."""

    @property
    def names(self) -> list[str]:
        """The convolutions that make them; reports call the group by the first."""
        return [label(node) for node in self.producers]

    @property
    def name(self) -> str:
        """The first convolution's name."""
        return self.names[0]


@dataclass(frozen=True)
class _Cut:
    """A constant operand that has a tensor's channels along one of its axes."""

    node: gs.Node
    index: int
    axis: int


class ChannelMap:
    """Which channel of which tensor is tied to which.

    It stays true while channels are removed by `remove`, and only by that.

    Args:
        graph: the network, with inferred shapes.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        tensors = [t for t in graph.tensors().values() if _channels(t) and not is_constant(t)]
        counts = [_channels(t) or 0 for t in tensors]
        self.count = sum(counts)
        """How many places there are at the beginning; classes are numbers below it."""
        ends = np.cumsum(counts)
        places = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        self._places = IdentityMap(zip(tensors, places, strict=True))
        self._ties: list[tuple[Indices, Indices]] = []
        self._cuts: IdentityMap[gs.Tensor, list[_Cut]] = IdentityMap((t, []) for t in tensors)
        self._held: IdentityMap[gs.Tensor, str] = IdentityMap()
        self._kinds = IdentityMap((node, self._kind(node)) for node in graph.nodes)
        for node in graph.nodes:
            self._trace(node)
        for held, what in ((graph.inputs, "input"), (graph.outputs, "output")):
            self._hold(held, f"its channels are those of the network's {what}")
        classes = self._components()
        self.classes: IdentityMap[gs.Tensor, Indices] = IdentityMap(
            (tensor, classes[places]) for tensor, places in self._places.items()
        )
        """The class of each channel that a tensor has."""
        self.left = IdentityMap(
            (tensor, np.arange(len(places))) for tensor, places in self._places.items()
        )
        """Which of the channels that were there at the beginning are still."""

    # --- finding --------------------------------------------------------------------------------

    def _kind(self, node: gs.Node) -> ChannelRule:
        if not is_standard(node) or len(node.outputs) != 1 or node.outputs[0] not in self._places:
            return ChannelRule.HOLDS
        made = node.outputs[0]
        spec = Convolution.of(node)
        if spec is not None and node.inputs[0] in self._places:
            mixes = ChannelRule.MIXES if spec.group == 1 else ChannelRule.HOLDS
            return ChannelRule.FILTERS if spec.depthwise else mixes
        if node.op == "Concat":
            axis = node.attrs["axis"] % len(made.shape)
            apart = axis == 1 and all(t in self._places for t in node.inputs)
            return ChannelRule.JOINS if apart else ChannelRule.HOLDS
        operator = operator_of(node)
        if operator.elementwise and all(self._is_apart(t, made) for t in node.inputs):
            return ChannelRule.POINTWISE
        first_only = [constant_of(t) is not None or t.is_empty() for t in node.inputs[1:]]
        if all(first_only) and node.inputs and self._is_alike(node.inputs[0], made):
            if node.op == "BatchNormalization":
                return ChannelRule.POINTWISE
            spatial = operator.kind is Kind.POOLING or node.op in ("Pad", "Resize")
            if spatial and leaves_channels(node):
                return ChannelRule.SPATIAL
        return ChannelRule.HOLDS

    def _is_alike(self, tensor: gs.Tensor, other: gs.Tensor) -> bool:
        """Whether two tensors have channels that correspond."""
        return (
            tensor in self._places
            and len(tensor.shape) == len(other.shape)
            and len(self._places[tensor]) == len(self._places[other])
        )

    def _is_apart(self, operand: gs.Tensor, made: gs.Tensor) -> bool:
        """Whether a channel of `made` needs only its own of an operand, or a constant."""
        values = constant_of(operand)
        known = values is not None and values.ndim <= len(made.shape)
        return known or operand.is_empty() or self._is_alike(operand, made)

    def _trace(self, node: gs.Node) -> None:
        """Take in one node: ties, constants that have its channels, and what it holds."""
        kind = self._kinds[node]
        if kind is ChannelRule.HOLDS:
            reason = f"{node.op} {label(node)} may not keep its channels apart"
            self._hold([*reads_of(node), *node.outputs], reason)
            return
        made = node.outputs[0]
        places = self._places[made]
        if kind is ChannelRule.MIXES:
            filters, channels = (1, 0) if node.op == "ConvTranspose" else (0, 1)
            self._cuts[node.inputs[0]].append(_Cut(node, 1, channels))
            self._cuts[made] += [_Cut(node, 1, filters), _Cut(node, 2, 0)]
        elif kind is ChannelRule.JOINS:
            self._ties.append((places, np.concatenate([self._places[t] for t in node.inputs])))
        else:
            for index, operand in enumerate(node.inputs):
                if operand in self._places:
                    self._ties.append((places, self._places[operand]))
                elif (axis := self._channel_axis(node, kind, index, len(places))) is not None:
                    self._cuts[made].append(_Cut(node, index, axis))

    def _channel_axis(self, node: gs.Node, kind: ChannelRule, index: int, count: int) -> int | None:
        """Along which axis a constant operand of a node has the node's channels, if along any."""
        values = constant_of(node.inputs[index])
        if values is None or kind is ChannelRule.SPATIAL:
            return None
        if kind is ChannelRule.FILTERS or node.op == "BatchNormalization":
            return 0
        axis = 1 - (len(node.outputs[0].shape) - values.ndim)
        return axis if axis >= 0 and values.shape[axis] == count > 1 else None

    def _hold(self, tensors: Sequence[gs.Tensor], reason: str) -> None:
        for tensor in tensors:
            self._held.setdefault(tensor, reason)

    def _components(self) -> Indices:
        """A class for each place; tied ones share it."""
        rows, columns = np.concatenate(
            [np.zeros((2, 0), np.intp), *(np.stack(tie) for tie in self._ties)], axis=1
        )
        graph = scipy.sparse.coo_array(
            (np.ones(len(rows), bool), (rows, columns)), shape=(self.count,) * 2
        )
        _, classes = scipy.sparse.csgraph.connected_components(graph, directed=False)
        return np.asarray(classes, np.intp)

    def groups(self) -> list[ChannelGroup]:
        """The channels that convolutions make, by the tensors that they are in, in order."""
        tensors = list(self.classes)
        where: defaultdict[int, list[int]] = defaultdict(list)
        for index, classes in enumerate(self.classes.values()):
            for found in np.unique(classes).tolist():
                where[found].append(index)
        members: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for found, indices in where.items():
            members[tuple(indices)].append(found)
        makers: IdentityMap[gs.Tensor, list[gs.Node]] = IdentityMap((t, []) for t in tensors)
        mixers: IdentityMap[gs.Tensor, list[gs.Node]] = IdentityMap((t, []) for t in tensors)
        for node in self._graph.nodes:
            if self._kinds[node] is ChannelRule.MIXES:
                makers[node.outputs[0]].append(node)
                mixers[node.inputs[0]].append(node)
        order = positions(self._graph)
        groups = []
        for at, found in members.items():
            shared = [tensors[index] for index in at]
            producers = [node for tensor in shared for node in makers[tensor]]
            groups.append(
                ChannelGroup(
                    classes=np.array(found),
                    producers=tuple(sorted(producers, key=lambda node: order[node])),
                    readers=tuple((t, tuple(mixers[t])) for t in shared if mixers[t]),
                    held=next((self._held[t] for t in shared if t in self._held), None),
                )
            )
        made = [group for group in groups if group.producers]
        return sorted(made, key=lambda group: order[group.producers[0]])

    def uniform(self) -> IdentityMap[gs.Tensor, Doubles]:
        """The value of each channel that has the same everywhere for any input; else NaN.

        Found from zero weights, not by running the network.
        """
        known: IdentityMap[gs.Tensor, Doubles] = IdentityMap(
            (tensor, np.full(len(places), np.nan)) for tensor, places in self._places.items()
        )
        for node in self._graph.nodes:
            kind = self._kinds[node]
            if kind is ChannelRule.HOLDS:
                continue
            given = [known.get(t) for t in node.inputs]
            made = node.outputs[0]
            if kind is ChannelRule.JOINS:
                known[made] = np.concatenate([values for values in given if values is not None])
            elif kind is ChannelRule.POINTWISE:
                known[made] = evaluate(self._graph, node, given)
            elif kind is ChannelRule.SPATIAL:
                assert given[0] is not None
                known[made] = np.where((given[0] == 0) & keeps_zeros(node), 0.0, np.nan)
            else:
                spec = Convolution.of(node)
                assert spec is not None
                assert given[0] is not None
                known[made] = filtered(spec, given[0])
        return known

    # --- removing -------------------------------------------------------------------------------

    def remove(self, classes: Indices) -> None:
        """Take channels out of every tensor, and out of the constants that go with them.

        Which channels are left is noted in the graph's header, see `counterpart`.
        """
        network = Network.of(self._graph)
        noted = dict(network.header.channels)
        for tensor, present in self.classes.items():
            stays = np.flatnonzero(~np.isin(present, classes))
            if len(stays) == len(present):
                continue
            for cut in self._cuts[tensor]:
                self._take(cut, stays)
            self.classes[tensor] = present[stays]
            self.left[tensor] = self.left[tensor][stays]
            before = np.array(noted.get(tensor.name, range(len(present))))
            noted[tensor.name] = tuple(before[stays].tolist())
        network.header = replace(network.header, channels=noted)

    def _take(self, cut: _Cut, stays: Indices) -> None:
        operand = input_of(cut.node, cut.index)
        present = None if operand is None else constant_of(operand)
        if operand is None or present is None:  # a convolution without a bias
            return
        # A constant of its own: others may share it.
        values = np.take(present, stays, cut.axis)
        cut.node.inputs[cut.index] = constant(self._graph, operand.name, values)
        if self._kinds[cut.node] is ChannelRule.FILTERS:
            cut.node.attrs = {**cut.node.attrs, "group": len(stays)}


def counterpart(graph: gs.Graph, original: gs.Graph, name: str, values: Array) -> Array:
    """Those channels of a tensor of the original that the tensor of that name still has.

    Args:
        graph: the original after some passes.
        original: what it was made from.
        name: of a tensor in both.
        values: the original's, [N, C, ...].
    """
    ours, theirs = (Network.of(g).header.channels.get(name) for g in (graph, original))
    if ours is None or ours == theirs:
        return values
    return values[:, ours if theirs is None else np.searchsorted(theirs, ours)]


def _channels(tensor: gs.Tensor) -> int | None:
    shape = tensor.shape
    known = shape is not None and len(shape) > 2 and isinstance(shape[1], int)
    return int(shape[1]) if known else None
