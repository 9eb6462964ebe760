"""What a layer does on a device: its class, multiply-adds, bytes and exponentials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.analysis.cost import Shapes, cost_of, kept_part
from graphopt.analysis.latency.device import Device, LayerClass, Precision
from graphopt.analysis.latency.fusion import MULTIPLY_ADDS, fused_into
from graphopt.analysis.latency.precision import (
    element_bytes,
    is_reading,
    precision_of,
)
from graphopt.errors import InputError
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import is_graph_output, label, reads_of, stored
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.operators import Kind, operator_of
from graphopt.ir.shape_inference import infer_shapes

_INTEGERS = frozenset(np.dtype(name) for name in ("int32", "int64", "bool"))


@dataclass(frozen=True)
class Work:
    """What a kernel has to do, as a device counts it."""

    node: gs.Node
    """The node that the kernel is of, the first of those that it does."""
    kind: LayerClass
    macs: int
    """Multiply-adds of the direct algorithm."""
    operations: float
    """What the rate of its class is of, beside exponentials: two to a multiply-add, those on lanes
    that hold no channel too; for a reduction or resampling, elements read; for what
    only moves data, bytes."""
    exponentials: int
    bytes: int
    """Read and written once each: inputs, weights, outputs."""
    kept: float = 1.0
    """The part of a convolution's weights that pruning by blocks has left."""
    precision: Precision = "float32"
    """What it multiplies in."""

    def amounts(self) -> dict[LayerClass, float]:
        """What there is to do at each class's rate."""
        fused = operator_of(self.node).kind in MULTIPLY_ADDS
        kind = LayerClass.EXPONENTIAL if fused else LayerClass.EXPONENTIAL_ALONE
        # A kernel of nothing but exponentials has no other operations.
        return {self.kind: self.operations, kind: float(self.exponentials)}


DIRECT_CLASS = {
    LayerClass.POINTWISE: LayerClass.POINTWISE,
    LayerClass.DENSE: LayerClass.DENSE,
    LayerClass.DILATED: LayerClass.DENSE,
    LayerClass.WINOGRAD: LayerClass.DENSE,
}
"""The class whose rate a sparse kernel starts from: it multiplies directly."""


def work_of(
    graph: gs.Graph, device: Device, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[Work]:
    """The kernels that a graph becomes, in order. Arguments and errors as in `predict`."""
    return works_of(graph, device, LayerFacts.of(graph, shapes))


def class_of(node: gs.Node, device: Device) -> LayerClass:
    """The class of a node's own kernel."""
    operator = operator_of(node)
    if operator.kind is Kind.CONVOLUTION:
        spec = Convolution.as_stored(node)
        return LayerClass.DENSE if spec is None else _class_of_conv(spec, device)
    if operator.exponentials:
        return LayerClass.EXPONENTIAL_ALONE
    return _CLASSES.get(operator.kind, LayerClass.BANDWIDTH)


_CLASSES: Mapping[Kind, LayerClass] = {
    Kind.MATRIX_PRODUCT: LayerClass.POINTWISE,
    Kind.POOLING: LayerClass.REDUCTION,
    Kind.REDUCTION: LayerClass.REDUCTION,
    Kind.RESAMPLING: LayerClass.RESIZE,
}
"""Of operators that their kind alone tells the class of."""


def _class_of_conv(spec: Convolution, device: Device) -> LayerClass:
    if spec.depthwise:
        large = max(spec.kernel) > 3
        return LayerClass.DEPTHWISE_LARGE if large else LayerClass.DEPTHWISE
    if math.prod(spec.kernel) == 1:
        return LayerClass.POINTWISE
    if any(d > 1 and k > 1 for d, k in zip(spec.dilations, spec.kernel, strict=True)):
        return LayerClass.DILATED
    winograd = (
        device.winograd_channels is not None
        and spec.op == "Conv"
        and spec.group == 1
        and spec.kernel == (3, 3)
        and spec.strides == (1, 1)
        and min(spec.in_channels, spec.out_channels) >= device.winograd_channels.value
    )
    return LayerClass.WINOGRAD if winograd else LayerClass.DENSE


@dataclass(frozen=True)
class LayerFacts:
    """What is true of a graph at one input size."""

    shapes: Shapes
    shape_carriers: frozenset[str]
    """Tensors of integers and truth values: what networks compute sizes with."""
    macs: IdentityMap[gs.Node, int | None]
    hosts: IdentityMap[gs.Node, gs.Node]
    """See `fused_into`."""
    types: Mapping[str, object]
    """The element type of each tensor, where it is known."""

    @classmethod
    def of(cls, graph: gs.Graph, inputs: Mapping[str, Sequence[int]] | None) -> LayerFacts:
        known = infer_shapes(graph, inputs)
        for name, tensor in graph.tensors().items():
            shape = None if tensor.shape is None else tuple(tensor.shape)
            known.setdefault(name, (tensor.dtype, shape))
        shapes = {name: shape for name, (_, shape) in known.items()}
        carriers = {name for name, (dtype, _) in known.items() if dtype in _INTEGERS}
        layers = cost_of(graph, inputs).layers
        macs = IdentityMap(zip(graph.nodes, (layer.macs for layer in layers), strict=True))
        types = {name: dtype for name, (dtype, _) in known.items()}
        return cls(shapes, frozenset(carriers), macs, fused_into(graph, shapes), types)


def works_of(graph: gs.Graph, device: Device, facts: LayerFacts) -> list[Work]:
    """The work of each kernel that a device runs for a graph, in order."""
    hosts, shapes = facts.hosts, facts.shapes
    guests: IdentityMap[gs.Node, list[gs.Node]] = IdentityMap()
    for node in graph.nodes:
        if node in hosts:
            guests.setdefault(hosts[node], []).append(node)
    work = []
    for node in graph.nodes:
        if node in hosts or is_reading(graph, node) or _moves_nothing(node, facts.shape_carriers):
            continue
        group = [node, *guests.get(node, [])]
        count = facts.macs[node]
        if count is None:
            raise _unknown(node)
        kind, precision = class_of(node, device), precision_of(node, device)
        if kind is LayerClass.WINOGRAD and kind not in device.precisions.get(precision, (kind,)):
            kind = LayerClass.DENSE
        traffic = _traffic(graph, group, facts, device)
        operations = 2.0 * count * _padding(node, device.lanes)
        if kind is LayerClass.BANDWIDTH:
            operations = traffic
        elif kind is LayerClass.REDUCTION:
            operations = _elements(node.inputs[0], shapes, node)
        elif kind is LayerClass.RESIZE:
            operations = _elements(node.outputs[0], shapes, node) * _reads(node)
        work.append(
            Work(
                node=node,
                kind=kind,
                macs=count,
                operations=operations,
                exponentials=sum(_exponentials(member, shapes) for member in group),
                bytes=traffic,
                kept=kept_part(node),
                precision=precision,
            )
        )
    return work


def _moves_nothing(node: gs.Node, shape_carriers: Set[str]) -> bool:
    """Whether a node costs nothing: a new view of its input, or arithmetic on shapes."""
    tensors = [tensor for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty()]
    free = operator_of(node).kind in (Kind.VIEW, Kind.KNOWN)
    return free or all(tensor.name in shape_carriers for tensor in tensors)


def _padding(node: gs.Node, lanes: int) -> float:
    """Computed channels over real ones. An input of fewer channels than lanes is read as it is."""
    spec = Convolution.as_stored(node)
    if spec is None:
        return 1.0

    def grown(channels: int) -> float:
        return math.ceil(channels / lanes) * lanes / channels

    wide = spec.in_channels >= lanes and not spec.depthwise
    return grown(spec.out_channels) * (grown(spec.in_channels) if wide else 1.0)


def _reads(node: gs.Node) -> int:
    """Elements that resampling reads for each that it writes, over two dimensions."""
    mode = node.attrs.get("mode", "nearest")
    return {"linear": 4, "cubic": 16}.get(mode, 1)


def _elements(tensor: gs.Tensor, shapes: Shapes, node: gs.Node) -> int:
    shape = shapes.get(tensor.name)
    numbers = [extent for extent in shape or () if isinstance(extent, int)]
    if shape is None or len(numbers) != len(shape):
        raise _unknown(node)
    return math.prod(numbers)


def _exponentials(node: gs.Node, shapes: Shapes) -> int:
    each = operator_of(node).exponentials
    return each and each * _elements(node.outputs[0], shapes, node)


def _traffic(graph: gs.Graph, group: Sequence[gs.Node], facts: LayerFacts, device: Device) -> int:
    """Bytes that a kernel moves: what its nodes read that none of them made, and what leaves."""
    inside = IdentitySet(group)
    moved: dict[str, int] = {}

    def move(tensor: gs.Tensor, held: gs.Tensor, node: gs.Node) -> None:
        size = element_bytes(facts.types.get(held.name), device)
        moved[held.name] = size * _elements(tensor, facts.shapes, node)

    for node in group:
        # Scales are next to nothing.
        reads = node.inputs[:1] if operator_of(node).kind is Kind.QUANTISATION else reads_of(node)
        for tensor in reads:
            if not any(maker in inside for maker in tensor.inputs):
                move(tensor, stored(tensor), node)
        for tensor in node.outputs:
            if is_graph_output(graph, tensor) or any(n not in inside for n in tensor.outputs):
                move(tensor, tensor, node)
    return sum(moved.values())


def _unknown(node: gs.Node) -> InputError:
    return InputError(
        "the time cannot be predicted: a shape is not known",
        node=label(node),
        hint="give the input's size: --input-shape NAME:1,3,368,656",
    )
