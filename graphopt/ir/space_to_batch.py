"""Dilated convolutions as plain ones on the phases of their input.

Of a convolution with dilation d, the output pixels that agree in their row and column modulo d read
input pixels that agree in them too: d * d plain convolutions, one for each phase. The phases are
laid side by side in one image, a mosaic, with as many zeros between them as the convolution pads
with, so that one plain convolution computes them all. (The space-to-batch form of dilation: Chen et
al., "DeepLab", TPAMI 2018, section 3.1, with an image in the batch's place, since bundles process
one photo at a time.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.changes import Skip
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import emit, remove_nodes
from graphopt.ir.graph import constant_of, input_of, is_graph_output, is_standard, label

Pair: TypeAlias = tuple[int, int]
"""One number for rows, one for columns."""


UNSIZED = "the size of its input is not known: fix it with --input-shape"


@dataclass(frozen=True)
class Span:
    """Where a tensor lies along one axis of its mosaic, in the order before the split."""

    start: int
    """Relative to the tensor that was split."""
    size: int


Place: TypeAlias = tuple[Span, Span]


@dataclass
class DilatedRegion:
    """Convolutions of one dilation, and what stands between them, that share a split and a merge.

    Args:
        dilation: of rows and of columns.
        places: where each tensor that exists in phases lies, by `id`.
        entries: the tensors that are split.
        nodes: what is computed in phases, in order.
        reaches: for rows and columns, of each convolution: where its input lies, and its pads.
    """

    dilation: Pair
    places: dict[int, Place] = field(default_factory=dict)
    entries: list[gs.Tensor] = field(default_factory=list)
    nodes: list[gs.Node] = field(default_factory=list)
    reaches: tuple[list[tuple[Span, Pair]], list[tuple[Span, Pair]]] = field(
        default_factory=lambda: ([], [])
    )


# --- finding ------------------------------------------------------------------------------------

_POINTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Celu",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sub",
        "Sum",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    }
)
"""Operators that compute each element of their result from the elements at the same place."""


def find_regions(graph: gs.Graph) -> Iterator[DilatedRegion | Skip]:
    """The regions of a graph's dilated convolutions; a `Skip` for each that is in none."""
    regions: list[DilatedRegion] = []
    for node in graph.nodes:
        if not is_standard(node):
            continue
        if is_dilated(node):
            spec = _phase_conv(node)
            if isinstance(spec, str):
                yield Skip(label(node), spec)
            else:
                _add_conv(regions, node, spec)
        else:
            _add_pointwise(regions, node)
    for region in regions:
        _drop_loose_ends(region)
        yield region


def is_dilated(node: gs.Node) -> bool:
    """Whether a node is a convolution with gaps between its taps."""
    return is_standard(node, "Conv", "ConvTranspose") and any(
        d > 1 for d in node.attrs.get("dilations") or []
    )


def plain_conv(node: gs.Node) -> Convolution | str:
    """A convolution of images by constant weights; or what it is instead."""
    spec = Convolution.of(node)
    if node.op != "Conv":
        return "it is transposed"
    if spec is None:
        return "its weight or bias is not constant"
    if len(spec.kernel) != 2:
        return f"it has {len(spec.kernel)} spatial dimensions, not 2"
    return spec


def reach_of(spec: Convolution) -> Pair:
    """From the first tap of a kernel to the last one."""
    height, width = ((k - 1) * d for k, d in zip(spec.kernel, spec.dilations, strict=True))
    return height, width


def _phase_conv(node: gs.Node) -> Convolution | str:
    """A dilated convolution that can be computed in phases; or why it cannot."""
    spec = plain_conv(node)
    if isinstance(spec, str):
        return spec
    if spec.strides != (1, 1):
        return f"it has strides {spec.strides}"
    if image_size(node.inputs[0]) is None:
        return UNSIZED
    assert spec.pads is not None  # only strides make them depend on the input's size
    if any(pad > reach for pad, reach in zip(spec.pads, reach_of(spec) * 2, strict=True)):
        return "it is padded by more than its kernel reaches"
    return spec


def image_size(x: gs.Tensor) -> Pair | None:
    """Height and width of an image tensor, where they are known numbers."""
    height, width = x.shape[2:] if x.shape is not None else (None, None)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _is_pixelwise(node: gs.Node) -> bool:
    """Whether a node is a convolution that reads one pixel at a time."""
    spec = Convolution.of(node)
    return (
        spec is not None
        and spec.op == "Conv"
        and {*spec.kernel, *spec.strides} == {1}
        and spec.pads is not None
        and not any(spec.pads)
    )


def _add_conv(regions: list[DilatedRegion], node: gs.Node, spec: Convolution) -> None:
    """Let a dilated convolution join the region that its input is in, or found one."""
    x, (dh, dw) = node.inputs[0], spec.dilations
    region = next((r for r in regions if id(x) in r.places and r.dilation == (dh, dw)), None)
    if region is None:
        region = DilatedRegion((dh, dw))
        regions.append(region)
        size = image_size(x)
        assert size is not None
        height, width = size
        region.places[id(x)] = (Span(0, height), Span(0, width))
        region.entries.append(x)
    assert spec.pads is not None
    outs: list[Span] = []
    for axis, (span, k, d) in enumerate(
        zip(region.places[id(x)], spec.kernel, spec.dilations, strict=True)
    ):
        begin, end = spec.pads[axis], spec.pads[axis + 2]
        region.reaches[axis].append((span, (begin, end)))
        outs.append(Span(span.start - begin % d, span.size + begin + end - (k - 1) * d))
    region.places[id(node.outputs[0])] = (outs[0], outs[1])
    region.nodes.append(node)


def _add_pointwise(regions: list[DilatedRegion], node: gs.Node) -> None:
    """Let a node join the region that all its inputs are in, at the same place."""
    if node.op == "Conv":
        if not _is_pixelwise(node):
            return
        variables = [node.inputs[0]]
    elif node.op in _POINTWISE:
        variables = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
        if not all(_same_everywhere(t) for t in node.inputs if isinstance(t, gs.Constant)):
            return
    else:
        return
    for region in regions:
        places = {region.places.get(id(t)) for t in variables}
        place = places.pop() if len(places) == 1 else None
        if place is not None:
            region.places[id(node.outputs[0])] = place
            region.nodes.append(node)
            return


def is_pointwise(node: gs.Node) -> bool:
    """Whether a node computes each element from one element of one tensor, and constants."""
    variables = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
    return is_standard(node, *_POINTWISE) and len(variables) == 1


def _same_everywhere(tensor: gs.Tensor) -> bool:
    """Whether a constant has one value for all pixels, or one for each channel."""
    values = constant_of(tensor)
    return values is not None and values.ndim <= 4 and {*values.shape[-2:]} <= {1}


def _drop_loose_ends(region: DilatedRegion) -> None:
    """Leave only what some convolution of the region needs, or is."""
    needed: set[int] = set()
    kept: list[gs.Node] = []
    for node in reversed(region.nodes):
        if is_dilated(node) or id(node.outputs[0]) in needed:
            needed |= {id(t) for t in node.inputs}
            kept.append(node)
    region.nodes = kept[::-1]


# --- writing ------------------------------------------------------------------------------------


class Mosaic:
    """The image that holds the phases of every tensor of a region, and its writing to the graph.

    Along each axis, phase r (the pixels r, r + d, r + 2 d … of the padded input) takes `extent`
    pixels from r * `extent` on; the first `lead` pixels of the padded input are zeros.
    """

    def __init__(self, graph: gs.Graph, region: DilatedRegion) -> None:
        self._graph = graph
        self._region = region
        axes = [
            _fit(d, reaches, [place[axis] for place in self._written_places()])
            for axis, (d, reaches) in enumerate(zip(region.dilation, region.reaches, strict=True))
        ]
        self._lead = (axes[0][0], axes[1][0])
        self._extent = (axes[0][1], axes[1][1])
        self._phases: dict[int, gs.Tensor] = {}
        self._clean: dict[int, gs.Tensor] = {}

    def _written_places(self) -> list[Place]:
        tensors = [*self._region.entries, *(node.outputs[0] for node in self._region.nodes)]
        return [self._region.places[id(t)] for t in tensors]

    def emit(self) -> None:
        """Compute the region in phases, and merge what is read outside it."""
        inside = {id(node) for node in self._region.nodes}
        results = [node.outputs[0] for node in self._region.nodes]
        wanted = [
            t
            for t in results
            if is_graph_output(self._graph, t) or any(id(n) not in inside for n in t.outputs)
        ]
        for tensor in self._region.entries:
            self._phases[id(tensor)] = self._clean[id(tensor)] = self._split(tensor)
        for node in self._region.nodes:
            self._compute(node)
        remove_nodes(self._graph, self._region.nodes)
        for tensor in wanted:
            self._merge(tensor)

    def _split(self, x: gs.Tensor) -> gs.Tensor:
        height, width = x.shape[2:]
        (dh, dw), (top, left) = self._region.dilation, self._lead
        rows, columns = self._extent
        ends = [dh * rows - top - height, dw * columns - left - width]
        pads = np.array([0, 0, top, left, 0, 0, *ends])
        padded = emit(self._graph, "Pad", x, pads, out=f"{x.name}.padded")
        return self._turned(padded, [rows, dh, columns, dw], f"{x.name}.phases")

    def _merge(self, y: gs.Tensor) -> None:
        (dh, dw), (rows, columns) = self._region.dilation, self._extent
        merged = self._turned(self._phases[id(y)], [dh, rows, dw, columns], f"{y.name}.all")
        starts, ends = self._bounds(y)
        emit(self._graph, "Slice", merged, starts, ends, np.array([2, 3]), out=y)

    def _turned(self, x: gs.Tensor, grid: Sequence[int], name: str) -> gs.Tensor:
        """Swap which phase a pixel is of with where in the phase it is."""
        a, b, p, q = grid
        split = emit(self._graph, "Reshape", x, np.array([0, 0, *grid]), out=f"{name}.grid")
        turned = emit(
            self._graph, "Transpose", split, out=f"{name}.turned", perm=[0, 1, 3, 2, 5, 4]
        )
        return emit(self._graph, "Reshape", turned, np.array([0, 0, a * b, p * q]), out=name)

    def _bounds(self, tensor: gs.Tensor) -> tuple[Array, Array]:
        """First rows and columns of a tensor, before the split, and those past its end."""
        spans = self._region.places[id(tensor)]
        starts = np.array([lead + s.start for lead, s in zip(self._lead, spans, strict=True)])
        return starts, starts + np.array([span.size for span in spans])

    def _compute(self, node: gs.Node) -> None:
        name = f"{node.outputs[0].name}.phases"
        attrs = dict(node.attrs)
        inputs = [self._phases.get(id(t), t) for t in node.inputs]
        if is_dilated(node):
            spec = Convolution.of(node)
            assert spec is not None
            assert spec.pads is not None
            inputs[0] = self._without_gaps(node.inputs[0])
            tops_and_lefts = spec.pads[: len(spec.dilations)]
            begins = [p // d for p, d in zip(tops_and_lefts, spec.dilations, strict=True)]
            ends = [k - 1 - begin for k, begin in zip(spec.kernel, begins, strict=True)]
            attrs.pop("auto_pad", None)
            attrs |= {"dilations": [1, 1], "pads": begins + ends}
        given = [t if input_of(node, index) else None for index, t in enumerate(inputs)]
        self._phases[id(node.outputs[0])] = emit(self._graph, node.op, *given, out=name, **attrs)

    def _without_gaps(self, tensor: gs.Tensor) -> gs.Tensor:
        """A tensor in phases, with zeros between them."""
        if id(tensor) not in self._clean:
            phases = self._phases[id(tensor)]
            name = f"{tensor.name}.zeroed"
            mask = self._mask(tensor).astype(tensor.dtype)
            self._clean[id(tensor)] = emit(self._graph, "Mul", phases, mask, out=name)
        return self._clean[id(tensor)]

    def _mask(self, tensor: gs.Tensor) -> Array:
        """One where the mosaic of a tensor holds its pixels: (1, 1, height, width)."""
        inside = [
            np.isin(np.arange(d * extent).reshape(extent, d).T.ravel(), np.arange(start, end))
            for d, extent, start, end in zip(
                self._region.dilation, self._extent, *self._bounds(tensor), strict=True
            )
        ]
        return np.outer(*inside)[None, None]


def _fit(
    dilation: int, reaches: Sequence[tuple[Span, Pair]], spans: Sequence[Span]
) -> tuple[int, int]:
    """The zeros to put before the data, and the pixels of a phase, along one axis.

    A convolution finds the zeros that it pads with before a phase's first pixels in the phase
    itself, and those behind its last pixels there or at the start of the next phase, if it has
    enough of them. Beyond the first and the last phase it pads as always.
    """
    if dilation == 1:
        return 0, max(span.size for span in spans)
    lead = max(begin - span.start for span, (begin, _) in reaches)
    extents = [math.ceil((lead + span.start + span.size) / dilation) for span in spans]
    for span, (_, end) in reaches:
        start = lead + span.start
        extents.append(math.ceil((start + span.size + end) / dilation) - start // dilation)
    return lead, max(extents)
