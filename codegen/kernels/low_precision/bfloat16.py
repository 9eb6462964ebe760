"""bfloat16: the upper half of a float32, and rounding to it, in NumPy and in TIR.

NumPy has no such type and TVM emulates it, so buffers hold bfloat16 as its bits, uint16.

LLVM's intrinsics take vectors of bfloat, which TVM's lowering turns into float32 wherever it sees
them. So kernels call functions of a few lines of LLVM's own language, which take the bits instead
and are inlined: one instruction each.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr
from graphopt.codegen.kernels.epilogue import Floats

Bits = NDArray[np.uint16]

BITS = "uint16"
"""How buffers hold bfloat16."""
WIDE = 16
"""Sums in a vector of AVX-512; Arm's vectors have four."""


def bits_of(values: Floats) -> Bits:
    """The nearest bfloat16 numbers, ties to even; those below 1.2e-38 are zeros, as on the CPU."""
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    whole = np.where(whole & 0x7F800000, whole, whole & 0x80000000)
    rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16
    quiet = (whole >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def floats_of(bits: Bits) -> Floats:
    """The numbers that bits of bfloat16 are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: Floats) -> Floats:
    """Float32 numbers as bfloat16 holds them."""
    return floats_of(bits_of(values))


def widened(bits: Expr, lanes: int = 1) -> Expr:
    """The float32 numbers of a vector of bits, or of one."""
    wide = tirx.Cast(_type("uint32", lanes), bits)
    return tirx.reinterpret(_type("float32", lanes), wide << _lanes(16, lanes))


def narrowed(value: Expr) -> Expr:
    """The bits of the bfloat16 number nearest to one float32, ties to even, without the unit."""
    whole = tirx.reinterpret("uint32", value)
    upper = whole >> tirx.const(16, "uint32")
    odd = upper & tirx.const(1, "uint32")
    nearest = (whole + tirx.const(0x7FFF, "uint32") + odd) >> tirx.const(16, "uint32")
    quiet = upper | tirx.const(0x40, "uint32")
    return tirx.Cast(BITS, tirx.Select(tirx.isnan(value), quiet, nearest))


def _lanes(number: int, lanes: int) -> Expr:
    scalar = tirx.const(number, "uint32")
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def _type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


_X86 = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)

define linkonce_odr hidden <16 x float> @graphopt_bf16_dot(
    <16 x float> %sums, <16 x i32> %words, <16 x i32> %weights) alwaysinline {
  %a = bitcast <16 x i32> %words to <32 x bfloat>
  %b = bitcast <16 x i32> %weights to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %r
}

define linkonce_odr hidden <16 x i16> @graphopt_bf16_round(<16 x float> %values) alwaysinline {
  %x = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %values)
  %r = bitcast <16 x bfloat> %x to <16 x i16>
  ret <16 x i16> %r
}

define linkonce_odr hidden <32 x i16> @graphopt_bf16_round_two(
    <16 x float> %low, <16 x float> %high) alwaysinline {
  %x = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(
      <16 x float> %high, <16 x float> %low)
  %r = bitcast <32 x bfloat> %x to <32 x i16>
  ret <32 x i16> %r
}
"""

_ARM = """
declare <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float>, <8 x bfloat>, <8 x bfloat>)
declare <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(<4 x float>, <8 x bfloat>, <8 x bfloat>)

define linkonce_odr hidden <4 x float> @graphopt_bf16_dot(
    <4 x float> %sums, <4 x i32> %words, <4 x i32> %weights) alwaysinline {
  %a = bitcast <4 x i32> %words to <8 x bfloat>
  %b = bitcast <4 x i32> %weights to <8 x bfloat>
  %r = call <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(
      <4 x float> %sums, <8 x bfloat> %b, <8 x bfloat> %a)
  ret <4 x float> %r
}

define linkonce_odr hidden <4 x float> @graphopt_bf16_squares(
    <4 x float> %sums, i64 %first, i64 %second, <8 x i16> %weights) alwaysinline {
  %one = insertelement <2 x i64> poison, i64 %first, i32 0
  %two = insertelement <2 x i64> %one, i64 %second, i32 1
  %a = bitcast <2 x i64> %two to <8 x bfloat>
  %b = bitcast <8 x i16> %weights to <8 x bfloat>
  %r = call <4 x float> @llvm.aarch64.neon.bfmmla(
      <4 x float> %sums, <8 x bfloat> %a, <8 x bfloat> %b)
  ret <4 x float> %r
}

define linkonce_odr hidden <4 x i16> @graphopt_bf16_round(<4 x float> %values) alwaysinline {
  %x = fptrunc <4 x float> %values to <4 x bfloat>
  %r = bitcast <4 x bfloat> %x to <4 x i16>
  ret <4 x i16> %r
}
"""

_INSTRUCTIONS = {WIDE: _X86, 4: _ARM}
"""By the lanes of a vector."""


def instructions(lanes: int) -> AbstractContextManager[object]:
    """Within it a kernel may call `dot`, `nearest` and, with wide vectors, `nearest_two`."""
    frame: AbstractContextManager[object] = T.attr(0, "pragma_import_llvm", _INSTRUCTIONS[lanes])
    return frame


def dot(sums: Expr, words: Expr, weights: Expr, lanes: int) -> Expr:
    """Two products a lane, added to sums; `words` and `weights` are 32-bit numbers, two each."""
    return tirx.call_pure_extern(f"float32x{lanes}", "graphopt_bf16_dot", sums, words, weights)


def squares(sums: Expr, first: Expr, second: Expr, weights: Expr) -> Expr:
    """Arm's: two pixels times two filters, of four channels each, added to their four sums.

    Args:
        sums: of the first pixel, then of the second.
        first, second: a pixel's channels, as a 64-bit number.
        weights: of the first filter, then of the second, as bits.
    """
    return tirx.call_pure_extern("float32x4", "graphopt_bf16_squares", sums, first, second, weights)


def nearest(values: Expr, lanes: int) -> Expr:
    """A vector of float32 as bits of the nearest bfloat16."""
    return tirx.call_pure_extern(f"{BITS}x{lanes}", "graphopt_bf16_round", values)


def nearest_two(low: Expr, high: Expr) -> Expr:
    """Two wide vectors of float32, one after the other, as bits of the nearest bfloat16."""
    return tirx.call_pure_extern(f"{BITS}x{2 * WIDE}", "graphopt_bf16_round_two", low, high)
