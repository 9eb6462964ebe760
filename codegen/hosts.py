"""The machines that CPU kernels are compiled for, this and others, and what their CPUs can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.errors import Unsupported, UsageError
from graphopt.runtime.cpu import cpu_features, this_host


@dataclass(frozen=True)
class Host:
    """A machine that is compiled for on another.

    Args:
        triple: as LLVM calls it, and as typed after `--host`.
        emulation: as linkers call its format.
        features: what every such CPU has, one of `FEATURES`.
        libraries: what kernels need there, by the names that its loader knows.
        closed: its loader looks for symbols only in what a library says that it needs.
    """

    triple: str
    emulation: str
    features: str
    libraries: tuple[str, ...]
    closed: bool = False

    def needed(self, runner: str) -> tuple[str, ...]:
        """What a library says that it needs, where its kernels are run by the library `runner`."""
        return (*self.libraries, runner) if self.closed else self.libraries


HOSTS: Mapping[str, Host] = MappingProxyType(
    {
        host.triple: host
        for host in (
            Host("aarch64-linux-gnu", "aarch64linux", "asimd", ("libm.so.6", "libc.so.6")),
            Host(
                "aarch64-linux-android",
                "aarch64linux",
                "asimd",
                ("libm.so", "libc.so"),
                closed=True,
            ),
            Host("x86_64-linux-gnu", "elf_x86_64", "avx2", ("libm.so.6", "libc.so.6")),
        )
    }
)


def check_host(triple: str) -> None:
    """Refuse a machine that nothing is known of; "" is this one.

    Raises:
        InputError: lists those that are known.
    """
    if triple and triple not in HOSTS:
        raise UsageError(
            f"no host is called {triple!r}",
            hint=f"hosts: {', '.join(HOSTS)}; this machine if left out",
        )


_AVX2 = frozenset(["avx2", "fma"])
_AVX512 = _AVX2 | {"avx512f", "avx512dq", "avx512vl"}
_AMX = _AVX512 | {"avx512_vnni", "amx_tile", "amx_int8"}
_AVX512_BF16 = _AVX512 | {"avx512_bf16"}
_NEON = frozenset(["asimd"])

FEATURES: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "x86_64": {
            "avx2": _AVX2,
            "avx_vnni": _AVX2 | {"avx_vnni"},
            "avx512f": _AVX512,
            "avx512_vnni": _AVX512 | {"avx512_vnni"},
            "amx_int8": _AMX,
            "avx512_bf16": _AVX512_BF16,
            "amx_bf16": _AVX512_BF16 | {"amx_tile", "amx_bf16"},
        },
        "aarch64": {
            "asimd": _NEON,
            "asimdhp": _NEON | {"asimdhp"},
            "asimddp": _NEON | {"asimddp"},
            "i8mm": _NEON | {"asimddp", "i8mm"},
            "bf16": _NEON | {"bf16"},
        },
    }
)
"""For each architecture the features that kernels use, as /proc/cpuinfo names them, each with those
that no CPU which has it lacks. What makes kernels faster comes later."""


FAMILIES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "x86_64": {
            "float32": ("avx2", "avx512f"),
            "bfloat16": ("avx512_bf16", "amx_bf16"),
            # With AVX-512 alone, bytes by AVX2 are faster than float32.
            "int8": ("avx2", "avx_vnni", "avx512_vnni", "amx_int8"),
        },
        "aarch64": {
            "float32": ("asimd",),
            "bfloat16": ("bf16",),
            "float16": ("asimdhp",),
            "int8": ("asimd", "asimddp", "i8mm"),
        },
    }
)
"""For each architecture and precision of convolutions, which levels pay."""


def family(triple: str, precision: str) -> tuple[str, ...]:
    """The levels that pay on a machine, see `FAMILIES`; none where it has no such instructions."""
    return FAMILIES[triple.partition("-")[0]].get(precision, ())


def ranked(levels: Sequence[str], triple: str = "") -> list[str]:
    """Levels in order, the best first; each is names of `FEATURES`, joined by `+`.

    Args:
        levels: the levels.
        triple: their machine, one of `HOSTS`; "" is this one.

    Raises:
        UsageError: there is no feature of a name, or a level twice.
        Unsupported: this machine lacks one.
    """
    known = [*FEATURES.get((triple or this_host()).partition("-")[0], {})]
    rank = {}
    for level in levels:
        names = level.split("+")
        named_features(",".join(names), triple)
        rank[level] = sorted((known.index(name) for name in filter(None, names)), reverse=True)
        if not rank[level]:
            raise UsageError("a level has no name", hint=f"features: {', '.join(known)}")
    if len(rank) < len(levels):
        raise UsageError(f"{', '.join(levels)} names a level twice", hint="leave one out")
    return sorted(rank, key=lambda level: rank[level], reverse=True)


def named_features(text: str, triple: str = "") -> frozenset[str]:
    """The features of a CPU, from the names of some and what these come with.

    Args:
        text: names, separated by commas; of other machines than this one, "" is what they all have.
        triple: the machine, one of `HOSTS`; "" is this one.

    Raises:
        UsageError: the architecture has no feature of a name; lists those that it has.
        Unsupported: this machine lacks one.
    """
    host = triple or this_host()
    known = FEATURES.get(host.partition("-")[0], {})
    found: set[str] = set()
    for name in filter(None, (word.strip() for word in text.split(","))):
        if name not in known:
            raise UsageError(
                f"no feature of {host} that kernels use is called {name!r}",
                hint=f"features: {', '.join(known)}",
            )
        found |= known[name]
    lacking = sorted(found - cpu_features()) if not triple else []
    if lacking:
        raise Unsupported(
            f"this CPU lacks {', '.join(lacking)}",
            hint="leave it out, or compile for other machines: --host",
        )
    return frozenset(found)


def known_features(have: AbstractSet[str], triple: str = "") -> list[str]:
    """Those features that kernels use among those of a CPU.

    Args:
        have: what it has, as /proc/cpuinfo names it.
        triple: the machine, one of `HOSTS`; "" is this one.
    """
    known = FEATURES.get((triple or this_host()).partition("-")[0], {})
    return [name for name, with_it in known.items() if have >= with_it]
