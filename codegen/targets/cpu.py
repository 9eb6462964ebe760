"""A CPU, through LLVM: this machine's, as wide as its vectors are, or another's."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple

from graphopt.codegen.hosts import HOSTS, known_features, named_features
from graphopt.codegen.targets import Target, with_floats_only
from graphopt.errors import Unsupported, UsageError
from graphopt.runtime.cpu import cpu_features, this_host


class VectorUnit(NamedTuple):
    """A kind of vector registers.

    Args:
        features: what a CPU that has them calls them in /proc/cpuinfo.
        lanes: float32 values in a register.
        registers: how many there are for a register tile.
        filter_blocks: most blocks of filters in a register tile.
        least: what LLVM calls the CPU of all that have them.
        attributes: what LLVM must be told beside that.
    """

    features: tuple[str, ...]
    lanes: int
    registers: int
    filter_blocks: int
    least: str
    attributes: tuple[str, ...] = ()


VECTOR_UNITS = {
    # Some AVX-512 CPUs make LLVM prefer 256-bit registers; our tiles count on 512.
    "avx512": VectorUnit(
        ("avx512f", "avx512dq", "avx512vl"), 16, 32, 4, "x86-64-v4", ("-prefer-256-bit",)
    ),
    "avx2": VectorUnit(("avx2", "fma"), 8, 16, 3, "x86-64-v3"),
    # Two registers fewer than there are, since no operand may stay in memory.
    "neon": VectorUnit(("asimd",), 4, 30, 4, "generic", ("+neon",)),
}
"""Widest first."""


def describe(unit: VectorUnit, tvm: dict[str, Any]) -> Target:
    """A CPU with such vectors, and what TVM calls it."""
    return Target(
        name="cpu",
        kind="cpu",
        lanes=unit.lanes,
        registers=unit.registers,
        filter_blocks=unit.filter_blocks,
        cache_bytes=192 * 1024,
        work_group=1,
        tvm=tvm,
        cpu_features=unit.features,
    )


def make(features: str = "") -> Target:
    """Describe the CPU that this runs on.

    Args:
        features: names of those that kernels may use, see `named_features`; "" are all that it has.

    Raises:
        UsageError: no feature has such a name.
        Unsupported: it has no vector unit that there are kernels for, or lacks a feature.
    """
    from tvm.target import codegen

    have: AbstractSet[str] = named_features(features) if features else cpu_features()
    unit = next((u for u in VECTOR_UNITS.values() if have >= set(u.features)), None)
    if unit is None:
        raise Unsupported(
            "this CPU has neither AVX-512, nor AVX2 with FMA, nor NEON, which the cpu target needs",
            hint="compile with --target opencl",
        )
    cpu = unit.least if features else codegen.llvm_get_system_cpu()
    tvm = {"kind": "llvm", "mcpu": cpu, "mattr": [*unit.attributes]}
    return with_integer_units(describe(unit, tvm), have)


class IntegerUnit(NamedTuple):
    """Instructions for 8-bit numbers.

    Args:
        features: what a CPU that has them calls them in /proc/cpuinfo.
        lanes: sums in a vector.
        dot: see `Target.dot`.
        tiles: see `Target.tiles`.
        attributes: what LLVM calls them.
    """

    features: frozenset[str]
    lanes: int
    dot: str
    tiles: str = ""
    attributes: tuple[str, ...] = ()


INTEGER_UNITS = (
    IntegerUnit(
        frozenset(["avx512_vnni", "amx_tile", "amx_int8"]),
        16,
        "avx512_vnni",
        "amx_int8",
        ("+avx512vnni", "+amx-tile", "+amx-int8"),
    ),
    IntegerUnit(frozenset(["avx512_vnni"]), 16, "avx512_vnni", attributes=("+avx512vnni",)),
    IntegerUnit(frozenset(["avx_vnni"]), 8, "avx_vnni", attributes=("+avxvnni",)),
    IntegerUnit(frozenset(["avx2"]), 8, "avx2"),
    IntegerUnit(frozenset(["asimddp", "i8mm"]), 4, "i8mm", attributes=("+dotprod", "+i8mm")),
    IntegerUnit(frozenset(["asimddp"]), 4, "asimddp", attributes=("+dotprod",)),
    IntegerUnit(frozenset(["asimd"]), 4, "asimd"),
)
"""The fastest first."""


def with_integer_units(target: Target, have: AbstractSet[str]) -> Target:
    """The same target, with the instructions for 8-bit numbers that a CPU of these features has."""
    found = next(
        (unit for unit in INTEGER_UNITS if unit.lanes == target.lanes and have >= unit.features),
        None,
    )
    if found is None:
        return target
    attributes = [*target.tvm.get("mattr", []), *found.attributes]
    return replace(
        target, dot=found.dot, tiles=found.tiles, tvm={**target.tvm, "mattr": attributes}
    )


class Bfloat16Unit(NamedTuple):
    """Instructions for bfloat16.

    Args:
        features: what a CPU that has them calls them in /proc/cpuinfo.
        vectors: those that it goes with, one of `VECTOR_UNITS`.
        name: see `Target.bfloat16`.
        attributes: what LLVM calls them.
    """

    features: frozenset[str]
    vectors: str
    name: str
    attributes: tuple[str, ...]


_AVX512_BF16 = frozenset(["avx512_bf16"])
BFLOAT16_UNITS = (
    Bfloat16Unit(
        _AVX512_BF16 | {"amx_tile", "amx_bf16"},
        "avx512",
        "amx_bf16",
        ("+avx512bf16", "+amx-tile", "+amx-bf16"),
    ),
    Bfloat16Unit(_AVX512_BF16, "avx512", "avx512_bf16", ("+avx512bf16",)),
    Bfloat16Unit(frozenset(["bf16"]), "neon", "bf16", ("+bf16",)),
)
"""The fastest first."""


def bfloat16_unit(host: str = "", features: str = "") -> Bfloat16Unit:
    """The instructions for bfloat16 that a CPU has.

    Args:
        host, features: see `on`; of this machine, "" are all that it has.

    Raises:
        Unsupported: it has none; says what it has.
    """
    named = host or features
    have: AbstractSet[str] = named_features(features, host) if named else cpu_features()
    for unit in BFLOAT16_UNITS:
        if have >= unit.features.union(VECTOR_UNITS[unit.vectors].features):
            return unit
    needed = "bf16" if _is_arm(host) else "avx512_bf16 or amx_bf16"
    raise _lacking("--bf16", needed, have, host, features)


def _is_arm(host: str) -> bool:
    return (host or this_host()).startswith("aarch64")


def _lacking(
    option: str, needed: str, have: AbstractSet[str], host: str, features: str
) -> Unsupported:
    """What is said of a CPU that lacks the instructions for an option."""
    has = ", ".join(known_features(have, host)) or "no more than every CPU of its kind"
    whose = f"a CPU of {host}" if host else "this CPU"
    return Unsupported(
        f"{option} needs a CPU with {needed}, and {whose}"
        f"{', as far as --cpu-features lets it,' if features else ''} has {has}",
        hint=f"leave out {option}; every CPU can run the network that optimize --int8 makes",
    )


def with_bfloat16_unit(target: Target, features: str = "") -> Target:
    """The same target, with the instructions for bfloat16 that its CPU has."""
    unit = bfloat16_unit(target.host, features)
    attributes = [*target.tvm.get("mattr", []), *unit.attributes]
    return replace(target, bfloat16=unit.name, tvm={**target.tvm, "mattr": attributes})


HALF = "asimdhp"
"""What Linux calls vectors of float16 that are computed with."""


def check_half_unit(host: str = "", features: str = "") -> None:
    """Refuse to compute in float16 on a CPU without the instructions.

    Args:
        host, features: see `on`; of this machine, "" are all that it has.

    Raises:
        UsageError: there are kernels for Arm alone.
        Unsupported: it lacks them; says what it has.
    """
    if not _is_arm(host):
        raise UsageError(
            "the target cpu has no arithmetic in half precision but on Arm",
            hint="--fp16 alone stores in half precision",
        )
    named = host or features
    have: AbstractSet[str] = named_features(features, host) if named else cpu_features()
    if HALF not in have:
        raise _lacking("--fp16-arithmetic", HALF, have, host, features)


def with_half_unit(target: Target) -> Target:
    """The same target, whose vectors are of float16, twice as many a register."""
    attributes = [*target.tvm.get("mattr", []), "+fullfp16"]
    return replace(
        with_floats_only(target),  # products of bytes come in vectors of half as many sums
        lanes=2 * target.lanes,
        arithmetic="float16",
        cpu_features=(*target.cpu_features, HALF),
        tvm={**target.tvm, "mattr": attributes},
    )


def on(host: str, features: str = "") -> Target:
    """Describe the CPU of another machine.

    Args:
        host: its triple in `codegen.hosts.HOSTS`.
        features: names of those that it has beside what every such CPU has, see `named_features`.

    Raises:
        UsageError: no feature has such a name.
    """
    have = named_features(features, host) | named_features(HOSTS[host].features, host)
    unit = next(u for u in VECTOR_UNITS.values() if have >= set(u.features))
    tvm = {"kind": "llvm", "mtriple": host, "mcpu": unit.least, "mattr": [*unit.attributes]}
    return replace(with_integer_units(describe(unit, tvm), have), host=host)
