"""This machine's CPU, through LLVM: as wide as its vectors are."""

from __future__ import annotations

from typing import Any

from graphopt.codegen.targets import Target
from graphopt.errors import Unsupported
from graphopt.runtime import cpu_features

# Widest first: the features it needs, its vector lanes (float32), and the accumulators of a
# register tile, which leave registers for weights and for one input value.
_VECTOR_UNITS = (
    (("avx512f", "avx512dq", "avx512vl"), 16, 26),
    (("avx2", "fma"), 8, 12),
)


def make() -> Target:
    """Describe the CPU that this runs on.

    Raises:
        Unsupported: it has neither AVX-512 nor AVX2.
    """
    from tvm.target import codegen

    have = cpu_features()
    units = [unit for unit in _VECTOR_UNITS if have.issuperset(unit[0])]
    if not units:
        raise Unsupported(
            "this CPU has neither AVX-512 nor AVX2 with FMA, which the cpu target needs",
            hint="compile with --target opencl",
        )
    features, lanes, registers = units[0]
    tvm: dict[str, Any] = {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}
    if lanes == 16:
        # Some AVX-512 CPUs make LLVM prefer 256-bit registers; our tiles count on 512.
        tvm["mattr"] = ["-prefer-256-bit"]
    return Target(
        name="cpu",
        kind="cpu",
        lanes=lanes,
        registers=registers,
        filter_blocks=4,
        cache_bytes=192 * 1024,
        work_group=1,
        tvm=tvm,
        cpu_features=features,
    )
