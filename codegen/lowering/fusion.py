"""Which element-wise operations can be done by the convolution that they follow.

Starting at a convolution, a region grows over element-wise operations on its result, as long as in
the end one value alone leaves it. That finds bias, any activation (also those that TVM's importer
writes as several operations), residual additions and products, without a list of patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphopt.codegen.importing.quantisation import (
    DEQUANTIZE,
    QUANTIZE,
    Quantisation,
    quantisation_of,
)
from graphopt.codegen.importing.relax_shapes import Expr, shape_of
from graphopt.codegen.kernels.epilogue import NOTHING, Epilogue, EpilogueStep, Floats, Operand

ZERO = Operand("scalar", 0.0)


def _steps(operation: str) -> Callable[[Sequence[Operand], Any, int], list[EpilogueStep]]:
    return lambda operands, _attrs, _next: [EpilogueStep(operation, tuple(operands))]


def _leaky_relu(operands: Sequence[Operand], attrs: Any, following: int) -> list[EpilogueStep]:
    slope = Operand("scalar", float(attrs.alpha))
    small = [
        EpilogueStep("minimum", (operands[0], ZERO)),
        EpilogueStep("maximum", (operands[0], ZERO)),
    ]
    scaled = EpilogueStep("multiply", (Operand("step", following), slope))
    total = EpilogueStep("add", (Operand("step", following + 1), Operand("step", following + 2)))
    return [*small, scaled, total]


def _abs(operands: Sequence[Operand], _attrs: Any, following: int) -> list[EpilogueStep]:
    opposite = EpilogueStep("subtract", (ZERO, operands[0]))
    return [opposite, EpilogueStep("maximum", (operands[0], Operand("step", following)))]


def _silu(operands: Sequence[Operand], _attrs: Any, following: int) -> list[EpilogueStep]:
    gate = Operand("step", following)
    return [EpilogueStep("sigmoid", (operands[0],)), EpilogueStep("multiply", (operands[0], gate))]


def scalar(value: float) -> Operand:
    """A number as float32 holds it."""
    return Operand("scalar", float(np.float32(value)))


def quantise_steps(value: Operand, means: Quantisation, following: int) -> list[EpilogueStep]:
    """A float to the number that its byte is: rounded half to even, bounded."""
    return [
        EpilogueStep("multiply_add", (value, scalar(1 / means.scale), scalar(means.zero))),
        EpilogueStep("as_byte", (Operand("step", following), ZERO, scalar(255.0))),
    ]


def dequantise_step(value: Operand, means: Quantisation) -> EpilogueStep:
    """The number that a byte is to what it stands for."""
    scale = scalar(means.scale)
    offset = np.float32(-means.zero) * np.float32(means.scale)
    return EpilogueStep("multiply_add", (value, scale, scalar(float(offset))))


ELEMENTWISE: Mapping[str, Callable[[Sequence[Operand], Any, int], list[EpilogueStep]]] = {
    "relax.add": _steps("add"),
    "relax.subtract": _steps("subtract"),
    "relax.multiply": _steps("multiply"),
    "relax.divide": _steps("divide"),
    "relax.maximum": _steps("maximum"),
    "relax.minimum": _steps("minimum"),
    "relax.abs": _abs,
    "relax.exp": _steps("exp"),
    "relax.sigmoid": _steps("sigmoid"),
    "relax.tanh": _steps("tanh"),
    "relax.nn.relu": lambda operands, _a, _n: [EpilogueStep("maximum", (operands[0], ZERO))],
    "relax.negative": lambda operands, _a, _n: [EpilogueStep("subtract", (ZERO, operands[0]))],
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.nn.silu": _silu,
}
"""Relax operators as epilogue steps: (operands, attributes, number of the next step) -> steps."""


def is_elementwise(value: Expr) -> bool:
    """Whether a binding's value is an element-wise operator that an epilogue knows."""
    return isinstance(value, relax.Call) and getattr(value.op, "name", None) in ELEMENTWISE


@dataclass
class FusedRegion:
    """A convolution and what it does besides.

    Args:
        call: the convolution, a call of an operator of `CONVOLUTIONS`.
        result: the one variable that leaves the region.
        members: all variables of the region, in order, the convolution first.
        epilogue: the operations after the convolution.
        channels: the epilogue's vectors, (C,) each.
        tensors: variables of the result's shape that the epilogue reads.
        quantised: what the last steps make bytes for, where the region ends with bytes, or with
            what they stand for.
    """

    call: Expr
    result: Expr
    members: list[Expr] = field(default_factory=list)
    epilogue: Epilogue = NOTHING
    channels: list[Floats] = field(default_factory=list)
    tensors: list[Expr] = field(default_factory=list)
    quantised: Quantisation | None = None

    @property
    def gives_bytes(self) -> bool:
        """Whether the result is bytes, rather than what they stand for."""
        return str(self.result.ty.dtype) != "float32"

    @property
    def before_quantising(self) -> tuple[EpilogueStep, ...]:
        """The steps without the last ones, which make bytes, and floats of them again."""
        steps = self.epilogue.steps
        if self.quantised is None:
            return steps
        ending = len(quantise_steps(ZERO, self.quantised, 0)) + (not self.gives_bytes)
        return steps[: len(steps) - ending]


class _Growing:
    """The epilogue so far, while a region grows over it."""

    def __init__(self, conv: Expr) -> None:
        self.shape = shape_of(conv)
        self.steps: list[EpilogueStep] = []
        self.channels: list[Floats] = []
        self.tensors: list[Expr] = []
        self.operand_of: dict[Expr, Operand] = {conv: Operand("step", -1)}
        self.means: dict[Expr, Quantisation] = {}
        """What bytes, and floats that were made of them, stand for."""

    def _operand(self, expr: Expr) -> Operand | None:
        if expr in self.operand_of:
            return self.operand_of[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            value = expr.value.numpy()
            if value.dtype != np.float32:
                return None
            if value.size == 1:
                return Operand("scalar", float(value.item()))
            # (C,1,1) and (1,C,1,1) broadcast along the channels of an NCHW tensor.
            if value.size == self.shape[1] and value.shape[-3:] == (self.shape[1], 1, 1):
                self.channels.append(value.reshape(-1))
                return Operand("channel", len(self.channels) - 1)
            return None
        if isinstance(expr, relax.Var) and shape_of(expr) == self.shape:
            self.tensors.append(expr)
            self.operand_of[expr] = Operand("tensor", len(self.tensors) - 1)
            return self.operand_of[expr]
        return None

    def convert(self, variable: Expr, call: Expr) -> bool:
        """Append a conversion to bytes or back; False, and nothing changed, if it is neither."""
        value = self.operand_of.get(call.args[0])
        if value is None or shape_of(variable) != self.shape:
            return False
        if means := quantisation_of(call, QUANTIZE):
            self.steps += quantise_steps(value, means, len(self.steps))
        elif means := quantisation_of(call, DEQUANTIZE):
            self.steps.append(dequantise_step(value, means))
        else:
            return False
        self.means[variable] = means
        self.operand_of[variable] = Operand("step", len(self.steps) - 1)
        return True

    def absorb(self, variable: Expr, call: Expr) -> bool:
        """Append one element-wise call; False, and nothing changed, if an operand does not fit."""
        if call.op.name in (QUANTIZE, DEQUANTIZE):
            return self.convert(variable, call)
        channels, tensors = len(self.channels), len(self.tensors)
        operands = [self._operand(argument) for argument in call.args]
        if shape_of(variable) != self.shape or any(operand is None for operand in operands):
            for tensor in self.tensors[tensors:]:
                del self.operand_of[tensor]
            del self.channels[channels:], self.tensors[tensors:]
            return False
        known = [operand for operand in operands if operand is not None]
        self.steps += ELEMENTWISE[call.op.name](known, call.attrs, len(self.steps))
        self.operand_of[variable] = Operand("step", len(self.steps) - 1)
        return True


def find_regions(bindings: Sequence[Any], outputs: Sequence[Expr]) -> list[FusedRegion]:
    """The regions of a function's bindings, disjoint, in order of their convolutions.

    Args:
        bindings: Relax `VarBinding`s in execution order.
        outputs: the variables that the function returns.

    A region goes on over conversions to bytes and back where its convolution reads what bytes stand
    for: where it may become one of bytes.
    """
    place = {binding.var: i for i, binding in enumerate(bindings)}
    users: dict[Expr, list[Expr]] = {binding.var: [] for binding in bindings}
    for binding in bindings:
        for used in relax.analysis.free_vars(binding.value):
            if used in users:
                users[used].append(binding.var)
    taken: set[Expr] = set()
    regions = []
    # Backwards: of two convolutions that meet in an addition, the later takes it as its residual.
    for binding in reversed(bindings):
        if is_convolution(binding.value):
            region = _grow(binding.var, bindings, place, users, set(outputs), taken)
            taken.update(region.members)
            regions.append(region)
    return regions[::-1]


CONVOLUTIONS = ("relax.nn.conv2d", "relax.nn.conv2d_transpose")


def is_convolution(value: Expr) -> bool:
    """Whether a binding's value is a 2-D convolution, or a transposed one, of constant weights."""
    return (
        isinstance(value, relax.Call)
        and getattr(value.op, "name", None) in CONVOLUTIONS
        and isinstance(value.args[1], tvm.ir.GenericConst)
    )


def _grow(
    conv: Expr,
    bindings: Sequence[Any],
    place: Mapping[Expr, int],
    users: Mapping[Expr, list[Expr]],
    outputs: set[Expr],
    taken: set[Expr],
) -> FusedRegion:
    growing = _Growing(conv)
    call = bindings[place[conv]].value
    members = [conv]
    best = FusedRegion(call, conv, [conv])
    refused: set[Expr] = set()
    source = place.get(call.args[0])
    of_bytes = source is not None and quantisation_of(bindings[source].value, DEQUANTIZE)

    def may_join(user: Expr) -> bool:
        value = bindings[place[user]].value
        converts = getattr(value.op, "name", "") in (QUANTIZE, DEQUANTIZE)
        return is_elementwise(value) or bool(of_bytes and converts and user not in outputs)

    while True:
        inside = set(members)
        leaving = [
            m for m in members if m in outputs or any(user not in inside for user in users[m])
        ]
        if len(leaving) == 1 and leaving[0] is members[-1]:
            best = FusedRegion(
                call,
                members[-1],
                list(members),
                Epilogue(tuple(growing.steps)),
                list(growing.channels),
                list(growing.tensors),
                growing.means.get(members[-1]),
            )
        candidates = sorted(
            (
                user
                for member in members
                for user in users[member]
                if user not in inside
                and user not in refused
                and user not in taken
                and may_join(user)
            ),
            key=lambda v: place[v],
        )
        if not candidates:
            return best
        if growing.absorb(candidates[0], bindings[place[candidates[0]]].value):
            members.append(candidates[0])
        else:
            refused.add(candidates[0])
