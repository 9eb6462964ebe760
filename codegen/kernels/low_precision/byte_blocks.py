"""Blocks of 64 bytes that are made of four vectors of sums at once, and read as such.

Instructions of AVX-512 pack two vectors into one within each 128 bits. Vectors whose channels lie
as `ORDER` says become bytes in the order of channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from graphopt.codegen.kernels.conv.template import Number, pack_channels
from graphopt.codegen.kernels.emit import Expr
from graphopt.codegen.kernels.low_precision.stored_conv import WORD, Stored, StoredConv
from graphopt.codegen.targets import Target

CHANNELS, LANES = 64, 16
"""Channels of a block, and of a vector of sums."""
PARTS = CHANNELS // LANES
ORDER = np.array(
    [[LANES * q + WORD * j + i for q in range(4) for i in range(4)] for j in range(PARTS)]
).reshape(-1)
"""The channel of each lane of the four vectors, one after the other."""
BLOCK = Stored("uint8", CHANNELS)


def pack_vectors(values: NDArray[Number], spec: StoredConv, _: Target) -> NDArray[Number]:
    """A number a channel, (C,), as a kernel of such blocks reads them: (vectors, lanes)."""
    spread = pack_channels(values, CHANNELS, spec.conv.out_runs)[:, ORDER]
    return np.ascontiguousarray(spread.reshape(-1, LANES))


def packed(parts: Sequence[Expr]) -> Expr:
    """The block of four vectors of 32-bit numbers, each taken for the nearest from 0 to 255."""
    half = "llvm.x86.avx512.packssdw.512"
    pairs = [
        tirx.call_llvm_pure_intrin("int16x32", half, *parts[first : first + 2]) for first in (0, 2)
    ]
    block = tirx.call_llvm_pure_intrin("int8x64", "llvm.x86.avx512.packuswb.512", *pairs)
    return tirx.reinterpret("uint8x64", block)


def unpacked(block: Expr) -> list[Expr]:
    """The four vectors of 32-bit numbers of a block."""
    nothing = tirx.Broadcast(tirx.IntImm("uint8", 0), CHANNELS)
    lanes = ORDER.reshape(PARTS, LANES)
    return [
        tirx.reinterpret(
            f"int32x{LANES}",
            tirx.Shuffle(
                [block, nothing], [int(at) for lane in part for at in (lane, *[CHANNELS] * 3)]
            ),
        )
        for part in lanes
    ]
