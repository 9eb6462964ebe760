"""ONNX -> Relax through TVM's importer, with ONNX node names kept on the variables."""

from __future__ import annotations

import warnings
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import onnx_frontend

from graphopt.codegen.importing.float32 import in_float32
from graphopt.codegen.importing.operators import CONVERTERS
from graphopt.codegen.importing.quantisation import folded
from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.errors import Unsupported

Expr = Any


class _Importer(onnx_frontend.ONNXGraphImporter):
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
        convert = CONVERTERS.get(op_name)
        result = convert(self.bb, inputs, attrs) if convert else None
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

    Those that come quantised stay so (`graphopt.codegen.importing.quantisation`).

    Args:
        model: static shapes, standard operators; every node has a name.

    Returns:
        The module, and for the name of a variable in `main` the name of the ONNX node it comes
        from (variables inside a converted node have none).

    Raises:
        Unsupported: TVM's importer has no rule for an operator, or refuses one; names the node.
    """
    model = in_float32(_without_unused(model))
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
    module["main"] = _Reshaped().visit_expr(module["main"])
    return folded(module, tidy), importer.node_of


@mutator
class _Reshaped(PyExprMutator):
    """Reshapes constants, biases most of all: FoldConstant compiles a kernel for each of them."""

    def visit_call_(self, call: Expr) -> Expr:
        """One call."""
        call = super().visit_call_(call)
        if getattr(call.op, "name", "") == "relax.reshape":
            constant, _ = call.args
            if isinstance(constant, tvm.ir.GenericConst):
                return relax.const(constant.value.numpy().reshape(shape_of(call)))
        return call


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, whose nodes have no further results than are used."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in graph.node:
        # How many parts a Split makes may be said by its results alone.
        while node.op_type != "Split" and len(node.output) > 1 and node.output[-1] not in used:
            del node.output[-1]
    return result
