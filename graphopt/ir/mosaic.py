"""The phases of an image side by side, and the network between written on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import emit, remove_nodes
from graphopt.ir.graph import input_of, is_graph_output
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.ir.space_to_batch import DilatedRegion, Place, fit_to_mosaic, is_dilated


class Mosaic:
    """The image that holds the phases of every tensor of a region, and its writing to the graph.

    Along each axis, phase r (the pixels r, r + d, r + 2 d … of the padded input) takes `extent`
    pixels from r * `extent` on; the first `lead` pixels of the padded input are zeros.
    """

    def __init__(self, graph: gs.Graph, region: DilatedRegion) -> None:
        self._graph = graph
        self._region = region
        axes = [
            fit_to_mosaic(d, reaches, [place[axis] for place in self._written_places()])
            for axis, (d, reaches) in enumerate(zip(region.dilation, region.reaches, strict=True))
        ]
        self._lead = (axes[0][0], axes[1][0])
        self._extent = (axes[0][1], axes[1][1])
        self._phases: IdentityMap[gs.Tensor, gs.Tensor] = IdentityMap()
        self._clean: IdentityMap[gs.Tensor, gs.Tensor] = IdentityMap()

    def _written_places(self) -> list[Place]:
        tensors = [*self._region.entries, *(node.outputs[0] for node in self._region.nodes)]
        return [self._region.places[t] for t in tensors]

    def emit(self) -> None:
        """Compute the region in phases, and merge what is read outside it."""
        inside = IdentitySet(self._region.nodes)
        results = [node.outputs[0] for node in self._region.nodes]
        wanted = [
            t
            for t in results
            if is_graph_output(self._graph, t) or any(n not in inside for n in t.outputs)
        ]
        for tensor in self._region.entries:
            self._phases[tensor] = self._clean[tensor] = self._split(tensor)
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
        merged = self._turned(self._phases[y], [dh, rows, dw, columns], f"{y.name}.all")
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
        spans = self._region.places[tensor]
        starts = np.array([lead + s.start for lead, s in zip(self._lead, spans, strict=True)])
        return starts, starts + np.array([span.size for span in spans])

    def _compute(self, node: gs.Node) -> None:
        name = f"{node.outputs[0].name}.phases"
        attrs = dict(node.attrs)
        inputs = [self._phases.get(t, t) for t in node.inputs]
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
        self._phases[node.outputs[0]] = emit(self._graph, node.op, *given, out=name, **attrs)

    def _without_gaps(self, tensor: gs.Tensor) -> gs.Tensor:
        """A tensor in phases, with zeros between them."""
        if tensor not in self._clean:
            phases = self._phases[tensor]
            name = f"{tensor.name}.zeroed"
            mask = self._mask(tensor).astype(tensor.dtype)
            self._clean[tensor] = emit(self._graph, "Mul", phases, mask, out=name)
        return self._clean[tensor]

    def _mask(self, tensor: gs.Tensor) -> Array:
        """One where the mosaic of a tensor holds its pixels: (1, 1, height, width)."""
        inside = [
            np.isin(np.arange(d * extent).reshape(extent, d).T.ravel(), np.arange(start, end))
            for d, extent, start, end in zip(
                self._region.dilation, self._extent, *self._bounds(tensor), strict=True
            )
        ]
        return np.outer(*inside)[None, None]
