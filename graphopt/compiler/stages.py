"""Where each stage from photo to people runs: in a bundle's kernels, or on the host's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from graphopt.compiler.options import Post
from graphopt.errors import CheckFailed
from graphopt.pose.spec import AnySpec
from graphopt.runtime.plan import Place, Plan, Stage


def places(
    plan: Plan, kind: Literal["cpu", "gpu"], pose: AnySpec | None, post: Post
) -> dict[Stage, Place]:
    """Where each stage from photo to people runs: in the bundle's kernels, if it has them."""
    found: dict[Stage, Place] = {"network": kind}
    if pose is not None:
        found["prepare"] = kind if plan.preparation else "host"
        if post != "none":
            found["decode"] = kind if plan.decoder else "host"
    return found


WHY_NOT: Mapping[Stage, str] = MappingProxyType(
    {
        "prepare": "pre-processing (--max-photo 0, or an input that is not one float32 picture)",
        "network": "the network (--target cpu)",
        "decode": "decoding (the maps are not float32, or their channels come last)",
    }
)
"""Why a stage may be left to a CPU."""


def check_places(found: Mapping[Stage, Place]) -> None:
    """Refuse places that leave anything to a CPU.

    Raises:
        CheckFailed: says what, and why.
    """
    left = [WHY_NOT[stage] for stage, place in found.items() if place != "gpu"]
    if left:
        raise CheckFailed(
            f"a CPU would do {', '.join(left)}",
            hint="leave out --require-full-gpu to let it",
        )
