"""The forms of tensors while a network is lowered: planar, blocked, as float16, bfloat16, bytes.

A form is made when it is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.lowering.bfloat16 import Bfloat16, widen_blocks
from graphopt.codegen.lowering.blocked_layout import halve, pack_blocks, unpack_blocks
from graphopt.codegen.lowering.conv_calls import Expr, Runs
from graphopt.codegen.lowering.fusion import ELEMENTWISE
from graphopt.codegen.lowering.mixed_precision import Halves
from graphopt.codegen.lowering.quantised import Bytes, dequantise_blocks, unpack_bytes


@dataclass
class Forms:
    """The forms in which a tensor exists so far."""

    planar: Expr | None = None
    blocked: Expr | None = None
    half: Expr | None = None
    """Blocked, as float16."""
    bytes: Bytes | None = None
    """Blocked, quantised."""
    bfloat: Bfloat16 | None = None
    """Blocked, as bfloat16."""
    runs: Runs = ()
    """Channels of all that are blocked."""


class TensorForms:
    """The forms of every variable of a network.

    Args:
        builder: gets the conversions.
        lanes: channels of a block.
    """

    def __init__(self, builder: relax.BlockBuilder, lanes: int) -> None:
        self._builder = builder
        self._lanes = lanes
        self._forms: dict[Expr, Forms] = {}
        self.to_halve: set[Expr] = set()
        """Variables that our kernels store in half precision."""

    def __contains__(self, variable: Expr) -> bool:
        return variable in self._forms

    def __getitem__(self, variable: Expr) -> Forms:
        return self._forms[variable]

    def __setitem__(self, variable: Expr, forms: Forms) -> None:
        self._forms[variable] = forms

    def planar(self, variable: Expr) -> Expr:
        """The planar form."""
        if isinstance(variable, tvm.ir.GenericConst):
            return variable
        forms = self._forms[variable]
        if forms.planar is None and forms.bytes is not None and variable.ty.dtype != "float32":
            forms.planar = self._unpacked(variable, forms.bytes)
        if forms.planar is None:
            forms.planar = self._builder.emit_te(
                unpack_blocks,
                self.blocked(variable),
                shape_of(variable),
                forms.runs,
                primfunc_name_hint="unpack",
            )
        return forms.planar

    def blocked(self, variable: Expr, runs: Runs | None = None) -> Expr:
        """The blocked form; with `runs`, of exactly those runs of channels."""
        forms = self._forms[variable]
        wanted = runs or forms.runs or (shape_of(variable)[1],)
        if forms.bytes is not None and forms.blocked is None:
            forms.blocked = self._as_floats(forms.bytes)
        if forms.runs == wanted and forms.half is not None and forms.blocked is None:
            # Not kept: a conversion of its own can become part of every kernel that asks for one.
            return self._builder.emit(relax.op.astype(forms.half, "float32"))
        if forms.runs == wanted and forms.bfloat is not None and forms.blocked is None:
            return self._widened(forms.bfloat)
        if forms.blocked is None or forms.runs != wanted:
            planar = self.planar(variable)
            forms.blocked = self._builder.emit_te(
                pack_blocks, planar, wanted, self._lanes, primfunc_name_hint="pack"
            )
            forms.runs, forms.half, forms.bfloat = wanted, None, None
        return forms.blocked

    def _as_floats(self, made: Bytes) -> Expr:
        """The blocked form of a tensor of bytes."""
        return self._builder.emit_te(
            lambda x: dequantise_blocks(x, made.runs, self._lanes, made.means),
            made.expr,
            primfunc_name_hint="dequantise",
        )

    def _widened(self, made: Bfloat16) -> Expr:
        """The blocked form of a tensor of bfloat16."""
        return self._builder.emit_te(
            widen_blocks, made.expr, made.runs, self._lanes, primfunc_name_hint="widen"
        )

    def _unpacked(self, variable: Expr, made: Bytes) -> Expr:
        """The planar form of a variable that is bytes itself."""
        shape, signed = shape_of(variable), str(variable.ty.dtype) == "int8"
        return self._builder.emit_te(
            lambda x: unpack_bytes(x, shape, made.runs, signed=signed),
            made.expr,
            primfunc_name_hint="unpack",
        )

    def stored(self, variable: Expr, runs: Runs | None = None) -> Expr:
        """The blocked form that our kernels read: half where that was chosen."""
        forms = self._forms[variable]
        if variable not in self.to_halve:
            return self.blocked(variable, runs)
        if forms.half is None or (runs or forms.runs) != forms.runs:
            blocked = self.blocked(variable, runs)
            forms.half = self._builder.emit_te(halve, blocked, primfunc_name_hint="halve")
        return forms.half

    def choose_halves(
        self, variables: Sequence[Expr], node_of: Mapping[str, str], halves: Halves
    ) -> None:
        """Choose the variables to be stored in half precision; note those that do not fit."""
        for variable in variables:
            activation = node_of.get(variable.name, ""), math.prod(shape_of(variable))
            if halves.holds(*activation):
                self.to_halve.add(variable)
            elif reason := halves.refusal(*activation):
                halves.kept.append(reason)

    def is_blocked(self, expr: Expr) -> bool:
        """Whether a variable exists in blocks, so that what reads it can follow."""
        return isinstance(expr, relax.Var) and bool(self._forms[expr].runs)


def may_be_halved(value: Expr) -> bool:
    """Whether the conversion of an operator's result becomes part of the operator's kernel."""
    return getattr(getattr(value, "op", None), "name", "") in {*ELEMENTWISE, "relax.concat"}
