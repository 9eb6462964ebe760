"""A target is a page of differences: vector width, register budget, how a grid is walked.

`codegen/targets/NAME.py` defines `make() -> Target`, the device as it is on this machine. Where
kernels are a CPU's, it defines `make(features)` and `on(host, features)`, the same on another host
(see `load_target`). A new device is one new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, replace
from typing import Any, Literal

from graphopt.codegen.hosts import named_features
from graphopt.errors import UsageError


@dataclass(frozen=True)
class Target:
    """What kernel templates and the compile pipeline must know of a device.

    Args:
        name: as typed after `--target`.
        kind: `cpu` kernels are loops over all cores; `gpu` kernels are grids of work-items.
        lanes: channels in a block of the blocked layout NCHW[lanes]c, and floats in a vector.
        registers: vector registers that a kernel may use.
        filter_blocks: most blocks of output channels in a register tile.
        cache_bytes: bytes of input that a task should keep in the cache nearest to one core.
        work_group: work-items in a group (gpu).
        tvm: TVM's description of the target (a dict for `tvm.target.Target`).
        host: the machine that CPU kernels run on, one of `codegen.hosts.HOSTS`; "" is this one.
        arithmetic: what convolutions multiply and sum up in (not Winograd's, and only where input,
            weight and output are float16; a CPU sums up in float32 what runs of products come to,
            see `kernels.conv.register_tile`); what they do besides is in float32.
        images: kernels read their input as images, through the texture cache (gpu).
        extensions: OpenCL extensions without which the kernels cannot run.
        cpu_features: features (as in /proc/cpuinfo) without which the kernels cannot run.
        dot: the instructions that add up products of bytes, one of
            `kernels.low_precision.dot.UNITS`.
        tiles: the matrix unit, `amx_int8` or none.
        bfloat16: the instructions for bfloat16 that kernels use, `amx_bf16` (and `avx512_bf16`
            where that suits better), `avx512_bf16`, Arm's `bf16`, or none.
        byte_lanes: channels of the widest blocks of bytes; 0: quantised networks are computed in
            floats.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    lanes: int
    registers: int
    filter_blocks: int
    cache_bytes: int
    work_group: int
    tvm: dict[str, Any]
    host: str = ""
    arithmetic: Literal["float32", "float16"] = "float32"
    images: bool = False
    extensions: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    dot: str = ""
    tiles: str = ""
    bfloat16: str = ""
    byte_lanes: int = 64


def names() -> list[str]:
    """The targets that `--target` takes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def with_half_arithmetic(target: Target, features: str = "") -> Target:
    """The same target, whose convolutions multiply and sum up in float16.

    Args:
        features: as in `load_target`.

    Raises:
        UsageError, Unsupported: as `check_half_arithmetic`.
    """
    check_half_arithmetic(target.name, target.host, features)
    if target.kind == "gpu":
        return replace(target, arithmetic="float16", extensions=("cl_khr_fp16",))
    module = importlib.import_module(f"{__name__}.{target.name}")
    found: Target = module.with_half_unit(target)
    return found


def check_half_arithmetic(name: str, host: str, features: str) -> None:
    """Refuse to compute in float16 where a CPU has no instructions for it; a GPU says so itself.

    Args:
        name, host, features: as in `load_target`.

    Raises:
        UsageError: no CPU of that kind has them.
        Unsupported: this CPU has none; says what it has.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    if hasattr(module, "check_half_unit"):
        module.check_half_unit(host, features)


def in_floats(target: Target) -> Target:
    """The same target, for a kernel that computes in float32.

    Where a CPU's vectors are registers of float16, one of float32 takes two.
    """
    if target.arithmetic == "float32":
        return target
    registers = target.registers // (2 if target.kind == "cpu" else 1)
    return replace(target, arithmetic="float32", registers=registers)


def with_bfloat16(target: Target, features: str = "") -> Target:
    """The same target, whose convolutions multiply in bfloat16 and sum up in float32.

    Args:
        features: as in `load_target`.

    Raises:
        UsageError, Unsupported: as `check_bfloat16`.
    """
    check_bfloat16(target.name, target.host, features)
    module = importlib.import_module(f"{__name__}.{target.name}")
    found: Target = module.with_bfloat16_unit(target, features)
    return found


def check_bfloat16(name: str, host: str, features: str) -> None:
    """Refuse to compute in bfloat16 where there are no instructions for it.

    Args:
        name, host, features: as in `load_target`.

    Raises:
        UsageError: the target is no CPU.
        Unsupported: its CPU has no such instructions; says what it has.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, "bfloat16_unit"):
        raise UsageError(
            f"the target {name} has no arithmetic in bfloat16",
            hint="--fp16 stores in half precision, --fp16-arithmetic computes in it",
        )
    module.bfloat16_unit(host, features)


def with_floats_only(target: Target) -> Target:
    """The same target, on which quantised networks are computed in floats."""
    return replace(target, dot="", tiles="", byte_lanes=0)


def check_name(name: str) -> None:
    """Refuse a name that no target has.

    Raises:
        InputError: lists the targets.
    """
    if name not in names():
        raise UsageError(f"no target is called {name!r}", hint=f"targets: {', '.join(names())}")


def check_features(name: str, host: str, features: str) -> None:
    """Refuse what no CPU of a host has, and any feature for a target without CPU kernels.

    Args:
        name, host, features: as in `load_target`.

    Raises:
        UsageError, Unsupported: as `load_target`.
    """
    if features and not hasattr(importlib.import_module(f"{__name__}.{name}"), "on"):
        raise UsageError(f"the target {name} has no CPU kernels", hint="leave out --cpu-features")
    named_features(features, host)


def load_target(name: str, host: str = "", features: str = "") -> Target:
    """The target of that name.

    Args:
        name: see `names`.
        host: the machine that CPU kernels run on, one of `codegen.hosts.HOSTS`; "" is this one.
            Kernels of a GPU are text, the same for all.
        features: names of the CPU's features, see `targets.cpu`; "" are this machine's, or those
            that every CPU of the host has.

    Raises:
        UsageError: no target has that name, or no feature; or the target has no CPU kernels.
        Unsupported: this machine lacks the CPU or a feature.
    """
    check_name(name)
    module = importlib.import_module(f"graphopt.codegen.targets.{name}")
    check_features(name, host, features)
    if not hasattr(module, "on"):
        target: Target = module.make()
    else:
        target = module.on(host, features) if host else module.make(features)
    return target
