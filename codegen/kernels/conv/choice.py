"""The choice among the templates for a convolution.

A template has four functions: `tiles(spec, target)`, the register tiles that it could compute the
convolution by (none: it cannot); `cost(spec, target, tile)`, an estimate of the time; `pack_weight`
and `build`, the weights and the TIR for one of them. The sparse one has `pack_index` beside that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv import (
    conv_1x1,
    conv_block_sparse,
    conv_dense,
    conv_depthwise,
    conv_transpose,
    conv_winograd,
    sparse_index,
)
from graphopt.codegen.kernels.conv.ranking import ways
from graphopt.codegen.kernels.conv.template import ConvSpec, Tile
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.targets import Target

CONVOLUTIONS: Mapping[str, ModuleType] = MappingProxyType(
    {
        module.__name__.rpartition(".")[2]: module
        for module in (
            conv_depthwise,
            conv_block_sparse,
            conv_1x1,
            conv_winograd,
            conv_transpose,
            conv_dense,
        )
    }
)
"""Templates by their files' names; of two that cost the same, the first is taken."""

SPARSE = "conv_block_sparse"
"""The template whose kernels depend on what is zero in the weight."""


@dataclass(frozen=True)
class KernelChoice:
    """How a convolution is computed.

    Args:
        kernel: the template.
        tile: its register tile.
        work_group: work-items in a group (gpu).
    """

    kernel: str
    tile: Tile
    work_group: int

    def pack_weight(self, weight: Floats, spec: ConvSpec, target: Target) -> Floats:
        """The weights as the kernel reads them.

        Args:
            weight: (O, I of a group, kh, kw).
        """
        packed: Floats = CONVOLUTIONS[self.kernel].pack_weight(weight, spec, target, self.tile)
        return packed

    def pack_index(
        self, weight: Floats, spec: ConvSpec, target: Target
    ) -> NDArray[np.int32] | None:
        """The array of indices that a sparse kernel takes beside its weight; None of others."""
        if self.kernel != SPARSE:
            return None
        return sparse_index.pack_index(weight, spec, target)

    def build(self, spec: ConvSpec, target: Target) -> Any:
        """The kernel as a TIR PrimFunc; parameters as in `conv.Parameters`."""
        # What is not stored in half precision might not fit into it.
        halved = {"x", "weight", "y"} <= spec.half
        here = replace(
            target,
            work_group=self.work_group,
            arithmetic=target.arithmetic if halved else "float32",
        )
        return CONVOLUTIONS[self.kernel].build(spec, here, self.tile)


def candidates(spec: ConvSpec, target: Target) -> list[KernelChoice]:
    """All ways to compute a convolution, by estimated time, the shortest first."""
    return [KernelChoice(*way, target.work_group) for way in ways(CONVOLUTIONS, spec, target)]


def wider(target: Target) -> Target:
    """A target with more candidates: a GPU may have twice the registers that are relied on."""
    if target.kind == "cpu":
        return target
    return replace(target, registers=2 * target.registers, filter_blocks=2 * target.filter_blocks)


def choose(spec: ConvSpec, target: Target, measured: Mapping[str, KernelChoice]) -> KernelChoice:
    """How to compute a convolution: as measured to be fastest, or else by estimate.

    Args:
        measured: by `ConvSpec.key`; choices that are not candidates any more are ignored.
    """
    choice = measured.get(spec.key)
    if choice is not None:
        possible = {(c.kernel, c.tile) for c in candidates(spec, wider(target))}
        if (choice.kernel, choice.tile) in possible:
            return choice
    return candidates(spec, target)[0]
