"""Kernels for several kinds of CPUs in one bundle, a level each, and which of them a CPU runs.

Each level has `plan-LEVEL.json` and `kernels-LEVEL.so`. Constants that are packed alike for all are
in `weights.bin`, those for some in `weights-LEVEL-….bin`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from graphopt.errors import InputError, Unsupported
from graphopt.ir.records import Record

LIMIT = "GRAPHOPT_CPU_LEVEL"
"""The environment variable that names the best level that may be chosen, here and in the device
runner (codegen/device/levels.cpp)."""

LEVEL_FILES = r"(plan|weights|kernels)(-[\w+]+)*\.(json|bin|so)"
"""What files of levels are called, as a regular expression."""


@dataclass(frozen=True)
class Level(Record):
    """Kernels for CPUs that have certain features.

    Args:
        name: the features that it was compiled for, joined by `+`; "" where a bundle has but one.
        features: those, as in /proc/cpuinfo, without which its kernels cannot run.
        plan: the file with its plan.
        weights: the files that, one behind the other, are its weights.
        code: the file with its kernels.
    """

    name: str
    features: tuple[str, ...]
    plan: str
    weights: tuple[str, ...]
    code: str

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return (self.plan, *self.weights, self.code)


def only_level(features: tuple[str, ...], code: str) -> Level:
    """That of a bundle which has but one."""
    return Level("", features, "plan.json", ("weights.bin",), code)


def best_level(
    levels: Sequence[Level],
    have: AbstractSet[str],
    allowed: Callable[[Level], bool],
    *,
    name: str = "",
    what: str,
) -> Level:
    """The level that a CPU runs.

    Args:
        levels: the best first.
        have: the CPU's features.
        allowed: whether the system lets its kernels run, asked of levels that the CPU could run.
        name: the only one that may be; by default the first that can be, from the one on that
            `LIMIT` names.
        what: what has the levels.

    Raises:
        InputError: there is no level of that name.
        Unsupported: the CPU can run none; says what they need and what it has.
    """
    names = [level.name for level in levels]
    limit = name or os.environ.get(LIMIT, "")
    if limit and limit not in names:
        where = "" if name else f" ({LIMIT})"
        raise InputError(
            f"{what} has no level {limit!r}{where}", hint=f"levels: {', '.join(names)}"
        )
    left = levels[names.index(limit) :] if limit else levels
    left = left[:1] if name else left
    for level in left:
        if have >= set(level.features) and allowed(level):
            return level
    needed = "; or with ".join(", ".join(level.features) for level in left)
    known = {feature for level in left for feature in level.features}
    raise Unsupported(
        f"{what} has kernels for CPUs with {needed}; this one has "
        f"{', '.join(sorted(known & have)) or 'none of that'}",
        hint="compile it on this machine",
    )
