"""Transposed convolution: strides[0] * strides[1] ordinary ones, whose outputs are interleaved.

Output pixels that are a stride apart see the input through the same taps of the kernel, one step
further on. Such a phase of the output is an ordinary convolution of stride 1 with a smaller kernel,
and the phases together have every multiplication once, and none by a zero in between. Each is
computed by the kernel for dense or for depthwise convolutions, which stores into every stride-th
pixel: on a CPU row after row, so that the phases of a row fill it while it is in cache.

Reference: Shi et al., "Is the deconvolution layer the same as a convolutional layer?",
arXiv:1609.07009.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv import conv_dense, conv_depthwise
from graphopt.codegen.kernels.conv.template import ConvSpec, Parameters, Tile
from graphopt.codegen.kernels.emit import Expr, grid, kernel
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target


class Phase(NamedTuple):
    """A phase of the output.

    Args:
        spec: the ordinary convolution that computes it.
        first: its first pixel in the whole output, (row, column).
        taps: the rows and the columns of the whole kernel that its kernel has, in its order.
    """

    spec: ConvSpec
    first: tuple[int, int]
    taps: tuple[list[int], list[int]]


class _Axis(NamedTuple):
    """A phase along one axis: first output pixel, taps, and their dilation and padding."""

    first: int
    taps: list[int]
    dilation: int
    pads: tuple[int, int]


def _along(spec: ConvSpec, axis: int) -> Iterator[_Axis]:
    size, stride, dilation = spec.size[axis], spec.strides[axis], spec.dilations[axis]
    extent, pad = spec.out_size[axis], spec.pads[axis]
    step = dilation // math.gcd(stride, dilation)
    for first in range(min(stride, extent)):
        # Tap k carries input pixel i to output pixel i * stride + k * dilation - pad.
        reached = {
            (first + pad - k * dilation) // stride: k
            for k in range(spec.kernel[axis])
            if (first + pad - k * dilation) % stride == 0
        }
        inputs = sorted(reached) or [0]
        before, count = -inputs[0], -(-(extent - first) // stride)
        after = count - size - before + step * (len(inputs) - 1)
        yield _Axis(first, [reached[i] for i in sorted(reached)], step, (before, after))


def phases(spec: ConvSpec) -> list[Phase]:
    """The phases of a transposed convolution, in the order of their first pixels.

    One that no tap reaches has a kernel of one zero.
    """
    return [
        Phase(
            replace(
                spec,
                kernel=(max(1, len(y.taps)), max(1, len(x.taps))),
                strides=(1, 1),
                dilations=(y.dilation, x.dilation),
                pads=(y.pads[0], x.pads[0], y.pads[1], x.pads[1]),
                transposed=False,
            ),
            (y.first, x.first),
            (y.taps, x.taps),
        )
        for y, x in product(_along(spec, 0), _along(spec, 1))
    ]


def _template(spec: ConvSpec) -> ModuleType:
    return conv_depthwise if spec.depthwise else conv_dense


def tiles(spec: ConvSpec, target: Target) -> list[Tile]:
    """The tiles that it can be computed by, for every phase; none if it is not transposed."""
    if not spec.transposed or spec.planar:
        return []
    widest = phases(spec)[0].spec
    found: list[Tile] = _template(spec).tiles(widest, target)
    return found


def cost(spec: ConvSpec, target: Target, tile: Tile) -> float:
    """An estimate of the time, in vector multiply-adds."""
    return math.fsum(_template(spec).cost(phase.spec, target, tile) for phase in phases(spec))


def pack_weight(weight: Floats, spec: ConvSpec, target: Target, tile: Tile) -> Floats:
    """(O, I, kh, kw) to the weights of all phases, packed one after the other."""
    packed = []
    for phase in phases(spec):
        rows, columns = phase.taps
        part = np.zeros((*weight.shape[:2], *phase.spec.kernel), np.float32)
        part[..., : len(rows), : len(columns)] = weight[..., rows, :][..., columns]
        packed.append(_template(spec).pack_weight(part, phase.spec, target, tile).reshape(-1))
    return np.concatenate(packed)


def build(spec: ConvSpec, target: Target, tile: Tile) -> Any:
    """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
    with kernel("conv_transpose") as get:
        (_cpu if target.kind == "cpu" else _gpu)(spec, target, tile)
    return get()


@dataclass(frozen=True)
class _Alike:
    """Phases that one code computes: those of a rectangle are convolved alike.

    Args:
        spec: their ordinary convolution.
        first: the first one's first pixel in the whole output; the others' follow pixel by pixel.
        across: how many lie side by side; there are as many rows of them as fill `starts`.
        starts: of every phase, where its weight starts in the whole one, in elements.
    """

    spec: ConvSpec
    first: tuple[int, int]
    across: int
    starts: tuple[int, ...]

    def parameters(
        self, whole: Parameters, template: ModuleType, target: Target, tile: Tile, n: Expr
    ) -> Parameters:
        """Those of phase number n, by rows."""
        shape = template.weight_shape(self.spec, target, tile)
        down, right = self.first
        row, column = tirx.floordiv(n, self.across), tirx.floormod(n, self.across)
        # Weights lie phase after phase, row after row of the whole stride.
        start = self.starts[0]
        if len(self.starts) > 1:
            pitch = self.starts[min(self.across, len(self.starts) - 1)] - start
            step = math.prod(shape)
            start = start + (row * pitch + column * step if self.across > 1 else row * pitch)
        return whole.phase(self.spec, shape, start, (down + row, right + column))


def _alike(spec: ConvSpec, target: Target, tile: Tile) -> tuple[list[_Alike], int]:
    """The phases, those together that are neighbours and alike; and the whole weight's size."""
    template, parts = _template(spec), phases(spec)
    sizes = [math.prod(template.weight_shape(phase.spec, target, tile)) for phase in parts]
    *starts, total = accumulate(sizes, initial=0)
    rectangles: dict[ConvSpec, list[int]] = {}
    for i, phase in enumerate(parts):
        rectangles.setdefault(phase.spec, []).append(i)
    found = []
    for members in rectangles.values():
        rows, columns = (sorted({parts[i].first[axis] for i in members}) for axis in (0, 1))
        together = all(one[-1] - one[0] + 1 == len(one) for one in (rows, columns))
        # Phases that are alike and not neighbours (dilated by a stride's divisor) stay apart.
        whole = together and len(rows) * len(columns) == len(members)
        pitches = {
            starts[b] - starts[a] for a, b in zip(members, members[len(columns) :], strict=False)
        }
        for group in [members] if whole and len(pitches) < 2 else [[i] for i in members]:
            across = len(columns) if len(group) > 1 else 1
            first = parts[group[0]].first
            offsets = tuple(starts[i] for i in group)
            found.append(_Alike(parts[group[0]].spec, first, across, offsets))
    return found, total


def _cpu(spec: ConvSpec, target: Target, tile: Tile) -> None:
    template, (alike, total) = _template(spec), _alike(spec, target, tile)
    whole = Parameters(spec, target, (total,))
    tallest = alike[0].spec
    rows, tasks = conv_dense.task_rows(tallest, target)
    groups = template.weight_shape(tallest, target, tile)[0]
    with grid(target, tasks, groups) as (task, group), T.serial(0, rows) as r:
        row = T.bind(task * rows + r)
        for some in alike:
            with T.If(row < some.spec.out_size[0]), T.Then(), T.serial(0, len(some.starts)) as n:
                p = some.parameters(whole, template, target, tile, n)
                template.cpu_row(some.spec, target, tile, p, group, row)


def _gpu(spec: ConvSpec, target: Target, tile: Tile) -> None:
    template, (alike, total) = _template(spec), _alike(spec, target, tile)
    whole = Parameters(spec, target, (total,))
    for some in alike:

        def parameters(n: Expr, some: _Alike = some) -> Parameters:
            return some.parameters(whole, template, target, tile, n)

        template.gpu(some.spec, target, tile, parameters, len(some.starts))
