"""What happens to a convolution's sum before it is stored: bias, activation, residual, gate.

An epilogue is a small straight-line program over one output element. Because it is data, equal
epilogues make equal kernels (compiled once), and NumPy can run it as the kernel's reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr, broadcast
from graphopt.codegen.targets import Target

Floats = NDArray[np.float32]


class Operand(NamedTuple):
    """Where a step reads from.

    `step` -1 is the convolution's sum and n the result of step n; `scalar` is a number; `channel`
    n is the n-th vector of one value a channel; `tensor` n the n-th tensor of the output's shape.
    """

    kind: Literal["step", "scalar", "channel", "tensor"]
    value: float | int


class EpilogueStep(NamedTuple):
    """One operation, named as in `OPERATIONS`, of one to three operands."""

    operation: str
    operands: tuple[Operand, ...]


class Operation(NamedTuple):
    """An element-wise operation: its reference in NumPy, and its TIR for vectors on a target."""

    reference: Callable[..., Any]
    emit: Callable[..., Expr]


def _exp(target: Target, x: Expr) -> Expr:
    """exp(x) of a vector, on a CPU in about twelve operations, within 2 units in the last place.

    LLVM would call libm once a lane. Instead exp(x) = 2^n * exp(r) with n = round(x / ln 2), and
    exp(r) by the degree-5 polynomial of Cephes' expf. x is clamped to where float32 ends.
    """
    if target.kind == "gpu":
        return tirx.exp(x)
    lanes = target.lanes

    def const(value: float) -> Expr:
        return broadcast(value, lanes)

    x = T.bind(T.min(T.max(x, const(-87.3)), const(88.3)))
    n = T.bind(tirx.floor(x * const(1.44269504088896341) + const(0.5)))
    # ln 2 in two parts, so that subtracting n * ln 2 loses nothing.
    r = T.bind(x - n * const(0.693359375) + n * const(2.12194440e-4))
    p = const(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5):
        p = p * r + const(coefficient)
    exponent = tirx.Cast(f"int32x{lanes}", n) + tirx.Broadcast(T.int32(127), lanes)
    power = tirx.reinterpret(f"float32x{lanes}", exponent << tirx.Broadcast(T.int32(23), lanes))
    return (p * r * r + r + const(1.0)) * power


LARGEST = 80.0
"""Sigmoids of less than the negative of this are taken for that of it, on a CPU."""


def _sigmoid(target: Target, x: Expr) -> Expr:
    """1 / (1 + exp(-x)), at least 1.8e-35: below 1.2e-38 CPUs are slow, here and in what follows.

    Without the bound, a gate far below zero gives such numbers, and so do products with it.
    """
    one = broadcast(1.0, target.lanes)
    negative = broadcast(0.0, target.lanes) - x
    if target.kind == "cpu":
        negative = T.min(negative, broadcast(LARGEST, target.lanes))
    return one / (one + _exp(target, negative))


def _tanh(target: Target, x: Expr) -> Expr:
    two = broadcast(2.0, target.lanes)
    return two * _sigmoid(target, two * x) - broadcast(1.0, target.lanes)


def _fused(a: Any, b: Any, c: Any) -> Any:
    """A * b + c, rounded once: in float64 the product of two float32 numbers is exact."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def _multiply_add(target: Target, a: Expr, b: Expr, c: Expr) -> Expr:
    if target.kind == "gpu":
        return tirx.call_pure_extern(f"float32x{target.lanes}", "fma", a, b, c)
    return tirx.call_llvm_pure_intrin(f"float32x{target.lanes}", "llvm.fma", a, b, c)


def rounded(target: Target, x: Expr, high: Expr) -> Expr:
    """Round half to even what is at most `high`, to 32-bit numbers: x86 rounds while it converts,
    as its mode says; what is below the least number becomes that. Of AVX and AVX-512 alone.
    """
    whole = f"int32x{target.lanes}"
    if target.lanes == 16:
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        every = [tirx.Cast(whole, high), tirx.IntImm("int16", -1), tirx.IntImm("int32", 4)]
    else:
        name, every = "llvm.x86.avx.cvt.ps2dq.256", []
    return tirx.call_llvm_pure_intrin(whole, name, T.min(x, high), *every)


def _as_byte(target: Target, x: Expr, low: Expr, high: Expr) -> Expr:
    """Round half to even and bound, as float32."""
    lanes = target.lanes
    if lanes not in (8, 16) or not target.dot.startswith("avx"):
        return T.min(T.max(tirx.nearbyint(x), low), high)
    whole = f"int32x{lanes}"
    # Bounded once more: so LLVM knows that a float32 and back changes nothing, and leaves it out.
    bounded = T.min(T.max(rounded(target, x, high), tirx.Cast(whole, low)), tirx.Cast(whole, high))
    return tirx.Cast(f"float32x{lanes}", bounded)


OPERATIONS: dict[str, Operation] = {
    "add": Operation(np.add, lambda _, a, b: a + b),
    "subtract": Operation(np.subtract, lambda _, a, b: a - b),
    "multiply": Operation(np.multiply, lambda _, a, b: a * b),
    "divide": Operation(np.divide, lambda _, a, b: a / b),
    "maximum": Operation(np.maximum, lambda _, a, b: T.max(a, b)),
    "minimum": Operation(np.minimum, lambda _, a, b: T.min(a, b)),
    "exp": Operation(np.exp, _exp),
    "sigmoid": Operation(lambda x: 1 / (1 + np.exp(-x)), _sigmoid),
    "tanh": Operation(np.tanh, _tanh),
    "multiply_add": Operation(_fused, _multiply_add),
    "as_byte": Operation(lambda x, low, high: np.clip(np.rint(x), low, high), _as_byte),
}
"""The operations that an epilogue is made of. Relu, Clip, Elu, Swish … are a few steps each."""


@dataclass(frozen=True)
class Epilogue:
    """Steps over the convolution's sum; the last one's result is stored (none: the sum itself)."""

    steps: tuple[EpilogueStep, ...] = ()

    def count(self, kind: str) -> int:
        """How many `channel` or `tensor` parameters the steps read."""
        values = [o.value for step in self.steps for o in step.operands if o.kind == kind]
        return int(max(values, default=-1)) + 1

    def to_bytes(self) -> tuple[Epilogue, int, int] | None:
        """The steps before one that rounds and bounds their result, and its bounds; None: the last
        one does not, or not between numbers of a byte.
        """
        if not self.steps or self.steps[-1].operation != "as_byte":
            return None
        value, *bounds = self.steps[-1].operands
        low, high = (o.value if o.kind == "scalar" else -1 for o in bounds)
        before = Epilogue(self.steps[:-1])
        if value != Operand("step", len(before.steps) - 1) or not 0 <= low <= high <= 255:
            return None
        return (before, int(low), int(high)) if low % 1 == high % 1 == 0 else None

    def _run(self, fetch: Callable[[Operand], Any], apply: Callable[..., Any], total: Any) -> Any:
        results: list[Any] = []
        for step in self.steps:
            operands = [
                (results[int(o.value)] if o.value >= 0 else total) if o.kind == "step" else fetch(o)
                for o in step.operands
            ]
            results.append(apply(OPERATIONS[step.operation], operands))
        return results[-1] if results else total

    def reference(
        self, total: Floats, channels: Sequence[Floats], tensors: Sequence[Floats]
    ) -> Floats:
        """The epilogue of a whole tensor.

        Args:
            total: the convolution's sums, (N, C, H, W).
            channels: vectors of C values.
            tensors: tensors of `total`'s shape.
        """

        def fetch(operand: Operand) -> Any:
            if operand.kind == "scalar":
                return np.float32(operand.value)
            if operand.kind == "channel":
                return channels[int(operand.value)][None, :, None, None]
            return tensors[int(operand.value)]

        result: Floats = self._run(fetch, lambda op, xs: op.reference(*xs), total)
        return result.astype(np.float32)

    def emit(
        self,
        target: Target,
        total: Expr,
        channel: Callable[[int], Expr],
        tensor: Callable[[int], Expr],
    ) -> Expr:
        """TIR for one vector; `channel(n)` and `tensor(n)` load the parameters at its place."""

        def fetch(operand: Operand) -> Expr:
            if operand.kind == "scalar":
                return broadcast(float(operand.value), target.lanes)
            return (channel if operand.kind == "channel" else tensor)(int(operand.value))

        return self._run(fetch, lambda op, xs: T.bind(op.emit(target, *xs)), T.bind(total))


NOTHING = Epilogue()
"""The epilogue that stores the sum as it is."""
