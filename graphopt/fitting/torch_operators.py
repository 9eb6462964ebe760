"""ONNX operators in PyTorch, those of pose networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as PyTorch's users call it)

from graphopt.errors import Unsupported
from graphopt.ir.convolution import resolved_pads
from graphopt.ir.graph import label

Inputs = Sequence[Tensor | None]


TorchOperator = Callable[[gs.Node, Inputs], Tensor]


def _operand(inputs: Inputs, index: int) -> Tensor:
    value = inputs[index]
    assert value is not None
    return value


def _optional(inputs: Inputs, index: int) -> Tensor | None:
    return inputs[index] if len(inputs) > index else None


def _ints(inputs: Inputs, index: int) -> list[int] | None:
    value = _optional(inputs, index)
    return None if value is None else [int(v) for v in value.flatten().tolist()]


def _spatial_pads(node: gs.Node, x: Tensor, kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads as ONNX has them, begins then ends; `auto_pad` resolved for this input."""
    pads = resolved_pads(node, kernel, x.shape)
    assert pads is not None  # an input has a size
    return pads


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes; PyTorch lists them from the last one backwards."""
    half = len(pads) // 2
    pairs = [(pads[i], pads[i + half]) for i in reversed(range(half))]
    return F.pad(x, [p for pair in pairs for p in pair], value=value) if any(pads) else x


def padded_input(node: gs.Node, x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution's kernel slides over: its input with the border."""
    return _padded(x, _spatial_pads(node, x, weight.shape[2:]))


def _on_phases(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilations: Sequence[int], groups: int
) -> Tensor:
    """A dilated convolution of a padded input, stride 1, as a plain one on every d-th pixel.

    PyTorch derives dilated convolutions seven times as slowly on CPUs.
    """
    (down, right), (height, width) = dilations, x.shape[2:]
    x = F.pad(x, (0, -width % right, 0, -height % down)).permute(0, 2, 3, 1)
    # Channels stay the innermost in memory.
    x = x.unflatten(2, (-1, right)).unflatten(1, (-1, down)).permute(2, 4, 0, 1, 3, 5)
    y = F.conv2d(x.flatten(0, 2).permute(0, 3, 1, 2), weight, bias, groups=groups)
    y = y.permute(0, 2, 3, 1).unflatten(0, (down, right, -1)).permute(2, 3, 0, 4, 1, 5)
    y = y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    rows, columns = (d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True))
    return y[:, :, : height - rows, : width - columns]


_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""By the number of spatial axes."""


def _conv(node: gs.Node, inputs: Inputs) -> Tensor:
    x, weight = _operand(inputs, 0), _operand(inputs, 1)
    rank = weight.ndim - 2
    pads = _spatial_pads(node, x, weight.shape[2:])
    strides = tuple(node.attrs.get("strides") or (1,) * rank)
    dilations = tuple(node.attrs.get("dilations") or (1,) * rank)
    groups = int(node.attrs.get("group", 1))
    if strides == (1, 1) and dilations != (1, 1):
        return _on_phases(_padded(x, pads), weight, _optional(inputs, 2), dilations, groups)
    even = pads[:rank] if pads[:rank] == pads[rank:] else None
    return _CONVOLVE[rank](
        x if even else _padded(x, pads),
        weight,
        _optional(inputs, 2),
        stride=strides,
        padding=even or (0,) * rank,
        dilation=dilations,
        groups=groups,
    )


def _conv_transpose(node: gs.Node, inputs: Inputs) -> Tensor:
    top, left, bottom, right = node.attrs.get("pads") or [0] * 4
    if (top, left) != (bottom, right) or "output_shape" in node.attrs:
        raise Unsupported("uneven pads of ConvTranspose cannot be trained", node=label(node))
    return F.conv_transpose2d(
        _operand(inputs, 0),
        _operand(inputs, 1),
        _optional(inputs, 2),
        stride=tuple(node.attrs.get("strides") or (1, 1)),
        padding=(top, left),
        output_padding=tuple(node.attrs.get("output_padding") or (0, 0)),
        groups=int(node.attrs.get("group", 1)),
        dilation=tuple(node.attrs.get("dilations") or (1, 1)),
    )


def _gemm(node: gs.Node, inputs: Inputs) -> Tensor:
    a, b = _operand(inputs, 0), _operand(inputs, 1)
    product = (a.t() if node.attrs.get("transA") else a) @ (
        b.t() if node.attrs.get("transB") else b
    )
    bias = _optional(inputs, 2)
    product = product * node.attrs.get("alpha", 1.0)
    return product if bias is None else product + node.attrs.get("beta", 1.0) * bias


def batch_norm(node: gs.Node, inputs: Inputs, *, learning: bool = False) -> Tensor:
    """With `learning`, by the batch's own statistics, which are also averaged into the graph's."""
    x, scale, bias, mean, variance = (_operand(inputs, i) for i in range(5))
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    return F.batch_norm(x, mean, variance, scale, bias, training=learning, eps=epsilon)


def _pool(node: gs.Node, inputs: Inputs) -> Tensor:
    x, kernel = _operand(inputs, 0), list(node.attrs["kernel_shape"])
    strides = tuple(node.attrs.get("strides") or (1, 1))
    pads = _spatial_pads(node, x, kernel)
    ceil = bool(node.attrs.get("ceil_mode", 0))
    if node.op == "MaxPool":
        dilation = tuple(node.attrs.get("dilations") or (1, 1))
        x = _padded(x, pads, -math.inf)
        return F.max_pool2d(x, kernel, strides, dilation=dilation, ceil_mode=ceil)
    if any(pads) and not node.attrs.get("count_include_pad", 0):
        counted = F.avg_pool2d(_padded(torch.ones_like(x), pads), kernel, strides, ceil_mode=ceil)
        return F.avg_pool2d(_padded(x, pads), kernel, strides, ceil_mode=ceil) / counted
    return F.avg_pool2d(_padded(x, pads), kernel, strides, ceil_mode=ceil)


def _asymmetric(old: int, new: int) -> Tensor:
    """Linear interpolation where pixel i of the result lies at i * old / new: [new, old].

    PyTorch has none of that kind; TensorFlow's older exporters write it.
    """
    at = torch.arange(new) * (old / new)
    left = at.floor().long()
    weight = (at - left)[:, None]
    unit = torch.eye(old)
    return (1 - weight) * unit[left] + weight * unit[(left + 1).clamp(max=old - 1)]


def _resize(node: gs.Node, inputs: Inputs) -> Tensor:
    x = _operand(inputs, 0)
    scales, sizes = _optional(inputs, 2), _ints(inputs, 3)
    if sizes is None:
        assert scales is not None
        sizes = [int(n * float(s)) for n, s in zip(x.shape, scales.tolist(), strict=True)]
    mode = node.attrs.get("mode", "nearest")
    place = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    # Nearest neighbour by whole factors is the same by every convention for integer scales.
    whole = all(n % m == 0 for n, m in zip(sizes[2:], x.shape[2:], strict=True))
    if mode == "nearest" and whole:
        return F.interpolate(x, size=sizes[2:], mode="nearest")
    if mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = place == "align_corners"
        return F.interpolate(x, size=sizes[2:], mode="bilinear", align_corners=corners)
    if mode == "linear" and place == "asymmetric":
        rows, columns = (
            _asymmetric(old, new).to(x) for old, new in zip(x.shape[2:], sizes[2:], strict=True)
        )
        return rows @ x @ columns.t()
    raise Unsupported(f"Resize ({mode}, {place}) cannot be trained", node=label(node))


def _reshape(node: gs.Node, inputs: Inputs) -> Tensor:
    x, shape = _operand(inputs, 0), _ints(inputs, 1) or []
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if sizes[:1] == [1] and isinstance(node.inputs[0], gs.Variable):
        sizes[0] = len(
            x
        )  # a batch of one, written down by the exporter; in training there are more
    return x.reshape(sizes)


def _squeeze(node: gs.Node, inputs: Inputs) -> Tensor:
    x, axes = _operand(inputs, 0), _ints(inputs, 1) or node.attrs.get("axes")
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else axes
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(node: gs.Node, inputs: Inputs) -> Tensor:
    x, axes = _operand(inputs, 0), _ints(inputs, 1) or list(node.attrs["axes"])
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _slice(_: gs.Node, inputs: Inputs) -> Tensor:
    x = _operand(inputs, 0)
    starts, ends = _ints(inputs, 1) or [], _ints(inputs, 2) or []
    axes = _ints(inputs, 3) or list(range(len(starts)))
    steps = _ints(inputs, 4) or [1] * len(starts)
    places: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _pad(node: gs.Node, inputs: Inputs) -> Tensor:
    x, pads = _operand(inputs, 0), _ints(inputs, 1) or []
    if node.attrs.get("mode", "constant") != "constant" or _optional(inputs, 3) is not None:
        raise Unsupported("this Pad cannot be trained", node=label(node))
    value = _optional(inputs, 2)
    return _padded(x, pads, 0.0 if value is None else float(value))


def _clip(node: gs.Node, inputs: Inputs) -> Tensor:
    low, high = _optional(inputs, 1), _optional(inputs, 2)
    # As numbers: with tensors as bounds, PyTorch derives by them as well, slowly.
    lower = node.attrs.get("min") if low is None else float(low)
    upper = node.attrs.get("max") if high is None else float(high)
    return torch.clamp(_operand(inputs, 0), lower, upper)


def _hard_sigmoid(node: gs.Node, inputs: Inputs) -> Tensor:
    slope, offset = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    return torch.clamp(slope * _operand(inputs, 0) + offset, 0, 1)


def _fold(operation: Callable[[Tensor, Tensor], Tensor]) -> TorchOperator:
    def run(_: gs.Node, inputs: Inputs) -> Tensor:
        result = _operand(inputs, 0)
        for index in range(1, len(inputs)):
            result = operation(result, _operand(inputs, index))
        return result

    return run


def _unary(operation: Callable[[Tensor], Tensor]) -> TorchOperator:
    return lambda _, inputs: operation(_operand(inputs, 0))


TORCH_OPERATORS: Mapping[str, TorchOperator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "BatchNormalization": batch_norm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _unary(lambda x: x.mean(dim=(2, 3), keepdim=True)),
    "Resize": _resize,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda n, x: _operand(x, 0).permute(*n.attrs["perm"]),
    "Slice": _slice,
    "Pad": _pad,
    "Concat": lambda n, x: torch.cat([_operand(x, i) for i in range(len(x))], n.attrs["axis"]),
    "Clip": _clip,
    "Relu": _unary(torch.relu),
    "LeakyRelu": lambda n, x: F.leaky_relu(_operand(x, 0), n.attrs.get("alpha", 0.01)),
    "Elu": lambda n, x: F.elu(_operand(x, 0), n.attrs.get("alpha", 1.0)),
    "Sigmoid": _unary(torch.sigmoid),
    "HardSwish": _unary(F.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Mish": _unary(F.mish),
    "Softplus": _unary(F.softplus),
    "PRelu": lambda _, x: torch.where(
        _operand(x, 0) < 0, _operand(x, 0) * _operand(x, 1), _operand(x, 0)
    ),
    "Tanh": _unary(torch.tanh),
    "Exp": _unary(torch.exp),
    "Erf": _unary(torch.erf),
    "Abs": _unary(torch.abs),
    "Neg": _unary(torch.neg),
    "Sqrt": _unary(torch.sqrt),
    "Identity": _unary(lambda x: x),
    "Add": _fold(torch.add),
    "Sum": _fold(torch.add),
    "Sub": _fold(torch.sub),
    "Mul": _fold(torch.mul),
    "Div": _fold(torch.div),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
}
"""ONNX operators in PyTorch: (node, inputs) -> output. No other can be trained through."""
