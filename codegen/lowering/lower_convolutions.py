"""Relax -> Relax: convolutions become calls of our kernels, activations become channel-blocked.

Every 4-D tensor may exist planar, (1, C, H, W), or blocked, (1, blocks, H, W, lanes), or both
(`tensor_forms`). Operators that can work on blocked tensors (element-wise, pooling, resizing,
concatenation) follow their inputs; whatever else there is gets planar tensors
and stays with TVM. Our kernels may store blocked tensors in half precision; TVM's see float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import tvm
from tvm import relax

from graphopt.codegen.importing.quantised_weights import QuantisedWeight
from graphopt.codegen.importing.resampling import resample, resized_axes
from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.kernels.conv.conv_block_sparse import punched
from graphopt.codegen.kernels.conv.template import ConvSpec, pack_channels
from graphopt.codegen.lowering.blocked_operators import RULES, BlockedOperators
from graphopt.codegen.lowering.conv_calls import (
    Expr,
    as_1x1,
    flat,
    has_weight,
    spec_of,
    weight_of,
)
from graphopt.codegen.lowering.fusion import FusedRegion, find_regions
from graphopt.codegen.lowering.lower_bfloat16 import Bfloat16Lowering
from graphopt.codegen.lowering.lower_quantised import QuantisedLowering
from graphopt.codegen.lowering.mixed_precision import Halves
from graphopt.codegen.lowering.schedule import columns_at_once
from graphopt.codegen.lowering.tensor_forms import Forms, TensorForms, may_be_halved
from graphopt.codegen.targets import Target, in_floats


class LoweredLayer(NamedTuple):
    """A call of one of our kernels: the function's name, the ONNX node, multiply-adds, the spec,
    and what a CPU must have for it beside the target's features.
    """

    kernel: str
    node: str
    macs: int
    spec: ConvSpec
    features: tuple[str, ...] = ()


def use_our_kernels(
    module: tvm.IRModule,
    target: Target,
    node_of: dict[str, str],
    measured: Mapping[str, KernelChoice] = MappingProxyType({}),
    halves: Halves | None = None,
    quantised: Mapping[str, QuantisedWeight] = MappingProxyType({}),
) -> tuple[tvm.IRModule, list[LoweredLayer]]:
    """Rewrite `main` of an imported network.

    Args:
        module: from `importer.import_onnx`.
        target: gives the lanes of a block and the kernels' tiles.
        node_of: variable name to ONNX node name.
        measured: which kernel is fastest, by `ConvSpec.key`, where that is known.
        halves: which tensors are stored in half precision; None: none.
        quantised: weights that are bytes, by the ONNX node, where convolutions are to be of bytes.

    Returns:
        The new module, and the calls of our kernels in execution order.

    Raises:
        Unsupported: a batch size other than 1.
    """
    return _Rewrite(module, target, node_of, measured, halves, quantised).run()


class _Rewrite:
    def __init__(
        self,
        module: tvm.IRModule,
        target: Target,
        node_of: dict[str, str],
        measured: Mapping[str, KernelChoice],
        halves: Halves | None,
        quantised: Mapping[str, QuantisedWeight],
    ) -> None:
        self._module = module
        self._target = target
        self._node_of = node_of
        self._measured = measured
        self._halves = halves
        self._builder = relax.BlockBuilder()
        self._forms = TensorForms(self._builder, target.lanes)
        self._blocked = BlockedOperators(self._builder, self._forms, target.lanes)
        self._built: dict[ConvSpec, Expr] = {}
        self._layers: list[LoweredLayer] = []
        self._weights = quantised
        self._bytes: QuantisedLowering | None = None
        self._bfloat16: Bfloat16Lowering | None = None

    def run(self) -> tuple[tvm.IRModule, list[LoweredLayer]]:
        main = self._module["main"]
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        outputs = [main.body.body]
        if bindings and isinstance(bindings[-1].value, relax.Tuple):
            outputs = list(bindings.pop().value.fields)
        regions = {
            region.result: (region, spec)
            for region in find_regions(bindings, outputs)
            if (spec := spec_of(region)) is not None
        }
        absorbed = {member for region, _ in regions.values() for member in region.members}
        if self._weights:
            self._bytes = QuantisedLowering(
                bindings, outputs, self._weights, self._target, self._builder, self._forms
            )
        if self._target.bfloat16:
            self._bfloat16 = Bfloat16Lowering(
                bindings, outputs, self._target, self._builder, self._forms
            )
        if self._halves:
            inner = [binding for binding in bindings if binding.var not in set(outputs)]
            own = [
                var
                for var, value in ((binding.var, binding.value) for binding in inner)
                if var in regions or (var not in absorbed and may_be_halved(value))
            ]
            self._forms.choose_halves(own, self._node_of, self._halves)
        for parameter in main.params:
            self._forms[parameter] = Forms(planar=parameter)
        with self._builder.function("main", params=list(main.params)):
            with self._builder.dataflow():
                for binding in bindings:
                    if binding.var in regions:
                        self._convolution(*regions[binding.var])
                    elif binding.var not in absorbed:
                        self._forms[binding.var] = self._other(binding.var, binding.value)
                planar = [self._forms.planar(output) for output in outputs]
                result = self._builder.emit_output(relax.Tuple(planar))
            self._builder.emit_func_output(result)
        return self._builder.get(), self._layers

    # Convolutions

    def _convolution(self, region: FusedRegion, spec: ConvSpec) -> None:
        source = region.call.args[0]
        lanes = self._target.lanes
        node = next((n for m in region.members if (n := self._node_of.get(m.name))), "")
        made = None
        if self._bytes is not None:
            made = self._bytes.convolution(region, spec, node)
        elif self._bfloat16 is not None and (kernel := self._bfloat16.convolution(region, spec)):
            made = (kernel[0], spec.macs, kernel[1])
        if made is not None:
            function, macs, features = made
            layer = LoweredLayer(function.name_hint, node, macs, spec, features)
            self._layers.append(layer)
            return
        if spec.groups > 1 and not spec.depthwise:
            x = self._forms.stored(source, spec.in_channels)
        elif self._forms.is_blocked(source):
            spec = replace(spec, in_channels=self._forms[source].runs)
            x = self._forms.stored(source)
        elif sum(spec.in_channels) < lanes and not (spec.depthwise or spec.transposed):
            # A photo's three channels would leave most of a block empty.
            spec = replace(spec, planar=True)
            x = self._forms.planar(source)
        else:
            x = self._forms.stored(source)
        dense_weight = weight_of(region.call)
        spec = punched(spec, dense_weight, self._target)
        halved = x.ty.dtype == "float16" and region.result in self._forms.to_halve
        here = self._target if halved else in_floats(self._target)
        choice = kernel_choice.choose(spec, here, self._measured)
        packed = choice.pack_weight(dense_weight, spec, self._target)
        index = choice.pack_index(dense_weight, spec, self._target)
        weight = self._halves.weight(packed, node) if self._halves else packed
        tensors = [self._forms.stored(tensor, spec.out_runs) for tensor in region.tensors]
        operands = {
            "x": x,
            "weight": relax.const(weight),
            **({} if index is None else {"index": relax.const(index)}),
            **{
                f"channel{n}": relax.const(pack_channels(v, lanes, spec.out_runs))
                for n, v in enumerate(region.channels)
            },
            **{f"tensor{n}": tensor for n, tensor in enumerate(tensors)},
        }
        half = {name for name, operand in operands.items() if operand.ty.dtype == "float16"}
        if region.result in self._forms.to_halve:
            half.add("y")
        spec = replace(spec, half=frozenset(half))
        # Dense kernels are the same whatever is zero.
        built = spec if index is not None else replace(spec, block=None, kept=0)
        function = self._kernel(built, choice)
        self._layers.append(LoweredLayer(function.name_hint, node, built.macs, spec))
        out = relax.TensorType(spec.output_shape(lanes), spec.dtype("y"))
        result = self._builder.emit(relax.call_tir(function, [*operands.values()], out))
        form = "half" if "y" in spec.half else "blocked"
        self._forms[region.result] = Forms(**{form: result}, runs=spec.out_runs)
        if region.gives_bytes and self._bytes is not None:
            self._forms[region.result] = self._bytes.result(region)

    def _kernel(self, spec: ConvSpec, choice: KernelChoice) -> Expr:
        """The function that computes a convolution; equal convolutions share one."""
        if spec not in self._built:
            name = f"{choice.kernel}{'_half' * bool(spec.half)}_{len(self._built)}"
            self._built[spec] = self._builder.add_func(choice.build(spec, self._target), name)
        return self._built[spec]

    # Everything else

    def _other(self, variable: Expr, value: Expr) -> Forms:
        """Emit a binding that belongs to no kernel of ours."""
        narrow = self._bytes or self._bfloat16
        if narrow is not None and (forms := narrow.other(variable, value)) is not None:
            return forms
        name = value.op.name if isinstance(value, relax.Call) and hasattr(value.op, "name") else ""
        if name == "relax.call_dps_packed":
            return self._resample(value)
        if name == "relax.matmul" and self._target.kind == "cpu" and has_weight(value):
            return Forms(planar=self._product(value))
        rule = RULES.get(name)
        if (
            rule
            and len(variable.ty.shape) == 4
            and any(map(self._forms.is_blocked, flat(value.args)))
        ):
            blocked = rule(self._blocked, value)
            if blocked is not None:
                expr, runs = blocked
                return Forms(blocked=self._builder.emit(expr), runs=runs)
        return Forms(planar=self._builder.emit(self._with_planar_inputs(value)))

    def _with_planar_inputs(self, value: Expr) -> Expr:
        """The same expression over planar tensors, calling functions of the new module."""

        def visit(expr: Expr) -> Expr:
            if isinstance(expr, relax.Var) and expr in self._forms:
                return self._forms.planar(expr)
            if isinstance(expr, relax.Tuple):
                return relax.Tuple([visit(f) for f in expr.fields])
            if isinstance(expr, relax.TupleGetItem):
                return relax.TupleGetItem(visit(expr.tuple_value), expr.index)
            if isinstance(expr, relax.GlobalVar):
                return self._builder.add_func(self._module[expr], expr.name_hint)
            return expr

        if isinstance(value, relax.Call):
            arguments = [visit(argument) for argument in value.args]
            return relax.Call(value.op, arguments, value.attrs, value.ty_args)
        return visit(value)

    def _product(self, call: Expr) -> Expr:
        """A matrix product whose weight lies as a CPU reads it: by columns computed at once."""
        weight = call.args[1].value.numpy()
        inner, columns = weight.shape
        width = columns_at_once(columns, self._target.lanes)
        packed = weight.reshape(inner, -1, width).swapaxes(0, 1)
        return self._builder.emit_te(
            as_1x1,
            self._forms.planar(call.args[0]),
            relax.const(np.ascontiguousarray(packed)),
            primfunc_name_hint="matmul",
        )

    def _resample(self, call: Expr) -> Forms:
        """What `resampling.resize` left, on the input as it lies."""
        x, *tables = call.args[1].fields
        axes = resized_axes(call)
        runs = self._forms[x].runs if self._forms.is_blocked(x) and set(axes) <= {2, 3} else ()
        source = self._forms.blocked(x) if runs else self._forms.planar(x)
        result = self._builder.emit_te(
            resample, source, axes, *tables, primfunc_name_hint="resample"
        )
        return Forms(blocked=result, runs=runs) if runs else Forms(planar=result)
