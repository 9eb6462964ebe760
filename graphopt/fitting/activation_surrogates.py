"""Cheap stand-ins for activations: clips, products and maxima with a few numbers to be fitted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant, emit

Doubles = NDArray[np.float64]

_STEPS = 25
"""Steps of the least squares."""


@dataclass(frozen=True)
class Form(ABC):
    """A function of one number, with numbers of its own for each channel."""

    numbers: Doubles
    """[numbers, channels, 1], or [numbers, 1, 1] for all channels alike."""
    scale: float
    """Far to the right it makes scale * x, whatever is fitted."""

    @classmethod
    def plain(cls, numbers: Sequence[float], scale: float = 1.0) -> Form:
        """The same for all channels."""
        return cls(np.array(numbers, np.float64)[:, None, None], scale)

    def spread(self, channels: int) -> Form:
        """The same numbers, for each of so many channels."""
        shape = (len(self.numbers), channels, 1)
        return replace(self, numbers=np.broadcast_to(self.numbers, shape))

    @abstractmethod
    def __call__(self, x: Doubles) -> Doubles:
        """The stand-in's value for each of [channels, n]."""

    @abstractmethod
    def gradient(self, x: Doubles) -> Doubles:
        """By each of the numbers: [numbers, channels, n]."""

    @abstractmethod
    def valid(self, start: Form) -> NDArray[np.bool_]:
        """Whether a channel's numbers still mean what those of `start` do: [channels, 1]."""

    @abstractmethod
    def write(self, graph: gs.Graph, x: gs.Tensor, y: gs.Tensor) -> tuple[gs.Constant, ...]:
        """Write it as nodes from `x` to `y`.

        Returns:
            Where its numbers are, in order; `arrays` are the values that belong there. The first
            node reads `x` and the first of them.
        """

    def arrays(self, x: gs.Tensor) -> tuple[Array, ...]:
        """The numbers as constants: scalars, or shaped to meet the channels of `x`, [N,C,…]."""
        channels = self.numbers.shape[1]
        shape = () if channels == 1 else (1, channels, *(1,) * (len(x.shape) - 2))
        return tuple(row.reshape(shape).astype(x.dtype or np.float32) for row in self.numbers)

    @abstractmethod
    def near(self, x: Doubles, y: Doubles) -> Form:
        """A start for channels that see little of the curve: linear least squares there."""

    def fitted(self, x: Doubles, y: Doubles) -> Form:
        """The numbers with which it comes nearest to y, both [channels, n], from two starts."""
        here = self._improved(self.spread(len(x)), x, y)
        there = self._improved(self.near(x, y), x, y)
        nearer = _mean_square(there(x) - y) < _mean_square(here(x) - y)
        better = nearer & there.valid(self)
        return replace(here, numbers=np.where(better, there.numbers, here.numbers))

    def _improved(self, best: Form, x: Doubles, y: Doubles) -> Form:
        """Levenberg-Marquardt: a channel at a time, all at once; only steps that help are taken."""
        damping = np.full((len(x), 1, 1), 1e-3)
        least = _mean_square(best(x) - y)
        unit = np.eye(len(self.numbers))
        for _ in range(_STEPS):
            slopes = best.gradient(x)
            normal = np.einsum("pcn,qcn->cpq", slopes, slopes)
            downhill = np.einsum("pcn,cn->cp", slopes, best(x) - y)[..., None]
            stiff = normal + unit * (damping * np.diagonal(normal, 0, 1, 2)[:, None, :] + 1e-9)
            step = np.linalg.solve(stiff, downhill)
            tried = replace(best, numbers=best.numbers - step.transpose(1, 0, 2))
            error = _mean_square(tried(x) - y)
            better = (error < least) & tried.valid(self)
            best = replace(best, numbers=np.where(better, tried.numbers, best.numbers))
            least = np.where(better, error, least)
            damping *= np.where(better, 0.3, 10.0)[..., None]
        return best


def _regression(basis: Sequence[Doubles], y: Doubles) -> Doubles:
    """Factors of the basis functions, each [channels, n], by least squares: [n, channels, 1]."""
    columns = np.stack(basis)
    normal = np.einsum("pcn,qcn->cpq", columns, columns)
    normal += np.eye(len(basis)) * (1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-9)
    factors = np.linalg.solve(normal, np.einsum("pcn,cn->cp", columns, y)[..., None])
    regressed: Doubles = factors.transpose(1, 0, 2)
    return regressed


def _mean_square(residual: Doubles) -> Doubles:
    means: Doubles = np.square(residual).mean(axis=1, keepdims=True)
    return means


@dataclass(frozen=True)
class Gate(Form):
    """scale * x * clip(slope * x + offset, 0, 1): two numbers, four operators."""

    def __call__(self, x: Doubles) -> Doubles:
        slope, offset = self.numbers
        gated: Doubles = self.scale * x * np.clip(slope * x + offset, 0, 1)
        return gated

    def gradient(self, x: Doubles) -> Doubles:
        slope, offset = self.numbers
        line = slope * x + offset
        by_offset = self.scale * x * ((line > 0) & (line < 1))
        return np.stack([x * by_offset, by_offset])

    def valid(self, start: Form) -> NDArray[np.bool_]:
        """A gate opens to the side that it opened to."""
        return np.asarray(self.numbers[0] * start.numbers[0] > 0)

    def near(self, x: Doubles, y: Doubles) -> Gate:
        """The gate whose line is nowhere clipped."""
        return replace(self, numbers=_regression([self.scale * x * x, self.scale * x], y))

    def arrays(self, x: gs.Tensor) -> tuple[Array, ...]:
        """The scale is inside the gate, where it costs nothing."""
        return super().arrays(x) if self.scale == 1.0 else self._scaled().arrays(x)

    def _scaled(self) -> Gate:
        return Gate(self.scale * self.numbers, 1.0)

    def write(self, graph: gs.Graph, x: gs.Tensor, y: gs.Tensor) -> tuple[gs.Constant, ...]:
        """Mul, Add, Clip, Mul."""
        slope, offset = _constants(graph, y, ("slope", "offset"), self.arrays(x))
        low, high = sorted((0.0, self.scale))
        scaled = emit(graph, "Mul", x, slope, out=f"{y.name}.scaled")
        shifted = emit(graph, "Add", scaled, offset, out=f"{y.name}.shifted")
        clipped = emit(graph, "Clip", shifted, low, high, out=f"{y.name}.gate")
        emit(graph, "Mul", x, clipped, out=y)
        return slope, offset

    def write_plain(self, graph: gs.Graph, x: gs.Tensor, y: gs.Tensor) -> None:
        """Add, Clip, Mul, Mul with a single gate's numbers; a convolution can take in the last."""
        slope, offset = (float(n) for n in self.numbers.ravel())
        low, high = sorted((0.0, 1 / slope))
        shifted = emit(graph, "Add", x, offset / slope, out=f"{y.name}.shifted")
        gate = emit(graph, "Clip", shifted, low, high, out=f"{y.name}.gate")
        product = emit(graph, "Mul", x, gate, out=f"{y.name}.product")
        emit(graph, "Mul", product, self.scale * slope, out=y)


@dataclass(frozen=True)
class PowerTail(Form):
    """scale * (max(x, 0) - |x| * max(height - slope * |x|, 0)^power): two numbers, ten operators.

    For x * g(x) where g(x) + g(-x) = 1, as Swish and GELU are: what they lack to the right of zero
    is what they have to the left. A high power that ends is near to an exponential's tail: errors
    are ten to twenty times smaller than those of a `Gate`.
    """

    power: int = 8
    """A power of two: each square is one operator."""

    def __call__(self, x: Doubles) -> Doubles:
        curve: Doubles = self.scale * (np.maximum(x, 0) - np.abs(x) * self._height(x) ** self.power)
        return curve

    def gradient(self, x: Doubles) -> Doubles:
        steep = self.power * self._height(x) ** (self.power - 1)
        by_height = -self.scale * np.abs(x) * steep
        return np.stack([-np.abs(x) * by_height, by_height])

    def _height(self, x: Doubles) -> Doubles:
        slope, height = self.numbers
        left: Doubles = np.maximum(height - slope * np.abs(x), 0)
        return left

    def valid(self, start: Form) -> NDArray[np.bool_]:  # noqa: ARG002
        """The tail ends, and no value is larger than x, even where the fit saw none."""
        slope, height = self.numbers
        return np.asarray((slope > 0) & (height > 0) & (height <= 1))

    def near(self, x: Doubles, y: Doubles) -> Form:  # noqa: ARG002
        """A longer tail."""
        return replace(self, numbers=self.numbers * [[[0.7]], [[1.0]]]).spread(len(x))

    def arrays(self, x: gs.Tensor) -> tuple[Array, ...]:
        """Such that with p = |a x| and v = max(b - p, 0) the tail is p * v^power."""
        slope, height = self.numbers
        stretch = (abs(self.scale) / slope) ** (1 / (self.power + 1))
        return Form.arrays(replace(self, numbers=np.stack([stretch * slope, stretch * height])), x)

    def write(self, graph: gs.Graph, x: gs.Tensor, y: gs.Tensor) -> tuple[gs.Constant, ...]:
        """Mul, Abs, Sub, Relu, squares, Mul, Relu, Sub; a Mul more where the scale is not one."""
        slope, height = _constants(graph, y, ("slope", "height"), self.arrays(x))
        scaled = emit(graph, "Mul", x, slope, out=f"{y.name}.scaled")
        size = emit(graph, "Abs", scaled, out=f"{y.name}.size")
        room = emit(graph, "Sub", height, size, out=f"{y.name}.room")
        left = emit(graph, "Relu", room, out=f"{y.name}.left")
        power = left
        for _ in range(self.power.bit_length() - 1):
            power = emit(graph, "Mul", power, power, out=f"{y.name}.power")
        tail = emit(graph, "Mul", size, power, out=f"{y.name}.tail")
        right = emit(graph, "Relu", x, out=f"{y.name}.right")
        if abs(self.scale) != 1.0:
            right = emit(graph, "Mul", right, abs(self.scale), out=f"{y.name}.high")
        emit(graph, "Sub", *((right, tail) if self.scale > 0 else (tail, right)), out=y)
        return slope, height


@dataclass(frozen=True)
class PiecewiseLinear(Form):
    """max(scale * x, slope * x + offset, floor): three numbers, four operators, scale > 0."""

    def __call__(self, x: Doubles) -> Doubles:
        slope, offset, floor = self.numbers
        highest: Doubles = np.maximum(np.maximum(self.scale * x, slope * x + offset), floor)
        return highest

    def gradient(self, x: Doubles) -> Doubles:
        slope, offset, floor = self.numbers
        line = slope * x + offset
        on_floor = (floor > self.scale * x) & (floor > line)
        on_line = ((line > self.scale * x) & ~on_floor).astype(np.float64)
        return np.stack([x * on_line, on_line, on_floor.astype(np.float64)])

    def valid(self, start: Form) -> NDArray[np.bool_]:  # noqa: ARG002
        """The line in the middle is not steeper than the one on the right, and does not fall."""
        slope = self.numbers[0]
        return np.asarray((slope > 0) & (slope < self.scale))

    def near(self, x: Doubles, y: Doubles) -> PiecewiseLinear:
        """The straight line through what it sees, and a floor at the lowest tenth."""
        line = _regression([x, np.ones_like(x)], y)
        floor = np.quantile(y, 0.1, axis=1, keepdims=True)
        return replace(self, numbers=np.concatenate([line, floor[None]]))

    def write(self, graph: gs.Graph, x: gs.Tensor, y: gs.Tensor) -> tuple[gs.Constant, ...]:
        """Mul, Add, Max, Max; a Mul more where the scale is not one."""
        names = ("slope", "offset", "floor")
        slope, offset, floor = _constants(graph, y, names, self.arrays(x))
        scaled = emit(graph, "Mul", x, slope, out=f"{y.name}.scaled")
        line = emit(graph, "Add", scaled, offset, out=f"{y.name}.line")
        left = emit(graph, "Max", line, floor, out=f"{y.name}.left")
        right = x
        if self.scale != 1.0:
            right = emit(graph, "Mul", x, self.scale, out=f"{y.name}.right")
        emit(graph, "Max", right, left, out=y)
        return slope, offset, floor


def _constants(
    graph: gs.Graph, y: gs.Tensor, names: Sequence[str], arrays: Sequence[Array]
) -> list[gs.Constant]:
    pairs = zip(names, arrays, strict=True)
    return [constant(graph, f"{y.name}.{name}", values) for name, values in pairs]
