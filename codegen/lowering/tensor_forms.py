"""The forms of tensors while a network is lowered: planar, channel-blocked, in half precision.

A form is made when it is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.lowering.blocked_layout import halve, pack_blocks, unpack_blocks
from graphopt.codegen.lowering.conv_calls import Expr, Runs
from graphopt.codegen.lowering.fusion import ELEMENTWISE
from graphopt.codegen.lowering.mixed_precision import Halves


@dataclass
class Forms:
    """The forms in which a tensor exists so far."""

    planar: Expr | None = None
    blocked: Expr | None = None
    half: Expr | None = None
    """Blocked, as float16."""
    runs: Runs = ()
    """Channels of `blocked` and `half`."""


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
        if forms.runs == wanted and forms.half is not None and forms.blocked is None:
            # Not kept: a conversion of its own can become part of every kernel that asks for one.
            return self._builder.emit(relax.op.astype(forms.half, "float32"))
        if forms.blocked is None or forms.runs != wanted:
            planar = self.planar(variable)
            forms.blocked = self._builder.emit_te(
                pack_blocks, planar, wanted, self._lanes, primfunc_name_hint="pack"
            )
            forms.runs, forms.half = wanted, None
        return forms.blocked

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
