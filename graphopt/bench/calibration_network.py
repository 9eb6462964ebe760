"""A network of every class of layer, whose kernels a machine's profile is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.quantization.fit_layer import plain_rounding
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.quantization import Recipe
from graphopt.fitting.quantization.writing import write
from graphopt.ir.edit import emit
from graphopt.ir.graph import constant_of
from graphopt.ir.network import Network

CHAINS = (
    (16, 120, 200),
    (40, 88, 136),
    (64, 60, 104),
    (128, 30, 52),
    (128, 60, 104),
    (192, 44, 72),
    (256, 16, 24),
    (320, 24, 40),
    (512, 20, 32),
)
"""Channels, height and width of the tensors that layers are timed on: what pose networks have,
from the first layers after a photo to the last."""

STEMS = ((16, 224, 320), (48, 160, 240))
"""Filters, height and width of first layers, which read three channels."""


@dataclass(frozen=True)
class _Conv:
    """A convolution of a chain: filters are channels * `numerator` // `denominator`."""

    kernel: int
    dilation: int = 1
    depthwise: bool = False
    numerator: int = 1
    denominator: int = 1


LAYERS = (
    _Conv(1),
    _Conv(3),
    _Conv(3, depthwise=True),
    _Conv(3, dilation=2),
    _Conv(1, numerator=2),
    _Conv(1, denominator=2),
    _Conv(3, numerator=2),
    _Conv(3, denominator=2),
    _Conv(5),  # never by Winograd's algorithm
    _Conv(3, dilation=2, depthwise=True),
    _Conv(1, depthwise=True),
    _Conv(7, depthwise=True),
)
"""What each chain does, layer after layer."""

WORK_LIMIT = 250_000_000
"""Layers of more multiply-adds than this are left out: what takes several milliseconds is always
interrupted on a machine that has other things to do."""


def calibration_network() -> Network:
    """Chains of layers of every class; random weights, one input a chain, opset 17."""
    rng = np.random.default_rng(0)
    graph = Network(opset=17, name="calibration")

    def tensor(name: str, *shape: int) -> gs.Tensor:
        variable = gs.Variable(name, np.float32, [1, *shape])
        graph.inputs.append(variable)
        return variable

    def conv(x: gs.Tensor, channels: int, filters: int, layer: _Conv, stride: int = 1) -> gs.Tensor:
        shape = (filters, 1 if layer.depthwise else channels, layer.kernel, layer.kernel)
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return emit(
            graph,
            "Conv",
            x,
            weight.astype(np.float32),
            out="conv",
            strides=[stride] * 2,
            dilations=[layer.dilation] * 2,
            pads=[layer.dilation * (layer.kernel // 2)] * 4,
            group=channels if layer.depthwise else 1,
        )

    def finish(x: gs.Tensor, channels: int) -> None:
        # The mean of all is a small output: unpacking large ones would be all that is timed.
        pooled = emit(graph, "GlobalAveragePool", x, out="pooled")
        pooled.shape = [1, channels, 1, 1]
        graph.outputs.append(pooled)

    for filters, height, width in STEMS:
        x = tensor(f"photo{height}", 3, height, width)
        x = conv(x, 3, filters, _Conv(3), stride=2)
        finish(conv(x, filters, 2 * filters, _Conv(3), stride=2), 2 * filters)
    for channels, height, width in CHAINS:
        x = first = tensor(f"x{channels}x{height}", channels, height, width)
        now = channels
        for layer in LAYERS:
            filters = now if layer.depthwise else now * layer.numerator // layer.denominator
            macs = height * width * filters * layer.kernel**2 * (1 if layer.depthwise else now)
            if layer.depthwise or (macs <= WORK_LIMIT and filters <= 1024):
                x, now = conv(x, now, filters, layer), filters
        # Activations inside a convolution, in a kernel of their own, and none but traffic.
        gated = emit(graph, "Sigmoid", conv(x, now, channels, _Conv(1)), out="gated")
        both = emit(graph, "Concat", gated, first, out="both", axis=1)
        half = conv(both, 2 * channels, channels, _Conv(1))
        again = emit(graph, "Concat", half, first, out="again", axis=1)
        finish(emit(graph, "Sigmoid", again, out="gates"), 2 * channels)
        small = emit(graph, "MaxPool", half, out="small", kernel_shape=[2, 2], strides=[2, 2])
        twice = np.array([1, 1, 2, 2], np.float32)
        finish(emit(graph, "Resize", small, None, twice, out="large", mode="linear"), channels)
    graph.cleanup().toposort()
    return graph


RANGE = 4.0
"""What activations of the network in eight bits reach: random weights keep them near one."""


def in_eight_bits(network: Network) -> Network:
    """A network in eight bits, of ranges that are made up: how long it takes is all that counts."""
    quantised = network.copy()
    placement = placement_of(quantised)
    grid = Grid.over(-RANGE, RANGE)
    layers = {}
    for node in placement.layers:
        weight = constant_of(node.inputs[1])
        assert weight is not None
        layers[node.outputs[0].name] = plain_rounding(weight.astype(np.float32), None, 0, each=True)
    write(quantised, Recipe(dict.fromkeys(placement.grids, grid), layers, images=0), ())
    return quantised
