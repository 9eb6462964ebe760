"""Relax -> Relax: convolutions become calls of our kernels, activations become channel-blocked.

Every 4-D tensor may exist planar, (1, C, H, W), or blocked, (1, blocks, H, W, lanes), or both
(`tensor_forms`). Operators that can work on blocked tensors (element-wise, pooling, resizing,
concatenation) follow their inputs; whatever else there is gets planar tensors
and stays with TVM. Our kernels may store blocked tensors in half precision; TVM's see float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import tvm
from tvm import relax

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.importing.resampling import resample
from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.kernels.conv.conv_block_sparse import punched
from graphopt.codegen.kernels.conv.template import ConvSpec, blocks, pack_channels
from graphopt.codegen.lowering.conv_calls import (
    Expr,
    Runs,
    as_1x1,
    blocks_of,
    empty_lanes,
    flat,
    has_weight,
    mean_of,
    spec_of,
    weight_of,
)
from graphopt.codegen.lowering.fusion import ELEMENTWISE, FusedRegion, find_regions
from graphopt.codegen.lowering.mixed_precision import Halves
from graphopt.codegen.lowering.schedule import columns_at_once
from graphopt.codegen.lowering.tensor_forms import Forms, TensorForms, may_be_halved
from graphopt.codegen.targets import Target


class LoweredLayer(NamedTuple):
    """A call of one of our kernels: the function's name, the ONNX node, multiply-adds, the spec."""

    kernel: str
    node: str
    macs: int
    spec: ConvSpec


def use_our_kernels(
    module: tvm.IRModule,
    target: Target,
    node_of: dict[str, str],
    measured: Mapping[str, KernelChoice] = MappingProxyType({}),
    halves: Halves | None = None,
) -> tuple[tvm.IRModule, list[LoweredLayer]]:
    """Rewrite `main` of an imported network.

    Args:
        module: from `importer.import_onnx`.
        target: gives the lanes of a block and the kernels' tiles.
        node_of: variable name to ONNX node name.
        measured: which kernel is fastest, by `ConvSpec.key`, where that is known.
        halves: which tensors are stored in half precision; None: none.

    Returns:
        The new module, and the calls of our kernels in execution order.

    Raises:
        Unsupported: a batch size other than 1.
    """
    return _Rewrite(module, target, node_of, measured, halves).run()


class _Rewrite:
    def __init__(
        self,
        module: tvm.IRModule,
        target: Target,
        node_of: dict[str, str],
        measured: Mapping[str, KernelChoice],
        halves: Halves | None,
    ) -> None:
        self._module = module
        self._target = target
        self._node_of = node_of
        self._measured = measured
        self._halves = halves
        self._builder = relax.BlockBuilder()
        self._forms = TensorForms(self._builder, target.lanes)
        self._built: dict[ConvSpec, Expr] = {}
        self._layers: list[LoweredLayer] = []

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
        choice = kernel_choice.choose(spec, self._target, self._measured)
        packed = choice.pack_weight(dense_weight, spec, self._target)
        index = choice.pack_index(dense_weight, spec, self._target)
        node = next((n for m in region.members if (n := self._node_of.get(m.name))), "")
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

    def _kernel(self, spec: ConvSpec, choice: KernelChoice) -> Expr:
        """The function that computes a convolution; equal convolutions share one."""
        if spec not in self._built:
            name = f"{choice.kernel}{'_half' * bool(spec.half)}_{len(self._built)}"
            self._built[spec] = self._builder.add_func(choice.build(spec, self._target), name)
        return self._built[spec]

    # Everything else

    def _other(self, variable: Expr, value: Expr) -> Forms:
        """Emit a binding that belongs to no kernel of ours."""
        name = value.op.name if isinstance(value, relax.Call) and hasattr(value.op, "name") else ""
        if name == "relax.call_dps_packed":
            return self._resample(value)
        if name == "relax.matmul" and self._target.kind == "cpu" and has_weight(value):
            return Forms(planar=self._product(value))
        rule = _BLOCKED_RULES.get(name)
        if (
            rule
            and len(variable.ty.shape) == 4
            and any(map(self._forms.is_blocked, flat(value.args)))
        ):
            blocked = rule(self, value)
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

    def _elementwise(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Element-wise over blocked tensors; constants of one value a channel are blocked too."""
        lead = next(a for a in call.args if self._forms.is_blocked(a))
        runs = self._forms[lead].runs
        channels = sum(runs)
        arguments = []
        for argument in call.args:
            if isinstance(argument, tvm.ir.GenericConst):
                value = argument.value.numpy()
                if value.size == 1:
                    arguments.append(relax.const(value.reshape(())))
                    continue
                shape = (1,) * (4 - value.ndim) + value.shape
                if shape[:2] != (1, channels):
                    return None
                packed = pack_channels(value.reshape(shape)[0], self._target.lanes, runs)
                # Lanes past the last channel must stay finite, so nothing is divided by zero.
                if call.op.name == "relax.divide":
                    packed[empty_lanes(runs, self._target.lanes)] = 1.0
                arguments.append(relax.const(packed[None]))
            elif len(argument.ty.shape) == 4 and shape_of(argument)[:2] == (1, channels):
                arguments.append(self._forms.blocked(argument, runs))
            else:
                return None
        return relax.Call(call.op, arguments, call.attrs, call.ty_args), runs

    def _concatenate(self, call: Expr) -> tuple[Expr, Runs] | None:
        parts = list(call.args[0].fields)
        if int(call.attrs.axis) not in (1, -3) or any(len(p.ty.shape) != 4 for p in parts):
            return None
        tensors, runs = [], []
        for part in parts:
            if isinstance(part, tvm.ir.GenericConst):
                value = part.value.numpy()
                packed = pack_channels(value[0], self._target.lanes)
                tensors.append(relax.const(packed[None]))
                runs.append(value.shape[1])
            else:
                tensors.append(self._forms.blocked(part))
                runs += self._forms[part].runs
        return relax.op.concat(tensors, axis=1), tuple(runs)

    def _slice(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Slice rows and columns, and channels where the slice starts at the start of a block."""
        x, runs, lanes = call.args[0], self._forms[call.args[0]].runs, self._target.lanes
        axes, begin, end, *rest = ([int(v.value) for v in part.fields] for part in call.args[1:])
        steps = rest[0] if rest else [1] * len(axes)
        shape = shape_of(x)
        axes = [axis % 4 for axis in axes]
        if 0 in axes:
            return None
        for i, axis in enumerate(axes):
            if axis == 1:
                first, last, _ = slice(begin[i], end[i]).indices(shape[1])
                found = blocks_of(runs, first, last, lanes) if steps[i] == 1 else None
                if found is None:
                    return None
                begin[i], runs = found
                end[i] = begin[i] + blocks(runs, lanes)
        return relax.op.strided_slice(self._forms.blocked(x), axes, begin, end, steps), runs

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
        axes = [int(axis) for axis in call.args[0].global_symbol.split(".")[2:]]
        runs = self._forms[x].runs if self._forms.is_blocked(x) and set(axes) <= {2, 3} else ()
        source = self._forms.blocked(x) if runs else self._forms.planar(x)
        result = self._builder.emit_te(
            resample, source, axes, *tables, primfunc_name_hint="resample"
        )
        return Forms(blocked=result, runs=runs) if runs else Forms(planar=result)

    def _pool(self, call: Expr) -> tuple[Expr, Runs] | None:
        runs = self._forms[call.args[0]].runs
        a = call.attrs
        operator = {
            "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
            "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
        }[call.op.name]
        layout = f"NCHW{self._target.lanes}c"
        pooled = operator(
            self._forms.blocked(call.args[0]),
            pool_size=list(a.pool_size),
            strides=list(a.strides),
            padding=list(a.padding),
            dilation=list(a.dilation),
            ceil_mode=bool(a.ceil_mode),
            count_include_pad=bool(a.count_include_pad),
            layout=layout,
            out_layout=layout,
        )
        return pooled, runs

    def _mean(self, call: Expr) -> tuple[Expr, Runs] | None:
        if sorted(int(axis) % 4 for axis in call.attrs.axis) != [2, 3] or not call.attrs.keepdims:
            return None
        mean = self._builder.call_te(mean_of, self._forms.stored(call.args[0]))
        return mean, self._forms[call.args[0]].runs


_BLOCKED_RULES: dict[str, Callable[[_Rewrite, Expr], tuple[Expr, Runs] | None]] = {
    **dict.fromkeys(ELEMENTWISE, _Rewrite._elementwise),
    "relax.concat": _Rewrite._concatenate,
    "relax.nn.max_pool2d": _Rewrite._pool,
    "relax.nn.avg_pool2d": _Rewrite._pool,
    "relax.mean": _Rewrite._mean,
    "relax.strided_slice": _Rewrite._slice,
}
"""Operators that work on blocked tensors: the new expression and its runs, or None (planar)."""
