"""Relax -> Relax for quantised networks: convolutions of bytes, and tensors that stay bytes.

Files of quantised networks say where a tensor is bytes by a pair of QuantizeLinear and
DequantizeLinear around float operators. Here a convolution between two pairs becomes a kernel of
bytes; what only moves bytes (concatenation, largest of a window) moves them as they are; anything
else is computed in floats, as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from graphopt.codegen.importing.quantisation import (
    DEQUANTIZE,
    QUANTIZE,
    Quantisation,
    quantisation_of,
)
from graphopt.codegen.importing.quantised_weights import QuantisedWeight
from graphopt.codegen.importing.relax_shapes import Expr, shape_of
from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.low_precision.int8_choice import Int8Choice, candidates, punched
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, byte_lanes
from graphopt.codegen.kernels.low_precision.stored_conv import Stored
from graphopt.codegen.lowering.blocked_layout import in_blocks
from graphopt.codegen.lowering.blocked_operators import pooled
from graphopt.codegen.lowering.conv_calls import Runs
from graphopt.codegen.lowering.fusion import FusedRegion
from graphopt.codegen.lowering.quantised import (
    SMALLEST_LANES,
    Bytes,
    QuantisedRegion,
    quantise_blocks,
    quantise_planar,
    quantised_region,
)
from graphopt.codegen.lowering.tensor_forms import Forms, TensorForms
from graphopt.codegen.targets import Target

MOVING = ("relax.concat", "relax.nn.max_pool2d")
"""Operators that give bytes of their inputs: exact, where all stand for the same."""


class QuantisedLowering:
    """What is lowered as bytes, of one network.

    Args:
        bindings: of the network's main function.
        outputs: what it returns.
        weights: weights that are bytes, by the ONNX node.
        target: what kernels are for.
        builder: of the new function.
        forms: of every variable so far.
    """

    def __init__(
        self,
        bindings: Sequence[Any],
        outputs: Sequence[Expr],
        weights: Mapping[str, QuantisedWeight],
        target: Target,
        builder: relax.BlockBuilder,
        forms: TensorForms,
    ) -> None:
        self._weights, self._target, self._builder = weights, target, builder
        self._forms = forms
        self._means: dict[Expr, Quantisation] = {}
        """What bytes, and floats that are made of them, stand for."""
        self._users: dict[Expr, list[Expr]] = {}
        for binding in bindings:
            for used in relax.analysis.free_vars(binding.value):
                self._users.setdefault(used, []).append(binding.var)
            means = quantisation_of(binding.value, QUANTIZE)
            means = means or quantisation_of(binding.value, DEQUANTIZE)
            if means is not None and len(shape_of(binding.var)) == 4:
                self._means[binding.var] = means
        self._outputs = set(outputs)
        self._moved: dict[Expr, Expr] = {}
        """Results of moving operators that are only made as bytes, and their calls."""
        self._built: dict[tuple[Int8Conv, Int8Choice], Expr] = {}

    def _only_quantised(self, variable: Expr) -> Quantisation | None:
        """What a variable's bytes stand for, if nothing reads it but conversions to them."""
        users = self._users.get(variable, [])
        if not users or variable in self._outputs or not all(map(_is_bytes, users)):
            return None
        means = {self._means.get(user) for user in users}
        return means.pop() if len(means) == 1 else None

    # Convolutions

    def convolution(
        self, region: FusedRegion, spec: ConvSpec, node: str
    ) -> tuple[Expr, int, tuple[str, ...]] | None:
        """Emit a convolution of bytes; the kernel, its multiply-adds, and what a CPU must have.

        None where it is none; then at most its input is bytes now.
        """
        variable, weight = region.call.args[0], self._weights.get(node)
        grouped = spec.groups > 1 and not spec.depthwise
        if variable not in self._means or weight is None:
            return None
        source = self._bytes(variable, self._means[variable])
        # The next that reads it finds it so.
        self._forms[variable].bytes = source
        if source.lanes < SMALLEST_LANES and spec.depthwise:
            source = self._relaid(source, SMALLEST_LANES)
        if grouped and len(source.runs) > 1:
            return None
        spec = replace(spec, in_channels=source.runs)
        if len(spec.out_runs) > 1 and region.quantised is None:
            return None
        tensors = [self._forms[tensor].bytes for tensor in region.tensors]
        lanes = self._target.lanes
        usable = [t if t and t.runs == spec.out_runs else None for t in tensors]
        if len(spec.out_runs) > 1 and any(t is None or t.lanes != source.lanes for t in usable):
            return None
        stored = [t or Stored("float32", lanes) for t in usable]
        found = quantised_region(spec, region, weight, source, stored, self._target)
        zeros = punched(found.spec, found.weight, self._target)
        found = replace(found, spec=zeros)
        choices = candidates(found.spec, self._target)
        if not choices:
            return None
        read = [
            t.expr if t else self._forms.blocked(variable)
            for t, variable in zip(usable, region.tensors, strict=True)
        ]
        kernel = self._emit(region, found, choices[0], source, read)
        macs = choices[0].needs(found.spec).conv.macs
        return kernel, macs, choices[0].features(self._target)

    def _emit(
        self,
        region: FusedRegion,
        found: QuantisedRegion,
        choice: Int8Choice,
        source: Bytes,
        tensors: Sequence[Expr],
    ) -> Expr:
        spec, target = choice.needs(found.spec), self._target
        index = choice.pack_index(found.weight, spec, target)
        key = (spec, choice)
        if key not in self._built:
            name = f"{choice.kernel}_{len(self._built)}"
            self._built[key] = self._builder.add_func(choice.build(spec, target), name)
        operands = [
            source.expr,
            relax.const(choice.pack_weight(found.weight, spec, target)),
            *([] if index is None else [relax.const(index)]),
            relax.const(choice.pack_start(found.start, found.weight, spec, target)),
            *(
                relax.const(choice.pack_vectors(v.astype(np.float32), spec, target))
                for v in found.channels
            ),
            *tensors,
        ]
        out = relax.TensorType(spec.output_shape(), spec.y.dtype)
        result = self._builder.emit(relax.call_tir(self._built[key], operands, out))
        runs = spec.conv.out_runs
        if found.y is None:
            self._forms[region.result] = Forms(blocked=result, runs=runs)
        else:
            made = Bytes(result, spec.y.lanes, runs, found.y)
            self._forms[region.result] = Forms(bytes=made, runs=runs)
        return self._built[key]

    # Everything else

    def other(self, variable: Expr, value: Expr) -> Forms | None:
        """The forms of a binding that can stay bytes; None of others."""
        means = self._means.get(variable)
        if means is not None and _is_bytes(variable):
            made = self._quantise(value.args[0], means)
            return Forms(bytes=made, runs=made.runs)
        source = value.args[0] if isinstance(value, relax.Call) and value.args else None
        if means is not None and self._means.get(source) == means:
            same = self._forms[source].bytes
            return None if same is None else Forms(bytes=same, runs=same.runs)
        name = getattr(getattr(value, "op", None), "name", "")
        if name in MOVING and self._moves(name, value, self._only_quantised(variable)):
            self._moved[variable] = value
            return Forms()
        return None

    def result(self, region: FusedRegion) -> Forms:
        """The forms of bytes that a kernel of floats gave as whole numbers."""
        whole = Quantisation(1.0, 0)
        assert region.quantised is not None  # or the result would be floats
        made = self._bytes(region.result, whole)._replace(means=region.quantised)
        return Forms(bytes=made, runs=made.runs)

    def _moves(self, name: str, call: Expr, means: Quantisation | None) -> bool:
        """Whether an operator's bytes are made of its inputs' bytes."""
        if means is None:
            return False
        parts = call.args[0].fields if name == "relax.concat" else [call.args[0]]
        if any(not isinstance(p, relax.Var) or len(p.ty.shape) != 4 for p in parts):
            return False
        if name == "relax.concat":
            some = any(self._forms[part].bytes for part in parts)
            return some and int(call.attrs.axis) in (1, -3)
        made = self._forms[parts[0]].bytes
        return made is not None and made.means == means

    def _quantise(self, variable: Expr, means: Quantisation) -> Bytes:
        call = self._moved.get(variable)
        if call is None:
            return self._bytes(variable, means)
        if call.op.name == "relax.concat":
            return self._concatenated(call.args[0].fields, means)
        return self._pooled(call)

    def _bytes(self, variable: Expr, means: Quantisation, lanes: int = 0) -> Bytes:
        """A variable's bytes; `lanes` channels a block, or as many as suit it."""
        forms = self._forms[variable]
        if forms.bytes is not None and forms.bytes.means == means:
            return self._relaid(forms.bytes, lanes or forms.bytes.lanes)
        blocked = bool(forms.runs)
        runs = forms.runs or (shape_of(variable)[1],)
        widest = self._target.byte_lanes
        lanes = lanes or (byte_lanes(runs[0], widest) if len(runs) == 1 else widest)
        if blocked and lanes >= self._target.lanes:
            expr = self._builder.emit_te(
                lambda x: quantise_blocks(x, runs, lanes, means),
                self._forms.blocked(variable),
                primfunc_name_hint="quantise",
            )
        else:
            runs = (sum(runs),)
            lanes = max(lanes, byte_lanes(runs[0], widest))
            expr = self._builder.emit_te(
                lambda x: quantise_planar(x, lanes, means),
                self._forms.planar(variable),
                primfunc_name_hint="quantise",
            )
        return Bytes(expr, lanes, runs, means)

    def _relaid(self, made: Bytes, lanes: int) -> Bytes:
        if made.lanes == lanes:
            return made
        expr = self._builder.emit_te(
            in_blocks, made.expr, made.runs, lanes, "reblock", primfunc_name_hint="reblock"
        )
        return made._replace(expr=expr, lanes=lanes)

    def _concatenated(self, parts: Sequence[Expr], means: Quantisation) -> Bytes:
        widths = [made.lanes for part in parts if (made := self._forms[part].bytes)]
        lanes = max(SMALLEST_LANES, *widths)
        pieces = [self._bytes(part, means, lanes) for part in parts]
        joined = relax.op.concat([piece.expr for piece in pieces], axis=1)
        runs: Runs = tuple(run for piece in pieces for run in piece.runs)
        return Bytes(self._builder.emit(joined), lanes, runs, means)

    def _pooled(self, call: Expr) -> Bytes:
        source = self._forms[call.args[0]].bytes
        assert source is not None  # see `_moves`
        made = self._builder.emit(pooled(call, source.expr, source.lanes))
        return source._replace(expr=made)


def _is_bytes(variable: Expr) -> bool:
    return str(variable.ty.dtype) in ("uint8", "int8")
