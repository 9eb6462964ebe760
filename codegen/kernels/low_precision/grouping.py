"""Grouped convolutions of bytes or of bfloat16 as equal dense ones: parts, which lie side by side.

A part is a group, or as many neighbours as it takes to fill what a kernel reads and writes at once,
with zeros in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.conv.template import Number
from graphopt.codegen.kernels.emit import Expr
from graphopt.codegen.kernels.low_precision.stored_conv import StoredConv

Conv = TypeVar("Conv", bound=StoredConv)


@dataclass(frozen=True)
class Parts(Generic[Conv]):
    """What a convolution falls into.

    Args:
        spec: the dense convolution of a part; of one that is not grouped, the whole one.
        count: how many there are.
        together: groups in each.
    """

    spec: Conv
    count: int = 1
    together: int = 1

    def weights(self, whole: NDArray[Number]) -> list[NDArray[Number]]:
        """The dense weight of each part, of (O, I of a group, kh, kw)."""
        if self.count == self.together == 1:
            return [whole]
        groups = whole.reshape(self.count, self.together, -1, *whole.shape[1:])
        _, _, outputs, inputs, *kernel = groups.shape
        shape = (self.count, self.together, outputs, self.together, inputs, *kernel)
        dense = np.zeros(shape, whole.dtype)
        for n in range(self.together):
            dense[:, n, :, n] = groups[:, n]
        return [*dense.reshape(self.count, -1, self.together * inputs, *kernel)]

    def start(self, group: Expr, groups: int) -> tuple[Expr, Expr]:
        """Where the inputs of a group of filters begin: the block, and the word within.

        Args:
            group: its number among the filters of all parts.
            groups: how many such there are.
        """
        if self.count == 1:
            return 0, 0
        spec, each = self.spec, groups // self.count
        channel = T.bind(tirx.floordiv(group, each) * sum(spec.conv.in_channels))
        lanes = spec.x.lanes
        return (
            T.bind(tirx.floordiv(channel, lanes)),
            T.bind(tirx.floordiv(tirx.floormod(channel, lanes), spec.word)),
        )


def parts_of(spec: Conv, made: int, *, words: bool = False) -> Parts[Conv]:
    """The parts of a convolution.

    Args:
        spec: the convolution.
        made: filters that a kernel stores at once.
        words: whether it can read some words of a block alone.
    """
    conv = spec.conv
    if conv.groups == 1 or conv.depthwise:
        return Parts(spec)
    inputs, outputs = sum(conv.in_channels) // conv.groups, conv.out_channels // conv.groups
    for together in range(1, conv.groups):
        read, stored = inputs * together, outputs * together
        apart = read % spec.x.lanes == 0
        apart = apart or (words and read % spec.word == 0 and spec.x.lanes % read == 0)
        if conv.groups % together == 0 and stored % made == 0 and apart:
            return Parts(_dense(spec, read, stored), conv.groups // together, together)
    return Parts(_dense(spec, sum(conv.in_channels), conv.out_channels), 1, conv.groups)


def _dense(spec: Conv, inputs: int, outputs: int) -> Conv:
    conv = replace(spec.conv, in_channels=(inputs,), out_channels=outputs, groups=1)
    dense: Conv = replace(spec, conv=conv)  # type: ignore[type-var]
    return dense
