"""Layers as ordinary convolutions: a transposed one is one of its input with zeros in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution

Number = TypeVar("Number", bound=np.generic)
UNKNOWNS = 5000
"""Of a transposed convolution's filter, at most, to be fitted: its equations take their square."""


@dataclass(frozen=True)
class Ordinary:
    """An ordinary convolution that computes what a layer does.

    Args:
        spec: the convolution.
        apart: how far apart the pixels of the layer's input are in what it sees, zeros in between.
        transposed: whether the layer's weight is written as (I, O, kh, kw), the other way round.
    """

    spec: Convolution
    apart: tuple[int, ...] = (1, 1)
    transposed: bool = False

    @property
    def axis(self) -> int:
        """That of the output channels in the layer's weight."""
        return 1 if self.transposed else 0

    @property
    def can_be_fitted(self) -> bool:
        """Whether its weights can be found by least squares."""
        if len(self.spec.kernel) != 2 or self.spec.pads is None:
            return False
        few = self.spec.weight[0].size <= UNKNOWNS
        return not self.transposed or (few and min(self.spec.pads) >= 0)

    def seen(self, values: Array) -> Array:
        """What it sees of the layer's input, [1,C,H,W]."""
        if self.apart == (1, 1):
            return values
        size = [(n - 1) * step + 1 for n, step in zip(values.shape[2:], self.apart, strict=True)]
        spread = np.zeros((*values.shape[:2], *size), values.dtype)
        down, across = self.apart
        spread[:, :, ::down, ::across] = values
        return spread

    def as_written(self, weight: NDArray[Number]) -> NDArray[Number]:
        """Its weight as that of the layer; that of the layer as its own."""
        if not self.transposed:
            return weight
        return np.ascontiguousarray(weight[..., ::-1, ::-1].swapaxes(0, 1))


def ordinary(node: gs.Node) -> Ordinary | None:
    """A layer as an ordinary convolution; None where it is none, or a transposed one in groups, of
    other than two dimensions, or of a size that its pads do not tell.
    """
    spec = Convolution.of(node)
    if spec is None or spec.op == "Conv":
        return None if spec is None else Ordinary(spec)
    if spec.group > 1 or len(spec.kernel) != 2 or spec.pads is None:
        return None
    if node.attrs.get("output_shape") or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    reach = [d * (k - 1) for d, k in zip(spec.dilations, spec.kernel, strict=True)]
    before = [r - pad for r, pad in zip(reach, spec.pads[:2], strict=True)]
    # As much as the last pixel may need; more is not looked at.
    behind = [r + step for r, step in zip(reach, spec.strides, strict=True)]
    plain = Ordinary(spec, spec.strides, transposed=True)
    turned = replace(
        spec,
        op="Conv",
        weight=plain.as_written(spec.weight),
        strides=(1, 1),
        pads=(*before, *behind),
    )
    return replace(plain, spec=turned)
