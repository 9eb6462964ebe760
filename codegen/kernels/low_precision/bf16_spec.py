"""A convolution of bfloat16 numbers: its specification, its NumPy reference, how tensors lie.

Input and weight are bfloat16. Their products, of 16 bits, are exact in float32, in which they are
added up: in an order of the instruction's own, and with numbers below 1.2e-38 taken as zeros.
AVX512-BF16 and AMX round each sum half to even. Arm's `bfdot` rounds to odd (towards zero, and the
last bit is set of what is not exact): the sum of a word's two products, and then what that makes of
the sum so far; `bfmmla` does so for two words (Arm Architecture Reference Manual, with FPCR.EBF at
0).
Bias, activation and residual are float32, as that which is stored is, or it is rounded to bfloat16,
half to even. A depthwise convolution has float32 weights: it is no matter of that instruction.

Tensors are blocked as others are, with blocks as wide as their tensor asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.low_precision.bfloat16 import BITS, rounded
from graphopt.codegen.kernels.low_precision.stored_conv import Stored, StoredConv

WIDTHS = (2, 4, 16, 32)
"""Channels of a block: 2 are what instructions take at once, 32 a row of a matrix unit's tile."""


def half_lanes(channels: int) -> int:
    """Channels of a block of a bfloat16 tensor: the narrowest width that holds all, or 32."""
    return next((width for width in WIDTHS if channels <= width), WIDTHS[-1])


@dataclass(frozen=True)
class Bf16Conv(StoredConv):
    """One convolution of bfloat16 numbers, batch 1.

    Args:
        conv: what is convolved; not planar.
        x: how the input lies; its type is that of bfloat16's bits.
        y: how the output lies: as bfloat16, or float32.
        tensors: how the epilogue's tensors lie.
        apart: how far apart its pixels are in their buffer (`StoredConv`).
    """

    conv: ConvSpec
    x: Stored
    y: Stored
    tensors: tuple[Stored, ...] = ()
    apart: tuple[int, int] = (1, 1)

    zero = 0
    sums = "float32"
    weights = BITS
    product = "tdpbf16ps"

    def width(self, lanes: int) -> int:
        """All lanes of the output's blocks are written: what is left there might be no number."""
        return max(self.y.lanes, lanes)

    def reference(
        self,
        x: Floats,
        weight: Floats,
        channels: Sequence[Floats] = (),
        tensors: Sequence[Floats] = (),
    ) -> Floats:
        """The convolution in NumPy, with exact sums, up to the epilogue.

        Args:
            x: (1, C, H, W), as bfloat16 holds it.
            weight: (filters, C / groups, kh, kw); rounded here, unless depthwise.
            channels: the epilogue's vectors.
            tensors: the epilogue's tensors, (1, filters, oh, ow), as they are stored.

        Returns:
            (1, filters, oh, ow), as it is stored.
        """
        weight = weight if self.conv.depthwise else rounded(weight)
        total = self.conv.sums(x, weight).astype(np.float32)
        result = self.conv.epilogue.reference(total, channels, tensors)
        return rounded(result) if self.y.dtype == BITS else result
