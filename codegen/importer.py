"""ONNX -> Relax through TVM's importer, with ONNX node names kept on the variables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from graphopt.errors import Unsupported

Expr = Any


def _constant(expr: Expr) -> float | None:
    """The number in a one-element Relax constant."""
    if isinstance(expr, tvm.ir.GenericConst) and expr.value.numpy().size == 1:
        return float(expr.value.numpy().item())
    return None


def _clip(inputs: Sequence[Expr], attributes: dict[str, Any]) -> Expr | None:
    bounds = [
        _constant(inputs[i]) if len(inputs) > i and inputs[i] is not None else attributes.get(name)
        for i, name in ((1, "min"), (2, "max"))
    ]
    if any(len(inputs) > i and inputs[i] is not None and bounds[i - 1] is None for i in (1, 2)):
        return None  # bounds that are computed: leave it to TVM
    result = inputs[0]
    for bound, operation in zip(bounds, (relax.op.maximum, relax.op.minimum), strict=True):
        if bound is not None:
            result = operation(result, relax.const(float(bound), "float32"))
    return result


def _elu(inputs: Sequence[Expr], attributes: dict[str, Any]) -> Expr:
    zero, one = relax.const(0.0, "float32"), relax.const(1.0, "float32")
    alpha = relax.const(float(attributes.get("alpha", 1.0)), "float32")
    negative = relax.op.exp(relax.op.minimum(inputs[0], zero)) - one
    return relax.op.nn.relu(inputs[0]) + alpha * negative


def _swish(inputs: Sequence[Expr], attributes: dict[str, Any]) -> Expr:
    alpha = relax.const(float(attributes.get("alpha", 1.0)), "float32")
    return inputs[0] * relax.op.sigmoid(alpha * inputs[0])


def _hard_sigmoid(inputs: Sequence[Expr], attributes: dict[str, Any]) -> Expr:
    alpha = relax.const(float(attributes.get("alpha", 0.2)), "float32")
    beta = relax.const(float(attributes.get("beta", 0.5)), "float32")
    zero, one = relax.const(0.0, "float32"), relax.const(1.0, "float32")
    return relax.op.minimum(relax.op.maximum(alpha * inputs[0] + beta, zero), one)


def _hard_swish(inputs: Sequence[Expr], _: dict[str, Any]) -> Expr:
    return inputs[0] * _hard_sigmoid(inputs, {"alpha": 1 / 6})


def _folded(operation: Callable[[Expr, Expr], Expr]) -> Callable[..., Expr | None]:
    """Max or Min of any number of tensors, two at a time."""

    def convert(inputs: Sequence[Expr], _: dict[str, Any]) -> Expr | None:
        return reduce(operation, inputs) if len(inputs) > 1 else None

    return convert


def _without_empty(inputs: list[Expr]) -> None:
    """Leave out a region or scales that are empty, as exporters write them beside sizes."""
    for i, value in enumerate(inputs):
        if isinstance(value, tvm.ir.GenericConst) and value.value.numpy().size == 0:
            inputs[i] = None


CONVERTERS: dict[str, Callable[[Sequence[Expr], dict[str, Any]], Expr | None]] = {
    "Clip": _clip,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Max": _folded(relax.op.maximum),
    "Min": _folded(relax.op.minimum),
    "Swish": _swish,
}
"""Operators that we import as plain arithmetic, which fuses into convolutions: TVM makes kernels of
their own of Clip and what it is part of, its Elu evaluates exp where it overflows, it has no Swish,
and Max and Min it stacks and reduces. A result of None leaves it to TVM's own converter after all.
"""


class _Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer, which remembers the node of every variable."""

    def __init__(self) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=False)
        self.node_of: dict[str, str] = {}

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = onnx_frontend._get_convert_map()
        for node in graph.node:
            if node.op_type not in known and node.op_type not in CONVERTERS:
                raise Unsupported(f"TVM cannot import the operator {node.op_type}", node=node.name)

    def _convert_operator(
        self, op_name: str, inputs: list[Expr], attrs: dict[str, Any], opset: int
    ) -> Expr:
        if op_name == "Resize":
            _without_empty(inputs)
        convert = CONVERTERS.get(op_name)
        result = convert(list(inputs), attrs) if convert else None
        if result is None:
            try:
                result = super()._convert_operator(op_name, inputs, attrs, opset)
            except Exception as error:
                raise Unsupported(
                    f"TVM cannot import this {op_name}: {error}", node=attrs["tvm_custom"]["name"]
                ) from error
        if isinstance(result, relax.Call):
            result = self.bb.emit(result, name_hint="node")
            self.node_of[result.name] = attrs["tvm_custom"]["name"]
        return result


def import_onnx(model: onnx.ModelProto) -> tuple[tvm.IRModule, dict[str, str]]:
    """The network as a Relax module with a function `main` whose weights are constants.

    Args:
        model: static shapes, standard operators; every node has a name.

    Returns:
        The module, and for the name of a variable in `main` the name of the ONNX node it comes
        from (variables inside a converted node have none).

    Raises:
        Unsupported: TVM's importer has no rule for an operator, or refuses one; names the node.
    """
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importer = _Importer()
        module = importer.from_onnx(model.graph, opset)
    tidy = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(tidy)(module), importer.node_of
