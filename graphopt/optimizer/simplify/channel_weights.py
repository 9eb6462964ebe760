"""Weights of convolutions and matrix products, scaled and shifted channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.ir.convolution import Convolution, has_quantised_weight
from graphopt.ir.graph import constant_of, input_of


@dataclass(frozen=True)
class Affine:
    """`scale * x + shift`, one value for each channel, or one for all."""

    x: gs.Tensor
    scale: Floats
    shift: Floats


@dataclass(frozen=True)
class Weights:
    """A linear layer's new constants, in double precision."""

    weight: Floats
    bias: Floats | None


def channels_of(values: Floats, count: int) -> Floats | None:
    """One value for each of `count` channels."""
    return np.broadcast_to(values, (count,)) if values.size in (1, count) else None


def grouped(spec: Convolution) -> tuple[Floats, int, int]:
    """The weight with the group as an axis of its own, and the axes of output and input channels.

    Conv: (group, out / group, in / group, *kernel). ConvTranspose: (group, in / group, out / group,
    *kernel).
    """
    rows, columns, *kernel = spec.weight.shape
    weight = spec.weight.astype(np.float64)
    weight = weight.reshape(spec.group, rows // spec.group, columns, *kernel)
    return (weight, 1, 2) if spec.op == "Conv" else (weight, 2, 1)


def _along(values: Floats, weight: Floats, group: int, axis: int) -> Floats:
    """Per-channel values, shaped to multiply a grouped weight along one of its channel axes."""
    shape = [1] * weight.ndim
    shape[0], shape[axis] = group, -1
    return values.reshape(shape)


def scaled_conv(linear: gs.Node, affine: Affine) -> Weights | str:
    """Weights that scale and shift a convolution's own output; or why there are none."""
    spec = Convolution.of(linear)
    if spec is None:
        return _why_unknown(linear)
    scale = channels_of(affine.scale, spec.out_channels)
    shift = channels_of(affine.shift, spec.out_channels)
    if scale is None or shift is None:
        return "it has another number of channels"
    weight, out_axis, _ = grouped(spec)
    scaled = (weight * _along(scale, weight, spec.group, out_axis)).reshape(spec.weight.shape)
    if spec.bias is None and not shift.any():
        return Weights(scaled, None)
    bias = 0.0 if spec.bias is None else spec.bias.astype(np.float64)
    return Weights(scaled, bias * scale + shift)


def fed_conv(linear: gs.Node, affine: Affine) -> Weights | str:
    """Weights that scale and shift a convolution's own input; or why there are none."""
    spec = Convolution.of(linear)
    if spec is None:
        return _why_unknown(linear)
    scale = channels_of(affine.scale, spec.in_channels)
    shift = channels_of(affine.shift, spec.in_channels)
    if scale is None or shift is None:
        return "it has another number of channels"
    if shift.any() and (spec.op == "ConvTranspose" or spec.pads is None or any(spec.pads)):
        return f"the {spec.op} after it pads with zeros, which its shift would change"
    weight, out_axis, in_axis = grouped(spec)
    scaled = (weight * _along(scale, weight, spec.group, in_axis)).reshape(spec.weight.shape)
    if not shift.any():
        return Weights(scaled, None)
    kept = (0, out_axis)
    axes = tuple(axis for axis in range(weight.ndim) if axis not in kept)
    through = (weight * _along(shift, weight, spec.group, in_axis)).sum(axis=axes).reshape(-1)
    return Weights(scaled, through if spec.bias is None else spec.bias + through)


@dataclass(frozen=True)
class _Gemm:
    """`Gemm` with constant weights: alpha * x @ weight + bias, weight (in, out)."""

    weight: Floats
    bias: Floats | None
    transposed: bool

    @classmethod
    def of(cls, node: gs.Node) -> _Gemm | None:
        weight = constant_of(node.inputs[1])
        tensor = input_of(node, 2)
        bias = None if tensor is None else constant_of(tensor)
        if weight is None or (tensor is not None and bias is None):
            return None
        transposed = bool(node.attrs.get("transB", 0))
        matrix = weight.astype(np.float64)
        beta = node.attrs.get("beta", 1.0)
        return cls(
            matrix.T if transposed else matrix,
            None if bias is None else bias.astype(np.float64) * beta,
            transposed,
        )

    def stored(self, weight: Floats, bias: Floats | None) -> Weights:
        return Weights(weight.T if self.transposed else weight, bias)


def scaled_gemm(linear: gs.Node, affine: Affine) -> Weights | str:
    """As `scaled_conv`, of a matrix product."""
    gemm = _Gemm.of(linear)
    if gemm is None:
        return _why_unknown(linear)
    count = gemm.weight.shape[1]
    scale, shift = channels_of(affine.scale, count), channels_of(affine.shift, count)
    if scale is None or shift is None:
        return "it has another number of channels"
    if gemm.bias is None and not shift.any():
        return gemm.stored(gemm.weight * scale, None)
    return gemm.stored(
        gemm.weight * scale, (0.0 if gemm.bias is None else gemm.bias) * scale + shift
    )


def fed_gemm(linear: gs.Node, affine: Affine) -> Weights | str:
    """As `fed_conv`, of a matrix product."""
    gemm = _Gemm.of(linear)
    if gemm is None:
        return _why_unknown(linear)
    if linear.attrs.get("transA", 0):
        return "the Gemm after it transposes its input"
    count = gemm.weight.shape[0]
    scale, shift = channels_of(affine.scale, count), channels_of(affine.shift, count)
    if scale is None or shift is None:
        return "it has another number of channels"
    weight = gemm.weight * scale[:, None]
    through = linear.attrs.get("alpha", 1.0) * (shift @ gemm.weight)
    if not shift.any():
        return gemm.stored(weight, gemm.bias)
    return gemm.stored(weight, through if gemm.bias is None else gemm.bias + through)


Floats = NDArray[np.float64]


def _why_unknown(linear: gs.Node) -> str:
    if has_quantised_weight(linear):
        return "the weight beside it is quantised"
    return "the weight or bias beside it is not constant"
