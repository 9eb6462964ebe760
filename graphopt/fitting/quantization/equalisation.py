"""Channels scaled so that they fill their tensor's range, and scaled back by the layers behind.

Cross-layer equalisation (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1): exact where nothing but Relu, pools and concatenation is
between two convolutions, and for what was seen behind a Relu6 (Clip from zero on): channels that
come near its limit stay as they are, others stay below it. Where only depthwise ones read a tensor,
which have a step for each channel, it is for nothing. Elsewhere it is weighed against the steps of
the weights that read it (Xiao et al., "SmoothQuant", ICML 2023, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.fitting.quantization.observe import Floats, Seen
from graphopt.fitting.quantization.placement import Placement, ceiling_of
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.graph import (
    input_of,
    is_graph_output,
    is_standard,
    label,
    only_consumer,
)

Doubles = NDArray[np.float64]
SHARES = (0.0, 0.25, 0.5, 0.75)
"""How much of the spread of a tensor's channels goes into the weights behind it."""
LARGEST_FACTOR = 64.0
"""By which a channel is scaled at most; quiet ones stay quiet."""
HEADROOM = 1.1
"""What a channel may grow beyond what was seen, where a Clip would cut it off."""
LINEAR = ("MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators that channels can be scaled before or behind."""


@dataclass(frozen=True)
class _Reader:
    """A convolution that reads a source's channels, from some channel of its input on."""

    spec: Convolution
    node: gs.Node
    offset: int


@dataclass(frozen=True)
class _Source:
    """A convolution whose output's channels can be scaled."""

    node: gs.Node
    tensor: gs.Tensor
    """Its output, behind a Relu or Clip if there is one."""
    readers: tuple[_Reader, ...]
    on_the_way: tuple[tuple[gs.Tensor, int], ...]
    """Tensors that are scaled with it, and from which channel on."""
    ceiling: float
    """What the activation behind it lets through at most."""

    @property
    def free(self) -> bool:
        """Whether each channel that reads it has a step of its own."""
        return all(reader.spec.depthwise for reader in self.readers)

    def allowed(self, factors: Doubles, span: Doubles) -> Doubles:
        """Factors that leave the activation doing what it does to values of such a span."""
        least = HEADROOM * span / self.ceiling
        return np.where(least >= 1, 1.0, np.maximum(factors, least))


def equalise(
    graph: gs.Graph, placement: Placement, tensors: Mapping[str, Seen]
) -> dict[str, Floats]:
    """Scale channels of a network in place, whose function stays the same.

    Args:
        graph: the network.
        placement: what of it is computed in eight bits.
        tensors: what those that are stored in eight bits hold.

    Returns:
        For each tensor that was scaled, what its channels were divided by.
    """
    found: dict[str, list[_Source]] = {}
    for node in placement.layers:
        source = _source_of(graph, node)
        if source is not None and source.tensor.name in placement.grids:
            found.setdefault(placement.grids[source.tensor.name], []).append(source)
    divided: dict[str, Floats] = {}
    for grid, sources in found.items():
        factors = _factors(sources, tensors, placement.groups[grid])
        for source, by in zip(sources, factors, strict=True):
            _scale(graph, source, by)
            channels = len(by)
            for tensor, offset in source.on_the_way:
                whole = divided.setdefault(
                    tensor.name, np.ones(_channels(tensor, tensors, offset + channels), np.float32)
                )
                whole[offset : offset + channels] *= by
    return divided


def _channels(tensor: gs.Tensor, tensors: Mapping[str, Seen], least: int) -> int:
    if tensor.name in tensors:
        return len(tensors[tensor.name].high)
    return least if tensor.shape is None else int(tensor.shape[1])


def _source_of(graph: gs.Graph, node: gs.Node) -> _Source | None:
    spec = Convolution.of(node)
    if spec is None or spec.op != "Conv" or is_graph_output(graph, node.outputs[0]):
        return None
    tensor, way = node.outputs[0], [(node.outputs[0], 0)]
    reader, ceiling = only_consumer(graph, tensor), None
    if reader is not None and is_standard(reader, "Relu", "Clip"):
        ceiling = ceiling_of(reader)
    if reader is not None and ceiling is not None:
        tensor = reader.outputs[0]
        way.append((tensor, 0))
    readers = _readers(graph, tensor, 0, way)
    if not readers:
        return None
    limit = float("inf") if ceiling is None else ceiling
    return _Source(node, tensor, tuple(readers), tuple(way), limit)


def _readers(
    graph: gs.Graph, tensor: gs.Tensor, offset: int, way: list[tuple[gs.Tensor, int]]
) -> list[_Reader] | None:
    """The convolutions that read a tensor; None if anything else does that cannot be scaled."""
    if is_graph_output(graph, tensor) or not tensor.outputs:
        return None
    found: list[_Reader] = []
    for node in tensor.outputs:
        spec = Convolution.of(node)
        if spec is not None and spec.op == "Conv" and node.inputs[0] is tensor:
            if spec.group > 1 and not spec.depthwise:
                return None
            found.append(_Reader(spec, node, offset))
            continue
        start = offset
        if is_standard(node, "Concat") and node.attrs.get("axis") == 1:
            before = [t for t in node.inputs if t is tensor]
            shapes = [t.shape for t in node.inputs]
            if len(before) != 1 or any(s is None or not isinstance(s[1], int) for s in shapes):
                return None
            position = next(i for i, t in enumerate(node.inputs) if t is tensor)
            start += sum(s[1] for s in shapes[:position] if s is not None)
        elif not is_standard(node, *LINEAR) or len(node.outputs) != 1:
            return None
        way.append((node.outputs[0], start))
        behind = _readers(graph, node.outputs[0], start, way)
        if behind is None:
            return None
        found += behind
    return found


def _factors(sources: list[_Source], tensors: Mapping[str, Seen], group: list[str]) -> list[Floats]:
    """What each source's channels are divided by, for one grid."""
    seen = [tensors[source.tensor.name] for source in sources]
    spans = [_span(s) for s in seen]
    moved = {tensor.name for source in sources for tensor, _ in source.on_the_way}
    others = [float(_span(tensors[n]).max()) for n in group if n not in moved]
    fixed = max(others) if others else max(float(span.max()) for span in spans)
    gains = [_gain(source, len(span)) for source, span in zip(sources, spans, strict=True)]
    energies = [np.square(s.values, dtype=np.float64).mean(axis=0) for s in seen]
    best: list[Doubles] = [np.ones(len(span)) for span in spans]
    least = np.inf
    for share in SHARES:
        tried = []
        for source, span, gain in zip(sources, spans, gains, strict=True):
            part = 1.0 if source.free else share
            floor = np.maximum(span, span.max() / LARGEST_FACTOR)
            factors = (floor / floor.max()) ** part
            if not source.free and share:
                factors /= np.maximum(gain / max(gain.max(), 1e-30), 1 / LARGEST_FACTOR) ** (
                    1 - share
                )
            # All of them such that the range stays what it is.
            factors *= float((span / factors).max()) / max(fixed, 1e-30)
            tried.append(source.allowed(factors, span))
        error = _error(sources, spans, energies, tried)
        if error < least * (1 - 1e-9):
            best, least = tried, error
    return [factors.astype(np.float32) for factors in best]


def _span(seen: Seen) -> Doubles:
    return np.maximum(np.abs(seen.low), np.abs(seen.high)).astype(np.float64) + 1e-12


def _gain(source: _Source, channels: int) -> Doubles:
    """How large the weights of dense readers are for each channel, as parts of their filters."""
    total = np.zeros(channels)
    for reader in source.readers:
        if not reader.spec.depthwise:
            weight = np.abs(reader.spec.weight).astype(np.float64)
            largest = weight.max(axis=(1, 2, 3), keepdims=True)
            part = (weight / np.maximum(largest, 1e-30))[:, reader.offset :][:, :channels]
            total += np.square(part.max(axis=(2, 3))).sum(axis=0)
    return np.sqrt(total)


def _error(
    sources: list[_Source],
    spans: list[Doubles],
    energies: list[Doubles],
    tried: list[Doubles],
) -> float:
    """The readers' square error that rounding is expected to make, of activations and weights."""
    step = max(float((span / by).max()) for span, by in zip(spans, tried, strict=True)) / 255
    error = 0.0
    for source, energy, by in zip(sources, energies, tried, strict=True):
        if source.free:
            continue
        channels = len(by)
        for reader in source.readers:
            if reader.spec.depthwise:
                continue
            weight = reader.spec.weight[:, reader.offset :][:, :channels].astype(np.float64)
            scaled = weight * by[:, None, None]
            error += step**2 * float(np.square(scaled).sum())
            steps = np.abs(scaled).max(axis=(1, 2, 3)) / 127
            taps = weight[0, 0].size
            error += float(np.square(steps).sum()) * taps * float((energy / by**2).sum())
    return error


def _scale(graph: gs.Graph, source: _Source, by: Floats) -> None:
    """Divide a source's channels, and multiply the weights that read them."""
    node, rows = source.node, by.reshape(-1, 1, 1, 1)
    spec = Convolution.of(node)
    assert spec is not None
    node.inputs[1] = constant(graph, f"{label(node)}.equalised", np.divide(spec.weight, rows))
    if input_of(node, 2) is not None and spec.bias is not None:
        node.inputs[2] = constant(graph, f"{label(node)}.equalised_bias", np.divide(spec.bias, by))
    for reader in source.readers:
        now = Convolution.of(reader.node)
        assert now is not None
        weight = now.weight.copy()
        if now.depthwise:
            weight[reader.offset :][: len(by)] *= rows
        else:
            weight[:, reader.offset :][:, : len(by)] *= by.reshape(1, -1, 1, 1)
        name = f"{label(reader.node)}.equalised"
        reader.node.inputs[1] = constant(graph, name, weight)
