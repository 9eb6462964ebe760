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

import onnx_graphsurgeon as gs

from graphopt.ir.changes import Skip
from graphopt.ir.convolution import Convolution, why_unknown
from graphopt.ir.graph import constant_of, is_standard, label
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.operators import Kind, operator_of

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
        places: where each tensor that exists in phases lies.
        entries: the tensors that are split.
        nodes: what is computed in phases, in order.
        reaches: for rows and columns, of each convolution: where its input lies, and its pads.
    """

    dilation: Pair
    places: IdentityMap[gs.Tensor, Place] = field(default_factory=IdentityMap)
    entries: list[gs.Tensor] = field(default_factory=list)
    nodes: list[gs.Node] = field(default_factory=list)
    reaches: tuple[list[tuple[Span, Pair]], list[tuple[Span, Pair]]] = field(
        default_factory=lambda: ([], [])
    )


# --- finding ------------------------------------------------------------------------------------


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
        return why_unknown(node)
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
    region = next((r for r in regions if x in r.places and r.dilation == (dh, dw)), None)
    if region is None:
        region = DilatedRegion((dh, dw))
        regions.append(region)
        size = image_size(x)
        assert size is not None
        height, width = size
        region.places[x] = (Span(0, height), Span(0, width))
        region.entries.append(x)
    assert spec.pads is not None
    outs: list[Span] = []
    for axis, (span, k, d) in enumerate(
        zip(region.places[x], spec.kernel, spec.dilations, strict=True)
    ):
        begin, end = spec.pads[axis], spec.pads[axis + 2]
        region.reaches[axis].append((span, (begin, end)))
        outs.append(Span(span.start - begin % d, span.size + begin + end - (k - 1) * d))
    region.places[node.outputs[0]] = (outs[0], outs[1])
    region.nodes.append(node)


def _add_pointwise(regions: list[DilatedRegion], node: gs.Node) -> None:
    """Let a node join the region that all its inputs are in, at the same place."""
    if node.op == "Conv":
        if not _is_pixelwise(node):
            return
        variables = [node.inputs[0]]
    elif _is_computed_in_phases(node):
        variables = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
        if not all(_same_everywhere(t) for t in node.inputs if isinstance(t, gs.Constant)):
            return
    else:
        return
    for region in regions:
        places = {region.places.get(t) for t in variables}
        place = places.pop() if len(places) == 1 else None
        if place is not None:
            region.places[node.outputs[0]] = place
            region.nodes.append(node)
            return


def _is_computed_in_phases(node: gs.Node) -> bool:
    """Whether a node makes numbers of what lies between the phases, zeros for instance, too."""
    operator = operator_of(node)
    by_constant = operator.name == "Div" and constant_of(node.inputs[1]) is not None
    return operator.kind is Kind.ELEMENTWISE and (operator.total or by_constant)


def is_pointwise(node: gs.Node) -> bool:
    """Whether a node computes each element from one element of one tensor, and constants."""
    variables = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
    return operator_of(node).kind is Kind.ELEMENTWISE and len(variables) == 1


def _same_everywhere(tensor: gs.Tensor) -> bool:
    """Whether a constant has one value for all pixels, or one for each channel."""
    values = constant_of(tensor)
    return values is not None and values.ndim <= 4 and {*values.shape[-2:]} <= {1}


def _drop_loose_ends(region: DilatedRegion) -> None:
    """Leave only what some convolution of the region needs, or is."""
    needed: IdentitySet[gs.Tensor] = IdentitySet()
    kept: list[gs.Node] = []
    for node in reversed(region.nodes):
        if is_dilated(node) or node.outputs[0] in needed:
            needed.update(node.inputs)
            kept.append(node)
    region.nodes = kept[::-1]


# --- writing ------------------------------------------------------------------------------------


def fit_to_mosaic(
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
