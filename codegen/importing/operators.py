"""ONNX operators that TVM's importer lacks or gets wrong, written in Relax by ourselves.

A converter takes the block builder, the operator's inputs and its attributes. Sizes are static, and
float16 is gone by then (`float32.in_float32`). A result of None leaves the operator to TVM's own
converter after all, which sees the attributes as they were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import tvm
from onnx import helper
from tvm import relax, te, tirx

from graphopt.codegen.importing.quantisation import dequantize, dynamic_quantize, quantize
from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.importing.resampling import resize
from graphopt.errors import Unsupported

Expr = Any
Attributes = dict[str, Any]
Converter = Callable[[Any, Sequence[Expr], Attributes], Expr | None]

MOST_RANKED = 32768
"""Most numbers that are ranked for TopK: each is compared with each."""


def _constant(expr: Expr) -> float | None:
    """The number in a one-element Relax constant."""
    if isinstance(expr, tvm.ir.GenericConst) and expr.value.numpy().size == 1:
        return float(expr.value.numpy().item())
    return None


def _like(x: Expr, value: float) -> Expr:
    """A number of a tensor's type."""
    dtype = str(x.ty.dtype)
    return relax.const(float(value) if dtype.startswith("float") else int(value), dtype)


def _node(attributes: Attributes) -> str:
    return str(attributes["tvm_custom"]["name"])


# Element-wise ones become plain arithmetic, which fuses into convolutions. TVM makes kernels of
# their own of Clip and what it is part of, its Elu evaluates exp where it overflows, it has no
# Swish, and Max and Min it stacks and reduces.


def _clip(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr | None:
    bounds = [
        _constant(inputs[i]) if len(inputs) > i and inputs[i] is not None else attributes.get(name)
        for i, name in ((1, "min"), (2, "max"))
    ]
    if any(len(inputs) > i and inputs[i] is not None and bounds[i - 1] is None for i in (1, 2)):
        return None  # bounds that are computed: leave it to TVM
    result = inputs[0]
    for bound, operation in zip(bounds, (relax.op.maximum, relax.op.minimum), strict=True):
        if bound is not None:
            result = operation(result, _like(inputs[0], bound))
    return result


def _elu(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    x = inputs[0]
    negative = relax.op.exp(relax.op.minimum(x, _like(x, 0))) - _like(x, 1)
    return relax.op.nn.relu(x) + _like(x, attributes.get("alpha", 1.0)) * negative


def _celu(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    x, alpha = inputs[0], _like(inputs[0], attributes.get("alpha", 1.0))
    negative = relax.op.exp(relax.op.minimum(x, _like(x, 0)) / alpha) - _like(x, 1)
    return relax.op.nn.relu(x) + alpha * negative


def _swish(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    x = inputs[0]
    return x * relax.op.sigmoid(_like(x, attributes.get("alpha", 1.0)) * x)


def _hard_sigmoid(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    x = inputs[0]
    alpha, beta = (_like(x, attributes.get(k, v)) for k, v in (("alpha", 0.2), ("beta", 0.5)))
    return relax.op.minimum(relax.op.maximum(alpha * x + beta, _like(x, 0)), _like(x, 1))


def _hard_swish(builder: Any, inputs: Sequence[Expr], _: Attributes) -> Expr:
    return inputs[0] * _hard_sigmoid(builder, inputs, {"alpha": 1 / 6})


def _folded(operation: Callable[[Expr, Expr], Expr]) -> Converter:
    """Max or Min of any number of tensors, two at a time."""

    def convert(_: Any, inputs: Sequence[Expr], __: Attributes) -> Expr | None:
        return reduce(operation, inputs) if len(inputs) > 1 else None

    return convert


# Padding by name becomes padding by number: TVM reads SAME_LOWER as SAME_UPPER in pools, and knows
# no output_shape.


def _padded(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> None:
    """Put what `auto_pad` stands for into a convolution's or pool's attributes."""
    mode = attributes.pop("auto_pad", b"NOTSET").decode()
    if mode == "NOTSET":
        return
    size = shape_of(inputs[0])[2:]
    kernel = attributes.get("kernel_shape") or shape_of(inputs[1])[2:]
    ones = (1,) * len(size)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    totals = [0] * len(size)
    if mode != "VALID":
        totals = [
            max(0, (-(-n // stride) - 1) * stride + dilation * (k - 1) + 1 - n)
            for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
        ]
    attributes["pads"] = _halved(totals, more_first=mode == "SAME_LOWER")


def _halved(totals: Sequence[int], *, more_first: bool) -> tuple[int, ...]:
    """Padding shared by both ends of every axis, the odd one where it is said."""
    first = [(total + more_first) // 2 for total in totals]
    return (*first, *(total - one for total, one in zip(totals, first, strict=True)))


def _padded_transpose(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> None:
    """Put what `output_shape` or `auto_pad` stand for into the attributes of a ConvTranspose."""
    mode = attributes.pop("auto_pad", b"NOTSET").decode()
    size, kernel = shape_of(inputs[0])[2:], shape_of(inputs[1])[2:]
    ones = (1,) * len(size)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    wanted = attributes.pop("output_shape", ())[-len(size) :]
    if not wanted and mode.startswith("SAME"):
        wanted = tuple(n * stride for n, stride in zip(size, strides, strict=True))
    if mode == "VALID":
        attributes["pads"] = (0,) * 2 * len(size)
    if not wanted:
        return
    added = list(attributes.get("output_padding", (0,) * len(size)))
    totals = [
        stride * (n - 1) + dilation * (k - 1) + 1 + more - out
        for n, k, stride, dilation, more, out in zip(
            size, kernel, strides, dilations, added, wanted, strict=True
        )
    ]
    # Where the output is to be larger than what the kernel reaches, it goes on after its end.
    added = [more - min(total, 0) for more, total in zip(added, totals, strict=True)]
    if any(more >= max(s, d) for more, s, d in zip(added, strides, dilations, strict=True)):
        raise Unsupported(
            f"the output {list(wanted)} is larger than a ConvTranspose can make it",
            node=_node(attributes),
        )
    attributes["output_padding"] = tuple(added)
    totals = [max(total, 0) for total in totals]
    attributes["pads"] = _halved(totals, more_first=mode != "SAME_UPPER")


# Several results: a static plan has no tuples.


def _split(builder: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr | None:
    x, count = inputs[0], attributes["tvm_custom"]["num_outputs"]
    shape = shape_of(x)
    axis = attributes.get("axis", 0) % len(shape)
    sizes = attributes.get("split")
    if len(inputs) > 1 and inputs[1] is not None:
        if not isinstance(inputs[1], tvm.ir.GenericConst):
            return None
        sizes = tuple(int(n) for n in inputs[1].value.numpy())
    if sizes is None:
        each = -(-shape[axis] // count)
        sizes = (*[each] * (count - 1), shape[axis] - each * (count - 1))
    parts = [
        builder.emit(relax.op.strided_slice(x, [axis], [end - size], [end]), name_hint="node")
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]
    return relax.Tuple(parts) if len(parts) > 1 else parts[0]


def _top_k(builder: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    """Each number's rank by counting those before it, then each rank's number: no loop that sorts.

    Equal ones rank as they lie, as in ONNX.
    """
    x, shape, count = inputs[0], shape_of(inputs[0]), _constant(inputs[1])
    axis = attributes.get("axis", -1) % len(shape)
    if count is None:
        raise Unsupported(
            "its K is computed by the network, so its result has no fixed size",
            node=_node(attributes),
        )
    if shape[axis] > MOST_RANKED:
        raise Unsupported(
            f"it is to rank {shape[axis]} numbers; {MOST_RANKED} is the most",
            node=_node(attributes),
            hint="cut the network before it, and rank what it gives on the host",
        )
    largest = attributes.get("largest", 1)
    result = (*shape[:axis], int(count), *shape[axis + 1 :])

    def at(index: Sequence[Expr], place: Expr) -> tuple[Expr, ...]:
        return (*index[:axis], place, *index[axis + 1 :])

    def ranks(x: Expr) -> Expr:
        other = te.reduce_axis((0, shape[axis]), "other")

        def rank(*index: Expr) -> Expr:
            this, that = x[index], x[at(index, other)]
            better = that > this if largest else that < this
            before = tirx.any(better, tirx.all(that == this, other < index[axis]))
            return te.sum(before.astype("int32"), axis=other)

        return te.compute(shape, rank, name="rank")

    def of_rank(x: Expr, ranks: Expr, dtype: str) -> Expr:
        source = te.reduce_axis((0, shape[axis]), "source")

        def value(*index: Expr) -> Expr:
            place = at(index, source)
            number = source.astype(dtype) if dtype == "int64" and x is ranks else x[place]
            zero = tirx.const(0, dtype)
            return te.sum(tirx.Select(ranks[place] == index[axis], number, zero), axis=source)

        return te.compute(result, value, name="of_rank")

    ranked = builder.emit_te(ranks, x, primfunc_name_hint="rank")
    values = builder.emit_te(of_rank, x, ranked, str(x.ty.dtype), primfunc_name_hint="top")
    places = builder.emit_te(lambda r: of_rank(r, r, "int64"), ranked, primfunc_name_hint="top")
    return relax.Tuple([values, places])


def _max_pool(builder: Any, inputs: Sequence[Expr], attributes: Attributes) -> None:
    if attributes["tvm_custom"]["num_outputs"] > 1:
        raise Unsupported(
            "the network uses the indices of this MaxPool, which no kernel gives",
            node=_node(attributes),
            hint="cut the network before what reads them",
        )
    _padded(builder, inputs, attributes)


def _cast(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr | None:
    """Nothing, where the type is already what it should be."""
    known = not isinstance(inputs[0].ty, relax.ShapeType)
    to = helper.tensor_dtype_to_np_dtype(attributes["to"]).name
    return inputs[0] if known and str(inputs[0].ty.dtype) == to else None


CONVERTERS: dict[str, Converter] = {
    "AveragePool": _padded,
    "Cast": _cast,
    "Celu": _celu,
    "Clip": _clip,
    "Conv": _padded,
    "ConvTranspose": _padded_transpose,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": dynamic_quantize,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LpPool": _padded,
    "Max": _folded(relax.op.maximum),
    "MaxPool": _max_pool,
    "Min": _folded(relax.op.minimum),
    "QuantizeLinear": quantize,
    "Resize": resize,
    "Split": _split,
    "Swish": _swish,
    "TopK": _top_k,
}
"""The converters, by operator."""
