"""Instructions that multiply the bytes of a word, or the bfloat16 numbers, and add the products to
32-bit sums.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr, wrapped
from graphopt.codegen.kernels.low_precision import bfloat16 as bf16
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.kernels.low_precision.stored_conv import StoredConv
from graphopt.codegen.targets import Target

Dot: TypeAlias = Callable[[Expr, Sequence[Expr], Sequence[Expr], Target], Expr]
"""Sums, words and weights to those sums with the products added."""


@dataclass(frozen=True)
class DotUnit:
    """How a CPU adds up products of bytes.

    A word is four bytes of a pixel. A vector of weights is four bytes a filter: what a word is
    multiplied by.

    Args:
        features: what a CPU that can do it calls them in /proc/cpuinfo.
        instructions: how many a word and a vector of filters take.
        pack: weights (…, filters, 4) in the order in which `weights` reads them.
        words: a word in every lane, as `dot` wants it: words, target.
        weights: a vector's weights, as `dot` wants them: packed bytes, target.
        dot: sums, words, weights, target -> sums.
        spare: registers that it needs beside those of sums, words and weights.
        offset: what `words` takes off every byte, so that it is signed; sums begin with as much.
    """

    features: tuple[str, ...]
    instructions: float
    pack: Callable[[Integers], Integers]
    words: Callable[[Expr, Target], Sequence[Expr]]
    weights: Callable[[Expr, Target], Sequence[Expr]]
    dot: Dot
    spare: int = 0
    offset: int = 0


def _avx512(name: str, numbers: str) -> Dot:
    """An instruction that adds the products of a word's numbers, of a type, to 32-bit sums."""
    of_word = 4 // np.dtype(numbers).itemsize

    def dot(sums: Expr, words: Sequence[Expr], weights: Sequence[Expr], target: Target) -> Expr:
        # This LLVM wants the operands as vectors of their numbers.
        return tirx.call_llvm_pure_intrin(
            f"int32x{target.lanes}",
            f"llvm.x86.avx512.{name}.{32 * target.lanes}",
            sums,
            tirx.reinterpret(f"{numbers}x{of_word * target.lanes}", words[0]),
            weights[0],
        )

    return dot


VNNI = DotUnit(
    features=("avx512_vnni",),
    instructions=1,
    pack=lambda weights: weights,
    words=lambda words, _: [words],
    weights=lambda packed, _: [packed],
    dot=_avx512("vpdpbusd", "uint8"),
)


def _in_pairs(weights: Integers) -> Integers:
    """(…, filters, 4) to the first two of every filter, then the last two."""
    pairs = weights.reshape(*weights.shape[:-1], 2, 2)
    return np.ascontiguousarray(np.moveaxis(pairs, -2, -3)).reshape(weights.shape)


def _wide_words(words: Expr, target: Target) -> Sequence[Expr]:
    """Each byte as 16 bits: first the lower two, then the upper two."""

    def every(number: int) -> Expr:
        return tirx.Broadcast(tirx.IntImm("int32", number), target.lanes)

    low = (words & every(0xFF)) | ((words & every(0xFF00)) << every(8))
    upper = (words >> every(16)) & every(0xFFFF)
    high = (upper & every(0xFF)) | ((upper & every(0xFF00)) << every(8))
    return [T.bind(low), T.bind(high)]


def _wide_weights(packed: Expr, target: Target) -> Sequence[Expr]:
    """The two halves of `_in_pairs`, as 16 bits."""
    count = 2 * target.lanes

    def half(start: int) -> Expr:
        part = tirx.Shuffle([packed], list(range(start, start + count)))
        return T.bind(tirx.Cast(f"int16x{count}", part))

    return [half(0), half(count)]


def _pmaddwd(sums: Expr, words: Sequence[Expr], weights: Sequence[Expr], target: Target) -> Expr:
    """In 16 bits, two products a lane: `pmaddubsw` of bytes would saturate their sum."""
    for pair, weight in zip(words, weights, strict=True):
        sums = sums + tirx.call_llvm_pure_intrin(
            f"int32x{target.lanes}",
            "llvm.x86.avx2.pmadd.wd",
            tirx.reinterpret(f"int16x{2 * target.lanes}", pair),
            weight,
        )
    return sums


def _wrapped_pmaddwd(
    sums: Expr, words: Sequence[Expr], weights: Sequence[Expr], target: Target
) -> Expr:
    """The same modulo 2^32, in two instructions."""
    none = tirx.Broadcast(tirx.IntImm("int32", 0), target.lanes)
    return wrapped(operator.add, sums, _pmaddwd(none, words, weights, target))


SIGN = 128
"""What flipping a byte's top bit takes off it, once the byte is read as a signed one."""


def _signed(words: Expr, target: Target) -> Expr:
    """The same words, each byte less `SIGN`."""
    flip = tirx.IntImm("int32", int(np.array([SIGN] * 4, np.uint8).view(np.int32)[0]))
    return words ^ tirx.Broadcast(flip, target.lanes)


def _neon(name: str) -> Dot:
    """An instruction that adds four products a lane, of Arm's 16-byte vectors."""

    def dot(sums: Expr, words: Sequence[Expr], weights: Sequence[Expr], _: Target) -> Expr:
        return tirx.call_llvm_pure_intrin(
            "int32x4",
            f"llvm.aarch64.neon.{name}.v4i32.v16i8",
            sums,
            tirx.reinterpret("int8x16", words[0]),
            weights[0],
        )

    return dot


def _smull(sums: Expr, words: Sequence[Expr], weights: Sequence[Expr], _: Target) -> Expr:
    """Products in 16 bits, which hold each of them, added in pairs to the sums."""
    # LLVM would add up the products of several words first, in registers that there are not.
    kept = tirx.reinterpret("float32x4", sums)
    fence = tirx.call_llvm_pure_intrin("float32x4", "llvm.arithmetic.fence", kept)
    sums = tirx.reinterpret("int32x4", fence)
    for pair, start in zip(words, (0, 8), strict=True):
        half = list(range(start, start + 8))
        products = tirx.call_llvm_pure_intrin(
            "int16x8",
            "llvm.aarch64.neon.smull.v8i16",
            tirx.Shuffle([pair], half),
            tirx.Shuffle([weights[0]], half),
        )
        sums = sums + tirx.call_llvm_pure_intrin(
            "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products
        )
    return sums


def _pairs(words: Expr, target: Target) -> Sequence[Expr]:
    """The lower two bytes of a word, less `SIGN`, throughout a vector; then the upper two."""
    signed = tirx.reinterpret("int8x16", T.bind(_signed(words, target)))
    return [T.bind(tirx.Shuffle([signed], [start, start + 1] * 8)) for start in (0, 2)]


USDOT = DotUnit(
    features=("asimddp", "i8mm"),
    instructions=1,
    pack=lambda weights: weights,
    words=lambda words, _: [words],
    weights=lambda packed, _: [packed],
    dot=_neon("usdot"),
)
SDOT = replace(
    USDOT,
    features=("asimddp",),
    words=lambda words, target: [T.bind(_signed(words, target))],
    dot=_neon("sdot"),
    offset=SIGN,
)
SMULL = replace(
    SDOT, features=(), instructions=4, pack=_in_pairs, words=_pairs, dot=_smull, spare=10
)

OPENCL = replace(VNNI, features=())
"""Whatever a GPU has: see `conv_dot_gpu`, which writes its products itself."""

UNITS = {
    "avx512_vnni": VNNI,
    "avx_vnni": replace(VNNI, features=("avx_vnni",)),
    "avx2": DotUnit((), 4, _in_pairs, _wide_words, _wide_weights, _pmaddwd),
    "i8mm": USDOT,
    "asimddp": SDOT,
    "asimd": SMULL,
    "opencl": OPENCL,
}
"""By the name that `Target.dot` has."""

PAIRS = {
    "avx512_vnni": replace(VNNI, dot=_avx512("vpdpwssd", "int16")),
    "avx_vnni": replace(VNNI, features=("avx_vnni",), dot=_avx512("vpdpwssd", "int16")),
    "avx2": replace(VNNI, features=(), instructions=2, dot=_wrapped_pmaddwd),
}
"""The same for words of two 16-bit numbers; sums are modulo 2^32."""


BF16 = DotUnit(
    features=("avx512_bf16",),
    instructions=4,
    pack=lambda weights: weights,
    words=lambda words, _: [words],
    weights=lambda packed, target: [tirx.reinterpret(f"int32x{target.lanes}", packed)],
    dot=lambda sums, words, weights, target: bf16.dot(sums, words[0], weights[0], target.lanes),
)
"""Of bfloat16 numbers, two a word. Measured on a Xeon, each takes the time of four multiply-adds of
float32.
"""

BFDOT = replace(BF16, features=("bf16",), instructions=1)
"""Arm's, which takes the time of a multiply-add of float32: both take one of the vector pipelines,
whichever is free (of Neoverse N2: LLVM's AArch64SchedNeoverseN2.td)."""

BF16_UNITS = {"avx512_bf16": BF16, "amx_bf16": BF16, "bf16": BFDOT}
"""By the name that `Target.bfloat16` has."""


def unit_of(spec: StoredConv, target: Target) -> DotUnit | None:
    """The instructions of a target for a convolution; None if there are none that kernels use."""
    if isinstance(spec, Int8Conv):
        return UNITS.get(target.dot)
    return BF16_UNITS.get(target.bfloat16)
