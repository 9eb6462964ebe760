"""Quantised tensors in Relax, numbers as onnxruntime makes them; weights stay whole numbers.

What the importer leaves, of constants `scale` and `zero` that are scalars, or of one number a
channel along `axis`:

    relax.quantize(x, scale, zero, axis, out_dtype)
    relax.dequantize(q, scale, zero, axis, out_dtype="float32")

A weight is `relax.dequantize` of a constant of 8 bits; longer constants (biases) become float32 at
once. `with_float_weights` makes float32 of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tvm
from numpy.typing import NDArray
from onnx import helper
from tvm import relax, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.errors import Unsupported

Expr = Any
Attributes = dict[str, Any]

QUANTIZE, DEQUANTIZE = "relax.quantize", "relax.dequantize"

STEPS = ("int8", "uint8", "int16", "uint16")
"""Element types that tensors are quantised to."""
WHOLE = (*STEPS, "int32")
"""Element types that are dequantised."""
_AFTER_FOLDING = "graphopt.quantised"
"""Parameters that stand for quantised weights while constants are folded: names begin with it."""


def quantize(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    """A QuantizeLinear.

    Raises:
        Unsupported: to other than whole numbers of 8 or 16 bits, or block by block.
    """
    x, scale, zero = (*inputs, None)[:3]
    named = attributes.get("output_dtype", 0)
    to = "uint8" if zero is None else str(zero.ty.dtype)
    if named:
        to = helper.tensor_dtype_to_np_dtype(named).name
    _check(attributes, to, STEPS)
    if str(x.ty.dtype) != "float32":
        x = relax.op.astype(x, "float32")
    axis = _axis(x, attributes)
    scale, zero = _number(scale), _zero(zero, to)
    return relax.op.quantize(x, scale, zero, axis=axis, out_dtype=to)


def dequantize(_: Any, inputs: Sequence[Expr], attributes: Attributes) -> Expr:
    """A DequantizeLinear.

    Raises:
        Unsupported: of other than whole numbers, or block by block.
    """
    x, scale, zero = (*inputs, None)[:3]
    kind = str(x.ty.dtype)
    _check(attributes, kind, WHOLE)
    axis = _axis(x, attributes)
    scale, zero = _number(scale), _zero(zero, kind)
    values = [v for part in (x, scale, zero) if (v := _value(part)) is not None]
    if kind not in ("int8", "uint8") and len(values) == 3:
        return relax.const(_dequantized(*values, axis=axis))
    return relax.op.dequantize(x, scale, zero, axis=axis, out_dtype="float32")


def dynamic_quantize(builder: Any, inputs: Sequence[Expr], _: Attributes) -> Expr:
    """A DynamicQuantizeLinear: to uint8, its scale and zero from the least and greatest number.

    TVM's own divides by nothing where all numbers are zero.
    """
    (x,) = inputs
    none, most = relax.const(0.0), relax.const(255.0)
    low = relax.op.minimum(relax.op.min(x), none)
    range_ = builder.emit(relax.op.maximum(relax.op.max(x), none) - low)
    flat = relax.op.equal(range_, none)
    scale = builder.emit(relax.op.where(flat, relax.const(1.0), range_ / most))
    zero = relax.op.round(relax.op.minimum(relax.op.maximum(none - low / scale, none), most))
    zero = builder.emit(relax.op.astype(zero, "uint8"))
    y = relax.op.quantize(x, scale, zero, axis=0, out_dtype="uint8")
    return relax.Tuple([builder.emit(y), scale, zero])


def _check(attributes: Attributes, kind: str, known: Sequence[str]) -> None:
    node = str(attributes["tvm_custom"]["name"])
    if attributes.get("block_size", 0):
        raise Unsupported("it has a scale for each block of an axis", node=node)
    if kind not in known:
        raise Unsupported(f"it is quantised to {kind}; known are {', '.join(known)}", node=node)


def _axis(x: Expr, attributes: Attributes) -> int:
    """The axis that scales of several numbers run along."""
    rank = len(shape_of(x))
    axis = int(attributes.get("axis", 1))
    return axis % rank if -rank <= axis < rank else 0


def _value(expr: Expr) -> NDArray[Any] | None:
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _number(expr: Expr) -> Expr:
    """A constant whose elements are all the same as a scalar; anything else as it is."""
    value = _value(expr)
    if value is None or not value.size or (value != value.flat[0]).any():
        return expr
    return relax.const(value.reshape(-1)[0], str(value.dtype))


def _zero(expr: Expr | None, kind: str) -> Expr:
    return relax.const(0, kind) if expr is None else _number(expr)


def _dequantized(
    x: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], *, axis: int
) -> NDArray[np.float32]:
    along = [1] * x.ndim
    if scale.size > 1:
        along[axis] = scale.size
        scale = scale.reshape(along)
    if zero.size > 1:
        zero = zero.reshape(along)
    distance = x.astype(np.int32) - zero.astype(np.int32)
    return np.asarray(distance.astype(np.float32) * scale.astype(np.float32))


# Weights


def folded(module: tvm.IRModule, passes: Sequence[Any]) -> tvm.IRModule:
    """A module after passes that fold constants: all but quantised weights, which stay as they are.

    Args:
        module: its `main` is what passes are for.
        passes: module to module.
    """
    visitor = _Weights()
    main = visitor.visit_expr(module["main"])
    weights = visitor.weights
    attributes = main.attrs
    parameters = [*main.params, *weights]
    main = relax.Function(parameters, main.body, main.ret_ty, main.is_pure, attributes)
    module = module.clone()
    module["main"] = main
    module = tvm.transform.Sequential(list(passes))(module)
    values = {weight.name: value for weight, value in weights.items()}
    return relax.transform.BindParams("main", values)(module)


@mutator
class _Weights(PyExprMutator):
    """Puts variables in the place of quantised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[Any, Any] = {}

    def visit_call_(self, call: Expr) -> Expr:
        """One call."""
        if not is_weight(call):
            return super().visit_call_(call)
        data, *rest = call.args
        variable = relax.Var(f"{_AFTER_FOLDING}{len(self.weights)}", data.ty)
        self.weights[variable] = data.value
        return relax.Call(call.op, [variable, *rest], call.attrs, call.ty_args)


def is_weight(expr: Expr) -> bool:
    """Whether an expression is a quantised weight: `relax.dequantize` of a constant."""
    name = getattr(expr.op, "name", "") if isinstance(expr, relax.Call) else ""
    return name == DEQUANTIZE and isinstance(expr.args[0], tvm.ir.GenericConst)


def with_float_weights(module: tvm.IRModule) -> tvm.IRModule:
    """The same network, all of whose weights are float32."""
    module = module.clone()
    module["main"] = _Floats().visit_expr(module["main"])
    # What was done to them (a transposition) is done now.
    inlined = [relax.transform.CanonicalizeBindings(), relax.transform.FoldConstant()]
    return tvm.transform.Sequential(inlined)(module)


@mutator
class _Floats(PyExprMutator):
    """Puts float32 constants in the place of quantised weights."""

    def visit_call_(self, call: Expr) -> Expr:
        """One call."""
        if is_weight(call):
            values = [v for part in call.args if (v := _value(part)) is not None]
            if len(values) == 3:
                return relax.const(_dequantized(*values, axis=int(call.attrs.axis)))
        return super().visit_call_(call)


# What bytes stand for


class Quantisation(NamedTuple):
    """What a byte q stands for: (q - zero) * scale. Signed bytes are taken 128 higher."""

    scale: float
    zero: int


def quantisation_of(value: Expr, operator: str) -> Quantisation | None:
    """What a call of `QUANTIZE` or `DEQUANTIZE` says of a whole tensor's bytes; None of others."""
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != operator:
        return None
    _, scale, zero = value.args
    if not all(isinstance(c, tvm.ir.GenericConst) for c in (scale, zero)):
        return None
    scales, zeros = scale.value.numpy().reshape(-1), zero.value.numpy().reshape(-1)
    quantised = value if operator == QUANTIZE else value.args[0]
    dtype = str(quantised.ty.dtype)
    if len(set(scales)) != 1 or len(set(zeros)) != 1 or dtype not in ("uint8", "int8"):
        return None
    if str(scale.value.dtype) != "float32" or not scales[0] > 0:
        return None
    return Quantisation(float(scales[0]), int(zeros[0]) + 128 * (dtype == "int8"))


# What they compute


def _lowered_quantize(builder: Any, call: Expr) -> Expr:
    """`relax.quantize`: rounded half to even, saturated; what is no number becomes the least step.

    TVM's own makes the greatest of that.
    """
    to = str(call.attrs.out_dtype)

    def step(x: Expr, scale: Expr, zero: Expr) -> Expr:
        return step_of(x, scale, zero, to)

    return _element_wise(builder, call, step, "quantize")


def _lowered_dequantize(builder: Any, call: Expr) -> Expr:
    """`relax.dequantize`: the distance from zero, a whole number, times the scale."""
    return _element_wise(builder, call, number_of, "dequantize")


def step_of(x: Expr, scale: Expr, zero: Expr, to: str) -> Expr:
    """A float32 as a whole number of a type: rounded half to even, saturated."""
    low, high = (tirx.const(limit, "float32") for limit in _limits(to))
    value = te.nearbyint(x / scale) + zero.astype("float32")
    return te.min(tirx.Select(value >= low, value, low), high).astype(to)


def number_of(step: Expr, scale: Expr, zero: Expr) -> Expr:
    """What a whole number stands for: its distance from zero times the scale."""
    return (step.astype("int32") - zero.astype("int32")).astype("float32") * scale


LOWERED = {QUANTIZE: _lowered_quantize, DEQUANTIZE: _lowered_dequantize}
"""What `LegalizeOps` is to make of them."""


def _limits(kind: str) -> tuple[float, float]:
    limits = np.iinfo(kind)
    return float(limits.min), float(limits.max)


def _element_wise(
    builder: Any, call: Expr, compute: Callable[[Expr, Expr, Expr], Expr], name: str
) -> Expr:
    """A call of TIR for each element, its scale and its zero."""
    axis = int(call.attrs.axis)
    x, *parts = call.args
    scalars = [_scalar(part) for part in parts]
    tensors = [part for part, s in zip(parts, scalars, strict=True) if s is None]

    def whole(x: Expr, *tensors: Expr) -> Expr:
        def element(*index: Expr) -> Expr:
            given = iter(tensors)
            read = [_at(next(given), index[axis]) if s is None else s for s in scalars]
            return compute(x[index], *read)

        return te.compute(x.shape, element, name=name)

    return builder.call_te(whole, x, *tensors, primfunc_name_hint=name)


def _scalar(expr: Expr) -> Expr | None:
    """A constant of one element as TIR."""
    value = _value(expr)
    return (
        tirx.const(value.item(), str(value.dtype))
        if value is not None and value.size == 1
        else None
    )


def _at(tensor: Expr, place: Expr) -> Expr:
    """A number of one a channel, or of one for all."""
    if all(int(extent) == 1 for extent in tensor.shape):
        return tensor[(0,) * len(tensor.shape)]
    return tensor[place]
