"""Transposed convolution of bytes or of bfloat16: ordinary ones, whose outputs are interleaved.

As `kernels.conv.conv_transpose`: a phase of the output is an ordinary convolution of stride 1. Each
is computed as its own template does it, and stored into every stride-th pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.conv_transpose import phases
from graphopt.codegen.kernels.conv.template import Number, Tile
from graphopt.codegen.kernels.emit import kernel
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.parameters import Pixel, StoredParameters
from graphopt.codegen.kernels.low_precision.stored_conv import StoredConv
from graphopt.codegen.targets import Target

Conv = TypeVar("Conv", bound=StoredConv)


class _Phase(NamedTuple):
    """A phase of the output.

    Args:
        spec: the ordinary convolution that computes it.
        first: its first pixel in the whole output.
        taps: the rows and the columns of the whole kernel that its kernel has, in its order.
    """

    spec: Any
    first: Pixel
    taps: tuple[list[int], list[int]]

    def weight(self, whole: NDArray[Number]) -> NDArray[Number]:
        """Its weight, of the whole (O, I of a group, kh, kw)."""
        rows, columns = self.taps
        part = np.zeros((*whole.shape[:2], *self.spec.conv.kernel), whole.dtype)
        part[..., : len(rows), : len(columns)] = whole[..., rows, :][..., columns]
        return part


def _phases(spec: Conv) -> list[_Phase]:
    """The phases of a transposed convolution, each with the type of the whole one."""
    return [
        _Phase(replace(spec, conv=conv, apart=spec.conv.strides), first, taps)  # type: ignore[type-var]
        for conv, first, taps in phases(spec.conv)
    ]


@dataclass(frozen=True)
class Transposed:
    """The template that computes each phase by another one.

    Args:
        plain: that of ordinary convolutions; beside what every template has, it has `weight_shape`
            and `emit`, the kernel's body.
        weights: the type of its packed weight; "" for that of the convolution.
        starts: beginnings of the sums that it takes.
    """

    plain: ModuleType
    weights: str = ""
    starts: int = 1

    def tiles(self, spec: StoredConv, target: Target) -> list[Tile]:
        """The tiles that every phase can be computed by."""
        first, *others = ([*self.plain.tiles(p.spec, target)] for p in _phases(spec))
        return [tile for tile in first if all(tile in other for other in others)]

    def cost(self, spec: StoredConv, target: Target, tile: Tile) -> float:
        """An estimate of the time, as that of the other template."""
        return math.fsum(self.plain.cost(phase.spec, target, tile) for phase in _phases(spec))

    def pack_weight(
        self, weight: NDArray[Number], spec: StoredConv, target: Target, tile: Tile
    ) -> NDArray[Number]:
        """(O, I, kh, kw) to the weights of all phases, one after the other."""
        return np.concatenate(
            [
                self.plain.pack_weight(phase.weight(weight), phase.spec, target, tile).reshape(-1)
                for phase in _phases(spec)
            ]
        )

    def starting_sums(
        self, start: Integers, weight: Integers, spec: Int8Conv, target: Target
    ) -> Integers:
        """What the sums of each phase begin with, (phases, filters), or more rows."""
        sums: Sequence[Integers] = [
            np.atleast_2d(self.plain.starting_sums(start, phase.weight(weight), phase.spec, target))
            for phase in _phases(spec)
        ]
        return np.concatenate(sums)

    def pack_vectors(
        self, values: NDArray[Number], spec: StoredConv, target: Target
    ) -> NDArray[Number]:
        """A number a channel, (O,), as kernels read them: (vectors, lanes)."""
        packed: NDArray[Number] = self.plain.pack_vectors(values, _phases(spec)[0].spec, target)
        return packed

    def build(self, spec: StoredConv, target: Target, tile: Tile) -> Any:
        """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
        parts = _phases(spec)
        shapes = [self.plain.weight_shape(phase.spec, target, tile) for phase in parts]
        *begins, total = accumulate(map(math.prod, shapes), initial=0)
        weight = ((total,), self.weights or spec.weights)
        with kernel("conv_transpose") as get:
            whole = StoredParameters(spec, target, weight, starts=self.starts * len(parts))
            with whole.instructions():
                for n, (phase, shape, begin) in enumerate(zip(parts, shapes, begins, strict=True)):
                    p = whole.phase(phase.spec, (n, len(parts)), (shape, begin), phase.first)
                    self.plain.emit(phase.spec, target, tile, p)
        return get()
