"""Relax -> Relax for networks in bfloat16: convolutions of it, and tensors that are stored as it.

What a convolution reads is bfloat16, and so is what it gives, where another reads that sooner or
later: what leaves the network is made of float32. In between, Concat moves bfloat16 as it is; other
operators compute in float32, the conversions being part of their kernels. Gates, of
one position of a picture, stay float32: they take no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvm import relax

from graphopt.codegen.importing.relax_shapes import Expr, shape_of
from graphopt.codegen.importing.resampling import resample, resized_axes
from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.low_precision.bf16_choice import Bf16Choice, candidates
from graphopt.codegen.kernels.low_precision.bf16_spec import WIDTHS, Bf16Conv, half_lanes
from graphopt.codegen.kernels.low_precision.bfloat16 import BITS
from graphopt.codegen.kernels.low_precision.stored_conv import Stored
from graphopt.codegen.lowering.bfloat16 import (
    Bfloat16,
    narrow_blocks,
    narrow_planar,
    pooled,
    widen_blocks,
)
from graphopt.codegen.lowering.blocked_layout import in_blocks
from graphopt.codegen.lowering.conv_calls import Runs, is_mean_of_pixels, mean_of, weight_of
from graphopt.codegen.lowering.fusion import FusedRegion, is_convolution
from graphopt.codegen.lowering.quantised import SMALLEST_LANES
from graphopt.codegen.lowering.tensor_forms import Forms, TensorForms
from graphopt.codegen.targets import Target

FEWEST_PIXELS = 16
"""Fewer pixels than a tile has rows: such a convolution is of a gate, and float32."""


class Bfloat16Lowering:
    """What is lowered as bfloat16, of one network.

    Args:
        bindings: of the network's main function.
        outputs: what it returns.
        target: what kernels are for.
        builder: of the new function.
        forms: of every variable so far.
    """

    def __init__(
        self,
        bindings: Sequence[Any],
        outputs: Sequence[Expr],
        target: Target,
        builder: relax.BlockBuilder,
        forms: TensorForms,
    ) -> None:
        self._target, self._builder, self._forms = target, builder, forms
        self._read: set[Expr] = set()
        """Variables that a convolution reads, or something that is made of them."""
        for binding in reversed(bindings):
            if is_convolution(binding.value) or binding.var in self._read:
                self._read.update(relax.analysis.free_vars(binding.value))
        self._read -= set(outputs)
        self._built: dict[tuple[Bf16Conv, Bf16Choice], Expr] = {}

    # Convolutions

    def convolution(
        self, region: FusedRegion, spec: ConvSpec
    ) -> tuple[Expr, tuple[str, ...]] | None:
        """Emit a convolution of bfloat16; the kernel, and what a CPU must have for it.

        None where it is to be one of float32.
        """
        grouped = spec.groups > 1 and not spec.depthwise
        if math.prod(spec.out_size) < FEWEST_PIXELS:
            return None
        variable = region.call.args[0]
        known = self._forms[variable]
        runs = known.runs or spec.in_channels
        if grouped and len(runs) > 1:
            return None
        halved = region.result in self._read
        if spec.depthwise and len(runs) > 1 and not halved:
            return None
        lanes = known.bfloat.lanes if known.bfloat else self._lanes(runs)
        if spec.depthwise:
            lanes = max(lanes, SMALLEST_LANES)
        spec = replace(spec, in_channels=runs)
        width = lanes if spec.depthwise else max(SMALLEST_LANES, half_lanes(spec.out_channels))
        y = Stored(BITS, width) if halved else Stored("float32", self._target.lanes)
        found = Bf16Conv(spec, Stored(BITS, lanes), y, (y,) * len(region.tensors))
        choices = candidates(found, self._target)
        if not choices:
            return None
        source = self.stored(variable, lanes)
        self._forms[variable].bfloat = source
        tensors = [self._tensor(tensor, found) for tensor in region.tensors]
        kernel = self._emit(region, found, choices[0], [source.expr, *tensors])
        return kernel, choices[0].features(self._target)

    def _tensor(self, variable: Expr, spec: Bf16Conv) -> Expr:
        """A tensor of the epilogue, as the result lies."""
        runs = spec.conv.out_runs
        if spec.y.dtype == BITS and self._forms[variable].runs in ((), runs):
            return self.stored(variable, spec.y.lanes).expr
        blocked = self._forms.blocked(variable, runs)
        if spec.y.dtype != BITS:
            return blocked
        return self._builder.emit_te(
            narrow_blocks, blocked, runs, spec.y.lanes, primfunc_name_hint="narrow"
        )

    def _emit(
        self, region: FusedRegion, spec: Bf16Conv, choice: Bf16Choice, read: Sequence[Expr]
    ) -> Expr:
        target, (x, *tensors) = self._target, read
        key = (spec, choice)
        if key not in self._built:
            name = f"{choice.kernel}_{len(self._built)}"
            self._built[key] = self._builder.add_func(choice.build(spec, target), name)
        operands = [
            x,
            relax.const(choice.pack_weight(weight_of(region.call), spec, target)),
            *(relax.const(choice.pack_vectors(v, spec, target)) for v in region.channels),
            *tensors,
        ]
        out = relax.TensorType(spec.output_shape(), spec.y.dtype)
        result = self._builder.emit(relax.call_tir(self._built[key], operands, out))
        runs = spec.conv.out_runs
        if spec.y.dtype == BITS:
            made = Bfloat16(result, spec.y.lanes, runs)
            self._forms[region.result] = Forms(bfloat=made, runs=runs)
        else:
            self._forms[region.result] = Forms(blocked=result, runs=runs)
        return self._built[key]

    # Everything else

    def other(self, variable: Expr, value: Expr) -> Forms | None:
        """The forms of a binding that reads bfloat16 as it is stored; None of others."""
        rule = _RULES.get(getattr(getattr(value, "op", None), "name", ""))
        if rule is None or len(getattr(variable.ty, "shape", ())) != 4:
            return None
        return rule(self, value, variable in self._read)

    def _concatenate(self, call: Expr, read: bool) -> Forms | None:
        """Channels of tensors, of which at least one is stored so, as they are."""
        parts = list(call.args[0].fields)
        if not read or int(call.attrs.axis) not in (1, -3):
            return None
        if not all(isinstance(part, relax.Var) for part in parts):
            return None
        widths = [made.lanes for part in parts if (made := self._forms[part].bfloat)]
        if not widths:
            return None
        lanes = max(SMALLEST_LANES, *widths)
        pieces = [self.stored(part, lanes) for part in parts]
        joined = relax.op.concat([piece.expr for piece in pieces], axis=1)
        runs: Runs = tuple(run for piece in pieces for run in piece.runs)
        return Forms(bfloat=Bfloat16(self._builder.emit(joined), lanes, runs), runs=runs)

    def _pool(self, call: Expr, read: bool) -> Forms | None:
        return self._computed(
            call.args[0], read, lambda x, runs, lanes: pooled(x, call, runs, lanes), "pool2d"
        )

    def _resample(self, call: Expr, read: bool) -> Forms | None:
        x, *tables = call.args[1].fields
        axes = resized_axes(call)
        if not set(axes) <= {2, 3}:
            return None

        def resized(x: Expr, runs: Runs, lanes: int, *tables: Expr) -> Expr:
            return resample(widen_blocks(x, runs, lanes), axes, *tables)

        return self._computed(x, read, resized, "resample", *tables)

    def _mean(self, call: Expr, _read: bool) -> Forms | None:
        """The mean over all pixels: a gate begins so, and stays float32."""
        if not is_mean_of_pixels(call):
            return None
        return self._computed(
            call.args[0],
            False,
            lambda x, runs, lanes: mean_of(widen_blocks(x, runs, lanes)),
            "mean",
        )

    def _computed(
        self, variable: Expr, read: bool, compute: Callable[..., Expr], name: str, *others: Expr
    ) -> Forms | None:
        """What a kernel makes of bfloat16 in float32; None where the variable is not stored so.

        Args:
            read: whether it is to be stored as bfloat16.
            compute: of bits, runs, lanes and `others`: blocked float32.
        """
        source = self._forms[variable].bfloat if isinstance(variable, relax.Var) else None
        if source is None:
            return None
        runs, lanes = source.runs, self._target.lanes

        def whole(x: Expr, *rest: Expr) -> Expr:
            floats = compute(x, runs, lanes, *rest)
            return narrow_blocks(floats, runs, source.lanes) if read else floats

        expr = self._builder.emit_te(whole, source.expr, *others, primfunc_name_hint=name)
        if read:
            return Forms(bfloat=source._replace(expr=expr), runs=runs)
        return Forms(blocked=expr, runs=runs)

    def stored(self, variable: Expr, lanes: int) -> Bfloat16:
        """A variable as bfloat16 in blocks of `lanes`."""
        forms = self._forms[variable]
        if forms.bfloat is not None:
            return self._rewidthed(forms.bfloat, lanes)
        if forms.runs and lanes >= self._target.lanes:
            expr = self._builder.emit_te(
                narrow_blocks,
                self._forms.blocked(variable),
                forms.runs,
                lanes,
                primfunc_name_hint="narrow",
            )
            return Bfloat16(expr, lanes, forms.runs)
        expr = self._builder.emit_te(
            narrow_planar, self._forms.planar(variable), lanes, primfunc_name_hint="narrow"
        )
        return Bfloat16(expr, lanes, (shape_of(variable)[1],))

    def _rewidthed(self, made: Bfloat16, lanes: int) -> Bfloat16:
        if made.lanes == lanes:
            return made
        expr = self._builder.emit_te(
            in_blocks, made.expr, made.runs, lanes, "reblock", primfunc_name_hint="reblock"
        )
        return made._replace(expr=expr, lanes=lanes)

    def _lanes(self, runs: Runs) -> int:
        return half_lanes(runs[0]) if len(runs) == 1 else WIDTHS[-1]


_RULES: Mapping[str, Callable[[Bfloat16Lowering, Expr, bool], Forms | None]] = {
    "relax.concat": Bfloat16Lowering._concatenate,
    "relax.nn.max_pool2d": Bfloat16Lowering._pool,
    "relax.nn.avg_pool2d": Bfloat16Lowering._pool,
    "relax.call_dps_packed": Bfloat16Lowering._resample,
    "relax.mean": Bfloat16Lowering._mean,
}
"""By the operator: what it becomes, given whether a convolution reads its result; or None."""
