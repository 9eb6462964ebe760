"""The vocabulary that builders are written in: a network that grows layer by layer.

Weights start as trainers start them: normal, of the deviation that keeps activations as large as
they are (He et al., ICCV 2015), biases zero. BatchNormalization does nothing yet, except that it
scales residual branches down, so that the sum of many stays small; it is left for training, and
passes fold it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.network import Network
from graphopt.ir.shape_inference import refresh_shapes

Tensor: TypeAlias = gs.Variable
"""[N, channels, height, width]; until the network is whole, only the channels are known."""
Outputs: TypeAlias = Mapping[str, Tensor]
"""What a builder returns: the network's outputs, by the names that they are to have."""
Activation: TypeAlias = Literal["none", "relu", "elu", "swish"]

_GAIN: Mapping[Activation, float] = {"none": 1.0, "relu": 2.0, "elu": 1.55, "swish": 2.81}
"""One over the mean square that an activation makes of normal numbers."""
RESIDUAL = 0.25
"""The scale that residual branches start with: after 50 of them the variance is 20 times as large,
not 2^50 times."""


class Net:
    """A network that is being built.

    Args:
        shape: of the input, [N, 3, height, width].
        seed: of the weights; None for a network that is only counted, whose weights are zeros that
            take no memory.
    """

    def __init__(self, shape: Sequence[int], seed: int | None) -> None:
        self.image: Tensor = gs.Variable("image", np.dtype(np.float32), list(shape))
        self._graph = Network(inputs=[self.image], opset=17, ir_version=8)
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._scopes: list[str] = []
        self._taken: set[str] = set()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Within it, names begin with `name/`."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def finish(self, outputs: Outputs) -> Network:
        """The graph that makes `outputs`."""
        for name, tensor in outputs.items():
            tensor.name = name
        refresh_shapes(self._graph)
        self._graph.outputs = list(outputs.values())
        return self._graph

    # --- layers ---------------------------------------------------------------------------------

    def conv(
        self,
        x: Tensor,
        filters: int,
        kernel: int = 1,
        activation: Activation = "none",
        *,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
        bias: bool = True,
        scale: float | None = None,
        gain: float = 1.0,
    ) -> Tensor:
        """A convolution that keeps the size, or divides it by the stride, and an activation.

        Between them BatchNormalization, where `scale` says what it multiplies by at first. Weights
        are `gain` times as large as usual.
        """
        shape = (filters, channels(x) // group, kernel, kernel)
        variance = gain**2 * _GAIN[activation] / math.prod(shape[1:])
        constants = {"weight": self._normal(shape, variance)}
        if bias:
            constants["bias"] = np.zeros(filters, np.float32)
        x = self._add(
            "Conv",
            [x],
            filters,
            constants,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[dilation * (kernel // 2)] * 4,
            dilations=[dilation] * 2,
            group=group,
        )
        return self.activate(x if scale is None else self._norm(x, scale), activation)

    def unit(
        self,
        x: Tensor,
        filters: int,
        kernel: int = 1,
        activation: Activation = "relu",
        *,
        bias: bool = False,
        scale: float = 1.0,
        **sizes: int,
    ) -> Tensor:
        """The same, always with BatchNormalization, which usually makes a bias superfluous."""
        return self.conv(x, filters, kernel, activation, bias=bias, scale=scale, **sizes)

    def maps(self, x: Tensor, count: int) -> Tensor:
        """A 1x1 convolution that answers with maps, small at first, as those to be learnt are."""
        return self.conv(x, count, gain=0.1)

    def doubled(self, x: Tensor, filters: int) -> Tensor:
        """A transposed 4x4 convolution that doubles the size, BatchNormalization, Relu."""
        # An output pixel is a sum over 2x2 of the kernel's positions.
        weight = self._normal((channels(x), filters, 4, 4), _GAIN["relu"] / (4 * channels(x)))
        constants = {"weight": weight}
        x = self._add(
            "ConvTranspose",
            [x],
            filters,
            constants,
            kernel_shape=[4, 4],
            strides=[2, 2],
            pads=[1] * 4,
        )
        return self.activate(self._norm(x, 1.0), "relu")

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """An activation; Swish is written as exporters do, x * sigmoid(x)."""
        if activation == "none":
            return x
        if activation == "swish":
            return self.gate(x, x)
        return self._add(activation.capitalize(), [x], channels(x))

    def gate(self, x: Tensor, by: Tensor) -> Tensor:
        """The product of a tensor and the sigmoid of another."""
        gate = self._add("Sigmoid", [by], channels(by))
        return self._add("Mul", [x, gate], channels(x))

    def add(self, first: Tensor, *others: Tensor) -> Tensor:
        """A sum."""
        for other in others:
            first = self._add("Add", [first, other], channels(first))
        return first

    def concat(self, *tensors: Tensor) -> Tensor:
        """Channels one after the other."""
        return self._add("Concat", tensors, sum(map(channels, tensors)), axis=1)

    def max_pool(self, x: Tensor, kernel: int) -> Tensor:
        """The greatest of kernel x kernel values, at every second pixel."""
        pads = [(kernel - 1) // 2] * 4
        return self._add(
            "MaxPool", [x], channels(x), kernel_shape=[kernel] * 2, strides=[2, 2], pads=pads
        )

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the map, [N, channels, 1, 1]."""
        return self._add("GlobalAveragePool", [x], channels(x))

    def enlarged(self, x: Tensor, times: int) -> Tensor:
        """Every pixel `times` x `times` times."""
        scales = gs.Constant(self._free("scales"), np.array([1, 1, times, times], np.float32))
        return self._add(
            "Resize",
            [x, gs.Variable.empty(), scales],
            channels(x),
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        )

    # --- blocks ---------------------------------------------------------------------------------

    def separable(self, x: Tensor, filters: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
        """Depthwise 3x3, then 1x1 (MobileNet: Howard et al., 2017, figure 3)."""
        x = self.unit(x, channels(x), 3, stride=stride, dilation=dilation, group=channels(x))
        return self.unit(x, filters)

    def basic(self, x: Tensor) -> Tensor:
        """Two 3x3 and a shortcut (ResNet: He et al., CVPR 2016, figure 5, left)."""
        inner = self.unit(x, channels(x), 3)
        inner = self.unit(inner, channels(x), 3, "none", scale=RESIDUAL)
        return self.activate(self.add(x, inner), "relu")

    def bottleneck(self, x: Tensor, width: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
        """1x1, 3x3 with the stride, 1x1 to four times the width (the same figure, right)."""
        filters = 4 * width
        inner = self.unit(self.unit(x, width), width, 3, stride=stride, dilation=dilation)
        inner = self.unit(inner, filters, activation="none", scale=RESIDUAL)
        if stride > 1 or channels(x) != filters:
            x = self.unit(x, filters, activation="none", stride=stride)
        return self.activate(self.add(x, inner), "relu")

    def inverted(
        self, x: Tensor, filters: int, kernel: int, *, expand: int, stride: int = 1
    ) -> Tensor:
        """EfficientNet's block (Tan and Le, ICML 2019): wide, depthwise and gated inside.

        The gate is squeeze-and-excitation by a quarter of the input's channels.
        """
        inner = self.unit(x, expand * channels(x), activation="swish") if expand > 1 else x
        wide = channels(inner)
        inner = self.unit(inner, wide, kernel, "swish", stride=stride, group=wide)
        squeezed = self.conv(self.mean(inner), max(1, channels(x) // 4), activation="swish")
        inner = self.gate(inner, self.conv(squeezed, wide))
        shortcut = stride == 1 and channels(x) == filters
        # The gate halves at first.
        scale = 2 * RESIDUAL if shortcut else 2.0
        inner = self.unit(inner, filters, activation="none", scale=scale)
        return self.add(x, inner) if shortcut else inner

    # --- nodes ----------------------------------------------------------------------------------

    def _norm(self, x: Tensor, scale: float) -> Tensor:
        start = {"scale": scale, "bias": 0.0, "mean": 0.0, "variance": 1.0}
        values = {name: np.full(channels(x), v, np.float32) for name, v in start.items()}
        return self._add("BatchNormalization", [x], channels(x), values)

    def _add(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        filters: int,
        constants: Mapping[str, Array] = MappingProxyType({}),
        **attrs: int | str | list[int],
    ) -> Tensor:
        name = self._free(op.lower())
        output = gs.Variable(name, np.dtype(np.float32), [None, filters, None, None])
        weights = [gs.Constant(f"{name}.{key}", v) for key, v in constants.items()]
        self._graph.nodes.append(gs.Node(op, name, attrs, [*inputs, *weights], [output]))
        return output

    def _free(self, base: str) -> str:
        stem = "/".join((*self._scopes, base))
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def _normal(self, shape: tuple[int, ...], variance: float) -> Array:
        if self._rng is None:
            return np.broadcast_to(np.float32(0), shape)
        values = self._rng.standard_normal(shape, np.float32)
        values *= np.float32(math.sqrt(variance))
        return values


def channels(x: Tensor) -> int:
    """A tensor's channels."""
    count: int = x.shape[1]
    return count
