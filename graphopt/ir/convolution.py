"""A convolution as numbers, whatever its node leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array, Dim
from graphopt.ir.graph import constant_of, input_of, is_standard, stored
from graphopt.ir.operators import Kind, standard_operators

CONV_OPS = standard_operators(Kind.CONVOLUTION)


@dataclass(frozen=True)
class Convolution:
    """A convolution (`Conv`, `ConvTranspose`) with constant weights, every default spelled out.

    Spatial tuples have one entry for each spatial dimension; `pads` has two, in ONNX's order:
    all the begins, then all the ends.
    """

    op: str
    weight: Array
    """Conv: (out, in / group, *kernel). ConvTranspose: (in, out / group, *kernel)."""
    bias: Array | None
    """(out,), or None where there is none."""
    strides: tuple[int, ...]
    pads: tuple[int, ...] | None
    """None where `auto_pad` makes them depend on an input size that is not known."""
    dilations: tuple[int, ...]
    group: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial extents."""
        return tuple(self.weight.shape[2:])

    @property
    def in_channels(self) -> int:
        """Channels read."""
        rows = self.weight.shape[0] if self.op == "ConvTranspose" else self.weight.shape[1]
        return int(rows if self.op == "ConvTranspose" else rows * self.group)

    @property
    def out_channels(self) -> int:
        """Channels written."""
        if self.op == "ConvTranspose":
            return int(self.weight.shape[1] * self.group)
        return int(self.weight.shape[0])

    @property
    def depthwise(self) -> bool:
        """Whether every channel is filtered alone."""
        return self.group > 1 and self.group == self.in_channels == self.out_channels

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The spatial extents that a `Conv` with known pads makes of an input's."""
        assert self.pads is not None
        rank = len(self.kernel)
        ends = zip(self.pads[:rank], self.pads[rank:], strict=True)
        padded = [n + before + behind for n, (before, behind) in zip(size, ends, strict=True)]
        steps = zip(padded, self.kernel, self.dilations, self.strides, strict=True)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, d, s in steps)

    @classmethod
    def of(cls, node: gs.Node) -> Convolution | None:
        """Read a node; None when it is no convolution, or its weight or bias is not constant."""
        if not is_standard(node, *CONV_OPS):
            return None
        weight = constant_of(node.inputs[1])
        bias_tensor = input_of(node, 2)
        bias = None if bias_tensor is None else constant_of(bias_tensor)
        if weight is None or (bias_tensor is not None and bias is None):
            return None
        return cls._with(node, weight, bias)

    @classmethod
    def as_stored(cls, node: gs.Node) -> Convolution | None:
        """The same for what does not ask for values: a quantised weight is its whole numbers.

        Its bias is left out.
        """
        if not is_standard(node, *CONV_OPS):
            return None
        weight = constant_of(stored(node.inputs[1]))
        return None if weight is None else cls._with(node, weight, None)

    @classmethod
    def _with(cls, node: gs.Node, weight: Array, bias: Array | None) -> Convolution:
        rank = weight.ndim - 2
        strides = tuple(node.attrs.get("strides") or [1] * rank)
        dilations = tuple(node.attrs.get("dilations") or [1] * rank)
        return cls(
            op=node.op,
            weight=weight,
            bias=bias,
            strides=strides,
            pads=resolved_pads(node, weight.shape[2:], node.inputs[0].shape),
            dilations=dilations,
            group=int(node.attrs.get("group", 1)),
        )


def why_unknown(node: gs.Node) -> str:
    """Why a layer's weight or bias is not known: the skip of passes that would change it."""
    quantised = has_quantised_weight(node)
    return "its weight is quantised" if quantised else "its weight or bias is not constant"


def has_quantised_weight(node: gs.Node) -> bool:
    """Whether a layer's weight, or another of its parameters, is one of whole numbers."""
    makers = [maker for tensor in node.inputs[1:] for maker in tensor.inputs]
    return any(
        is_standard(maker, "DequantizeLinear") and isinstance(maker.inputs[0], gs.Constant)
        for maker in makers
    )


def resolved_pads(
    node: gs.Node, kernel: Sequence[int], shape: Sequence[Dim] | None
) -> tuple[int, ...] | None:
    """Explicit pads of a convolution or pool, as the ONNX specification defines `auto_pad`.

    Args:
        node: the convolution or pool.
        kernel: its kernel's spatial extents.
        shape: its input's, where that is known.

    Returns:
        All the begins, then all the ends; None where they depend on a size that is not known.
    """
    rank = len(kernel)
    strides = node.attrs.get("strides") or [1] * rank
    dilations = node.attrs.get("dilations") or [1] * rank
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    if auto_pad == "NOTSET" and "output_shape" not in node.attrs:
        return tuple(node.attrs.get("pads") or [0] * (2 * rank))
    if auto_pad == "VALID":
        return (0,) * (2 * rank)
    if node.op == "ConvTranspose":
        return None  # there `auto_pad` and `output_shape` define the pads through the output's size
    sizes = shape[2:] if shape else [None] * rank
    totals = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (extent - 1) * dilation + 1
        if stride == 1:
            totals.append(reach - 1)
        elif isinstance(size, int):
            totals.append(max((math.ceil(size / stride) - 1) * stride + reach - size, 0))
        else:
            return None
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return tuple(small + large if auto_pad == "SAME_UPPER" else large + small)
