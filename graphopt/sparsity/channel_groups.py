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
from enum import Enum, auto

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.graph import constant_of, input_of, is_standard, label, reads_of
from graphopt.ir.header import header_of

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]

# fmt: off
_POINTWISE = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu",
})
_SPATIAL = frozenset({
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Pad", "Resize",
})
# fmt: on


class _Kind(Enum):
    """What an operator does with channels."""

    MIXES = auto()
    """A convolution that makes each channel from all that it reads."""
    FILTERS = auto()
    """A depthwise convolution."""
    POINTWISE = auto()
    """Each element from those at its place, and from constants."""
    SPATIAL = auto()
    """Each channel by itself; what is zero everywhere stays so."""
    JOINS = auto()
    """A Concat of channels."""
    HOLDS = auto()
    """Anything else: the channels that it touches must stay."""


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
        """Of the convolutions that make them; reports call the group by the first."""
        return [label(node) for node in self.producers]

    @property
    def name(self) -> str:
        """Of the first convolution."""
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
        self._tensors = {
            id(t): t for t in graph.tensors().values() if _channels(t) and not _is_constant(t)
        }
        counts = [_channels(t) or 0 for t in self._tensors.values()]
        self.count = sum(counts)
        """Of places at the beginning; classes are numbers below it."""
        ends = np.cumsum(counts)
        places = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        self._places: dict[int, Indices] = dict(zip(self._tensors, places, strict=True))
        self._ties: list[tuple[Indices, Indices]] = []
        self._cuts: defaultdict[int, list[_Cut]] = defaultdict(list)
        self._held: dict[int, str] = {}
        self._kinds = {id(node): self._kind(node) for node in graph.nodes}
        for node in graph.nodes:
            self._trace(node)
        for tensors, what in ((graph.inputs, "input"), (graph.outputs, "output")):
            self._hold(tensors, f"its channels are those of the network's {what}")
        classes = self._components()
        self.classes: dict[int, Indices] = {
            key: classes[places] for key, places in self._places.items()
        }
        """The class of each channel that is there, by the `id` of the tensor."""
        self.left: dict[int, Indices] = {
            key: np.arange(len(places)) for key, places in self._places.items()
        }
        """Which of the channels that were there at the beginning are still."""

    # --- finding --------------------------------------------------------------------------------

    def _kind(self, node: gs.Node) -> _Kind:
        if (
            not is_standard(node)
            or len(node.outputs) != 1
            or id(node.outputs[0]) not in self._places
        ):
            return _Kind.HOLDS
        made = node.outputs[0]
        spec = Convolution.of(node)
        if spec is not None and id(node.inputs[0]) in self._places:
            mixes = _Kind.MIXES if spec.group == 1 else _Kind.HOLDS
            return _Kind.FILTERS if spec.depthwise else mixes
        if node.op == "Concat":
            axis = node.attrs.get("axis") % len(made.shape)
            apart = axis == 1 and all(id(t) in self._places for t in node.inputs)
            return _Kind.JOINS if apart else _Kind.HOLDS
        if node.op in _POINTWISE and all(self._is_apart(t, made) for t in node.inputs):
            return _Kind.POINTWISE
        first_only = [constant_of(t) is not None or t.is_empty() for t in node.inputs[1:]]
        if all(first_only) and node.inputs and self._is_alike(node.inputs[0], made):
            if node.op == "BatchNormalization":
                return _Kind.POINTWISE
            if node.op in _SPATIAL and _leaves_channels(node):
                return _Kind.SPATIAL
        return _Kind.HOLDS

    def _is_alike(self, tensor: gs.Tensor, other: gs.Tensor) -> bool:
        """Whether two tensors have channels that correspond."""
        return (
            id(tensor) in self._places
            and len(tensor.shape) == len(other.shape)
            and len(self._places[id(tensor)]) == len(self._places[id(other)])
        )

    def _is_apart(self, operand: gs.Tensor, made: gs.Tensor) -> bool:
        """Whether a channel of `made` needs only its own of an operand, or a constant."""
        values = constant_of(operand)
        known = values is not None and values.ndim <= len(made.shape)
        return known or operand.is_empty() or self._is_alike(operand, made)

    def _trace(self, node: gs.Node) -> None:
        """Take in one node: ties, constants that have its channels, and what it holds."""
        kind = self._kinds[id(node)]
        if kind is _Kind.HOLDS:
            reason = f"{node.op} {label(node)} may not keep its channels apart"
            self._hold([*reads_of(node), *node.outputs], reason)
            return
        made = node.outputs[0]
        places = self._places[id(made)]
        if kind is _Kind.MIXES:
            filters, channels = (1, 0) if node.op == "ConvTranspose" else (0, 1)
            self._cuts[id(node.inputs[0])].append(_Cut(node, 1, channels))
            self._cuts[id(made)] += [_Cut(node, 1, filters), _Cut(node, 2, 0)]
        elif kind is _Kind.JOINS:
            self._ties.append((places, np.concatenate([self._places[id(t)] for t in node.inputs])))
        else:
            for index, operand in enumerate(node.inputs):
                if id(operand) in self._places:
                    self._ties.append((places, self._places[id(operand)]))
                elif (axis := self._channel_axis(node, kind, index, len(places))) is not None:
                    self._cuts[id(made)].append(_Cut(node, index, axis))

    def _channel_axis(self, node: gs.Node, kind: _Kind, index: int, count: int) -> int | None:
        """Along which axis a constant operand of a node has the node's channels, if along any."""
        values = constant_of(node.inputs[index])
        if values is None or kind is _Kind.SPATIAL:
            return None
        if kind is _Kind.FILTERS or node.op == "BatchNormalization":
            return 0
        axis = 1 - (len(node.outputs[0].shape) - values.ndim)
        return axis if axis >= 0 and values.shape[axis] == count > 1 else None

    def _hold(self, tensors: Sequence[gs.Tensor], reason: str) -> None:
        for tensor in tensors:
            self._held.setdefault(id(tensor), reason)

    def _components(self) -> Indices:
        """A class for each place; tied ones share it."""
        rows, columns = np.concatenate(
            [np.zeros((2, 0), np.intp), *(np.stack(tie) for tie in self._ties)], axis=1
        )
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(self.count,) * 2)
        _, classes = connected_components(graph, directed=False)
        return np.asarray(classes, np.intp)

    def groups(self) -> list[ChannelGroup]:
        """The channels that convolutions make, by the tensors that they are in, in order."""
        where: defaultdict[int, list[int]] = defaultdict(list)
        for key, classes in self.classes.items():
            for found in np.unique(classes).tolist():
                where[found].append(key)
        members: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for found, keys in where.items():
            members[tuple(keys)].append(found)
        makers: defaultdict[int, list[gs.Node]] = defaultdict(list)
        mixers: defaultdict[int, list[gs.Node]] = defaultdict(list)
        for node in self._graph.nodes:
            if self._kinds[id(node)] is _Kind.MIXES:
                makers[id(node.outputs[0])].append(node)
                mixers[id(node.inputs[0])].append(node)
        order = {id(node): index for index, node in enumerate(self._graph.nodes)}
        groups = [
            ChannelGroup(
                classes=np.array(found),
                producers=tuple(
                    sorted((n for k in keys for n in makers[k]), key=lambda n: order[id(n)])
                ),
                readers=tuple((self._tensors[k], tuple(mixers[k])) for k in keys if mixers[k]),
                held=next((self._held[k] for k in keys if k in self._held), None),
            )
            for keys, found in members.items()
        ]
        made = [group for group in groups if group.producers]
        return sorted(made, key=lambda group: order[id(group.producers[0])])

    def uniform(self) -> dict[int, Doubles]:
        """The value of each channel that has the same everywhere for any input; else NaN.

        By the `id` of the tensor; found from zero weights, not by running the network.
        """
        known: dict[int, Doubles] = {
            key: np.full(len(places), np.nan) for key, places in self._places.items()
        }
        for node in self._graph.nodes:
            kind = self._kinds[id(node)]
            if kind is _Kind.HOLDS:
                continue
            given = [known.get(id(t)) for t in node.inputs]
            key = id(node.outputs[0])
            if kind is _Kind.JOINS:
                known[key] = np.concatenate([values for values in given if values is not None])
            elif kind is _Kind.POINTWISE:
                known[key] = _evaluated(self._graph, node, given)
            elif kind is _Kind.SPATIAL:
                assert given[0] is not None
                known[key] = np.where((given[0] == 0) & _keeps_zeros(node), 0.0, np.nan)
            else:
                spec = Convolution.of(node)
                assert spec is not None
                assert given[0] is not None
                known[key] = _filtered(spec, given[0])
        return known

    # --- removing -------------------------------------------------------------------------------

    def remove(self, classes: Indices) -> None:
        """Take channels out of every tensor, and out of the constants that go with them.

        Which channels are left is noted in the graph's header, see `counterpart`.
        """
        graph = self._graph
        header = header_of(graph)
        noted = dict(header.channels)
        for key, present in self.classes.items():
            stays = np.flatnonzero(~np.isin(present, classes))
            if len(stays) == len(present):
                continue
            for cut in self._cuts[key]:
                self._take(cut, stays)
            self.classes[key] = present[stays]
            self.left[key] = self.left[key][stays]
            name = self._tensors[key].name
            before = np.array(noted.get(name, range(len(present))))
            noted[name] = tuple(before[stays].tolist())
        graph.header = replace(header, channels=noted)

    def _take(self, cut: _Cut, stays: Indices) -> None:
        operand = input_of(cut.node, cut.index)
        present = None if operand is None else constant_of(operand)
        if operand is None or present is None:  # a convolution without a bias
            return
        # A constant of its own: others may share it.
        values = np.take(present, stays, cut.axis)
        cut.node.inputs[cut.index] = constant(self._graph, operand.name, values)
        if self._kinds[id(cut.node)] is _Kind.FILTERS:
            cut.node.attrs = {**cut.node.attrs, "group": len(stays)}


def counterpart(graph: gs.Graph, original: gs.Graph, name: str, values: Array) -> Array:
    """Those channels of a tensor of the original that the tensor of that name still has.

    Args:
        graph: the original after some passes.
        original: what it was made from.
        name: of a tensor in both.
        values: the original's, [N, C, ...].
    """
    ours, theirs = (header_of(g).channels.get(name) for g in (graph, original))
    if ours is None or ours == theirs:
        return values
    return values[:, ours if theirs is None else np.searchsorted(theirs, ours)]


def is_even(spec: Convolution) -> bool:
    """Whether a convolution makes the same everywhere of what is the same everywhere.

    With pads that only holds for zeros, and behind a transposed one, too.
    """
    return spec.op == "Conv" and spec.pads is not None and not any(spec.pads)


def _channels(tensor: gs.Tensor) -> int | None:
    shape = tensor.shape
    known = shape is not None and len(shape) > 2 and isinstance(shape[1], int)
    return int(shape[1]) if known else None


def _is_constant(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant)


def _leaves_channels(node: gs.Node) -> bool:
    """Whether a Resize or Pad leaves the batch and channels as they are; other operators do."""
    if node.op == "Resize":
        if "axes" in node.attrs:
            return not {0, 1} & set(node.attrs["axes"]) and min(node.attrs["axes"]) >= 0
        scales = input_of(node, 2)
        values = None if scales is None else constant_of(scales)
        return values is not None and values.size > 2 and bool((values[:2] == 1).all())
    if node.op == "Pad":
        amounts = constant_of(node.inputs[1])
        if amounts is None or input_of(node, 3) is not None:
            return False
        return not amounts.reshape(2, -1)[:, :2].any()
    return True


def _keeps_zeros(node: gs.Node) -> bool:
    """Whether a channel of zeros stays one: not behind a Pad with something else."""
    value = input_of(node, 2) if node.op == "Pad" else None
    return value is None or not np.any(constant_of(value))


def _filtered(spec: Convolution, given: Doubles) -> Doubles:
    """What a convolution makes of channels that are the same everywhere."""
    bias = np.zeros(spec.out_channels) if spec.bias is None else spec.bias.astype(np.float64)
    known = ~np.isnan(given) if is_even(spec) else given == 0
    weight = spec.weight.astype(np.float64)
    if spec.op == "ConvTranspose" and not spec.depthwise:
        weight = weight.swapaxes(0, 1)
    taps = tuple(range(2, weight.ndim))
    depends = (weight != 0).any(axis=taps) & ~(known[:, None] if spec.depthwise else known)
    inputs = np.where(known, given, 0.0)
    sums = weight.sum(axis=taps)
    made = bias + (sums[:, 0] * inputs if spec.depthwise else sums @ inputs)
    return np.where(depends.any(axis=1), np.nan, made)


def _evaluated(graph: gs.Graph, node: gs.Node, given: Sequence[Doubles | None]) -> Doubles:
    """What a pointwise operator makes of channels that are the same everywhere."""
    rank, count = len(node.outputs[0].shape), int(node.outputs[0].shape[1])
    known = np.ones(count, bool)
    feeds: dict[str, Array] = {}
    for tensor, values in zip(node.inputs, given, strict=True):
        if values is not None:
            known &= ~np.isnan(values)
            some = np.nan_to_num(values, nan=1.0).astype(tensor.dtype)
            feeds[tensor.name] = some.reshape(1, count, *[1] * (rank - 2))
        elif not tensor.is_empty():
            operand = constant_of(tensor)
            assert operand is not None
            feeds[tensor.name] = operand
    proto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    try:
        with np.errstate(all="ignore"):
            (made,) = ReferenceEvaluator(proto, opsets={"": graph.opset}).run(None, feeds)
    except RuntimeContextError:  # an operator that ONNX defines by others, as Gelu
        return np.full(count, np.nan)
    if made.size != count:  # a constant differs from place to place
        return np.full(count, np.nan)
    values = made.astype(np.float64).ravel()
    if node.op == "Mul":
        known |= values == 0
    elif node.op == "BatchNormalization":
        known |= feeds[node.inputs[1].name] == 0
    return np.where(known & np.isfinite(values), values, np.nan)
