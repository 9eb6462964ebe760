"""What the bytes of a tensor stand for, read off Relax's quantize and dequantize."""

from __future__ import annotations

from typing import NamedTuple

import tvm
from tvm import relax

from graphopt.codegen.importing.relax_shapes import Expr

QUANTIZE, DEQUANTIZE = "relax.quantize", "relax.dequantize"


class Quantisation(NamedTuple):
    """What a byte q stands for: (q - zero) * scale. Signed bytes are taken 128 higher."""

    scale: float
    zero: int


def quantisation_of(value: Expr, operator: str) -> Quantisation | None:
    """What a call of `QUANTIZE` or `DEQUANTIZE` says of a whole tensor's bytes; None of others."""
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != operator:
        return None
    _, scale, zero = value.args
    if not all(isinstance(c, tvm.ir.GenericConst) for c in (scale, zero)):
        return None
    scales, zeros = scale.value.numpy().reshape(-1), zero.value.numpy().reshape(-1)
    quantised = value if operator == QUANTIZE else value.args[0]
    dtype = str(quantised.ty.dtype)
    if len(set(scales)) != 1 or len(set(zeros)) != 1 or dtype not in ("uint8", "int8"):
        return None
    if str(scale.value.dtype) != "float32" or not scales[0] > 0:
        return None
    return Quantisation(float(scales[0]), int(zeros[0]) + 128 * (dtype == "int8"))
